"""Running the server: in a thread of this process, or as a process of its own."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import uvicorn
from filelock import FileLock, Timeout

from ractobatch_dagster.errors import ConfigurationError, RactobatchError
from ractobatch_dagster.local.answers import Model, RuleModel
from ractobatch_dagster.local.app import build_app
from ractobatch_dagster.local.background import ServerAddress, read_address, write_address
from ractobatch_dagster.local.disk import Disk, Json
from ractobatch_dagster.local.faults import Faults
from ractobatch_dagster.local.trouble import Trouble
from ractobatch_dagster.local.validation import Limits
from ractobatch_dagster.local.work import Counts, Work

__all__ = ["LocalServer", "serve"]

_LOCK_PATIENCE = 5.0
"""For how many seconds a server that is just ending may still hold the folder."""


class LocalServer:
    """The batch server in a thread of this process. Use it as a context manager.

    Args:
        folder: Where its files and batches are kept; `None` takes a temporary folder. A later server on the
            same folder goes on with what was unfinished.
        model: What answers; `None` takes the built-in rules.
        seconds: How long a batch takes at least, from its creation to its end; 0 is as fast as it goes.
        api_key: What clients must send.
        host: The address to listen on.
        port: The port to listen on; 0 takes a free one.
        faults: What goes wrong. It can be set anew while the server runs, which also resets its counts.
        limits: What one batch may hold.

    Raises:
        ConfigurationError: On entering: another server has the folder, or the port is taken.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        model: Model | None = None,
        seconds: float = 0.0,
        api_key: str = "local",
        host: str = "127.0.0.1",
        port: int = 0,
        faults: Faults = Faults(),  # noqa: B008 - it is frozen
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
    ) -> None:
        self.api_key = api_key
        self._folder = Path(folder) if folder is not None else None
        self._model = model or RuleModel()
        self._seconds, self._limits = seconds, limits
        self._host, self._port = host, port
        self._faults = faults
        self._counts = Counts()
        self._runner: _Runner | None = None
        self._thread: threading.Thread | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> LocalServer:
        if self._folder is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="ractobatch-local-")
        folder = self._folder or Path(self._temporary.name if self._temporary else "")
        runner = _Runner(
            folder,
            self._model,
            self._seconds,
            self._limits,
            self.api_key,
            self._host,
            self._port,
            counts=self._counts,
        )
        runner.work.trouble = Trouble(self._faults)
        self._runner, self._port = runner, runner.port  # a second entry comes back on the same port
        self._thread = threading.Thread(target=runner.run, daemon=True, name="ractobatch-local-http")
        self._thread.start()
        if not runner.started.wait(30):
            raise ConfigurationError("The local batch server did not start within 30 seconds.")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.stop()
        if self._thread is not None:
            self._thread.join(30)
        self._runner = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    @property
    def base_url(self) -> str:
        """What clients take as their `base_url`; it ends in `/v1`."""
        return self._running.base_url

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that lead an OpenAI client, or Anthropic's, here."""
        root = self.base_url.removesuffix("/v1")
        return {
            "OPENAI_BASE_URL": self.base_url,
            "OPENAI_API_KEY": self.api_key,
            "ANTHROPIC_BASE_URL": root,
            "ANTHROPIC_API_KEY": self.api_key,
        }

    @property
    def faults(self) -> Faults:
        """What goes wrong."""
        return self._running.work.trouble.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._faults = faults
        self._running.work.trouble = Trouble(faults)

    @property
    def calls(self) -> Counter[tuple[str, str]]:
        """How many HTTP calls there were, by method and route: `calls["POST", "/v1/batches/{id}/cancel"]`."""
        return self._counts.calls.copy()

    @property
    def billed(self) -> Counter[tuple[str, str]]:
        """How many times the model has answered a request of a batch, by the batch's id and the `custom_id`."""
        return self._counts.billed.copy()

    @property
    def creates(self) -> int:
        """How many times a client has tried to create a batch, whatever the reply was."""
        return self._counts.calls["POST", "/v1/batches"] + self._counts.calls["POST", "/v1/messages/batches"]

    def batches(self) -> list[Json]:
        """Every batch as it really is, untouched by faults, oldest first."""
        return [dict(batch.shown) for batch in list(self._running.work.disk.batches.values())]

    def files(self) -> list[Json]:
        """Every file, oldest first."""
        return [dict(file) for file in list(self._running.work.disk.files.values())]

    def read(self, file_id: str) -> bytes:
        """The bytes of a file."""
        return self._running.work.disk.data(file_id).read_bytes()

    def wait_idle(self, timeout: float = 30.0) -> None:
        """Wait until every batch has ended.

        Raises:
            TimeoutError: Some have not, after this many seconds.
        """
        runner = self._running
        waiting = asyncio.wait_for(runner.work.wait_idle(), timeout)
        try:
            asyncio.run_coroutine_threadsafe(waiting, runner.loop).result()
        except TimeoutError as error:
            count = runner.work.open_batches
            raise TimeoutError(f"{count} batches have not ended after {timeout:g} seconds.") from error

    @property
    def _running(self) -> _Runner:
        if self._runner is None:
            raise ConfigurationError("The local batch server is not running: use it in a `with` statement.")
        return self._runner


