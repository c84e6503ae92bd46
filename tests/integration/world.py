"""A world to kill things in: a Dagster home, a batch server and a store on disk, each process a real one."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import URLError
from urllib.request import urlopen

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import TableFiles
from tests.integration.counting import Bill, submissions
from tests.integration.definitions import PARTITIONS, questions

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "tests.integration.definitions"

_INSTANCE = """\
telemetry: {enabled: false}
nux: {enabled: false}
run_coordinator:
  module: dagster.core.run_coordinator
  class: QueuedRunCoordinator
  config: {dequeue_interval_seconds: 1}
"""

T = TypeVar("T")


class World:
    """Processes on one folder. Whatever still runs in the end is killed.

    Args:
        folder: Where everything is.
        project: The module of the Dagster project.
    """

    def __init__(self, folder: Path, project: str = PROJECT) -> None:
        self.folder = folder
        self._code = ("-m", project)
        self.store, self.server_folder, self.temp = (folder / name for name in ("store", "server", "temp"))
        self.home = folder / "dagster_home"
        for path in (self.temp, self.home):
            path.mkdir(parents=True)
        (self.home / "dagster.yaml").write_text(_INSTANCE, encoding="utf-8")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.environ = {
            "DAGSTER_HOME": str(self.home),
            "RACTOBATCH_TEST_ROOT": str(self.store),
            "RACTOBATCH_TEST_URL": f"http://127.0.0.1:{self.port}/v1",
            "RACTOBATCH_TEST_HASTE": str(folder / "haste"),
            "TMPDIR": str(self.temp),
            "PYTHONUNBUFFERED": "1",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self.instance = dg.DagsterInstance.from_config(str(self.home))
        self.instance.get_runs(limit=1)  # makes the tables, so that no two processes race to make them

    def close(self) -> None:
        """Kill all that runs."""
        for process in self._started:
            kill(process)
        self.instance.dispose()

    # -- processes ------------------------------------------------------------------------------

    def serve(self, *, seconds: float = 0.5) -> subprocess.Popen[bytes]:
        """Start the batch server, on the same folder and port each time, and wait until it answers.

        Args:
            seconds: How long a batch takes at least.
        """
        options = {"folder": self.server_folder, "port": self.port, "seconds": seconds, "api-key": "local"}
        given = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        process = self._start("server", sys.executable, "-m", "ractobatch_dagster.cli", "serve", *given)
        wait_for(lambda: answers(f"http://127.0.0.1:{self.port}/health"), f"the server: {self.log('server')}")
        return process

    def submit(self) -> subprocess.Popen[bytes]:
        """Start a run that submits all partitions, as a person would from the command line."""
        span = f"{PARTITIONS[0]}...{PARTITIONS[-1]}"
        return self._start(
            "submit",
            _script("dagster"),
            *("asset", "materialize", *self._code, "--select", "answers_submission", "--partition-range", span),
        )

    def daemon(self) -> subprocess.Popen[bytes]:
        """Start the daemon, with the code server and the runs that it starts in turn."""
        return self._start("daemon", _script("dagster-daemon"), "run", *self._code)

    def log(self, name: str) -> str:
        """What the processes of one name have said."""
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8")[-4000:] if path.is_file() else ""

    def _start(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as output:
            self._started.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={**os.environ, **self.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )
        return self._started[-1]

    # -- what is there --------------------------------------------------------------------------

    def objects(self, pattern: str) -> list[Path]:
        """The objects of the store below the table's corner, by a glob pattern."""
        return sorted(self.store.glob(f"submissions/answers/{pattern}"))

    def server_batches(self) -> list[Path]:
        """The documents of the server's batches."""
        return sorted(self.server_folder.glob("batches/batch_*.json"))

    def runs(self, asset: str) -> list[dg.DagsterRun]:
        """The runs of one asset, newest first."""
        return [run for run in self.instance.get_runs() if dg.AssetKey(asset) in (run.asset_selection or ())]

    def landed(self) -> bool:
        """Whether every partition is in the store as a table, and nothing is open."""
        version = TableFiles(Store(self.store), "answers").log.load()
        return version is not None and len(version.state.partitions) == len(PARTITIONS) and not version.state.open

    def hurry(self) -> None:
        """From now on a second of the engine's clock is a minute."""
        (self.folder / "haste").touch()

    def finish(self, seconds: float = 120.0) -> None:
        """What a person does after a crash: start the daemon; and wait until all has landed."""
        self.hurry()
        daemon = self.daemon()
        wait_for(self.landed, self.explain, seconds)
        kill(daemon)

    def explain(self) -> str:
        """What stands there, for the message of a test that fails."""
        tables = [path.name for path in self.store.glob("submissions/*")]
        stages = [[one.stage for one in state.batches] for name in tables for state in submissions(self.store, name)]
        runs = [(run.status.value, sorted(run.asset_selection or ())) for run in self.instance.get_runs()]
        return f"batches {stages}, runs {runs}\n{self.log('daemon')[-3000:]}"

    def audit(self) -> Bill:
        """Count everything once all has landed: each row once, each question paid for once, nothing left behind."""
        bill = Bill.read(self.server_folder)
        table = pa.concat_tables(
            [pq.read_table(self.store / "tables" / "answers" / f"{key}.parquet") for key in PARTITIONS],
            promote_options="permissive",
        )
        expected = questions(PARTITIONS)
        assert table["id"].to_pylist() == list(expected["id"])
        assert table["llm_text"].to_pylist() == [str(number + 1000) for number in expected["id"]]
        assert set(table["llm_status"].to_pylist()) == {"ok"}
        assert bill.doubles == {}
        assert bill.answered.total() == len(expected)
        assert bill.ended
        assert bill.orphans(self.store, "answers") == []
        assert bill.unused == []
        assert bill.uploading == []
        return bill


def kill(process: subprocess.Popen[bytes]) -> None:
    """`kill -9` a process with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(
    condition: Callable[[], T], what: str | Callable[[], str], seconds: float = 60.0, *, every: float = 0.001
) -> T:
    """Look again and again, at short intervals, until there is something; fail with a message after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"after {seconds:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(every)
    return found


def answers(url: str) -> bool:
    """Whether anybody answers at this address."""
    try:
        urlopen(url, timeout=2).close()
    except (URLError, OSError):
        return False
    return True


def processes(words: str) -> Iterator[tuple[int, str]]:
    """The processes whose environment has these words, and their command lines."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if words.encode() in (path / "environ").read_bytes():
                yield int(path.name), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # it has ended, or is not ours


def _script(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def run_pid(instance: dg.DagsterInstance, run_id: str) -> int | None:
    """The process that executes a run, once it has told."""
    for entry in instance.all_logs(run_id):
        event: Any = entry.dagster_event
        if event and event.is_engine_event and event.step_key is None and "pid" in event.engine_event_data.metadata:
            return int(event.engine_event_data.metadata["pid"].value)
    return None
