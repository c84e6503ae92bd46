"""What a YAML file says of checks, as `batch_asset` takes them."""

from __future__ import annotations

from typing import Annotated, Literal

import dagster as dg

from ractobatch_dagster.chosen_checks import BatchCheck, CostCheck, DriftCheck, EstimateCheck, RateCheck
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.models import RowStatus

__all__ = ["Check"]

_SEVERITIES = {"warn": dg.AssetCheckSeverity.WARN, "error": dg.AssetCheckSeverity.ERROR}


class Check(dg.Model, dg.Resolvable):
    """One check of the table: one of `rate`, `drift` and `cost`, and the most that passes."""

    rate: Annotated[
        RowStatus | None,
        dg.Resolver.default(description="The share of rows of this status.", examples=["refusal", "invalid_output"]),
    ] = None
    drift: Annotated[
        str | None,
        dg.Resolver.default(description="How far the answers of this column are from the landing before, 0 to 1."),
    ] = None
    cost: Annotated[
        Literal["usd", "estimate"] | None,
        dg.Resolver.default(description="What the answers cost: in US dollars, or as so many times their estimate."),
    ] = None
    at_most: Annotated[float, dg.Resolver.default(description="The most that passes.")]
    severity: Literal["warn", "error"] = "warn"

    def made(self) -> BatchCheck:
        """The check.

        Raises:
            ConfigurationError: It is not exactly one of the three.
        """
        severity = _SEVERITIES[self.severity]
        said = [name for name in ("rate", "drift", "cost") if getattr(self, name) is not None]
        if len(said) != 1:
            raise ConfigurationError(
                f"checks: one of rate, drift and cost is wanted, not {' and '.join(said) or 'none'}."
            )
        if self.rate is not None:
            return RateCheck(self.rate, self.at_most, severity)
        if self.drift is not None:
            return DriftCheck(self.drift, self.at_most, severity)
        return CostCheck(self.at_most, severity) if self.cost == "usd" else EstimateCheck(self.at_most, severity)
