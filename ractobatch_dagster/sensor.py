"""The sensor: looks at what is open, creates what now fits the quota, and asks for the tables that are ready."""

from __future__ import annotations

from functools import cache

import dagster as dg

__all__ = ["build_batch_sensor"]


def build_batch_sensor(
    resource_key: str = "openai_batch",
    *,
    name: str | None = None,
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> dg.SensorDefinition:
    """The sensor of one `OpenAIBatchResource`, however many batch assets use it.

    A tick looks at the open submissions of the code location's own batch assets, creates what now fits the quota, and
    requests a run of each table whose rows all have their outcome. It downloads nothing and keeps no cursor: what
    is open is read from the store, so a lost cursor, another name or a restarted daemon change nothing.

    Called twice with the same arguments it returns the same object, so that `Definitions.merge` sees one sensor.

    Args:
        resource_key: The key of the resource.
        name: The sensor's name; `<resource_key>_sensor` where not given.
        minimum_interval_seconds: Seconds between two ticks at least.
        default_status: Whether it is on from the start. It is, since without it nothing is collected.
    """
    return _sensor(resource_key, name or f"{resource_key}_sensor", minimum_interval_seconds, default_status)


@cache
def _sensor(
    resource_key: str, name: str, minimum_interval_seconds: int, default_status: dg.DefaultSensorStatus
) -> dg.SensorDefinition:
    @dg.sensor(
        name=name,
        target=dg.AssetSelection.all(),
        required_resource_keys={resource_key},
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Follows the open batches and materialises each table once every row has its outcome.",
    )
    def batches(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        from ractobatch_dagster.ticking import tick

        return tick(context, getattr(context.resources, resource_key), resource_key, name, minimum_interval_seconds)

    return batches
