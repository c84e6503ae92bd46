"""What a submission run does: call the user's function, check its frame, open a submission, create what fits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from ractobatch_dagster.confirming import confirm_landed
from ractobatch_dagster.errors import ConfigurationError, InvalidInputError
from ractobatch_dagster.metadata import Held, submission_metadata
from ractobatch_dagster.previewing import SubmissionConfig, estimate_run, preview_run
from ractobatch_dagster.requests.frame import PROMPT
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import Signature
from ractobatch_dagster.spec import BatchSpec
from ractobatch_dagster.submission.engine import SUBMIT
from ractobatch_dagster.submission.files import SubmissionFiles, parquet_file
from ractobatch_dagster.submission.heartbeat import heartbeats, watched
from ractobatch_dagster.submission.opening import Opened, open_submission
from ractobatch_dagster.submission.rows import read_rows
from ractobatch_dagster.submission.state import SubmissionState
from ractobatch_dagster.terminating import termination

__all__ = ["create", "open_for_run", "partition_keys", "submit", "submit_run", "told"]


def submit_run(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    arguments: Mapping[str, Any],
    *,
    spec: BatchSpec,
    signature: Signature,
    settings: SubmissionConfig | None = None,
) -> Iterator[dg.MaterializeResult[Any]]:
    """Submit, and say how much went where; or only preview or estimate, which yields nothing."""
    if settings is not None and (settings.preview_rows or settings.estimate):
        with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
            frames = frames_of(context, arguments, spec, signature, Path(folder))
            if settings.estimate:
                estimate_run(context, resource, frames, spec=spec)
            else:
                preview_run(context, resource, frames, settings, spec=spec)
        return
    if settings is not None and settings.refresh:
        spec = replace(spec, reuse=None)
    opened = submit(context, resource, arguments, spec=spec, signature=signature)
    yield told(context, resource, opened.submissions, spec=spec)


def submit(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    arguments: Mapping[str, Any],
    *,
    spec: BatchSpec,
    signature: Signature,
) -> Opened:
    """Open a submission for the run's partitions and create as many of its batches as the quota admits."""
    with termination(context, resource, spec):
        opened = open_for_run(context, resource, arguments, spec=spec, signature=signature)
        create(context, resource, opened.submissions.values(), spec=spec)
    return opened


def open_for_run(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    arguments: Mapping[str, Any],
    *,
    spec: BatchSpec,
    signature: Signature,
) -> Opened:
    """Call the user's function and open a submission for its rows; nothing is sent yet."""
    table = spec.table(resource)
    confirm_landed(context.instance, table)
    _see_that_somebody_looks(context, resource, spec)
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        frames = frames_of(context, arguments, spec, signature, Path(folder))
        opened = Opened()
        for together in [frames] if spec.pack else [{key: frame} for key, frame in frames.items()]:
            opened += open_submission(
                table,
                spec.owner(),
                together,
                spec.terms(resource, context.run.run_id),
                now=resource.now,
                progress=context.log.info,
            )
    for id_ in opened.attached:
        context.log.info(f"submission {id_} is open already: going on with it, nothing is sent twice")
    for id_ in opened.withdrawn:
        resource.engine(log=context.log.info).discard(table.submission(id_))
    return opened


def create(
    context: dg.AssetExecutionContext, resource: OpenAIBatchResource, submissions: Iterable[str], *, spec: BatchSpec
) -> None:
    """Upload what is not up yet and create as many batches as the quota admits."""
    table, engine = spec.table(resource), resource.engine(log=context.log.info)
    for id_ in sorted(set(submissions)):
        engine.advance(table.submission(id_), steps=SUBMIT)


