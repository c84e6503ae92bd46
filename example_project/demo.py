"""`make demo` and `make ui`: the example as it runs in production, told in the terminal.

Nothing here takes a short cut: the demo starts the services, asks the webserver for what a person would click in
the UI, waits for the sensor to do the rest, and reads the table from the store.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from example_project.graphql import Check, Client, GraphQLError, Landed, until_landed, until_materialised, until_ready
from example_project.labels import agreement
from example_project.reviews import ReviewsError, example_reviews
from example_project.services import ROOT, Home, ServiceError, Services, Settings, free_port, signals_interrupt
from ractobatch_dagster.errors import RactobatchError

if TYPE_CHECKING:
    import pandas as pd

    from ractobatch_dagster.store import Store

__all__ = ["DemoError", "Progress", "checks_line", "main", "preview", "sent_line", "summary"]

REVIEWS, SENT, LABELS, EFFECTS = "reviews", "review_labels_submission", "review_labels", "side_effects"
SENSOR, SUBMISSION = "openai_batch_sensor", "ractobatch/submission"

_START_SECONDS, _LOCAL_SECONDS, _REAL_SECONDS = 180, 300, 25 * 3600  # a batch may take 24 h
_POLL = 0.5
_COLUMNS = ["review_id", "drug", "review", "sentiment", "side_effects", "severity", "rating", "llm_status"]
_WIDEST = {"review": 42, "side_effects": 26, "drug": 18}

T = TypeVar("T")


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


class Progress:
    """The line that says what is waited for: rewritten on a terminal, printed when it changes anywhere else."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._started = time.monotonic()
        self._frames = itertools.cycle("|/-\\")
        self._told = ""

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def pause(self, text: str, seconds: float = _POLL) -> None:
        """Show this text while waiting a moment."""
        text = " ".join(text.split())
        if not self._out.isatty():
            if text != self._told:
                self._write(f"{self.elapsed:6.1f} s    {text}\n")
            self._told = text
            time.sleep(seconds)
            return
        room = shutil.get_terminal_size().columns - 14
        for _ in range(max(round(seconds * 10), 1)):
            self._write(f"\r\x1b[K{self.elapsed:6.1f} s  {next(self._frames)} {text[:room]}")
            time.sleep(min(seconds, 0.1))

    def done(self, text: str) -> None:
        """Print what is done."""
        self.clear()
        self._write(f"{self.elapsed:6.1f} s  ✓ {text}\n")

    def clear(self) -> None:
        """Take away what is waited for."""
        if self._out.isatty():
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        print(text, end="", file=self._out, flush=True)


@dataclass
class Running:
    """The services while they are up, and how long there is to wait for all that they do."""

    services: Services
    client: Client
    progress: Progress
    end: float

    def wait(self, steps: Generator[str, None, T]) -> T:
        """Go through the steps of a wait until it returns.

        Raises:
            DemoError: The time is up.
            ServiceError: A service has ended meanwhile.
        """
        while True:
            try:
                text = next(steps)
            except StopIteration as done:
                value: T = done.value
                return value
            self.services.check()
            if time.monotonic() > self.end:
                raise DemoError(f"The time is up while waiting ({text}). What was submitted stays open.")
            self.progress.pause(text)


