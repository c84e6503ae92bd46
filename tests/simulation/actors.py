"""Who acts: submission runs, the sensor, table runs, somebody who cancels. Each may die and is started again."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pyarrow as pa

from ractobatch_dagster import landing, submitting
from ractobatch_dagster.errors import RactobatchError
from ractobatch_dagster.io_manager import table_path
from ractobatch_dagster.requesting import FIRST, LAST, RANGE_END, RANGE_START
from ractobatch_dagster.sensor import build_batch_sensor
from ractobatch_dagster.spec import SUBMISSION
from ractobatch_dagster.submission import cancelling
from ractobatch_dagster.submission.files import SubmissionFiles, write_parquet
from ractobatch_dagster.submission.rows import read_rows
from ractobatch_dagster.table_file import TableFile
from tests.simulation.orchestrator import Context, Run
from tests.simulation.scheduler import Died, StuckError
from tests.simulation.setting import frame_of
from tests.simulation.stage import ASSET, Resource, Stage, Written

__all__ = ["Play", "submissions", "version_in"]

_SIGNATURE: Any = SimpleNamespace(frames=("frame",), call=lambda context, given: given["frame"])
_CHAOS_STEPS = 3_000
_CALM_STEPS = 30_000


class Play(Stage):
    """A schedule with its actors, from the first submission until everything has landed."""

    def run(self) -> None:
        """Play it: misfortunes first, then calm until every partition has landed in its newest version.

        Raises:
            StuckError: Something stays open though nothing goes wrong any more.
        """
        self._cast()
        end, last = self.scheduler.now + self.setting.chaos, self.scheduler.steps + _CHAOS_STEPS
        self.scheduler.run(
            lambda: bool(self.broken) or self.scheduler.now >= end or self.scheduler.steps >= last,
            limit=_CHAOS_STEPS * 2,
        )
        self.becomes_calm()
        for group in self._groups():
            self.scheduler.spawn("user", lambda group=group: self._until_accepted(group))
        if self._lands(_CALM_STEPS // 4) or (not self._rightly_stopped() and self._lands(_CALM_STEPS)):
            self.over = not self.broken
        elif not self._rightly_stopped():
            raise StuckError(f"not everything has landed after {_CALM_STEPS} steps")
        self.world.settle(self.scheduler.now + 1e6)

    def _lands(self, limit: int) -> bool:
        with suppress(StuckError):
            self.scheduler.run(self._everything_landed, limit=limit)
            return True
        return False

    def _rightly_stopped(self) -> bool:
        """Where the provider has no list and nobody knows whether a batch exists, stopping is right."""
        return not self.world.chances.has_list and self._unsure()

    def _groups(self) -> list[list[str | None]]:
        keys = self.setting.keys
        return [keys] if self.setting.packed else [[key] for key in keys]

    def _cast(self) -> None:
        random, setting = self.random, self.setting
        for number in range(setting.sensors):
            self._start_sensor(f"sensor_{number}", random.uniform(0, setting.sensor_every))
        for group in self._groups():
            self._submits(group, 0, random.uniform(0, 30))
            for _ in range(setting.reruns):
                self._submits(group, 0, random.uniform(0, setting.chaos / 2))
            for version in range(1, setting.changes + 1):
                self._submits(group, version, random.uniform(0, setting.chaos))
            if setting.alone and len(group) > 1:
                self._submits([random.choice(group)], 0, random.uniform(0, setting.chaos / 4))
        if setting.cancels:
            self.scheduler.spawn("canceller", self._acting(self._cancel), after=random.uniform(0, setting.chaos))
        for _ in range(setting.by_hand):
            keys = random.choice(self._groups())
            self.scheduler.after(
                random.uniform(60, setting.chaos), lambda keys=keys: self.orchestrator.launch(keys, {})
            )

    def _acting(
        self, act: Callable[[], object], ended: Callable[[bool], None] = lambda good: None
    ) -> Callable[[], None]:
        """An actor's whole life: whether it ended well is told, and an error that is none of ours is noted."""

        def live() -> None:
            good = False
            try:
                act()
                good = True
            except Died:
                self.scheduler.note("is dead")
            except (RactobatchError, dg.Failure) as error:
                self.scheduler.note(
                    f"FAILED: {type(error).__name__}: {error.description if isinstance(error, dg.Failure) else error}"
                )
                self.scheduler.counts["runs failed"] += 1
            except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
                self.scheduler.note(f"BROKE: {error!r}")
                self.broken.append(f"{self.scheduler.current and self.scheduler.current.name}: {error!r}")
            ended(good)

        return live

    # -- submission runs --------------------------------------------------------------------------

    def _submits(self, group: list[str | None], version: int, after: float) -> None:
        """A submission run; one that does not end well is started again by somebody, once or twice."""

        def again(good: bool) -> None:
            if not good and self.random.random() < 0.7:
                self.scheduler.spawn(name, self._acting(act, again), after=self.random.uniform(20, 200))

        def act() -> None:
            if all(version >= self.newest.get(key, 0) for key in group):  # nobody goes back to older rows
                self.newest.update(dict.fromkeys(group, version))
                self.submit(group, version)

        name = f"submit-{version}-{group[0] or 'all'}"
        self.scheduler.spawn(name, self._acting(act, again), after=after)

    def submit(self, group: list[str | None], version: int) -> None:
        """What a submission run does."""
        frames = {key: frame_of(self.setting, key, version) for key in group}
        run = Run("submission", list(group), {})
        context = Context(self.orchestrator, self.spec.asset, {}, run, partitioned=group != [None])
        given = frames if len(group) > 1 else frames[group[0]]
        submitting.submit(context, Resource(self), {"frame": given}, spec=self.spec, signature=_SIGNATURE)  # type: ignore[arg-type]

    def _until_accepted(self, group: list[str | None]) -> None:
        """Somebody who submits the newest rows until it is these that are on their way, or back."""
        self.newest.update(dict.fromkeys(group, self.setting.changes))
        while True:
            if not all(self._version_of(key) in (self.setting.changes, None) for key in group):
                self._acting(lambda: self.submit(group, self.setting.changes))()
            self.scheduler.sleep(300)

    def _version_of(self, key: str | None) -> int | None:
        """Which version of a partition's rows was submitted last; -1 for none, `None` if it has no rows."""
        log = self.table.log.load()
        there = log.state.partition(key) if log else None
        if there is None:
            return -1
        return version_in(self.table.submission(there.submission), key)

    # -- sensors ----------------------------------------------------------------------------------

    def _start_sensor(self, name: str, after: float) -> None:
        def again(good: bool) -> None:
            self._start_sensor(name, self.random.uniform(20, 200))

        self.scheduler.spawn(name, self._acting(lambda: self._watch(name), again), after=after)

    def _watch(self, name: str) -> None:
        resource = Resource(self)
        tick: Any = build_batch_sensor(name=name)._raw_fn
        while True:
            context: Any = Context(
                self.orchestrator,
                self.spec.asset,
                self.definition_metadata,
                partitioned=self.setting.keys != [None],
                resource=resource,
            )
            result = tick(context)
            for request in result.run_requests or ():
                self.scheduler.io("launch a run", lambda request=request: self._launch(name, request))
            self.scheduler.sleep(self.setting.sensor_every)

    def _launch(self, name: str, request: dg.RunRequest) -> None:
        tags = request.tags
        if RANGE_START in tags:
            keys = self.orchestrator.range(tags[RANGE_START], tags[RANGE_END])
        else:
            keys = [request.partition_key]
        self.scheduler.note(f"asks for {request.run_key}")
        self.orchestrator.launch(
            keys, {name: tags[name] for name in (SUBMISSION, FIRST, LAST) if name in tags}, by=name, key=request.run_key
        )

    # -- table runs -------------------------------------------------------------------------------

    def _execute(self, run: Run) -> None:
        def ended(good: bool) -> None:
            # a run whose process vanished is found out after a while
            delay = 0.0 if good else self.random.uniform(1, 200)
            self.scheduler.after(delay, lambda: self.orchestrator.ended(run, good))

        def act() -> None:
            run.status = dg.DagsterRunStatus.STARTED
            self._land(run)

        self.scheduler.spawn(run.run_id, self._acting(act, ended), after=self.random.uniform(1, 60))

    def _land(self, run: Run) -> None:
        partitioned = run.keys != [None]
        context: Any = Context(self.orchestrator, self.spec.asset, {}, run, partitioned=partitioned)
        resource: Any = Resource(self)
        began = self.scheduler.now
        for result in landing.land(context, resource, run.keys, spec=self.spec):
            tables = result.value if isinstance(result.value, dict) else {run.keys[0]: result.value}
            told = {run.keys[0]: result.metadata} if len(run.keys) == 1 else context.partition_metadata
            for key, made in tables.items():
                table = self._store_table(table_path([ASSET], key), made)
                submission = str(told[key][SUBMISSION])
                self.written.append(Written(key, submission, table, began, self.scheduler.now))
            for key in tables:
                self.scheduler.io(
                    "materialise",
                    lambda key=key, said=told[key]: self.orchestrator.materialise(ASSET, key, said, run.run_id),
                )

    def _store_table(self, path: str, made: TableFile | pa.Table) -> pa.Table:
        """What the IO manager does, ours or somebody else's."""
        if not isinstance(made, TableFile):
            write_parquet(self.store, path, made)
            return made
        table = made.read()
        self.store.take(path, made.path)
        return table

    # -- somebody who cancels ---------------------------------------------------------------------

    def _cancel(self) -> None:
        """What the cancelling job does."""
        resource: Any = Resource(self)
        note = self.scheduler.note
        cancelling.cancel(resource.engine(log=note), cancelling.choose([self.spec.table(resource)]), note)

    # -- the end ----------------------------------------------------------------------------------

    def _unsure(self) -> bool:
        states = [self.table.submission(id_).state() for id_ in submissions(self)]
        return any(batch.stage == "creating" for state in states for batch in state.batches)

    def _everything_landed(self) -> bool:
        if self.broken:
            return True
        if self.scheduler.steps % 10:
            return False
        version = self.table.log.load()
        if version is None or any(state.landed != state.submission for state in version.state.partitions):
            return False
        return all(self._version_of(key) in (self.setting.changes, None) for key in self.setting.keys)


def submissions(stage: Stage) -> list[str]:
    """Every submission that has a log, opened or not."""
    prefix = f"submissions/{ASSET}/"
    below = [path.removeprefix(prefix) for path in stage.store.objects if path.startswith(prefix)]
    return sorted({path.partition("/")[0] for path in below if "/log/" in path})


def version_in(files: SubmissionFiles, key: str | None) -> int | None:
    """Which version of a partition's rows a submission holds; `None` if it holds no rows of it."""
    share = files.state().partition(key)
    if share is None or not share.rows:
        return None
    first = next(read_rows(files, share.start, share.start + 1, ["version"]))
    return int(first.column(0)[0].as_py())
