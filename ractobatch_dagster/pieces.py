"""The same two assets, cut in pieces: graphs whose steps any executor spreads over processes or machines.

A piece is a span of batches. Its work (make and upload input files, or download and read answers) is the engine's own,
restricted to them, so that one that is done twice, by a worker thought dead, costs nothing; and what a piece leaves
undone the last step does. A piece's name says which batches it is, so that nothing is handed from step to step.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from ractobatch_dagster.landing import land, submissions_of
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import Signature, key_of, present
from ractobatch_dagster.spec import BatchSpec
from ractobatch_dagster.submission.engine import LIGHT
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.plan import Collect, Upload
from ractobatch_dagster.submitting import create, open_for_run, partition_keys, told
from ractobatch_dagster.terminating import termination

__all__ = ["submission_in_pieces", "table_in_pieces"]

Cut = Iterator[dg.DynamicOutput[None]]


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

    def seal(context: dg.AssetExecutionContext, resource: OpenAIBatchResource, arguments: Mapping[str, Any]) -> Cut:
        with termination(context, resource, spec):
            open_for_run(context, resource, arguments, spec=spec, signature=signature)
        yield from _cut(_submissions(context, resource, spec), "planned", pieces)

    def prepare(context: dg.AssetExecutionContext, **resources: OpenAIBatchResource) -> None:
        with termination(context, resources[spec.resource_key], spec):
            _do(context, resources[spec.resource_key], Upload, spec)

    def create_all(context: dg.AssetExecutionContext, **resources: OpenAIBatchResource) -> Any:
        resource = resources[spec.resource_key]
        submissions = submissions_of(spec.table(resource), partition_keys(context), spec)
        with termination(context, resource, spec):
            create(context, resource, submissions.values(), spec=spec)
        return told(context, resource, submissions, spec=spec)

    first = signature.compute("seal", spec.resource_key, seal)
    return _graph(
        spec,
        key,
        {"seal": first, "prepare": _step(spec, prepare), "create": _step(spec, create_all)},
        stored=False,
        ins=ins,
        config=any(parameter.name == "config" for parameter in signature.parameters),
        **common,
    )


def table_in_pieces(spec: BatchSpec, pieces: int, *, key: dg.AssetKey, **common: Any) -> dg.AssetsDefinition:
    """The table as three kinds of steps: `look`, `collect` for each piece, `land`."""

    def look(context: dg.AssetExecutionContext, **resources: OpenAIBatchResource) -> Cut:
        resource = resources[spec.resource_key]
        engine, submissions = resource.engine(log=context.log.info), _submissions(context, resource, spec)
        for files in submissions:
            engine.advance(files, steps=LIGHT)
        yield from _cut(submissions, "ended", pieces)

    def collect(context: dg.AssetExecutionContext, **resources: OpenAIBatchResource) -> None:
        _do(context, resources[spec.resource_key], Collect, spec)

    def land_all(context: dg.AssetExecutionContext, **resources: OpenAIBatchResource) -> Any:
        yield from land(context, resources[spec.resource_key], partition_keys(context), spec=spec)

    return _graph(
        spec,
        key,
        {"look": _step(spec, look), "collect": _step(spec, collect), "land": _step(spec, land_all)},
        ins={},
        **common,
    )


def _submissions(
    context: dg.AssetExecutionContext, resource: OpenAIBatchResource, spec: BatchSpec
) -> list[SubmissionFiles]:
    """The newest submissions of the run's partitions, each once, in an order that all steps agree on."""
    table = spec.table(resource)
    return [table.submission(id_) for id_ in sorted(set(submissions_of(table, partition_keys(context), spec).values()))]