def demo(home: Home) -> None:
    """Send the reviews, follow the batches, read the table.

    Raises:
        DemoError: Something did not go as it should.
    """
    progress = Progress()
    progress.pause("reading the reviews and the example's definitions", 0)
    rows = len(example_reviews())
    settings = Settings.load(home)
    progress.clear()
    print(f"{rows} reviews of medicines go to {settings.model} at {settings.provider}.")
    print(f"Submissions and tables are kept in {settings.store}.\n", flush=True)
    home.clear()
    with _running(home, settings, free_port(), progress) as up:
        progress.done(f"webserver, daemon and code are up: {up.services.url}")
        run = up.wait(until_materialised(up.client, [REVIEWS, SENT], settings.partitions))
        sent = [one for one in run.landed if one.asset == SENT]
        progress.done(sent_line(sent))
        wanted = {(str(one.metadata[SUBMISSION]), one.partition) for one in sent}
        runs = up.wait(until_landed(up.client, LABELS, wanted, tag=SUBMISSION, sensor=SENSOR))
        progress.done(f"{LABELS} has landed, {len(settings.partitions)} partitions")
        checks = up.client.checks(LABELS)
        progress.done(checks_line(checks))
        _all_passed(checks, {one.id for one in runs})
        up.wait(until_materialised(up.client, [EFFECTS]))
        progress.done(f"{EFFECTS} is made from it")
        up.wait(_until_noted(settings.store, wanted))
    print(_report(settings))
    print(f"\nDone in {progress.elapsed:.0f} s. `make ui` shows all of it in Dagster's UI.")


def ui(home: Home) -> None:
    """Serve the UI on what the demo made, until a signal comes.

    Raises:
        DemoError: `PORT` is no port.
    """
    home.recall()
    port = os.environ.get("PORT") or "3000"
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise DemoError(f"`PORT` must be the number of a port, not {port!r}.")
    progress = Progress()
    with _running(home, Settings.load(home), free_port(int(port)), progress) as up:
        progress.done(f"Dagster's UI is at {up.services.url} (Ctrl-C stops it)")
        while True:
            up.services.check()
            time.sleep(_POLL)


@contextmanager
def _running(home: Home, settings: Settings, port: int, progress: Progress) -> Iterator[Running]:
    """The services, up and ready; whatever happens, all are stopped in the end, the local batch server too."""
    with ExitStack() as stack:
        stack.callback(settings.stop_server)
        services = stack.enter_context(Services(home, port))
        up = Running(services, Client(services.url), progress, time.monotonic() + _START_SECONDS)
        up.wait(until_ready(up.client))
        up.end = time.monotonic() + (_LOCAL_SECONDS if settings.local else _REAL_SECONDS)
        yield up


def _until_noted(root: str, wanted: Iterable[tuple[str, str | None]]) -> Generator[str, None, None]:
    """Wait until the sensor has noted in the store what has landed, so that nothing stays open behind us."""
    from ractobatch_dagster.store import Store
    from ractobatch_dagster.submission.files import TableFiles

    log = TableFiles(Store(root), LABELS).log
    left = set(wanted)
    while (version := log.load()) and left & {(id_, key) for id_, keys in version.state.open.items() for key in keys}:
        yield "the sensor notes that the table has landed"


def sent_line(sent: Sequence[Landed]) -> str:
    """What the submission run did, in one line."""
    rows = sum(int(one.metadata["rows"]) for one in sent)
    submissions = {one.metadata[SUBMISSION]: one.metadata for one in sent}
    requests, batches = (sum(int(one[name]) for one in submissions.values()) for name in ("requests", "batches"))
    if not requests:
        return f"{rows} rows, 0 asked again: every answer is there already"
    return f"{rows} rows: {requests} requests in {batches} {'batch' if batches == 1 else 'batches'}"


def checks_line(checks: Sequence[Check]) -> str:
    """How many checks came out how, and the names of those that did not pass."""
    counts = Counter(check.word for check in checks)
    line = "checks: " + (", ".join(f"{count} {word}" for word, count in counts.items()) or "none")
    others = [check.name for check in checks if check.word != "passed"]
    return f"{line} ({', '.join(others)})" if others else line


def _all_passed(checks: Sequence[Check], runs: set[str]) -> None:
    bad = [one.name for one in checks if one.word not in ("passed", "warned") or one.run_id not in runs]
    if bad or not checks:
        raise DemoError(f"Not every check of {LABELS} has passed: {', '.join(bad) or 'there is none'}.")


