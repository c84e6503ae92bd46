"""`make demo` and `make ui`: the example as it runs in production, told in the terminal.

Nothing here is known to Dagster: the demo starts the services, asks the webserver to do what a person would do
in the UI, waits for the sensor to do the rest, and reads the table from the store.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from example_project.graphql import Check, Client, GraphQLError, Landed, Run
from example_project.report import Progress, checks_line, table_report
from example_project.reviews import ReviewsError, example_reviews
from example_project.services import ROOT, Home, ServiceError, Services, free_port, signals_interrupt, undisturbed
from ractobatch_dagster.errors import RactobatchError
from ractobatch_dagster.spec import SUBMISSION

__all__ = ["DemoError", "main"]

REVIEWS, SENT, LABELS, EFFECTS = "reviews", "review_labels_submission", "review_labels", "side_effects"
SENSOR = "openai_batch_sensor"

_START_SECONDS = 180.0
_LOCAL_SECONDS = 300.0
_REAL_SECONDS = 25 * 3600.0  # a batch may take 24 h
_KEPT = ("RACTOBATCH_STORE", "RACTOBATCH_ROWS", "RACTOBATCH_MODEL", "RACTOBATCH_INPUT")

T = TypeVar("T")


class DemoError(RuntimeError):
    """The demo cannot go on; the message says why."""


@dataclass
class Settings:
    """What the example's definitions make of the environment."""

    store: str
    model: str
    partitions: list[str]
    local: bool
    server: Path | None = None

    @property
    def provider(self) -> str:
        """Who answers, for people."""
        if self.local:
            return "the local batch server"
        return os.environ.get("OPENAI_BASE_URL") or "OpenAI"


@dataclass
class Story:
    """The demo while it runs: each step is a generator that yields what it waits for."""

    services: Services
    client: Client
    progress: Progress
    settings: Settings
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = time.monotonic() + (_LOCAL_SECONDS if self.settings.local else _REAL_SECONDS)

    def drive(self, steps: Generator[str, None, T], within: float | None = None) -> T:
        """Go through the steps until they return.

        Raises:
            DemoError: That took too long.
            ServiceError: A service has ended meanwhile.
        """
        end = self.end if within is None else time.monotonic() + within
        while True:
            try:
                text = next(steps)
            except StopIteration as done:
                value: T = done.value
                return value
            self.services.check()
            if time.monotonic() > end:
                raise DemoError(f"This has taken too long: {text}. What was submitted stays open.")
            self.progress.pause(text)

    def ready(self) -> Generator[str, None, None]:
        """Wait until webserver, daemon and code are up."""
        while not self.client.ready():
            yield "starting dagster-webserver and dagster-daemon"

    def materialise(self, assets: Sequence[str], partitions: Sequence[str] = ()) -> Generator[str, None, Run]:
        """Materialise these assets in one run, and wait for its end."""
        run_id = self.client.launch(assets, partitions)
        while not (run := self.client.run(run_id)).finished:
            yield f"{' and '.join(assets)}: run {run_id[:8]} {_shown(run)}"
        self._succeeded(run, " and ".join(assets))
        return run

    def table(self, sent: Sequence[Landed]) -> Generator[str, None, list[Run]]:
        """Wait until the sensor has had all that was sent landed; the runs that did it."""
        wanted = {(str(one.metadata[SUBMISSION]), one.partition) for one in sent}
        while True:
            runs = [(id_, run) for id_ in {one for one, _ in wanted} for run in self.client.tagged(SUBMISSION, id_)]
            for _, run in runs:
                if run.finished:
                    self._succeeded(run, LABELS)
            landed = {(id_, one.partition) for id_, run in runs if run.finished for one in run.landed}
            if wanted <= landed:
                return [run for _, run in runs]
            going = [run for _, run in runs if not run.finished]
            tick = self.client.last_tick(SENSOR)
            says = tick.says if tick else ""
            yield f"{LABELS}: run {going[0].id[:8]} {_shown(going[0])}" if going else f"sensor: {says or 'looks soon'}"

    def confirmed(self, since: float) -> Generator[str, None, None]:
        """Wait until the sensor has looked once more and noted in the store that the table has landed."""
        while (tick := self.client.last_tick(SENSOR)) is None or tick.at <= since or tick.status == "FAILURE":
            yield "the sensor notes that the table has landed"

    def _succeeded(self, run: Run, what: str) -> None:
        if run.status != "SUCCESS":
            raise DemoError(f"The run of {what} ended as {run.status}: {self.client.why(run.id)}")


def demo(home: Home) -> None:
    """Send the reviews, follow the batches, read the table.

    Raises:
        DemoError: Something did not go as it should.
    """
    progress = Progress()
    rows = len(example_reviews())
    settings = _settings(home)
    print(f"{rows} reviews of medicines go to {settings.model} at {settings.provider}.")
    print(f"Submissions and tables are kept in {settings.store}.\n")
    home.clear()
    _keep_settings(home)
    with _running(home, free_port(), settings, progress) as story:
        progress.done(f"webserver, daemon and code are up ({story.services.url})")
        run = story.drive(story.materialise([REVIEWS, SENT], settings.partitions))
        sent = [one for one in run.landed if one.asset == SENT]
        progress.done(_sent_line(sent))
        runs = story.drive(story.table(sent))
        landed = time.time()
        progress.done(f"{LABELS} has landed: {len(settings.partitions)} partitions")
        checks = story.client.checks(LABELS)
        progress.done(checks_line(checks))
        _all_evaluated(checks, {one.id for one in runs})
        story.drive(story.materialise([EFFECTS]))
        progress.done(f"{EFFECTS} is made from it")
        story.drive(story.confirmed(landed))
    print(table_report(settings.store, LABELS, settings.partitions, EFFECTS))
    print(f"\nDone in {progress.elapsed:.0f} s. `make ui` shows all of it in Dagster's UI.")


