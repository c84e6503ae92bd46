"""Looking before paying, in Dagster: a few rows asked at once, or all of them counted. Nothing lands."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, create_model

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.io_manager import as_annotated, is_stream
from ractobatch_dagster.metadata import cells_table
from ractobatch_dagster.requests.frame import open_frame
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import Signature
from ractobatch_dagster.spec import BatchSpec

if TYPE_CHECKING:
    from ractobatch_dagster.pair import BatchAsset
    from ractobatch_dagster.provider.client import Provider
    from ractobatch_dagster.results.cost import Prices
    from ractobatch_dagster.submission.estimating import Estimate
    from ractobatch_dagster.submission.previewing import Preview

__all__ = [
    "SubmissionConfig",
    "check_partition",
    "estimate_asset",
    "estimate_run",
    "loaded_from_files",
    "preview_asset",
    "preview_run",
    "previewable",
]


class SubmissionConfig(dg.Config):
    """What a run of the submission does otherwise than usual."""

    preview_rows: int = Field(
        default=0,
        ge=0,
        description="Ask so many rows at the endpoint that answers at once, at its full price, and show the answers "
        "with an estimate for all rows. Nothing is submitted, and nothing is materialised.",
    )
    preview_random: bool = Field(default=False, description="Preview rows drawn at random instead of the first.")
    estimate: bool = Field(
        default=False,
        description="Only count rows, requests, batches, tokens and cost, and show them. Nothing is sent at all, and "
        "nothing is materialised.",
    )
    refresh: bool = Field(
        default=False, description="Ask everything anew, also what was answered before and would be taken over."
    )


def previewable(signature: Signature) -> Signature:
    """The signature with `SubmissionConfig` as its config, or beside the config that it has.

    Raises:
        ConfigurationError: Its own config has one of the fields.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    own = next((one for one in signature.parameters if one.name == "config"), None)
    if own is None:
        added = inspect.Parameter("config", kind, annotation=SubmissionConfig)
        return replace(signature, parameters=(*signature.parameters, added))
    if not (isinstance(own.annotation, type) and issubclass(own.annotation, dg.Config)):
        return signature
    taken = sorted(SubmissionConfig.model_fields.keys() & own.annotation.model_fields.keys())
    if taken:
        raise ConfigurationError(
            f"{signature.function.__name__}: its config has a field {taken[0]!r}, which every submission has already. "
            "Give it another name."
        )
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in SubmissionConfig.model_fields.items()}
    both = create_model(own.annotation.__name__, __base__=own.annotation, **fields)
    return replace(
        signature,
        parameters=tuple(one.replace(annotation=both) if one is own else one for one in signature.parameters),
    )


def preview_run(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    frames: Mapping[str | None, Any],
    settings: SubmissionConfig,
    *,
    spec: BatchSpec,
) -> None:
    """Preview these frames, and tell it in the log and as an observation of the submission."""
    from ractobatch_dagster.submission.previewing import preview

    seed = int.from_bytes(context.run.run_id.encode()[:8], "big") if settings.preview_random else None
    provider = resource.get_provider()
    made = preview(
        frames,
        spec.rules,
        spec.template,
        provider,
        overrides=spec.overrides,
        rows=settings.preview_rows,
        seed=seed,
        prices=resource.price_list(),
    )
    context.log.info(f"Preview of {spec.name!r}; nothing was submitted.\n\n{made}")
    shown: dict[str, Any] = {
        "preview": cells_table(made.table.select(made.shown).to_pylist(), made.shown),
        "first_request": dg.MetadataValue.json(made.requests[0]),
        "rows_to_ask": made.rows,
        "estimate": made.estimate,
        **({} if made.cost_usd is None else {"cost_usd_estimated": round(made.cost_usd, 6)}),
        **({} if made.prompt_tokens is None else {"prompt_tokens_estimated": made.prompt_tokens}),
        **({} if made.completion_tokens is None else {"completion_tokens_estimated": made.completion_tokens}),
    }
    context.log_event(dg.AssetObservation(context.asset_key, metadata=shown))