def _report(settings: Settings) -> str:
    """What is in the table, read from the store as anybody would read it."""
    from ractobatch_dagster.io_manager import table_path
    from ractobatch_dagster.store import Store

    store = Store(settings.store)
    table = _read(store, [table_path([LABELS], key) for key in settings.partitions])
    effects = _read(store, [table_path([EFFECTS], None)])
    told = ", ".join(f"{row.side_effect} ({row.reviews})" for row in effects.head(8).itertuples())
    ends = [f"side effects  {told or 'none'}", f"Parquet       {store.uri(f'tables/{LABELS}')}"]
    return "\n".join(["", preview(table), "", *summary(table), *ends])


def preview(table: pd.DataFrame, rows: int = 6) -> str:
    """A few rows from all over the table as text, with those of the columns that it has."""
    shown = table[[name for name in _COLUMNS if name in table]].iloc[:: max(len(table) // rows, 1)].head(rows)
    cells = {name: [_short(value, _WIDEST.get(name, 20)) for value in shown[name]] for name in map(str, shown)}
    text: str = shown.assign(**cells).to_string(index=False)
    return text


def summary(table: pd.DataFrame) -> list[str]:
    """Statuses, tokens, cost and agreement, a line each."""
    statuses = table["llm_status"].astype(str).value_counts()
    prompt, completion = (int(table[f"llm_{name}_tokens"].sum()) for name in ("prompt", "completion"))
    unknown = int(table["llm_cost_usd"].isna().sum())
    found = agreement(table)
    price = f"{table['llm_cost_usd'].sum():.4f} USD at the batch rate"
    agreed = f"{found['agreement'] or 0:.1%} of {found['compared']} sentiments are the patient's own rating"
    return [
        f"rows          {len(table)}: {', '.join(f'{count} {word}' for word, count in statuses.items())}",
        f"answers       {int(table['llm_reused'].sum())} of them were there already, and cost nothing",
        f"tokens        {prompt:,} in, {completion:,} out",
        f"cost          {price}" + (f"; the price of {unknown} rows is not known" if unknown else ""),
        f"agreement     {agreed if found['compared'] else 'there is no rating to compare with'}",
    ]


def _read(store: Store, paths: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa

    from ractobatch_dagster.io_manager import to_pandas
    from ractobatch_dagster.submission.files import read_parquet

    parts = {path: read_parquet(store, path) for path in paths}
    missing = [store.uri(path) for path, part in parts.items() if part is None]
    if missing:
        raise DemoError(f"There is no table at {missing[0]}.")
    frame: pd.DataFrame = to_pandas(pa.concat_tables(parts.values(), promote_options="permissive"))
    return frame


def _short(value: object, widest: int) -> str:
    words = value if isinstance(value, str) or not isinstance(value, Iterable) else ", ".join(map(str, value))
    text = " ".join(str(words).split())
    return text if len(text) <= widest else text[: widest - 1] + "…"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description="Run the example end to end.")
    parser.add_argument("--ui", action="store_true", help="serve Dagster's UI on what the last demo made")
    asked = parser.parse_args(arguments)
    os.chdir(ROOT)
    signals_interrupt()
    home = Home(Path(os.environ.get("RACTOBATCH_DEMO_HOME") or ".demo").absolute())
    try:
        with home.reserved():
            (ui if asked.ui else demo)(home)
    except KeyboardInterrupt as signalled:
        print("\nStopped. What was submitted stays open; `make demo` goes on with it and sends nothing twice.")
        return 0 if asked.ui else 128 + int(signalled.args[0])
    except (DemoError, ServiceError, GraphQLError, ReviewsError, RactobatchError, OSError) as error:
        print(f"\nThis failed: {error}", file=sys.stderr)
        if "SubmissionConflictError" in str(error):
            print("`make ui` keeps Dagster running, which lands what is open.", file=sys.stderr)
        if home.logs.is_dir():
            print(f"What the services said is in {home.logs}/*.log", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
