"""Checks that a batch asset has on wish: rates of outcomes, drift of a label, cost. They read what runs recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import dagster as dg

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.metadata import ESTIMATE, LABELS, is_label
from ractobatch_dagster.models import ROW_STATUSES, RowStatus
from ractobatch_dagster.results.answers import Answers
from ractobatch_dagster.spec import BatchSpec

__all__ = ["BatchCheck", "CostCheck", "DriftCheck", "EstimateCheck", "RateCheck", "Recorded", "chosen", "summed"]

Recorded = Sequence[Mapping[str, Any]]
"""The metadata of materialisations, one for each partition of a run."""

WARN = dg.AssetCheckSeverity.WARN


class BatchCheck(Protocol):
    """A check of a result table, evaluated when it lands."""

    @property
    def severity(self) -> dg.AssetCheckSeverity:
        """Whether a failure warns or is an error."""

    @property
    def name(self) -> str:
        """Its name beside the asset's other checks."""

    @property
    def description(self) -> str:
        """What it demands."""

    def validate(self, spec: BatchSpec) -> None:
        """Raise `ConfigurationError` where it cannot work for this asset."""

    def result(self, landed: Recorded, before: Recorded) -> tuple[bool, dict[str, Any], str | None]:
        """Whether it passes, what to show, and what to say.

        Args:
            landed: What has landed.
            before: What the run before that landed; nothing where there was none.
        """


@dataclass(frozen=True, slots=True)
class RateCheck:
    """At most this share of the rows ends with this status, such as `refusal`, `truncated` or `invalid_output`.

    Attributes:
        status: One of the words of `llm_status`, or several that count together.
        at_most: The share, from 0 to 1.
        severity: Whether it warns or is an error.
    """

    status: RowStatus | tuple[RowStatus, ...]
    at_most: float
    severity: dg.AssetCheckSeverity = WARN

    @property
    def statuses(self) -> tuple[str, ...]:
        """The statuses that count."""
        return (self.status,) if isinstance(self.status, str) else tuple(self.status)

    @property
    def name(self) -> str:
        """For example `refusal_rate`."""
        return f"{'_or_'.join(self.statuses)}_rate"

    @property
    def description(self) -> str:
        """What it demands."""
        return f"At most {self.at_most:.1%} of the rows end as {' or '.join(self.statuses)}."

    def validate(self, spec: BatchSpec) -> None:
        """Refuse a status that there is not."""
        unknown = [word for word in self.statuses if word not in ROW_STATUSES]
        if unknown or not self.statuses:
            raise ConfigurationError(
                f"RateCheck of {spec.name!r}: {unknown or 'nothing'} is none of {', '.join(ROW_STATUSES)}."
            )
        if not 0 <= self.at_most <= 1:
            raise ConfigurationError(f"RateCheck of {spec.name!r}: at_most={self.at_most} is no share from 0 to 1.")

    def result(self, landed: Recorded, before: Recorded) -> tuple[bool, dict[str, Any], str | None]:
        """The share of the rows that landed."""
        rows = summed(landed, "rows")
        counts = {word: summed(landed, word if word == "ok" else f"status_{word}") for word in self.statuses}
        rate = sum(counts.values()) / rows if rows else 0.0
        return rate <= self.at_most, {"rate": rate, "rows": rows, **counts}, None


@dataclass(frozen=True, slots=True)
class DriftCheck:
    """The answers of one column are distributed about as in the landing before.

    The distance is half the sum of the differences between the shares of each answer: 0 where both are the same, 1
    where they have nothing in common. A first landing passes.

    Attributes:
        column: A field of the output model that is a `Literal`, an enum or a boolean.
        at_most: The distance, from 0 to 1.
        severity: Whether it warns or is an error.
    """

    column: str
    at_most: float = 0.2
    severity: dg.AssetCheckSeverity = WARN

    @property
    def name(self) -> str:
        """For example `sentiment_drift`."""
        return f"{self.column}_drift"

    @property
    def description(self) -> str:
        """What it demands."""
        return f"The answers of {self.column} are distributed as in the landing before, within {self.at_most:g}."

    def validate(self, spec: BatchSpec) -> None:
        """Refuse a column that is no label."""
        labels = [field.name for field in Answers(spec.template.output_type).fields if is_label(field.type)]
        if self.column not in labels:
            raise ConfigurationError(
                f"DriftCheck of {spec.name!r}: {self.column!r} is no answer that is one of few words; "
                f"those are {', '.join(labels) or 'none'}."
            )

    def result(self, landed: Recorded, before: Recorded) -> tuple[bool, dict[str, Any], str | None]:
        """The distance to the landing before."""
        now, then = self._shares(landed), self._shares(before)
        if not now or not then:
            return True, {"distance": 0.0}, "There is nothing to compare with."
        words = sorted({*now, *then}, key=lambda word: -now.get(word, 0.0))
        distance = sum(abs(now.get(word, 0.0) - then.get(word, 0.0)) for word in words) / 2
        lines = [f"| {word} | {now.get(word, 0.0):.1%} | {then.get(word, 0.0):.1%} |" for word in words]
        shown = "\n".join(["| answer | now | before |", "|---|---:|---:|", *lines])
        return distance <= self.at_most, {"distance": distance, "shares": dg.MetadataValue.md(shown)}, None

    def _shares(self, landed: Recorded) -> dict[str, float]:
        counts: Counter[str] = Counter()
        for metadata in landed:
            counts.update((metadata[LABELS].value if LABELS in metadata else {}).get(self.column, {}))
        total = sum(counts.values())
        return {word: count / total for word, count in counts.items()} if total else {}


