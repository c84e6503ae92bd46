"""The job that cancels what is open."""

import inspect
from typing import Any

import dagster as dg
from pydantic import Field

from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import present
from ractobatch_dagster.spec import BatchSpec

__all__ = ["CancelConfig", "cancel_job"]


class CancelConfig(dg.Config):
    """What to cancel; everything that is open where nothing is given."""

    partition: str | None = Field(default=None, description="The submission of this partition only.")
    submission: str | None = Field(default=None, description="The submission of this id only.")
    abandon: bool = Field(
        default=False,
        description="Also give up batches that were cancelled before and have not ended, or of which nobody knows "
        "whether they exist. What they answer later is lost, and may be billed.",
    )


def cancel_job(spec: BatchSpec) -> dg.JobDefinition:
    """A job that creates nothing more of a table's open submissions and cancels their batches at the provider.

    What was answered is not lost: the table lands with it, and its other rows are `cancelled`.
    """

    def cancel_batches(context: dg.OpExecutionContext, config: CancelConfig, **resources: OpenAIBatchResource) -> Any:
        from ractobatch_dagster.submission.cancelling import ANY, cancel, choose

        resource = resources[spec.resource_key]
        chosen = choose(
            [spec.table(resource)],
            submission=config.submission,
            partition=ANY if config.partition is None else config.partition,
        )
        if not chosen:
            context.log.info(f"No such submission of {spec.name!r} is open.")
        engine = resource.engine(log=context.log.info)
        failed = cancel(engine, chosen, context.log.info, abandon=config.abandon)
        if failed:
            raise dg.Failure(
                f"{len(failed)} of {len(chosen)} submissions are not cancelled yet: {failed[0]}. Nothing more of them "
                "is created, and the sensor goes on cancelling them."
            )

    name = f"{spec.op_name}_cancel_batches"
    config = inspect.Parameter("config", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=CancelConfig)
    nothing = dg.Out(dg.Nothing)  # the project's IO manager may only take assets
    op = dg.op(name=name, out=nothing)(
        present(cancel_batches, name, spec.resource_key, [config], context=dg.OpExecutionContext)
    )

    @dg.job(
        name=f"{spec.op_name}_cancel",
        description=f"Cancels the open batches of `{spec.name}`; keeps what was answered.",
    )
    def job() -> None:
        op()

    return job