def _cut(submissions: Sequence[SubmissionFiles], stage: str, pieces: int) -> Cut:
    """The batches in this stage, in as many pieces as there may be, or fewer."""
    todo = [
        (place, batch.number)
        for place, files in enumerate(submissions)
        for batch in files.state().batches
        if batch.stage == stage
    ]
    size = -(-len(todo) // pieces) or 1
    for start in range(0, len(todo), size):
        part = todo[start : start + size]
        yield dg.DynamicOutput(None, mapping_key=f"{_named(*part[0])}_to_{_named(*part[-1])}")


def _do(context: dg.AssetExecutionContext, resource: OpenAIBatchResource, step: type, spec: BatchSpec) -> None:
    """Do one kind of step with the batches of this piece."""
    engine = resource.engine(log=context.log.info)
    key = context.op_execution_context.get_mapping_key()
    first, last = ((int(place or 0), int(number)) for place, number in _NAME.findall(str(key)))
    for place, files in enumerate(_submissions(context, resource, spec)):
        mine = [batch.number for batch in files.state().batches if first <= (place, batch.number) <= last]
        if mine:
            engine.advance(files, steps={step}, validate=spec.validate, batches=mine)


_NAME = re.compile(r"(?:s(\d+)_)?b(\d+)")


def _named(place: int, number: int) -> str:
    """A batch as it is called in a piece's name; few runs have more than one submission."""
    return f"s{place}_b{number:05d}" if place else f"b{number:05d}"


def _step(spec: BatchSpec, run: Callable[..., Any]) -> Callable[..., Any]:
    return present(run, run.__name__, spec.resource_key)


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
    name = "__".join(key.path)
    tables = io_manager_key or f"{spec.resource_key}_tables"
    # what is not loaded must be an input all the same: the first step waits for nothing else
    after = [dep for one in deps or () for dep in _deps_of(one)]
    nothing = {f"after_{number}": dg.In(dg.Nothing) for number, _ in enumerate(after)}
    loaded = {
        name: dg.In(one.dagster_type, input_manager_key=one.input_manager_key, metadata=one.metadata)
        for name, one in ins.items()
    }
    names = dict(zip(("first", "each", "last"), steps, strict=True))
    outs: dict[str, Any] = {
        "first": dg.DynamicOut(dg.Nothing),
        "each": dg.Out(dg.Nothing),
        "last": dg.Out(Any, is_required=False, io_manager_key=tables) if stored else dg.Out(dg.Nothing),
    }
    ops = {
        place: dg.op(
            name=f"{name}__{step}",
            out=outs[place],
            ins={**loaded, **nothing} if place == "first" else {_BEFORE: dg.In(dg.Nothing)},
            retry_policy=retry_policy,
            pool=pool if place == "first" else None,
        )(steps[step]).alias(step)
        for place, step in names.items()
    }
    inputs = [*loaded, *nothing]

    def compose(**arguments: Any) -> Any:
        done = ops["first"](**arguments).map(lambda piece: ops["each"](**{_BEFORE: piece})).collect()
        return ops["last"](**{_BEFORE: done})

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    compose.__name__ = name
    compose.__signature__ = inspect.Signature([inspect.Parameter(one, kind) for one in inputs])  # type: ignore[attr-defined]
    graph = dg.graph(
        name=name,
        config=_config(ops["first"], names["first"]) if config else None,
        ins={one: dg.GraphIn() for one in inputs},
        out=dg.GraphOut(),
    )(compose)
    given = {one: dg.AssetDep(key_of(one, ins[one]), partition_mapping=ins[one].partition_mapping) for one in ins}
    given |= dict(zip(nothing, after, strict=True))
    return dg.AssetsDefinition(
        keys_by_input_name={name: one.asset_key for name, one in given.items()},
        keys_by_output_name={"result": key},
        node_def=graph,
        specs=[dg.AssetSpec(key, deps=list(given.values()), **about)],
        backfill_policy=backfill_policy,
        resource_defs={tables: io_manager_def} if io_manager_def is not None else {},
    )


_BEFORE = "before"
"""The input by which a step waits for those before it."""


def _deps_of(one: Any) -> list[dg.AssetDep]:
    """What one entry of `deps` stands for; a multi-asset stands for all its assets."""
    if isinstance(one, dg.AssetsDefinition):
        return [dg.AssetDep(key) for key in sorted(one.keys)]
    return [one if isinstance(one, dg.AssetDep) else dg.AssetDep(one)]


def _config(first: Any, step: str) -> dg.ConfigMapping:
    """The user's config, at the place where it is for an asset that is not cut."""
    return dg.ConfigMapping(
        config_schema=first.node_def.config_schema.as_field(), config_fn=lambda given: {step: {"config": given}}
    )