@dataclass(frozen=True, slots=True)
class CostCheck:
    """What landed cost at most so much; reused answers cost nothing.

    Attributes:
        at_most_usd: US dollars for all partitions of the run together.
        severity: Whether it warns or is an error.
    """

    at_most_usd: float
    severity: dg.AssetCheckSeverity = WARN

    @property
    def name(self) -> str:
        """Its name."""
        return "cost"

    @property
    def description(self) -> str:
        """What it demands."""
        return f"The answers cost at most {self.at_most_usd:g} USD."

    def validate(self, spec: BatchSpec) -> None:
        """Any bound goes."""

    def result(self, landed: Recorded, before: Recorded) -> tuple[bool, dict[str, Any], str | None]:
        """The sum over what landed, where prices are known."""
        cost = sum(float(metadata["cost_usd"].value) for metadata in landed if "cost_usd" in metadata)
        unknown = summed(landed, "rows_without_price")
        said = f"The price of {unknown:,} rows is not known; they are not in the sum." if unknown else None
        return cost <= self.at_most_usd, {"cost_usd": cost, "rows_without_price": unknown}, said


@dataclass(frozen=True, slots=True)
class EstimateCheck:
    """What landed cost at most so many times what it was estimated at when it was sent.

    The estimate is told from the tokens of the table's last answers; a first landing has none, and passes.

    Attributes:
        at_most: How many times; 1.5 is half as much again.
        severity: Whether it warns or is an error.
    """

    at_most: float = 1.5
    severity: dg.AssetCheckSeverity = WARN

    @property
    def name(self) -> str:
        """Its name."""
        return "cost_against_estimate"

    @property
    def description(self) -> str:
        """What it demands."""
        return f"The answers cost at most {self.at_most:g} times what was estimated when they were asked for."

    def validate(self, spec: BatchSpec) -> None:
        """Refuse what is no factor."""
        if not self.at_most > 0:
            raise ConfigurationError(f"EstimateCheck of {spec.name!r}: at_most={self.at_most} is no factor.")

    def result(self, landed: Recorded, before: Recorded) -> tuple[bool, dict[str, Any], str | None]:
        """The cost over the estimate, of the partitions that have both."""
        known = [one for one in landed if "cost_usd" in one and ESTIMATE in one]
        cost, estimate = (sum(float(one[name].value) for one in known) for name in ("cost_usd", ESTIMATE))
        shown: dict[str, Any] = {"cost_usd": cost, ESTIMATE: estimate}
        if not known:
            return True, {}, "There was no estimate: no earlier answers to tell it from, or no price."
        if not estimate:
            return True, shown, "Nothing had to be asked."
        return cost <= self.at_most * estimate, {**shown, "times": cost / estimate}, None


def chosen(checks: Sequence[BatchCheck], spec: BatchSpec, taken: Sequence[str]) -> list[dg.AssetCheckSpec]:
    """The specs of these checks.

    Raises:
        ConfigurationError: One cannot work, or two have the same name.
    """
    names = list(taken)
    for check in checks:
        check.validate(spec)
        if check.name in names:
            raise ConfigurationError(f"{spec.name!r} has two checks of the name {check.name!r}.")
        names.append(check.name)
    return [dg.AssetCheckSpec(check.name, asset=spec.asset, description=check.description) for check in checks]


def summed(landed: Recorded, *names: str) -> int:
    """The sum over all partitions of the first of these numbers that each has."""
    total = 0
    for metadata in landed:
        value = next((metadata[name].value for name in names if name in metadata), 0)
        total += int(value)
    return total
