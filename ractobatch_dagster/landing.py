"""What a table run does: collect what is ready and return it; and how we know that it has landed."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
import msgspec
from pydantic import BaseModel

from ractobatch_dagster.errors import ProviderError
from ractobatch_dagster.io_manager import table_path, written
from ractobatch_dagster.metadata import table_metadata
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.spec import SUBMISSION, BatchSpec
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles, read_parquet
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import SubmissionState, TableState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["confirm_landed", "land", "mark_landed", "wait_until_collected"]

_CLOCK_SLACK = 86_400.0
_PAGE = 1_000
_MAX_FAILURES = 20


def land(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    keys: Sequence[str | None],
    *,
    spec: BatchSpec,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Yield the table of these partitions if all their rows have their outcome; do what is left to do for that.

    Nothing is yielded where the batches are not done and the run was not for this table alone; that is no failure.

    Raises:
        dagster.Failure: Nothing was submitted, or the batches are not done and the table was asked for alone.
    """
    table = spec.table(resource)
    waiting = _submissions(table, keys, spec)
    engine = resource.engine(log=context.log.info)
    states = {
        id_: engine.advance(table.submission(id_), validate=spec.validate) for id_ in sorted(set(waiting.values()))
    }
    open_ = [state for state in states.values() if not state.collected]
    if open_:
        _not_ready(context, open_, spec)
        return
    tables: dict[str | None, pa.Table] = {}
    for id_, state in states.items():
        mine = [key for key in keys if waiting[key] == id_]
        tables.update(_tables(table.submission(id_), state, mine, spec.template.output_type))
    if _submissions(table, keys, spec) != waiting:
        context.log.info("A newer submission was opened meanwhile; its own run lands the table.")
        return
    shown = {
        key: table_metadata(tables[key], states[waiting[key]], key, spec, _odd(table, waiting[key])) for key in keys
    }
    if len(keys) == 1:
        yield dg.MaterializeResult(value=tables[keys[0]], metadata=shown[keys[0]])
        return
    for key, metadata in shown.items():
        # an IO manager can only speak of all partitions of a run at once
        where = written(resource.store, table_path(spec.asset.path, key), len(tables[key]), partitioned=True)
        context.add_asset_metadata({**where, **metadata}, partition_key=key)
    yield dg.MaterializeResult(value=tables)


def wait_until_collected(
    context: dg.AssetExecutionContext, resource: OpenAIBatchResource, submissions: Sequence[str], *, spec: BatchSpec
) -> None:
    """Drive these submissions until every row has its outcome, telling in the log how far they are.

    Raises:
        ProviderError: The provider refuses, or has not been there for many looks in a row.
    """
    engine = resource.engine(log=context.log.info)
    table, told = spec.table(resource), dict.fromkeys(submissions, "")
    left, failures = list(submissions), 0
    while left:
        for id_ in tuple(left):
            try:
                state = engine.advance(table.submission(id_), validate=spec.validate)
            except ProviderError as error:
                failures += 1
                if (error.refused and error.status_code != 429) or failures >= _MAX_FAILURES:
                    raise
                context.log.warning(f"submission {id_}: {error}; going on in {spec.poll_seconds:g} s")
                continue
            failures = 0
            if (now := str(progress(state))) != told[id_]:
                context.log.info(f"submission {id_}: {now}")
                told[id_] = now
            if state.collected:
                left.remove(id_)
        if left:
            time.sleep(spec.poll_seconds)


def _odd(table: TableFiles, submission: str) -> str:
    files = table.submission(submission)
    return files.store.uri(files.odd)


def _submissions(table: TableFiles, keys: Sequence[str | None], spec: BatchSpec) -> dict[str | None, str]:
    """The newest submission of each partition."""
    version = table.log.load()
    found = {one.key: one.submission for one in version.state.partitions} if version else {}
    absent = [key for key in keys if key not in found]
    if absent:
        what = f"partition {absent[0]!r} of {spec.name!r}" if absent[0] is not None else f"{spec.name!r}"
        first = spec.submission_asset.to_user_string() if spec.submission_asset else spec.name
        raise dg.Failure(f"Nothing was ever submitted for {what}. Materialise {first!r} first.", allow_retries=False)
    return {key: found[key] for key in keys}


