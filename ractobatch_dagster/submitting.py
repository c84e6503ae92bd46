"""What a submission run does: call the user's function, check its frame, open a submission, create what fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from ractobatch_dagster.errors import ConfigurationError, InvalidInputError
from ractobatch_dagster.landing import confirm_landed
from ractobatch_dagster.metadata import submission_metadata
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import Signature
from ractobatch_dagster.spec import BatchSpec
from ractobatch_dagster.submission.engine import SUBMIT
from ractobatch_dagster.submission.heartbeat import heartbeats, watched
from ractobatch_dagster.submission.opening import Opened, open_submission
from ractobatch_dagster.submission.state import SubmissionState
from ractobatch_dagster.terminating import termination

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["partition_keys", "submit", "submit_run"]


def submit_run(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    arguments: Mapping[str, Any],
    *,
    spec: BatchSpec,
    signature: Signature,
) -> dg.MaterializeResult[Any]:
    """Submit, and say how much went where."""
    opened, states = submit(context, resource, arguments, spec=spec, signature=signature)
    dashboard = resource.get_provider().profile.dashboard
    shown = {key: submission_metadata(states[id_], key, dashboard) for key, id_ in opened.submissions.items()}
    if len(shown) == 1:
        return dg.MaterializeResult(metadata=next(iter(shown.values())))
    for key, metadata in shown.items():
        context.add_asset_metadata(metadata, partition_key=key)
    return dg.MaterializeResult()


def submit(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    arguments: Mapping[str, Any],
    *,
    spec: BatchSpec,
    signature: Signature,
) -> tuple[Opened, dict[str, SubmissionState]]:
    """Open a submission for the run's partitions and create as many of its batches as the quota admits.

    Returns:
        Which submission each partition is in, and the submissions' states.
    """
    table = spec.table(resource)
    frames = _checked_frames(context, arguments, spec, signature)
    confirm_landed(context.instance, table)
    _see_that_somebody_looks(context, resource, spec)
    with termination(context, resource, spec):
        opened = open_submission(
            table,
            spec.owner(),
            frames,
            spec.terms(resource, context.run.run_id),
            now=resource.now,
            progress=context.log.info,
        )
        for id_ in opened.attached:
            context.log.info(f"submission {id_} is open already: going on with it, nothing is sent twice")
        engine = resource.engine(log=context.log.info)
        for id_ in opened.withdrawn:
            engine.discard(table.submission(id_))
        states = {
            id_: engine.advance(table.submission(id_), steps=SUBMIT) for id_ in sorted(set(opened.submissions.values()))
        }
    return opened, states


def _see_that_somebody_looks(context: dg.AssetExecutionContext, resource: OpenAIBatchResource, spec: BatchSpec) -> None:
    """Warn before anything is spent where no sensor would collect the answers.

    Raises:
        ConfigurationError: No sensor does, and the resource requires one.
    """
    if spec.submission_asset is None:
        return  # this run waits for the answers itself
    why = watched(spec.name, heartbeats(resource.store).values(), resource.now())
    if why is None:
        return
    message = (
        f"Nobody may collect the answers of {spec.name!r}: {why} ({resource.store.url}). Turn on the sensor of "
        f"{spec.resource_key!r}, and see that it and the runs use the same root: on Kubernetes a local directory is "
        "each pod's own."
    )
    if resource.require_sensor:
        raise ConfigurationError(f"{message} Nothing was sent.")
    context.log.warning(message)


def partition_keys(context: dg.AssetExecutionContext) -> list[str | None]:
    """The partitions that this run is for; `[None]` where the asset has none."""
    partitioned = context.has_partition_key or context.has_partition_key_range
    return [str(key) for key in context.partition_keys] if partitioned else [None]  # a multi-dimensional key is no str


def _checked_frames(
    context: dg.AssetExecutionContext, arguments: Mapping[str, Any], spec: BatchSpec, signature: Signature
) -> dict[str | None, pa.Table]:
    """The frame of each partition, refused where it would lose rows or money later."""
    from ractobatch_dagster.requests.frame import check_frame
    from ractobatch_dagster.results.table import reserved_names

    frames = _frames(context, arguments, spec, signature)
    reserved = reserved_names(spec.template.output_type)
    for key, rows in frames.items():
        check_frame(rows, key=spec.key, reserved=reserved, where=_where(spec, key), on_null=spec.on_null)
    total = sum(map(len, frames.values()))
    context.log.info(f"{total:,} rows in {len(frames)} partitions" if None not in frames else f"{total:,} rows")
    return frames


def _frames(
    context: dg.AssetExecutionContext, arguments: Mapping[str, Any], spec: BatchSpec, signature: Signature
) -> dict[str | None, pa.Table]:
    from ractobatch_dagster.requests.frame import to_arrow

    def call(given: Mapping[str, Any], key: str | None) -> pa.Table:
        return to_arrow(signature.call(context, given), what=_where(spec, key))

    keys = partition_keys(context)
    if spec.partition_by is not None and keys != [None]:
        return _split(call(arguments, None), spec, keys)
    if len(keys) == 1:
        return {keys[0]: call(arguments, keys[0])}
    return _each(arguments, spec, signature, keys, call)


def _each(
    arguments: Mapping[str, Any],
    spec: BatchSpec,
    signature: Signature,
    keys: list[str | None],
    call: Callable[[Mapping[str, Any], str | None], pa.Table],
) -> dict[str | None, pa.Table]:
    """Call the function once for each partition, with that partition of every upstream frame.

    Raises:
        ConfigurationError: The frames are not apart by partition, so each would be sent once for every partition.
    """
    frames = {name: arguments[name] for name in signature.frames}
    joined = [name for name, value in frames.items() if not (isinstance(value, Mapping) and set(value) == set(keys))]
    if joined or not frames:
        about = f"its parameter {joined[0]!r} is one frame for all of them" if joined else "it takes no frame"
        raise ConfigurationError(
            f"This run covers {len(keys)} partitions of {spec.name!r}, and {about}. Nothing was sent. Name the column "
            "that holds each row's partition as `partition_by=`, or set `backfill_policy=BackfillPolicy.multi_run()`."
        )
    others = {name: value for name, value in arguments.items() if name not in frames}
    return {key: call({**others, **{name: value[key] for name, value in frames.items()}}, key) for key in keys}


def _split(rows: pa.Table, spec: BatchSpec, keys: list[str | None]) -> dict[str | None, pa.Table]:
    """The rows of each partition of this run, told by the column `partition_by`; the others are not this run's."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if spec.partition_by not in rows.column_names:
        raise InvalidInputError(
            f"{_where(spec, None)} has no column {spec.partition_by!r}, which `partition_by=` names; its columns are "
            f"{rows.column_names}."
        )
    names = rows[spec.partition_by].cast(pa.string())
    return {key: rows.filter(pc.equal(names, key)) for key in keys}


def _where(spec: BatchSpec, key: str | None) -> str:
    return f"the frame of {spec.name!r}" + (f", partition {key!r}" if key is not None else "")