def told(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    submissions: Mapping[str | None, str],
    *,
    spec: BatchSpec,
) -> dg.MaterializeResult[Any]:
    """What a submission run says of its partitions, each of which is in one of these submissions."""
    table, dashboard = spec.table(resource), resource.get_provider().profile.dashboard
    states = {id_: table.submission(id_).state() for id_ in sorted(set(submissions.values()))}
    for state in states.values():
        if state.held_for_good:
            context.log.warning(f"submission {state.id} cannot go on: {state.held}")
    held = {id_: _held(table.submission(id_), state) for id_, state in states.items()}
    shown = {
        key: submission_metadata(
            states[id_],
            key,
            dashboard=dashboard,
            held=held[id_],
            prompts=_prompts(table.submission(id_), states[id_], key, spec) if number < _WITH_PROMPTS else (),
        )
        for number, (key, id_) in enumerate(submissions.items())
    }
    if len(shown) == 1:
        return dg.MaterializeResult(metadata=next(iter(shown.values())))
    for key, metadata in shown.items():
        context.add_asset_metadata(metadata, partition_key=key)
    return dg.MaterializeResult()


_PROMPTS = 5
_WITH_PROMPTS = 20
"""So many prompts of a partition are shown, of so many partitions: each is a look into the store."""


def _held(files: SubmissionFiles, state: SubmissionState) -> Held | None:
    if state.predecessors:
        return None  # what is asked depends on what those answer
    with parquet_file(files.store, files.known) as known, parquet_file(files.store, files.copies) as copies:
        reused, repeated = known.metadata.num_rows, copies.metadata.num_rows
    first = sum(batch.requests for batch in state.batches if batch.round == 0)
    return Held(reused, repeated, max(state.sealed - first - reused - repeated, 0))


def _prompts(files: SubmissionFiles, state: SubmissionState, key: str | None, spec: BatchSpec) -> list[dict[str, Any]]:
    """The first rows of a partition: what identifies them, and their prompts."""
    share = state.partition(key)
    if share is None or not share.rows:
        return []
    columns = [*([spec.key] if spec.key else []), PROMPT]
    rows = read_rows(files, share.start, share.start + min(share.rows, _PROMPTS), columns)
    return [row for batch in rows for row in batch.to_pylist()]


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


def frame_of(
    context: dg.AssetExecutionContext, arguments: Mapping[str, Any], spec: BatchSpec, signature: Signature
) -> Any:
    """The frame of prompts that the user's function, the template and the overrides make of these arguments."""
    frame, what = signature.call(context, arguments), spec.rules.where(None)
    if spec.prompts is not None:
        frame = spec.prompts.prompts(frame, what=what)
    return frame if spec.overrides is None else spec.overrides.prompts(frame, what=what)


def frames_of(
    context: dg.AssetExecutionContext, arguments: Mapping[str, Any], spec: BatchSpec, signature: Signature, folder: Path
) -> dict[str | None, Any]:
    """The frame of each partition, as the user's function gives it."""

    def call(given: Mapping[str, Any]) -> Any:
        return frame_of(context, given, spec, signature)

    keys = partition_keys(context)
    if spec.partition_by is not None and keys != [None]:
        return _split(call(arguments), spec, keys, folder)
    if len(keys) == 1:
        return {keys[0]: call(arguments)}
    return _each(arguments, spec, signature, keys, call)


def _each(
    arguments: Mapping[str, Any],
    spec: BatchSpec,
    signature: Signature,
    keys: list[str | None],
    call: Callable[[Mapping[str, Any]], Any],
) -> dict[str | None, Any]:
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
    return {key: call({**others, **{name: value[key] for name, value in frames.items()}}) for key in keys}


def _split(frame: Any, spec: BatchSpec, keys: list[str | None], folder: Path) -> dict[str | None, Any]:
    """The rows of each partition of this run, told by the column `partition_by`; the others are not this run's."""
    from ractobatch_dagster.requests.frame import open_frame
    from ractobatch_dagster.requests.split import split_frame

    where = spec.rules.where(None)
    stream = open_frame(frame, what=where)
    if spec.partition_by not in stream.schema.names:
        raise InvalidInputError(
            f"{where} has no column {spec.partition_by!r}, which `partition_by=` names; its columns are "
            f"{stream.schema.names}."
        )
    streams = split_frame(stream, str(spec.partition_by), [str(key) for key in keys], folder)
    return {key: streams[str(key)] for key in keys}
