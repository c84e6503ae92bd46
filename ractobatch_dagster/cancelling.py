"""The job that cancels what is open."""

from __future__ import annotations

from typing import Any

import dagster as dg

from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.signature import present
from ractobatch_dagster.spec import BatchSpec
from ractobatch_dagster.submission.plan import progress

__all__ = ["cancel_job"]


def cancel_job(spec: BatchSpec) -> dg.JobDefinition:
    """A job that creates nothing more of a table's open submissions and cancels their batches at the provider.

    What was answered is not lost: the table lands with it, and its other rows are `cancelled`.
    """

    def cancel(context: dg.OpExecutionContext, **resources: OpenAIBatchResource) -> Any:
        resource = resources[spec.resource_key]
        table = spec.table(resource)
        version = table.log.load()
        open_ = version.state.open if version else {}
        if not open_:
            context.log.info(f"No submission of {spec.name!r} is open.")
        engine = resource.engine(log=context.log.info)
        for submission in open_:
            state = engine.cancel(table.submission(submission))
            context.log.info(f"submission {submission}: {progress(state)}")

    op = dg.op(name=f"{spec.op_name}_cancel_batches")(
        present(cancel, f"{spec.op_name}_cancel_batches", spec.resource_key, context=dg.OpExecutionContext)
    )

    @dg.job(
        name=f"{spec.op_name}_cancel",
        description=f"Cancels the open batches of `{spec.name}`; keeps what was answered.",
    )
    def job() -> None:
        op()

    return job