def estimate_run(
    context: dg.AssetExecutionContext,
    resource: OpenAIBatchResource,
    frames: Mapping[str | None, Any],
    *,
    spec: BatchSpec,
) -> None:
    """Estimate these frames, and tell it in the log and as an observation of the submission."""
    from ractobatch_dagster.submission.estimating import estimate

    made = estimate(
        frames,
        spec.terms(resource, context.run.run_id, resource.unasked()),
        table=spec.table(resource),
        queue=resource.queue_limits(),
        now=resource.now,
        progress=context.log.info,
    )
    context.log.info(f"Estimate of {spec.name!r}; nothing was sent.\n\n{made}")
    shown = {name: value for name, value in asdict(made).items() if value is not None}
    context.log_event(dg.AssetObservation(context.asset_key, metadata={**shown, "estimate": str(made)}))


def estimate_asset(
    spec: BatchSpec,
    signature: Signature,
    resource: OpenAIBatchResource,
    arguments: Mapping[str, Any],
    *,
    partition: str | None,
    inputs: Path | None,
) -> Estimate:
    """Call the asset's function outside any run, and estimate its frame.

    Raises:
        ConfigurationError: Something that the function takes is not there.
    """
    from ractobatch_dagster.submission.estimating import estimate

    return estimate(
        {partition: _frame(spec, signature, arguments, partition)},
        spec.terms(resource, "", resource.unasked()),
        table=spec.table(resource),
        inputs=inputs,
        queue=resource.queue_limits(),
        now=time.time,
    )


def preview_asset(
    spec: BatchSpec,
    signature: Signature,
    provider: Provider,
    arguments: Mapping[str, Any],
    *,
    rows: int,
    seed: int | None,
    partition: str | None,
    prices: Prices | None = None,
) -> Preview:
    """Call the asset's function outside any run, and preview its frame.

    Raises:
        ConfigurationError: Something that the function takes is not there.
    """
    from ractobatch_dagster.submission.previewing import preview

    frame = _frame(spec, signature, arguments, partition)
    given = {partition: frame}
    return preview(
        given, spec.rules, spec.template, provider, overrides=spec.overrides, rows=rows, seed=seed, prices=prices
    )


def check_partition(asset: BatchAsset, partition: str | None) -> None:
    """Refuse a partition that the asset does not have, or none where it has some.

    Raises:
        ConfigurationError: Says which.
    """
    defined, name = asset.table.partitions_def, asset.spec.name
    if defined is None and partition is not None:
        raise ConfigurationError(f"{name!r} has no partitions, and {partition!r} was given as one.")
    if defined is not None and partition is None and asset.spec.partition_by is None:
        raise ConfigurationError(f"{name!r} is partitioned: say of which partition the rows are (`partition`).")
    # which keys there are of those that somebody adds at run time, only an instance tells
    if isinstance(defined, _KNOWN) and partition is not None and not defined.has_partition_key(partition):
        raise ConfigurationError(f"{name!r} has no partition {partition!r}.")


_KNOWN = (dg.StaticPartitionsDefinition, dg.TimeWindowPartitionsDefinition)


def _frame(spec: BatchSpec, signature: Signature, arguments: Mapping[str, Any], partition: str | None) -> Any:
    from ractobatch_dagster.submitting import frame_of

    if set(signature.names) != set(arguments):
        takes, given = (", ".join(names) or "nothing" for names in (signature.names, arguments))
        raise ConfigurationError(f"The function of {spec.name!r} takes {takes}; it was given {given}.")
    return frame_of(dg.build_asset_context(partition_key=partition), arguments, spec, signature)


def loaded_from_files(asset: Any, frames: Mapping[str, str]) -> tuple[BatchAsset, dict[str, Any]]:
    """A batch asset, and what its function takes from files, each loaded as its annotation says.

    Raises:
        ConfigurationError: It is no batch asset.
    """
    from ractobatch_dagster.pair import BatchAsset

    if not isinstance(asset, BatchAsset):
        raise ConfigurationError(f"{asset!r} is no batch asset: name what `@batch_asset` made.")
    annotations = {one.name: one.annotation for one in asset.signature.parameters}
    return asset, {name: _loaded(file, annotations.get(name, Any)) for name, file in frames.items()}


def _loaded(file: str, annotation: Any) -> Any:
    stream = open_frame(Path(file), what=file)
    return stream if is_stream(annotation) else as_annotated(stream.read_all(), annotation)
