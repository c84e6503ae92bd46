"""What the package sees of Dagster: runs under keys that are used once, their records, and materialisations."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import dagster as dg

from tests.simulation.scheduler import Scheduler

__all__ = ["Context", "Orchestrator", "Run"]

_OPEN = (dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED)


@dataclass(slots=True, eq=False)
class Run:
    """One run and how it stands."""

    run_id: str
    keys: list[str | None]
    tags: dict[str, str]
    created_at: float = 0.0
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.QUEUED
    ended_at: float = 0.0

    @property
    def is_finished(self) -> bool:
        """Whether it has ended."""
        return self.status not in _OPEN


@dataclass
class Orchestrator:
    """A Dagster instance whose own database never fails; what runs on it may."""

    scheduler: Scheduler
    execute: Callable[[Run], None]
    """Starts a table run as an actor."""
    order: list[str | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs: list[Run] = []
        self.materialisations: list[tuple[float, str, str | None, dict[str, Any], str]] = []
        self.odd: list[str] = []
        self._seen: set[tuple[str, str]] = set()

    # -- what the stage does ----------------------------------------------------------------------

    def launch(self, keys: Sequence[str | None], tags: dict[str, str], *, by: str = "", key: str | None = None) -> None:
        """Launch a table run, unless this sensor has used the key before."""
        if key is not None:
            if (by, key) in self._seen:
                self.scheduler.note(f"run key {key!r} was used before: dropped")
                self.scheduler.counts["run keys dropped"] += 1
                return
            self._seen.add((by, key))
        run = Run(f"run-{len(self.runs)}", list(keys), tags, self.scheduler.now)
        self.runs.append(run)
        self.execute(run)

    def ended(self, run: Run, good: bool) -> None:
        """Note that a run is over."""
        run.status = dg.DagsterRunStatus.SUCCESS if good else dg.DagsterRunStatus.FAILURE
        run.ended_at = self.scheduler.now

    def materialise(self, asset: str, key: str | None, metadata: dict[str, Any], run_id: str) -> None:
        """Note that a partition was materialised."""
        self.scheduler.note(f"materialised {asset} {key} of {metadata.get('ractobatch/submission')}")
        self.materialisations.append((self.scheduler.now, asset, key, metadata, run_id))

    def range(self, first: str | None, last: str | None) -> list[str | None]:
        """The partitions from one to another."""
        return self.order[self.order.index(first) : self.order.index(last) + 1]

    # -- what the package calls -------------------------------------------------------------------

    def get_run_records(self, filters: dg.RunsFilter) -> list[Any]:
        """As `DagsterInstance.get_run_records`, by tags, of each of which several values are given."""

        def found() -> list[Any]:
            return [
                SimpleNamespace(
                    dagster_run=run,
                    end_time=run.ended_at,
                    create_timestamp=dt.datetime.fromtimestamp(run.created_at, dt.UTC),
                )
                for run in reversed(self.runs)
                if all(run.tags.get(name) in values for name, values in filters.tags.items())
            ]

        return self.scheduler.io("run records", found)

    def fetch_materializations(self, filters: Any, limit: int, cursor: str | None = None) -> Any:
        """As `DagsterInstance.fetch_materializations`."""
        asset = "/".join((filters.asset_key if isinstance(filters, dg.AssetRecordsFilter) else filters).path)
        keys = getattr(filters, "asset_partitions", None)

        def found() -> Any:
            records = [
                SimpleNamespace(
                    partition_key=key,
                    run_id=run_id,
                    asset_materialization=SimpleNamespace(
                        metadata={name: SimpleNamespace(value=value) for name, value in metadata.items()}
                    ),
                )
                for _, name, key, metadata, run_id in reversed(self.materialisations)
                if name == asset and (keys is None or key in keys)
            ]
            return SimpleNamespace(records=records[:limit], has_more=False, cursor=None)

        return self.scheduler.io("materialisations", found)


class Context:
    """What a run or a tick is handed by Dagster, as far as the package looks at it."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        asset: dg.AssetKey,
        metadata: dict[str, Any],
        run: Run | None = None,
        *,
        partitioned: bool,
        resource: Any = None,
    ) -> None:
        note = orchestrator.scheduler.note
        self.instance = orchestrator
        self.resources = SimpleNamespace(openai_batch=resource)
        self.code_location_origin = SimpleNamespace(location_name="here")
        self.run = run
        self.partition_metadata: dict[str | None, dict[str, Any]] = {}

        def warning(text: str, exc_info: BaseException | None = None) -> None:
            note(text)
            if exc_info is not None:  # the package goes on, but no error of another kind than its own should be met
                orchestrator.odd.append(f"{text}: {exc_info!r}")

        self.log = SimpleNamespace(info=note, warning=warning)
        keys = run.keys if run else []
        self.partition_keys = keys
        self.has_partition_key = partitioned and len(keys) == 1
        self.has_partition_key_range = partitioned and len(keys) > 1
        names = [str(key) for key in orchestrator.order]
        definition = SimpleNamespace(
            partitions_def=dg.StaticPartitionsDefinition(names) if partitioned else None,
            metadata_by_key={asset: metadata},
        )
        self.repository_def = SimpleNamespace(assets_defs_by_key={asset: definition})

    def add_asset_metadata(self, metadata: dict[str, Any], *, partition_key: str | None = None) -> None:
        """Note what a run says of one partition."""
        self.partition_metadata.setdefault(partition_key, {}).update(metadata)
