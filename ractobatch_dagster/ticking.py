"""One tick of the sensor: look at what is open, create what now fits, ask for the tables that are ready."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dagster as dg

from ractobatch_dagster.account import UnderWay, observed, read_under_way, under_way
from ractobatch_dagster.checks import ON_TIME, on_time
from ractobatch_dagster.confirming import confirm_landed
from ractobatch_dagster.errors import RactobatchError
from ractobatch_dagster.requesting import run_requests
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.spec import RESOURCE
from ractobatch_dagster.submission.files import TableFiles, tables
from ractobatch_dagster.submission.heartbeat import FRESH, Heartbeat, beat, heartbeats
from ractobatch_dagster.submission.state import SubmissionState
from ractobatch_dagster.submission.watching import Open, Watch, open_submissions

__all__ = ["tick"]

_TICK_SECONDS = 40.0
"""Dagster ends a tick after 60 s, and then nothing of it counts."""

_CALL_SECONDS, _RETRY_SECONDS = 8.0, 4.0
"""How long one try of a call to the provider may take in a tick, of which there are two, and the pause between them."""

_LARGEST_UPLOAD = 20e6
"""Bytes of an input file that a tick uploads; for a larger one it asks for a run."""

_LIE_SECONDS = 86_400.0
"""Seconds after which what has ended is collected though others of its submission wait: it is deleted in the end."""

_SAID = 20
"""How many sentences the skip reason has."""


def tick(
    context: dg.SensorEvaluationContext, resource: OpenAIBatchResource, resource_key: str, name: str, seconds: int
) -> dg.SensorResult:
    """What the sensor of this name does, every so many seconds."""
    end = time.monotonic() + _TICK_SECONDS
    assets = _assets(context, resource_key)
    random.shuffle(assets)  # whoever is not reached in time is not always the same
    notes: list[str] = []
    found: list[Open] = []

    def half() -> bool:
        return time.monotonic() > end - _TICK_SECONDS / 2

    for asset in assets:
        if half():
            notes.append("the store is slow; not all tables were looked at")
            break
        found += _open(context, TableFiles(resource.store, asset), notes, half)
    whole = not half()
    seen = _Seen(notes)
    if found:  # nothing is asked of the provider where nothing is open
        watch = _watch(context, resource, notes, end, half)
        stepped = watch.step(found)
        profile = watch.provider.profile
        ready = [one for one in stepped if _wants_a_run(one, watch.now, profile.sends_to_create)]
        seen = _Seen(notes, run_requests(context, ready, watch), watch.alarms, watch.far)
        newest = {one.state.id: one.state for one in (*found, *stepped)}
        seen.open = [state for state in newest.values() if state.provider == watch.provider.identity]
    seen.whole = whole
    return _told(context, resource, resource_key, name, sorted(assets), seen, seconds)


@dataclass(slots=True)
class _Seen:
    """What a tick has seen: notes, runs to ask for, alarms and progress by table, what is open; whether it saw all."""

    notes: list[str]
    requests: list[dg.RunRequest] = field(default_factory=list)
    alarms: Mapping[str, Sequence[str]] = field(default_factory=dict)
    far: Mapping[str, str] = field(default_factory=dict)
    open: list[SubmissionState] = field(default_factory=list)
    whole: bool = True


def _watch(
    context: dg.SensorEvaluationContext,
    resource: OpenAIBatchResource,
    notes: list[str],
    end: float,
    half: Callable[[], bool],
) -> Watch:
    """A look with what is left of the tick's time."""
    provider = resource.get_provider().hurried(_CALL_SECONDS, _RETRY_SECONDS)

    def enough() -> bool:
        return time.monotonic() > end

    engine = resource.engine(log=context.log.info, provider=provider, enough=enough, largest_upload=_LARGEST_UPLOAD)
    now = resource.now()
    return Watch(provider, engine, resource.patience, now, enough, half, turn=int(now), notes=notes)


def _told(
    context: dg.SensorEvaluationContext,
    resource: OpenAIBatchResource,
    resource_key: str,
    name: str,
    assets: Sequence[str],
    seen: _Seen,
    seconds: int,
) -> dg.SensorResult:
    """The tick's result, told in the log, in the skip reason, in checks, of the account, and as a sign of life."""
    origin, at = context.code_location_origin, resource.now()
    sensor = f"{name} of {origin.location_name}" if origin else name
    beats = heartbeats(resource.store)
    last = beats.get(sensor)
    notes = [*seen.notes, *_orphans(resource, assets, beats, at), *_unknown_budgets(resource, assets)]
    alarms = {asset: tuple(texts) for asset, texts in seen.alarms.items()}
    now = under_way(seen.open)
    events: list[Any] = _check_events(assets, last, alarms)
    before = last.told if last is not None else ""
    account = now.as_json() if seen.whole else before
    if account != before and (before or now.submissions):
        events.append(observed(resource_key, now + _of_others(name, sensor, beats, at), seen.open, at))
    beat(resource.store, sensor, Heartbeat(at=at, assets=tuple(assets), alarms=alarms, told=account))
    late = [text for texts in alarms.values() for text in texts]
    far = [f"{asset}: {text}" for asset, text in seen.far.items()]
    for note in (*notes, *far):
        context.log.info(note)
    for text in late:
        context.log.warning(text)
    said = [*late, *notes, *(far if len(far) > 1 else ())]
    if now.submissions:
        said = [now.sentence(seconds), *said]
    if len(said) > _SAID:
        said = [*said[:_SAID], f"and {len(said) - _SAID} more, in the log"]
    skip_reason = None if seen.requests else "; ".join(text.rstrip(".") for text in said) or now.sentence(seconds)
    return dg.SensorResult(run_requests=seen.requests, skip_reason=skip_reason, asset_events=events)


