"""What becomes of the batches when a run is stopped from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.spec import BatchSpec

if TYPE_CHECKING:
    from ractobatch_dagster.submission.cancelling import Chosen

__all__ = ["termination"]


@contextmanager
def termination(context: dg.AssetExecutionContext, resource: OpenAIBatchResource, spec: BatchSpec) -> Iterator[None]:
    """Where somebody terminates the run meanwhile, cancel the run's submissions if that is the policy.

    Dagster interrupts a run in the same way when its pod is evicted; only a run that is being cancelled was
    terminated by somebody. Whatever happens, no batch is left that nobody knows of: its intent is in the log.
    """
    try:
        yield
    except dg.DagsterExecutionInterruptedError:
        run = context.instance.get_run_by_id(context.run.run_id)
        wanted = run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)
        if wanted and spec.on_terminate == "cancel":
            from ractobatch_dagster.submission.cancelling import cancel, choose

            mine = [one for one in choose([spec.table(resource)]) if _is_mine(context, one)]
            cancel(resource.engine(log=context.log.info), mine, context.log.info)
        else:
            context.log.info(
                "The run was stopped; its batches go on, and running the asset again goes on with them. "
                f"Cancel them with the job {spec.op_name}_cancel."
            )
        raise


def _is_mine(context: dg.AssetExecutionContext, one: Chosen) -> bool:
    """Whether this run opened the submission."""
    return one.table.submission(one.submission).state().run_id == context.run.run_id
