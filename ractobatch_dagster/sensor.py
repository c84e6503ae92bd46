"""The sensor: looks at what is open, creates what now fits the quota, and asks for the tables that are ready."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import dagster as dg

from ractobatch_dagster.errors import RactobatchError
from ractobatch_dagster.landing import confirm_landed
from ractobatch_dagster.requesting import Wanted, run_requests
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.spec import RESOURCE
from ractobatch_dagster.submission.engine import LIGHT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.looking import Looked, look
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import Owner, SubmissionState

__all__ = ["build_batch_sensor"]

_TICK_SECONDS = 40.0
"""Dagster ends a tick after 60 s, and then nothing of it counts."""

_RUNS_PER_TICK = 25


@dataclass(frozen=True, slots=True)
class _Open:
    """One open submission: where it is, how it stands, and its partitions that have not landed."""

    owner: Owner
    files: SubmissionFiles
    state: SubmissionState
    keys: Sequence[str | None]


def build_batch_sensor(
    resource_key: str = "openai_batch",
    *,
    name: str | None = None,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> dg.SensorDefinition:
    """The sensor of one `OpenAIBatchResource`, however many batch assets use it.

    A tick looks at the open submissions of the code location's own batch assets, creates what now fits the quota, and
    requests a run of each table whose rows all have their outcome. It downloads nothing and keeps no cursor: what
    is open is read from the store, so a lost cursor, another name or a restarted daemon change nothing.

    Called twice with the same arguments it returns the same object, so that `Definitions.merge` sees one sensor.

    Args:
        resource_key: The key of the resource.
        name: The sensor's name; `<resource_key>_sensor` where not given.
        minimum_interval_seconds: Seconds between two ticks at least.
        default_status: Whether it is on from the start. It is, since without it nothing is collected.
    """
    return _sensor(resource_key, name or f"{resource_key}_sensor", minimum_interval_seconds, default_status)


@cache
def _sensor(
    resource_key: str, name: str, minimum_interval_seconds: int, default_status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        target=dg.AssetSelection.all(),
        required_resource_keys={resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Follows the open batches and materialises each table once every row has its outcome.",
    )
    def batches(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        return _tick(context, getattr(context.resources, resource_key), resource_key)

    return batches


def _tick(context: dg.SensorEvaluationContext, resource: OpenAIBatchResource, resource_key: str) -> dg.SensorResult:
    end = time.monotonic() + _TICK_SECONDS
    notes: list[str] = []
    found = [one for asset in _assets(context, resource_key) for one in _open(context, resource, asset, notes)]
    if not found:
        return dg.SensorResult(skip_reason="; ".join(notes) or "No submission is open.")
    provider = resource.get_provider()
    mine = [one for one in found if one.state.provider == provider.identity]
    engine = resource.engine(log=context.log.info)
    looked = _looked(resource, mine, notes)
    wanted: list[Wanted] = []
    for one in mine:
        if time.monotonic() > end:
            notes.append("the tick's time is up, the next one goes on")
            break
        state = _stepped(engine, one, looked, notes)
        if state.collected or state.ready:
            wanted.append(Wanted(one.owner, state, one.keys))
    requests = run_requests(context, wanted, notes)[:_RUNS_PER_TICK]
    for note in notes:
        context.log.info(note)
    return dg.SensorResult(run_requests=requests, skip_reason=None if requests else "; ".join(notes))


def _assets(context: dg.SensorEvaluationContext, resource_key: str) -> list[str]:
    """The batch assets of this code location that use the resource."""
    if context.repository_def is None:
        raise dg.DagsterInvariantViolationError("The sensor needs its repository: pass `definitions=` to the context.")
    graph = context.repository_def.assets_defs_by_key
    return [
        "/".join(key.path) for key, asset in graph.items() if asset.metadata_by_key[key].get(RESOURCE) == resource_key
    ]


def _open(
    context: dg.SensorEvaluationContext, resource: OpenAIBatchResource, asset: str, notes: list[str]
) -> Iterator[_Open]:
    """The open submissions of one table. What cannot be read is noted, and the other tables go on."""
    table = TableFiles(resource.store, asset)
    try:
        state = confirm_landed(context.instance, table)
        if state is None or state.owner.deployment != resource.deployment:
            return
        for submission, keys in state.open.items():
            files = table.submission(submission)
            yield _Open(state.owner, files, files.state(), keys)
    except RactobatchError as error:
        notes.append(f"{asset}: {error}")


def _looked(resource: OpenAIBatchResource, found: Sequence[_Open], notes: list[str]) -> Looked:
    """Where the running batches of all submissions stand, asked for together."""
    wanted = {b.batch_id for one in found for b in one.state.batches if b.stage == "running" and b.batch_id}
    try:
        looked = look(resource.get_provider(), wanted)
    except RactobatchError as error:
        notes.append(str(error))
        return Looked()
    notes.extend(f"batch {batch_id}: {error}" for batch_id, error in looked.failed.items())
    return looked


def _stepped(engine: Engine, one: _Open, looked: Looked, notes: list[str]) -> SubmissionState:
    try:
        state = engine.advance(one.files, steps=LIGHT, looked=looked)
    except RactobatchError as error:
        notes.append(f"{one.owner.asset}: {error}")
        return one.state
    notes.append(f"{one.owner.asset}: {progress(state)}")
    return state