def _wants_a_run(one: Open, now: float, sends_to_create: bool) -> bool:
    """Whether there is something that only a run does."""
    lie = any(batch.stage == "ended" and 0 < batch.seen_at < now - _LIE_SECONDS for batch in one.state.batches)
    return one.state.collected or one.state.ready or lie or _is_large(one, now, sends_to_create)


def _is_large(one: Open, now: float, sends_to_create: bool) -> bool:
    """Whether an input file that is too large for a tick waits to be sent: of a run that died, or a full queue."""
    created = sends_to_create and not (one.state.held or one.state.queued)
    stages = ("planned", "uploaded") if created else ("planned",)
    waiting = (batch for batch in one.state.batches if batch.stage in stages and batch.not_before <= now)
    return not one.state.cancelled and any(batch.size > _LARGEST_UPLOAD for batch in waiting)


def _assets(context: dg.SensorEvaluationContext, resource_key: str) -> list[str]:
    """The batch assets of this code location that use the resource."""
    if context.repository_def is None:
        raise dg.DagsterInvariantViolationError("The sensor needs its repository: pass `definitions=` to the context.")
    graph = context.repository_def.assets_defs_by_key
    return [
        "/".join(key.path) for key, asset in graph.items() if asset.metadata_by_key[key].get(RESOURCE) == resource_key
    ]


def _open(
    context: dg.SensorEvaluationContext, table: TableFiles, notes: list[str], enough: Callable[[], bool]
) -> list[Open]:
    """The open submissions of one table. What cannot be read is noted, and the other tables go on."""
    try:
        state = confirm_landed(context.instance, table, enough)
    except RactobatchError as error:
        notes.append(f"{table.asset}: {error}")
        return []
    return list(open_submissions(table, state, notes, enough))


def _orphans(
    resource: OpenAIBatchResource, assets: Collection[str], beats: Mapping[str, Heartbeat], now: float
) -> list[str]:
    """Open submissions of tables that no sensor looks after: their asset was renamed or removed."""
    looked_after = {*assets, *(asset for one in beats.values() if now - one.at < FRESH for asset in one.assets)}
    notes: list[str] = []
    for table in tables(resource.store):
        if table.asset in looked_after:
            continue
        try:
            version = table.log.load()
            open_ = version.state.open if version and version.state.owner.submission_asset else {}
            left = [id_ for id_ in open_ if not table.submission(id_).state().cancelled]
        except RactobatchError as error:
            notes.append(f"{table.asset}: {error}")
            continue
        notes += [
            f"submission {submission} of {table.asset!r} is open, and no asset is called so any more: bring it back, "
            f"or run `ractobatch cancel --asset {table.asset}`"
            for submission in left
        ]
    return notes


def _unknown_budgets(resource: OpenAIBatchResource, assets: Collection[str]) -> list[str]:
    """Budgets of tables that nobody knows, which limit nothing: a slip of the pen, or of another code location."""
    named = {budget.asset for budget in resource.budgets if budget.asset and budget.asset not in assets}
    known = {table.asset for table in tables(resource.store)} if named else set()
    return [f"a budget is for {name!r}, and there is no table of that key" for name in sorted(named - known)]


def _of_others(name: str, sensor: str, beats: Mapping[str, Heartbeat], now: float) -> UnderWay:
    """What sensors of the same name in other code locations last said of the account, which is one asset for all."""
    told = [
        one.told
        for other, one in beats.items()
        if other != sensor and other.partition(" of ")[0] == name and now - one.at < FRESH and one.told
    ]
    return sum((read_under_way(one) for one in told), start=UnderWay())


def _check_events(
    assets: Sequence[str], last: Heartbeat | None, alarms: Mapping[str, Sequence[str]]
) -> list[dg.AssetCheckEvaluation]:
    """The check of each table whose alarms are others than in the tick before."""
    before = last.alarms if last else {}
    return [
        dg.AssetCheckEvaluation(
            asset_key=dg.AssetKey(asset.split("/")), check_name=ON_TIME, **on_time(alarms.get(asset, ()))
        )
        for asset in assets
        if tuple(alarms.get(asset, ())) != before.get(asset, ())
    ]
