"""What a table run does: collect what is ready and return it."""

from __future__ import annotations

import inspect
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ractobatch_dagster.errors import BudgetError, ConfigurationError, ProviderError, StoreError
from ractobatch_dagster.io_manager import as_annotated, hive_columns, is_stream, table_as, table_path, written
from ractobatch_dagster.metadata import TableSummary, column_lineage
from ractobatch_dagster.requests.frame import open_frame
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.results.table import ResultTable
from ractobatch_dagster.spec import SUBMISSION, BatchSpec, Metrics
from ractobatch_dagster.submission.assembling import Assembly
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import SubmissionState
from ractobatch_dagster.table_file import TableFile, write_table_file

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["land", "submissions_of", "wait_until_collected"]

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

    The value is a `TableFile`, or where somebody else's IO manager stores it an Arrow table; for several partitions a
    dict of those. Nothing is yielded where the batches are not done and the run was not for this table alone; that is
    no failure.

    Raises:
        dagster.Failure: Nothing was submitted, or the batches are not done and the table was asked for alone.
    """
    table = spec.table(resource)
    waiting = submissions_of(table, keys, spec)
    engine = resource.engine(log=context.log.info)
    states = {
        id_: engine.advance(table.submission(id_), validate=spec.validate) for id_ in sorted(set(waiting.values()))
    }
    open_ = [state for state in states.values() if not state.collected]
    if open_:
        _not_ready(context, open_, spec)
        return
    now, upstream = resource.now(), _upstream_columns(context, spec)
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        made: dict[str | None, TableFile] = {}
        shown: dict[str | None, dict[str, Any]] = {}
        for number, key in enumerate(keys):
            files, state = table.submission(waiting[key]), states[waiting[key]]
            path = Path(folder) / f"{number}.parquet"
            made[key], shown[key] = _made(files, state, key, spec, path, context.log.info, now, upstream)
        if submissions_of(table, keys, spec) != waiting:
            context.log.info("A newer submission was opened meanwhile; its own run lands the table.")
            return
        values: dict[str | None, Any] = dict(made)
        if not spec.own_storage:
            values = {key: table_as(made[key].read(), spec.table_type) for key in keys}
        if len(keys) == 1:
            yield dg.MaterializeResult(value=values[keys[0]], metadata=shown[keys[0]])
            return
        for key, metadata in shown.items():
            # an IO manager can only speak of all partitions of a run at once
            stored = table_path(spec.asset.path, key, hive_columns(key, resource.hive_column))
            where = written(resource.store, stored, made[key].rows, partitioned=True)
            context.add_asset_metadata({**where, **metadata}, partition_key=key)
        yield dg.MaterializeResult(value=values)


def _made(
    files: SubmissionFiles,
    state: SubmissionState,
    key: str | None,
    spec: BatchSpec,
    path: Path,
    log: Callable[[str], None],
    now: float,
    upstream: Sequence[str] | None,
) -> tuple[TableFile, dict[str, Any]]:
    """The table of one partition of a collected submission, and what the run says of it."""
    share = state.partition(key)
    if share is None:
        raise StoreError(f"Submission {state.id} has no partition {key!r}, although the table's log says so.")
    table = ResultTable(spec.template.form, state.fingerprint, state.prices, _asked(state))
    assembly = Assembly(files, state, share, table, spec.carry)
    summary = TableSummary(assembly.schema, spec)

    def blocks() -> Iterator[pa.Table]:
        told, done = time.monotonic(), 0
        for block in assembly.blocks():
            summary.add(block)
            done += len(block)
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                log(f"{done:,} of {share.rows:,} rows are in the table")
            yield block

    made = write_table_file(path, assembly.schema, blocks())
    shown = summary.metadata(state, key, files.store.uri(files.odd_lines), now)
    lineage = column_lineage(spec, assembly.schema.names, upstream)
    measured = _measured(spec.metrics, made, taken=shown) if spec.metrics is not None else {}
    return made, shown | measured | ({"dagster/column_lineage": lineage} if lineage else {})


def _asked(state: SubmissionState) -> dict[str, str]:
    """The model that each batch asked."""
    return {batch.batch_id: batch.model or state.model for batch in state.batches if batch.batch_id}


def _measured(metrics: Metrics, table: TableFile, taken: Collection[str]) -> dict[str, Any]:
    """What the user's function says of the table, which it gets as its parameter is annotated."""
    (parameter, *_) = inspect.signature(metrics, eval_str=True).parameters.values()
    wanted = Any if parameter.annotation is parameter.empty else parameter.annotation
    frame = open_frame(table.path, what="the table") if is_stream(wanted) else as_annotated(table.read(), wanted)
    said = metrics(frame)
    if not isinstance(said, Mapping):
        raise ConfigurationError(f"metrics: {metrics.__name__} returned {said!r}; it must give a dict by name.")
    if both := sorted(said.keys() & set(taken)):
        raise ConfigurationError(f"metrics: {both[0]!r} is told of every table already. Call it otherwise.")
    return dict(said)


def _upstream_columns(context: dg.AssetExecutionContext, spec: BatchSpec) -> list[str] | None:
    """The columns that the upstream's newest materialisation says it has; `None` where it says nothing."""
    if spec.upstream is None:
        return None
    for record in context.instance.fetch_materializations(spec.upstream, limit=1).records:
        event = record.asset_materialization
        schema = event.metadata.get("dagster/column_schema") if event else None
        if isinstance(schema, dg.TableSchemaMetadataValue):
            return [column.name for column in schema.schema.columns]
    return None


_TELL_EVERY = 5.0
"""Seconds between two lines that tell how far it is."""


def wait_until_collected(
    context: dg.AssetExecutionContext, resource: OpenAIBatchResource, submissions: Sequence[str], *, spec: BatchSpec
) -> None:
    """Drive these submissions until every row has its outcome, telling in the log how far they are.

    Raises:
        ProviderError: The provider refuses, or has not been there for many looks in a row.
        BudgetError: A budget admits no more of its batches, however long one waits.
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
            elif state.held_for_good and not {b.stage for b in state.batches} & {"creating", "running", "ended"}:
                raise BudgetError(f"Submission {id_} cannot go on: {state.held}.")
        if left:
            time.sleep(spec.poll_seconds)


def submissions_of(table: TableFiles, keys: Sequence[str | None], spec: BatchSpec) -> dict[str | None, str]:
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
