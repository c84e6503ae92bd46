"""The same two assets, cut in pieces: graphs whose steps any executor spreads over processes or machines.

A piece is some batches of one submission. Its work (make and upload input files, or download and read answers) is the
engine's own, restricted to them, so that one that is done twice, by a worker thought dead, costs nothing; and what a
piece leaves undone the last step does.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import Any

import dagster as dg
import msgspec

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.landing import land, submissions_of
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import Signature, present
from ractobatch_dagster.spec import BatchSpec
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.engine import LIGHT
from ractobatch_dagster.submission.plan import Collect, Upload
from ractobatch_dagster.submission.state import BatchState, SubmissionState
from ractobatch_dagster.submitting import create, open_for_run, partition_keys, told

__all__ = ["submission_in_pieces", "table_in_pieces"]

Piece = dict[str, Any]
"""A submission's id and the numbers of some of its batches; small, since it travels through the store."""


def submission_in_pieces(
    spec: BatchSpec,
    signature: Signature,
    pieces: int,
    *,
    key: dg.AssetKey,
    ins: Mapping[str, dg.AssetIn],
    **common: Any,
) -> dg.AssetsDefinition:
    """The submission as three kinds of steps: `seal`, `prepare` for each piece, `create`."""

    def seal(
        context: dg.AssetExecutionContext, resource: OpenAIBatchResource, arguments: Mapping[str, Any]
    ) -> Iterator[dg.DynamicOutput[Piece]]:
        opened = open_for_run(context, resource, arguments, spec=spec, signature=signature)
        yield from _cut(spec, resource, opened.submissions.values(), pieces, lambda batch: batch.stage == "planned")

    def prepare(context: dg.AssetExecutionContext, piece: Piece, **resources: OpenAIBatchResource) -> int:
        return _do(context, resources[spec.resource_key], piece, Upload, spec)

    def create_all(context: dg.AssetExecutionContext, done: list[int], **resources: OpenAIBatchResource) -> Any:
        resource = resources[spec.resource_key]
        submissions = submissions_of(spec.table(resource), partition_keys(context), spec)
        create(context, resource, submissions.values(), spec=spec)
        return told(context, resource, submissions, spec=spec)

    first = signature.compute("seal", spec.resource_key, seal)
    return _graph(
        spec,
        key,
        {"seal": first, "prepare": _step(spec, prepare, "piece"), "create": _step(spec, create_all, "done")},
        stored=False,
        ins=ins,
        config=any(parameter.name == "config" for parameter in signature.parameters),
        **common,
    )


def table_in_pieces(spec: BatchSpec, pieces: int, *, key: dg.AssetKey, **common: Any) -> dg.AssetsDefinition:
    """The table as three kinds of steps: `look`, `collect` for each piece, `land`."""

    def look(context: dg.AssetExecutionContext, **resources: OpenAIBatchResource) -> Any:
        resource = resources[spec.resource_key]
        table, engine = spec.table(resource), resource.engine(log=context.log.info)
        submissions = set(submissions_of(table, partition_keys(context), spec).values())
        for id_ in submissions:
            engine.advance(table.submission(id_), steps=LIGHT)
        yield from _cut(spec, resource, submissions, pieces, lambda batch: batch.stage == "ended")

    def collect(context: dg.AssetExecutionContext, piece: Piece, **resources: OpenAIBatchResource) -> int:
        return _do(context, resources[spec.resource_key], piece, Collect, spec)

    def land_all(context: dg.AssetExecutionContext, done: list[int], **resources: OpenAIBatchResource) -> Any:
        yield from land(context, resources[spec.resource_key], partition_keys(context), spec=spec)

    return _graph(
        spec,
        key,
        {"look": _step(spec, look), "collect": _step(spec, collect, "piece"), "land": _step(spec, land_all, "done")},
        ins={},
        **common,
    )


