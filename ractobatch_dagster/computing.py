"""What the assets of a batch asset run: submit, land, or both; and where the table is stored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import dagster as dg

from ractobatch_dagster.io_manager import ParquetTables
from ractobatch_dagster.previewing import SubmissionConfig, previewable
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import Signature, present
from ractobatch_dagster.spec import BatchSpec

__all__ = ["all_in_one", "asset_of", "storage", "submission_step", "table_step"]


def submission_step(spec: BatchSpec, signature: Signature) -> Callable[..., Any]:
    """Calls the user's function and submits its rows, or only previews them."""

    def run(
        context: dg.AssetExecutionContext, resource: OpenAIBatchResource, arguments: Mapping[str, Any]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        from ractobatch_dagster.submitting import submit_run

        config = arguments["config"]
        told = {name: getattr(config, name) for name in SubmissionConfig.model_fields if hasattr(config, name)}
        own = {name: value for name, value in arguments.items() if name in signature.names}
        yield from submit_run(context, resource, own, spec=spec, signature=signature, settings=SubmissionConfig(**told))

    return previewable(signature).compute(f"{spec.op_name}_submission", spec.resource_key, run)


def table_step(spec: BatchSpec) -> Callable[..., Any]:
    """Collects what is ready and yields it."""

    def run(context: dg.AssetExecutionContext, **resources: OpenAIBatchResource) -> Iterator[dg.MaterializeResult[Any]]:
        from ractobatch_dagster.landing import land
        from ractobatch_dagster.submitting import partition_keys

        yield from land(context, resources[spec.resource_key], partition_keys(context), spec=spec)

    return present(run, spec.op_name, spec.resource_key)


def all_in_one(spec: BatchSpec, signature: Signature) -> Callable[..., Any]:
    """Submits, waits and lands in one run."""

    def run(
        context: dg.AssetExecutionContext, resource: OpenAIBatchResource, arguments: Mapping[str, Any]
    ) -> Iterator[dg.MaterializeResult[Any]]:
        from ractobatch_dagster.landing import land, wait_until_collected
        from ractobatch_dagster.submitting import submit
        from ractobatch_dagster.terminating import termination

        opened = submit(context, resource, arguments, spec=spec, signature=signature)
        with termination(context, resource, spec):
            wait_until_collected(context, resource, sorted(set(opened.submissions.values())), spec=spec)
        yield from land(context, resource, list(opened.submissions), spec=spec)

    return signature.compute(spec.op_name, spec.resource_key, run)


def asset_of(compute: Callable[..., Any], **arguments: Any) -> dg.AssetsDefinition:
    """`dg.asset`, without its warnings about what it calls beta."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # `io_manager_def`, `backfill_policy`: beta for years
        return dg.asset(compute, **arguments)


def storage(resource_key: str, io_manager_key: str | None) -> dict[str, Any]:
    """Where the table is stored: with the IO manager of that key, or below the resource's own root."""
    if io_manager_key is not None:
        return {"io_manager_key": io_manager_key}
    return {"io_manager_def": _tables_of(resource_key)}


@cache
def _tables_of(resource_key: str) -> dg.IOManagerDefinition:
    """An IO manager over the resource's root; the same object for every asset, as Dagster wants it."""

    @dg.io_manager(required_resource_keys={resource_key}, description="Parquet tables below the resource's root.")
    def tables(context: dg.InitResourceContext) -> ParquetTables:
        resource = getattr(context.resources, resource_key)
        return ParquetTables(resource.store, resource.hive_column)

    return tables
