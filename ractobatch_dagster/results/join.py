"""The lines of a batch's two files, joined to what was asked: exactly one outcome for each request."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import Issue
from ractobatch_dagster.results.classify import Outcome, classify, no_line
from ractobatch_dagster.results.lines import BadLine

__all__ = ["join_lines", "refused"]


def join_lines(
    asked: Iterable[str], lines: Iterable[dict[str, Any] | BadLine], status: BatchStatus
) -> tuple[dict[str, Outcome], Counter[str]]:
    """One outcome for each `custom_id` asked, in the order asked, whatever the provider returned.

    Returns:
        The outcomes, and counts of what the files held that belongs to no request.
    """
    answered: dict[str, Outcome | None] = dict.fromkeys(asked)
    anomalies: Counter[str] = Counter()
    for line in lines:
        if isinstance(line, BadLine):
            anomalies["lines that are not JSON objects"] += 1
            continue
        outcome = classify(line)
        if outcome.custom_id not in answered:
            anomalies["lines for a custom_id that was not asked"] += 1
            continue
        earlier = answered[outcome.custom_id]
        if earlier is not None:
            anomalies["further lines for the same custom_id"] += 1
        if earlier is None or (outcome.status == "ok" and earlier.status != "ok"):
            answered[outcome.custom_id] = outcome
    return {custom_id: found or no_line(custom_id, status) for custom_id, found in answered.items()}, anomalies


def refused(asked: Iterable[str], issues: Iterable[Issue]) -> dict[str, Outcome]:
    """The outcomes of a batch that the provider refused at validation; each says which line was to blame."""
    by_line: dict[int | None, list[str]] = {}
    for issue in issues:
        by_line.setdefault(issue.line, []).append(str(issue))
    general = by_line.get(None, []) or [text for texts in by_line.values() for text in texts][:3]
    outcomes = {}
    for number, custom_id in enumerate(asked, start=1):
        why = "; ".join(by_line.get(number) or general) or "the provider gave no reason"
        outcomes[custom_id] = Outcome(
            custom_id, "error", error_code="batch_failed", error=f"The provider refused the batch: {why}"
        )
    return outcomes