def ui(home: Home) -> None:
    """Serve the UI on what the demo made, until a signal comes.

    Raises:
        DemoError: No demo has run yet.
    """
    if not (home.dagster / "dagster.yaml").is_file():
        raise DemoError("There is nothing to show yet: run `make demo` first.")
    port = os.environ.get("PORT") or "3000"
    if not port.isdecimal() or not 0 < int(port) < 65_536:
        raise DemoError(f"`PORT` must be a port's number, not {port!r}.")
    os.environ.update({**_kept_settings(home), **{name: os.environ[name] for name in _KEPT if os.environ.get(name)}})
    progress = Progress()
    with _running(home, free_port(int(port)), _settings(home), progress) as story:
        progress.done(f"Dagster's UI: {story.services.url}/asset-groups   (Ctrl-C stops it)")
        while True:
            story.services.check()
            time.sleep(0.5)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m example_project.demo", description=__doc__)
    parser.add_argument("--ui", action="store_true", help="serve Dagster's UI on what the last demo made")
    asked = parser.parse_args(arguments)
    os.chdir(ROOT)
    signals_interrupt()
    home = Home(Path(os.environ.get("RACTOBATCH_DEMO_HOME") or ".demo").absolute())
    try:
        with home.reserved():
            ui(home) if asked.ui else demo(home)
    except KeyboardInterrupt as signalled:
        print("\nStopped.", end="" if not asked.ui else "\n")
        if asked.ui:
            return 0
        print(
            " Nothing is lost: what was submitted stays open, and `make demo` goes on with it, sending nothing twice."
        )
        return 128 + int(signalled.args[0] if signalled.args else 2)
    except (DemoError, ServiceError, GraphQLError, ReviewsError, RactobatchError, OSError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        if home.logs.is_dir():
            print(f"What the services said is in {home.logs}/*.log", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _running(home: Home, port: int, settings: Settings, progress: Progress) -> Iterator[Story]:
    """All services, up; whatever happens, they are stopped in the end, and the local batch server too."""
    with ExitStack() as stack:
        if settings.server is not None:
            stack.callback(_stop_server, settings.server)
        services = stack.enter_context(Services(home, port))
        story = Story(services, Client(services.url), progress, settings)
        story.drive(story.ready(), within=_START_SECONDS)
        yield story


def _settings(home: Home) -> Settings:
    """Load the definitions as the services will, so that what cannot work is known before they start."""
    server = None
    store = os.environ.get("RACTOBATCH_STORE") or ""
    asked = bool(os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))
    if not asked and "://" in store and not store.startswith("file://"):
        from ractobatch_dagster.local import ensure_server

        # The resource keeps its local server below the store, which needs a directory; so it gets one by address.
        server = home.folder / "local-server"
        address = ensure_server(server)
        os.environ.update(OPENAI_BASE_URL=address.base_url, OPENAI_API_KEY=address.api_key)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Dagster calls beta is told in the services' logs
        from example_project import definitions as example
    if example.LOCAL:
        server = Path(example.STORE.removeprefix("file://")).expanduser().absolute() / "local-server"
    return Settings(example.STORE, example.MODEL, example.years.get_partition_keys(), not asked, server)


def _stop_server(folder: Path) -> None:
    from ractobatch_dagster.local import stop_server

    with undisturbed():
        stop_server(folder)


def _keep_settings(home: Home) -> None:
    kept = {name: os.environ[name] for name in _KEPT if os.environ.get(name)}
    (home.folder / "settings.json").write_text(json.dumps(kept), encoding="utf-8")


def _kept_settings(home: Home) -> dict[str, str]:
    """The environment of the last demo; it holds no key."""
    kept: dict[str, str] = json.loads((home.folder / "settings.json").read_text(encoding="utf-8"))
    return kept


def _sent_line(sent: Sequence[Landed]) -> str:
    """What the submission run did, in one line."""
    rows = sum(int(one.metadata["rows"]) for one in sent)
    submissions = {one.metadata[SUBMISSION]: one.metadata for one in sent}
    requests, batches = (sum(int(one[name]) for one in submissions.values()) for name in ("requests", "batches"))
    if not requests:
        return f"{rows} rows, 0 asked again: every answer is there from an earlier run"
    return f"{rows} rows: {requests} requests in {batches} {'batch' if batches == 1 else 'batches'}"


def _all_evaluated(checks: Sequence[Check], runs: set[str]) -> None:
    late = [one.name for one in checks if one.run_id not in runs]
    bad = [one.name for one in checks if one.word not in ("passed", "warned")]
    if late or bad or not checks:
        raise DemoError(f"Not all checks of {LABELS} have passed: {', '.join(bad or late) or 'there is none'}.")


def _shown(run: Run) -> str:
    return {"STARTED": "is at work", "QUEUED": "is queued"}.get(run.status, "is starting")


if __name__ == "__main__":
    sys.exit(main())
