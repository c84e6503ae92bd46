"""`kill -9` at seeded random moments of the example's demo, again and again; then creates and rows are counted.

    python -m tests.integration.kill_demo --times 100 --seed 1

Each life is a demo of 40 reviews on a folder of its own. At a random moment, counted from its start or from that of
its first run, all its processes are killed, as in a power cut, or those of one kind; whatever then is left is killed
as well once the demo has ended, and the demo is started again until it ends with exit code 0. Then the files of the
batch server and the tables say what was paid for, and what came back. A life takes minutes: the demo waits as its
user would, where a create was interrupted for more than ten.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import TableFiles
from tests.integration.counting import Bill, submissions
from tests.integration.world import ROOT, processes

TABLE, ROWS = "review_labels", 40

VICTIMS = {
    "everything": "",
    "the demo": "example_project.demo",
    "the daemon": "dagster-daemon",
    "the code servers": "dagster api grpc",
    "the runs": "multiprocessing.spawn",
    "the batch server": "ractobatch_dagster.cli serve",
}
"""What may be killed, and the words by which its command line is known."""

_RUNNING = 12.0
"""Seconds in which, once the first run has started, most of it happens."""

_PATIENCE = 500.0
"""Seconds that one start of the demo may take."""

_MAX_STARTS = 8


@dataclass
class Count:
    """What one life, or several, came to."""

    starts: int = 0
    kills: list[str] = field(default_factory=list)
    batches: int = 0
    answered: int = 0
    doubles: int = 0
    orphans: int = 0
    unused_files: int = 0
    open: int = 0
    rows: int = 0
    lost: int = 0
    repeated: int = 0
    not_ok: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether all rows are there once, and each question was paid for once."""
        bad = (self.doubles, self.orphans, self.open, self.lost, self.repeated, self.not_ok, len(self.failed))
        return not any(bad) and self.rows == ROWS and self.answered <= ROWS

    def __add__(self, other: Count) -> Count:
        return Count(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def __str__(self) -> str:
        numbers = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        said = [", ".join(f"{value} {name.replace('_', ' ')}" for name, value in numbers.items())]
        return "; ".join([*said, *self.failed])


class Life:
    """One demo on a folder of its own, from its first start to its count."""

    def __init__(self, folder: Path, rng: random.Random, length: float) -> None:
        self._folder, self._rng, self._length = folder, rng, length
        self._count = Count()
        folder.mkdir(parents=True)
        self._environ = {
            **os.environ,
            "RACTOBATCH_DEMO_HOME": str(folder / "demo"),
            "RACTOBATCH_STORE": str(folder / "store"),
            "RACTOBATCH_ROWS": str(ROWS),
            "TMPDIR": str(folder),
        }

    def live(self, kills: int) -> Count:
        """Start, kill, start again until the demo ends by itself with exit code 0; then count."""
        while self._count.starts < _MAX_STARTS:
            code = self._start(self._drawn() if self._count.starts < kills else None)
            self.end_all()
            if code == 0:
                break
        else:
            self._count.failed.append(f"no exit code 0 after {_MAX_STARTS} starts")
        self._audit()
        return self._count

    def _drawn(self) -> tuple[str, bool, float]:
        """Whom to kill, whether the moment counts from the first run, and how many seconds after."""
        victim, from_run = self._rng.choice(sorted(VICTIMS)), self._rng.random() < 0.7
        return victim, from_run, self._rng.uniform(0, _RUNNING if from_run else self._length)

    def end_all(self) -> None:
        """Kill what is left of the life."""
        self._kill("")

    def _start(self, drawn: tuple[str, bool, float] | None) -> int:
        """One start of the demo, with one kill after a while; its exit code."""
        self._count.starts += 1
        started = time.monotonic()
        with (self._folder / "demo.log").open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "example_project.demo"],
                cwd=ROOT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if drawn is not None:
            victim, from_run, delay = drawn
            reached = not from_run or self._appears(process, VICTIMS["the runs"])
            if reached and not _ended(process, delay) and self._appears(process, VICTIMS[victim]):
                self._kill(VICTIMS[victim])
                after = "after the first run's start" if from_run else "after the start"
                self._count.kills.append(f"{victim} {delay:.1f} s {after}, at {time.monotonic() - started:.1f} s")
        if not _ended(process, _PATIENCE):
            self._count.failed.append(f"start {self._count.starts} did not end within {_PATIENCE:.0f} s")
            self.end_all()
        return process.wait()

    def _appears(self, process: subprocess.Popen[bytes], words: str) -> bool:
        """Wait for a process with these words in its command line; whether there came one before the demo's end."""
        while not self._found(words):
            if _ended(process, 0.02):
                return False
        return True

    def _kill(self, words: str) -> None:
        for pid in self._found(words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _found(self, words: str) -> list[int]:
        """The life's processes with these words in their command lines."""
        return [pid for pid, command in processes(str(self._folder / "demo")) if words in command]

    def _audit(self) -> None:
        count, store = self._count, Store(self._folder / "store")
        bill = Bill.read(self._folder / "store" / "local-server")
        count.batches, count.answered = len(bill.batches), bill.answered.total()
        count.doubles = bill.answered.total() - len(bill.answered)
        count.orphans, count.unused_files = len(bill.orphans(store, TABLE)), len(bill.unused)
        version = TableFiles(store, TABLE).log.load()
        count.open = len(version.state.open) if version else 0
        files = sorted((self._folder / "store" / "tables" / TABLE).glob("*.parquet"))
        table = pd.concat([pd.read_parquet(path) for path in files]) if files else pd.DataFrame({"review_id": []})
        count.rows = len(table)
        count.repeated = len(table) - table["review_id"].nunique()
        count.lost = ROWS - table["review_id"].nunique()
        count.not_ok = int((table["llm_status"] != "ok").sum()) if files else 0
        stages = [batch.stage for state in submissions(store, TABLE) for batch in state.batches]
        if count.open:
            count.failed.append(f"batches {stages}")


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
        return True
    return False


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 if anything was lost, doubled or left open."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.kill_demo", description=__doc__)
    parser.add_argument("--times", type=int, default=100, help="how many lives (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what the moments are drawn from (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path(".kill-demo"), help="emptied first (default: %(default)s)")
    parser.add_argument("--first", type=int, default=1, help="the number of the first life (default: %(default)s)")
    asked = parser.parse_args(arguments)
    folder = asked.folder.absolute()
    shutil.rmtree(folder, ignore_errors=True)
    started = time.monotonic()
    total = Life(folder / "undisturbed", random.Random(asked.seed), 0.0).live(0)
    length = time.monotonic() - started
    print(f"undisturbed, {length:.0f} s: {total}", flush=True)
    good = int(total.good)
    for number in range(asked.first, asked.first + asked.times):
        rng, began = random.Random(f"{asked.seed}/{number}"), time.monotonic()
        life = Life(folder / str(number), rng, length)
        try:
            count = life.live(kills=rng.randint(1, 3))
        finally:
            life.end_all()
        good += count.good
        total += count
        word = "good" if count.good else "BAD"
        print(
            f"life {number}, {time.monotonic() - began:.0f} s, {word}: {count} [{'; '.join(count.kills)}]", flush=True
        )
        if count.good:
            shutil.rmtree(folder / str(number))
    print(f"{good} of {asked.times + 1} lives good, {len(total.kills)} kills: {total}", flush=True)
    return 0 if good == asked.times + 1 else 1


if __name__ == "__main__":
    sys.exit(main())
