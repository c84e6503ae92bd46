"""What a YAML file says of partitions, as Dagster has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict

from ractobatch_dagster.errors import ConfigurationError

__all__ = ["Partitions", "partitions_definition"]


class Dimension(BaseModel):
    """Partitions of one dimension.

    Attributes:
        type: The kind.
        keys: The keys of `static`.
        name: The name of `dynamic`.
        start: The first day or time of the kinds of time.
        end: The last, if there is one.
        timezone: UTC where not given.
    """

    model_config = ConfigDict(extra="forbid")

    type: Literal["static", "hourly", "daily", "weekly", "monthly", "dynamic"]
    keys: list[str] | None = None
    name: str | None = None
    start: str | None = None
    end: str | None = None
    timezone: str | None = None


class Partitions(Dimension):
    """How an asset is partitioned.

    Attributes:
        dimensions: Of `multi`: two kinds of partitions, by name.
    """

    type: Literal["static", "hourly", "daily", "weekly", "monthly", "dynamic", "multi"]  # type: ignore[assignment]
    dimensions: dict[str, Dimension] | None = None


_TIMES: Mapping[str, Callable[..., dg.PartitionsDefinition[Any]]] = {
    "hourly": dg.HourlyPartitionsDefinition,
    "daily": dg.DailyPartitionsDefinition,
    "weekly": dg.WeeklyPartitionsDefinition,
    "monthly": dg.MonthlyPartitionsDefinition,
}
_NEEDS = {"static": "keys", "dynamic": "name", "multi": "dimensions"}


def partitions_definition(said: Dimension, path: str = "partitions") -> dg.PartitionsDefinition[Any]:
    """The partitions definition.

    Args:
        said: What the file says.
        path: Where it says so, for errors.

    Raises:
        ConfigurationError: Something is missing, or belongs to another kind of partitions.
    """
    needed = _NEEDS.get(said.type, "start")
    allowed = {"type", needed, *({"end", "timezone"} if said.type in _TIMES else ())}
    given = {name for name in type(said).model_fields if getattr(said, name) is not None}
    if needed not in given:
        raise ConfigurationError(f"{path}: partitions of type {said.type!r} need `{needed}`.")
    if given - allowed:
        raise ConfigurationError(f"{path}: partitions of type {said.type!r} have no `{min(given - allowed)}`.")
    if isinstance(said, Partitions) and said.dimensions is not None:
        return dg.MultiPartitionsDefinition(
            {name: partitions_definition(one, f"{path}.{name}") for name, one in said.dimensions.items()}
        )
    if said.type in _TIMES:
        return _TIMES[said.type](start_date=said.start, end_date=said.end, timezone=said.timezone)
    if said.type == "static":
        return dg.StaticPartitionsDefinition(said.keys or [])
    return dg.DynamicPartitionsDefinition(name=said.name)