def _not_ready(context: dg.AssetExecutionContext, states: Sequence[SubmissionState], spec: BatchSpec) -> None:
    """Say how far the batches are. It is a failure only where somebody asked for just this table."""
    for state in states:
        context.log.info(f"submission {state.id} of {spec.name!r}: {progress(state)}")
    if SUBMISSION in context.run.tags or _submitted_here(context, spec):
        context.log.info("The table is not materialised yet. The sensor asks for it once every row has its outcome.")
        return
    raise dg.Failure(
        f"The batches of {spec.name!r} are not done: {progress(states[0])}. Nothing was spent by asking. The sensor "
        "materialises the table by itself once every row has its outcome.",
        metadata={SUBMISSION: states[0].id, "progress": str(progress(states[0]))},
        allow_retries=False,
    )


def _submitted_here(context: dg.AssetExecutionContext, spec: BatchSpec) -> bool:
    """Whether this very run has materialised the submission as well."""
    if spec.submission_asset is None:
        return False
    newest = context.instance.fetch_materializations(spec.submission_asset, limit=_PAGE).records
    return any(record.run_id == context.run.run_id for record in newest)


def _tables(
    files: SubmissionFiles, state: SubmissionState, keys: Sequence[str | None], output_type: type[BaseModel] | None
) -> dict[str | None, pa.Table]:
    """The result table of each of these partitions of a collected submission."""
    from ractobatch_dagster.errors import StoreError
    from ractobatch_dagster.results.table import result_table

    rows = read_parquet(files.store, files.rows)
    stored = (read_parquet(files.store, path) for path in (files.reused, files.results))
    outcomes = [outcome for outcome in stored if outcome is not None]
    made: dict[str | None, pa.Table] = {}
    for key in keys:
        share = state.partition(key)
        if rows is None or share is None:
            raise StoreError(
                f"Submission {state.id} has no rows of partition {key!r} at {files.store.uri(files.rows)}."
            )
        made[key] = result_table(
            rows.slice(share.start, share.rows), outcomes, output_type=output_type, fingerprint=state.fingerprint
        )
    return made


def confirm_landed(instance: dg.DagsterInstance, table: TableFiles) -> TableState | None:
    """Commit which open partitions have landed: those with a materialisation that carries their submission's id.

    A table run returns before its IO manager has written, so nothing else proves that the table is there.

    Returns:
        The table's state afterwards, or `None` if nothing was ever submitted.
    """
    version = table.log.load()
    if version is None:
        return None
    waiting = {one.key: one.submission for one in version.state.partitions if one.landed != one.submission}
    landed = _materialised(instance, dg.AssetKey(table.asset.split("/")), waiting)
    return mark_landed(table, landed) if landed else version.state


def mark_landed(table: TableFiles, landed: Mapping[str | None, str]) -> TableState | None:
    """Commit that these partitions need nothing more of these submissions."""

    def mark(state: TableState | None) -> TableState | None:
        return state and msgspec.structs.replace(
            state,
            partitions=tuple(
                msgspec.structs.replace(one, landed=one.submission) if landed.get(one.key) == one.submission else one
                for one in state.partitions
            ),
        )

    return table.log.update(mark)


def _materialised(
    instance: dg.DagsterInstance, asset: dg.AssetKey, waiting: Mapping[str | None, str]
) -> dict[str | None, str]:
    """Of the partitions waiting, those that were materialised with the submission waited for."""
    if not waiting:
        return {}
    since = min(map(_opened_at, waiting.values())) - _CLOCK_SLACK
    keys = [key for key in waiting if key is not None]
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=keys or None, after_timestamp=since)
    landed: dict[str | None, str] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            value = event.metadata.get(SUBMISSION) if event else None
            if value is not None and waiting.get(record.partition_key) == value.value:
                landed[record.partition_key] = str(value.value)
        cursor = page.cursor
        if not page.has_more or len(landed) == len(waiting):
            return landed


def _opened_at(submission: str) -> float:
    """When a submission was sealed, which its id begins with."""
    return dt.datetime.strptime(f"{submission[:15]}+0000", "%Y%m%dT%H%M%S%z").timestamp()