def serve(
    folder: Path,
    *,
    model: Model | None = None,
    seconds: float = 5.0,
    api_key: str | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    idle_exit: float | None = None,
    announce: Callable[[ServerAddress], None] = lambda address: None,
) -> None:
    """Run the server in this process until it is told to end.

    Args:
        folder: Where its files and batches are kept, and its address in `server.json`.
        model: What answers; `None` takes the built-in rules.
        seconds: How long a batch takes at least.
        api_key: What clients must send; `None` keeps the folder's key, or makes one.
        host: The address to listen on.
        port: The port to listen on; 0 takes the folder's last one where it is free, or any.
        idle_exit: End after this many seconds without a request and without an open batch.
        announce: Is called with the address once it is known.

    Raises:
        ConfigurationError: Another server has the folder, the port is taken, or `host` can be reached from
            elsewhere and there is no key.
    """
    if not api_key and not _is_loopback(host):
        raise ConfigurationError(
            f"On {host} others could reach the server: give it a key with --api-key, or listen on 127.0.0.1."
        )
    last = read_address(folder)
    key = api_key or (last.api_key if last else "local-" + secrets.token_hex(16))
    runner = _Runner(
        folder, model or RuleModel(), seconds, Limits(), key, host, port, last.port if last else 0, _LOCK_PATIENCE
    )
    address = ServerAddress(runner.base_url, key, os.getpid(), runner.port, runner.nonce)
    write_address(folder, address)
    announce(address)
    runner.run(idle_exit=idle_exit)


class _Runner:
    """One run of the server on one folder: the lock, the socket, uvicorn and the work."""

    def __init__(
        self,
        folder: Path,
        model: Model,
        seconds: float,
        limits: Limits,
        api_key: str,
        host: str,
        port: int,
        wished_port: int = 0,
        patience: float = 0.0,
        counts: Counts | None = None,
    ) -> None:
        self._lock = FileLock(folder / "server.lock", thread_local=False)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=patience)
        except Timeout as error:
            raise ConfigurationError(f"Another local batch server runs on the folder {folder}.") from error
        except OSError as error:
            raise ConfigurationError(f"The folder {folder} cannot be used: {error}") from error
        try:
            disk = Disk(folder)
            self._socket = _listen(host, port, wished_port)
        except RactobatchError:
            self._lock.release()
            raise
        self.port: int = self._socket.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.base_url = f"http://{name}:{self.port}/v1"
        self.nonce = secrets.token_hex(16)
        self.work = Work(disk, model, seconds=seconds, limits=limits, counts=counts or Counts())
        self.started = threading.Event()
        self.loop: asyncio.AbstractEventLoop
        self._activity = build_app(self.work, api_key, self.nonce)
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._activity,
                log_config=None,
                access_log=False,
                lifespan="on",
                loop="asyncio",
                timeout_graceful_shutdown=2,
                timeout_keep_alive=75,
            )
        )

    def run(self, *, idle_exit: float | None = None) -> None:
        """Serve until `stop` is called, a signal comes or nobody has used the server for a while."""
        try:
            asyncio.run(self._main(idle_exit))
        finally:
            self._socket.close()
            self._lock.release()

    def stop(self) -> None:
        """Have `run` return soon."""
        self._server.should_exit = True

    async def _main(self, idle_exit: float | None) -> None:
        self.loop = asyncio.get_running_loop()
        watch = asyncio.create_task(self._watch(idle_exit))
        try:
            await self._server.serve(sockets=[self._socket])
        finally:
            watch.cancel()

    async def _watch(self, idle_exit: float | None) -> None:
        while not self._server.started:
            await asyncio.sleep(0.005)
        self.started.set()
        while idle_exit is not None and (self.work.open_batches or self._activity.idle_for < idle_exit):
            await asyncio.sleep(min(1.0, idle_exit / 4))
        if idle_exit is not None:
            self.stop()


def _listen(host: str, port: int, wished_port: int) -> socket.socket:
    """A listening socket on `port`; where that is 0, on the wished one if it is free, or on any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in dict.fromkeys([port or wished_port, port]):
        # With the protocol named, asyncio sends small replies at once; without, each waits some 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(2048)
        except (OSError, OverflowError) as error:
            listener.close()
            problem = error
        else:
            return listener
    raise ConfigurationError(f"The local batch server cannot listen on {host}:{port}: {problem}") from problem


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
