"""The processes behind the demo: Dagster's webserver and daemon on a home of their own, always stopped in the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from filelock import FileLock, Timeout

__all__ = ["ROOT", "Home", "ServiceError", "Services", "Settings", "free_port", "signals_interrupt"]

ROOT = Path(__file__).resolve().parent.parent
"""Where `workspace.yaml` is, and where every process works."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 10.0
"""Seconds that the processes have to end by themselves."""

_KEPT = ("RACTOBATCH_STORE", "RACTOBATCH_ROWS", "RACTOBATCH_MODEL", "RACTOBATCH_INPUT")

_INSTANCE = """\
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator:  # the queue that Dagster has by default, looked at more often
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
"""


class ServiceError(RuntimeError):
    """A process could not be started or has ended; the message says why, and where its log is."""


@dataclass(frozen=True)
class Home:
    """The folder in which the demo keeps Dagster's home and the logs."""

    folder: Path

    @property
    def dagster(self) -> Path:
        """Dagster's own home."""
        return self.folder / "dagster_home"

    @property
    def logs(self) -> Path:
        """The folder of the logs."""
        return self.folder / "logs"

    def clear(self) -> None:
        """Begin anew: an empty Dagster home with its tables made, so that the processes do not race to make them."""
        from dagster import DagsterInstance

        for folder in (self.dagster, self.logs):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        (self.dagster / "dagster.yaml").write_text(_INSTANCE, encoding="utf-8")
        with DagsterInstance.from_config(str(self.dagster)) as instance:
            instance.get_runs(limit=1)
        kept = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
        self._kept.write_text(json.dumps(kept), encoding="utf-8")

    def recall(self) -> None:
        """Set the environment as the last demo had it, keys apart; what is set now stays.

        Raises:
            ServiceError: No demo has run yet.
        """
        if not self._kept.is_file():
            raise ServiceError("There is nothing to show yet: run `make demo` first.")
        for name, value in json.loads(self._kept.read_text(encoding="utf-8")).items():
            os.environ[name] = os.environ.get(name) or value

    @property
    def _kept(self) -> Path:
        return self.dagster / "demo.json"

    @contextmanager
    def reserved(self) -> Iterator[None]:
        """Keep every other demo away from this folder meanwhile.

        Raises:
            ServiceError: Another one is at work.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise ServiceError(
                f"A `make demo` or `make ui` is at work in {self.folder} already: stop it first."
            ) from error
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True)
class Settings:
    """What the example's definitions make of the environment.

    Attributes:
        store: Where submissions and tables are.
        model: Who is asked.
        partitions: The years that have reviews, in order.
        local: Whether the package's own batch server answers.
        server: The folder of that server.
    """

    store: str
    model: str
    partitions: Sequence[str]
    local: bool
    server: Path

    @classmethod
    def load(cls, home: Home) -> Settings:
        """Load the definitions as the services will.

        Where the store is no directory, the resource has no place for a local batch server. One is started here then,
        and told to the definitions by its address.
        """
        local = not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))
        server = home.folder / "local-server"
        if local and "://" in os.environ.get("RACTOBATCH_STORE", "").removeprefix("file://"):
            from ractobatch_dagster.local import ensure_server

            address = ensure_server(server)
            os.environ.update(OPENAI_BASE_URL=address.base_url, OPENAI_API_KEY=address.api_key)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Dagster calls beta stands in the services' logs
            from example_project import definitions as example
        if example.LOCAL:
            server = Path(example.STORE.removeprefix("file://")).expanduser().absolute() / "local-server"
        return cls(example.STORE, example.MODEL, example.years.get_partition_keys(), local, server)

    @property
    def provider(self) -> str:
        """Who answers, for people."""
        return "the local batch server" if self.local else os.environ.get("OPENAI_BASE_URL") or "OpenAI"

    def stop_server(self) -> None:
        """End the local batch server, if it is the one that answers and it runs."""
        if self.local:
            from ractobatch_dagster.local import stop_server

            with _undisturbed():
                stop_server(self.server)


class Services:
    """Runs the webserver and the daemon for as long as the `with` block lasts, each with its code server and its runs.

    Args:
        home: Where Dagster's home and the logs are.
        port: The webserver's port.
        environ: The environment of the processes; Dagster's home is added.
    """

    def __init__(self, home: Home, port: int, environ: Mapping[str, str] = os.environ) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._home = home
        self._environ = {**environ, "DAGSTER_HOME": str(home.dagster), "PYTHONUNBUFFERED": "1"}
        self._port = port
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Services:
        try:
            self._start("dagster-webserver", ["--host", "127.0.0.1", "--port", str(self._port)])
            self._start("dagster-daemon", ["run"])
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def log(self, name: str) -> Path:
        """Where a process writes what it says."""
        return self._home.logs / f"{name}.log"

    def check(self) -> None:
        """See that all run.

        Raises:
            ServiceError: One has ended.
        """
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ServiceError(f"{name} ended with code {process.returncode}. Its log: {self.log(name)}")

    def stop(self) -> None:
        """End every process, and all that they have started. A signal does not interrupt this."""
        with _undisturbed():
            groups = [process.pid for process in self._processes.values()]
            for group in groups:
                _signal(group, signal.SIGTERM)
            end = time.monotonic() + _PATIENCE
            while any(map(self._alive, groups)) and time.monotonic() < end:
                time.sleep(0.05)
            for group in groups:
                _signal(group, signal.SIGKILL)
            for process in self._processes.values():
                process.wait()

    def _start(self, command: str, arguments: Sequence[str]) -> None:
        script = Path(sys.executable).with_name(command)
        if not script.is_file():
            raise ServiceError(f"{command} is not installed beside {sys.executable}: run `make install`.")
        self._home.logs.mkdir(parents=True, exist_ok=True)
        with self.log(command).open("ab") as output:
            self._processes[command] = subprocess.Popen(
                [str(script), *arguments, "--workspace", str(ROOT / "workspace.yaml")],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that one signal reaches it with its code server and its runs
            )

    def _alive(self, group: int) -> bool:
        for process in self._processes.values():
            process.poll()  # an ended process would else count as one of its group
        return _signal(group, 0)


def free_port(wished: int | None = None) -> int:
    """A port that is free now: the wished one or the next above it; any where none is wished.

    Raises:
        ServiceError: The hundred above the wished one are all taken.
    """
    for port in range(wished, min(wished + 100, 65_536)) if wished else [0]:
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])
    raise ServiceError(f"No port is free from {wished} on: set PORT.")


def signals_interrupt() -> None:
    """From now on SIGTERM and a closed terminal interrupt as Ctrl-C does; the exception's argument is the signal."""

    def interrupt(number: int, _: FrameType | None) -> Any:
        raise KeyboardInterrupt(number)

    for number in _SIGNALS:
        signal.signal(number, interrupt)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no signal interrupt what is done meanwhile."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group; whether there was one."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True