def _cut(
    spec: BatchSpec,
    resource: OpenAIBatchResource,
    submissions: Any,
    pieces: int,
    wanted: Callable[[BatchState], bool],
) -> Iterator[dg.DynamicOutput[Piece]]:
    """The batches that something is to be done with, in as many pieces as there may be."""
    states = [spec.table(resource).submission(id_).state() for id_ in sorted(set(submissions))]
    todo = [(state.id, batch.number) for state in states for batch in state.batches if wanted(batch)]
    size = -(-len(todo) // pieces)
    number = 0
    for state in states:
        mine = [batch for id_, batch in todo if id_ == state.id]
        for start in range(0, len(mine), size or 1):
            piece = {"submission": state.id, "batches": mine[start : start + size]}
            yield dg.DynamicOutput(piece, mapping_key=f"p{number:05d}")
            number += 1


def _do(
    context: dg.AssetExecutionContext, resource: OpenAIBatchResource, piece: Piece, step: type, spec: BatchSpec
) -> int:
    """Do one kind of step with the batches of a piece; how many they are."""
    engine = resource.engine(log=context.log.info)
    files = spec.table(resource).submission(piece["submission"])
    state: SubmissionState = engine.advance(files, steps={step}, validate=spec.validate, batches=piece["batches"])
    context.log.info(f"{len(piece['batches'])} of {len(state.batches)} batches")
    return len(piece["batches"])


def _step(spec: BatchSpec, run: Callable[..., Any], *inputs: str) -> Callable[..., Any]:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return present(run, run.__name__, spec.resource_key, [inspect.Parameter(name, kind) for name in inputs])


def _graph(
    spec: BatchSpec,
    key: dg.AssetKey,
    steps: Mapping[str, Callable[..., Any]],
    *,
    ins: Mapping[str, dg.AssetIn],
    config: bool = False,
    deps: Iterable[Any] | None = None,
    io_manager_key: str | None = None,
    io_manager_def: dg.IOManagerDefinition | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    pool: str | None = None,
    stored: bool = True,
    **about: Any,
) -> dg.AssetsDefinition:
    """An asset whose first step cuts, whose second does each piece, and whose last brings all together."""
    name, between = "__".join(key.path), f"{spec.resource_key}_pieces"
    tables = io_manager_key or f"{spec.resource_key}_tables"
    # what is not loaded must be an input all the same: the first step waits for nothing else
    after = [one if isinstance(one, dg.AssetDep) else dg.AssetDep(one) for one in deps or ()]
    nothing = {f"after_{number}": dg.In(dg.Nothing) for number, _ in enumerate(after)}
    loaded = {
        name: dg.In(one.dagster_type, input_manager_key=one.input_manager_key, metadata=one.metadata)
        for name, one in ins.items()
    }
    names = dict(zip(("first", "each", "last"), steps, strict=True))
    outs: dict[str, Any] = {
        "first": dg.DynamicOut(dict, io_manager_key=between),
        "each": dg.Out(int, io_manager_key=between),
        "last": dg.Out(Any, is_required=False, io_manager_key=tables) if stored else dg.Out(dg.Nothing),
    }
    ops = {
        place: dg.op(
            name=f"{name}__{step}",
            out=outs[place],
            ins={**loaded, **nothing} if place == "first" else None,
            retry_policy=retry_policy,
            pool=pool if place == "first" else None,
        )(steps[step]).alias(step)
        for place, step in names.items()
    }
    inputs = [*loaded, *nothing]

    def compose(**arguments: Any) -> Any:
        return ops["last"](ops["first"](**arguments).map(ops["each"]).collect())

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    compose.__name__ = name
    compose.__signature__ = inspect.Signature([inspect.Parameter(one, kind) for one in inputs])  # type: ignore[attr-defined]
    graph = dg.graph(
        name=name,
        config=_config(ops["first"], names["first"]) if config else None,
        ins={one: dg.GraphIn() for one in inputs},
        out=dg.GraphOut(),
    )(compose)
    given = {one: dg.AssetDep(_key_of(one, ins[one]), partition_mapping=ins[one].partition_mapping) for one in ins}
    given |= dict(zip(nothing, after, strict=True))
    return dg.AssetsDefinition(
        keys_by_input_name={name: one.asset_key for name, one in given.items()},
        keys_by_output_name={"result": key},
        node_def=graph,
        specs=[dg.AssetSpec(key, deps=list(given.values()), **about)],
        backfill_policy=backfill_policy,
        resource_defs={
            between: _pieces_of(spec.resource_key),
            **({tables: io_manager_def} if io_manager_def is not None else {}),
        },
    )


def _key_of(name: str, given: dg.AssetIn) -> dg.AssetKey:
    if given.key is not None:
        return dg.AssetKey.from_coercible(given.key)
    return dg.AssetKey(name).with_prefix(given.key_prefix or [])


def _config(first: Any, step: str) -> dg.ConfigMapping:
    """The user's config, at the place where it is for an asset that is not cut."""
    return dg.ConfigMapping(
        config_schema=first.node_def.config_schema.as_field(), config_fn=lambda given: {step: {"config": given}}
    )


class _Pieces(dg.IOManager):
    """The few bytes that pass from step to step, as JSON below the resource's root."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write one."""
        self._store.write(_path(context), msgspec.json.encode(obj))

    def load_input(self, context: dg.InputContext) -> Any:
        """Read one."""
        made = context.upstream_output
        data = self._store.read(_path(made)) if made is not None else None
        if data is None:
            raise StoreError(f"What step {made and made.step_key!r} handed over is not there. Run the asset again.")
        return msgspec.json.decode(data)


def _path(context: dg.OutputContext) -> str:
    return "/".join(("pieces", *context.get_identifier()))


@cache
def _pieces_of(resource_key: str) -> dg.IOManagerDefinition:
    @dg.io_manager(required_resource_keys={resource_key}, description="What passes between the steps of a batch asset.")
    def pieces(context: dg.InitResourceContext) -> _Pieces:
        return _Pieces(getattr(context.resources, resource_key).store)

    return pieces
