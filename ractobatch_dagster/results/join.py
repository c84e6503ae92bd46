"""The lines of a batch's two files, joined to what was asked: exactly one outcome for each request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import Issue
from ractobatch_dagster.results.classify import Outcome, classify, no_line
from ractobatch_dagster.results.lines import BadLine, raw_lines, read_line
from ractobatch_dagster.results.outcomes import Columns, as_values
from ractobatch_dagster.results.quick import read_answer

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BAD", "DUPLICATE", "UNKNOWN", "Odd", "join_files", "join_lines", "refused"]

BAD = "lines that are not JSON objects"
UNKNOWN = "lines for a custom_id that was not asked"
DUPLICATE = "further lines for the same custom_id"

Odd = Callable[[str, bytes], None]
"""Told of each line that belongs to no request: `BAD`, `UNKNOWN` or `DUPLICATE`, and the line."""


class _Asked:
    """Which requests have their line. An answer takes the place of a failure; otherwise the first line counts."""

    def __init__(self, asked: Iterable[str], odd: Odd) -> None:
        self.places = {custom_id: place for place, custom_id in enumerate(dict.fromkeys(asked))}
        self._odd = odd
        self._answered = bytearray(len(self.places))

    def place(self, custom_id: str, ok: bool, line: bytes | dict[str, Any]) -> int | None:
        """Where the outcome of a line belongs; `None` where it is not to be kept."""
        place = self.places.get(custom_id)
        if place is None:
            self._odd(UNKNOWN, _bytes(line))
            return None
        before = self._answered[place]
        if before:
            self._odd(DUPLICATE, _bytes(line))
            if before == 2 or not ok:
                return None
        self._answered[place] = 1 + ok
        return place


def join_lines(
    asked: Iterable[str],
    lines: Iterable[dict[str, Any] | BadLine],
    status: BatchStatus,
    odd: Odd = lambda what, line: None,
) -> dict[str, Outcome]:
    """One outcome for each `custom_id` asked, in the order asked, whatever the provider returned.

    Args:
        asked: The `custom_id`s of the batch's requests.
        lines: What its output file and error file hold.
        status: How it ended.
        odd: Told of each line that belongs to no request.
    """
    known, found = _Asked(asked, odd), dict[str, Outcome]()
    for line in lines:
        if isinstance(line, BadLine):
            odd(BAD, line.data)
            continue
        outcome = classify(line)
        if known.place(outcome.custom_id, outcome.status == "ok", line) is not None:
            found[outcome.custom_id] = outcome
    return {custom_id: found.get(custom_id) or no_line(custom_id, status) for custom_id in known.places}


def join_files(
    asked: Sequence[str], chunks: Iterable[bytes], absent: Callable[[str], Outcome], odd: Odd = lambda what, line: None
) -> pa.Table:
    """As `join_lines`, for many: a table of `OUTCOMES`, one row for each `custom_id` asked, in the order asked.

    Args:
        asked: The `custom_id`s of the batch's requests.
        chunks: The bytes of its output file and error file.
        absent: The outcome of a request without a line.
        odd: Told of each line that belongs to no request.
    """
    import numpy as np

    known, columns = _Asked(asked, odd), Columns()
    kept = [-1] * len(known.places)
    for number, data in enumerate(raw_lines(chunks), start=1):
        plain = read_answer(data)
        if plain is not None:
            custom_id, values = plain
            place = known.place(custom_id, True, data)
        else:
            line = read_line(number, data)
            if line is None:
                continue
            if isinstance(line, BadLine):
                odd(BAD, line.data)
                continue
            outcome = classify(line)
            values = as_values(outcome)
            place = known.place(outcome.custom_id, outcome.status == "ok", data)
        if place is not None:
            kept[place] = columns.add(values)
    for custom_id, place in known.places.items():
        if kept[place] < 0:
            kept[place] = columns.add(as_values(absent(custom_id)))
    return columns.table().take(np.array(kept, dtype=np.int64))


def _bytes(line: bytes | dict[str, Any]) -> bytes:
    try:
        return line if isinstance(line, bytes) else json.dumps(line).encode()
    except RecursionError:
        return b"[nested too deep]"


def refused(asked: Sequence[str], issues: Iterable[Issue]) -> dict[str, Outcome]:
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
