"""The lines of a batch's two files, joined to what was asked: exactly one outcome for each request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import Issue
from ractobatch_dagster.results.classify import Outcome, classify, no_line
from ractobatch_dagster.results.lines import BadLine
from ractobatch_dagster.results.quick import Answered

__all__ = ["BAD", "DUPLICATE", "UNKNOWN", "join_lines", "refused"]

BAD = "lines that are not JSON objects"
UNKNOWN = "lines for a custom_id that was not asked"
DUPLICATE = "further lines for the same custom_id"


def join_lines(
    asked: Iterable[str],
    lines: Iterable[Answered | dict[str, Any] | BadLine],
    status: BatchStatus,
    odd: Callable[[str, bytes], None] = lambda what, line: None,
) -> dict[str, Outcome]:
    """One outcome for each `custom_id` asked, in the order asked, whatever the provider returned.

    Args:
        asked: The `custom_id`s of the batch's requests.
        lines: What its output file and error file hold.
        status: How it ended.
        odd: Told of each line that belongs to no request: `BAD`, `UNKNOWN` or `DUPLICATE`, and the line.
    """
    answered: dict[str, Outcome | None] = dict.fromkeys(asked)
    for line in lines:
        if isinstance(line, BadLine):
            odd(BAD, line.data)
            continue
        outcome = line.outcome if isinstance(line, Answered) else classify(line)
        if outcome.custom_id not in answered:
            odd(UNKNOWN, _bytes(line))
            continue
        earlier = answered[outcome.custom_id]
        if earlier is not None:
            odd(DUPLICATE, _bytes(line))
        if earlier is None or (outcome.status == "ok" and earlier.status != "ok"):
            answered[outcome.custom_id] = outcome
    return {custom_id: found or no_line(custom_id, status) for custom_id, found in answered.items()}


def _bytes(line: Answered | dict[str, Any]) -> bytes:
    return line.data if isinstance(line, Answered) else json.dumps(line).encode()


def refused(asked: Iterable[str], issues: Iterable[Issue]) -> dict[str, Outcome]:
    """The outcomes of a batch that the provider refused at validation.

    A request whose line is to blame is an `error` for good. The others were not run for no fault of their own and
    may be sent again without it; if no line is named, the fault is in what all of them share.
    """
    by_line: dict[int | None, list[Issue]] = {}
    for issue in issues:
        by_line.setdefault(issue.line, []).append(issue)
    general = by_line.pop(None, [])
    outcomes = {}
    for number, custom_id in enumerate(asked, start=1):
        mine = by_line.get(number)
        blamed = mine or general or [issue for some in by_line.values() for issue in some][:3]
        why = "; ".join(map(str, blamed)) or "the provider gave no reason"
        outcomes[custom_id] = Outcome(
            custom_id,
            "error",
            error_code=(mine[0].code if mine else None) or "batch_failed",
            error=f"The provider refused the batch: {why}",
            retryable=bool(by_line) and not mine,
            never_run=not mine,
        )
    return outcomes
