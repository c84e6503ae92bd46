"""The lines of a batch's two files, joined to what was asked: exactly one outcome for each request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import Issue
from ractobatch_dagster.results.classify import Outcome, classify, no_line
from ractobatch_dagster.results.lines import BadLine, raw_lines, read_line
from ractobatch_dagster.results.outcomes import AT_ONCE, Columns, as_values
from ractobatch_dagster.results.quick import PlainAnswer, read_answer

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["BAD", "DUPLICATE", "UNKNOWN", "Odd", "join_files", "join_lines", "refused"]

BAD = "lines that are not JSON objects"
UNKNOWN = "lines for a custom_id that was not asked"
DUPLICATE = "further lines for the same custom_id"

Odd = Callable[[str, bytes], None]
"""Told of each line that belongs to no request: `BAD`, `UNKNOWN` or `DUPLICATE`, and the line."""


class _Asked:
    """Which requests have their line. An answer takes the place of a failure; otherwise the first line counts."""

    def __init__(self, asked: Iterable[str]) -> None:
        self.places = {custom_id: place for place, custom_id in enumerate(dict.fromkeys(asked))}
        self.answered = bytearray(len(self.places))  # 1 for a line, 2 for an answer

    def place(self, custom_id: str, ok: bool) -> tuple[int | None, str | None]:
        """Where the outcome of a line belongs, if it is to be kept, and what is odd about the line, if anything."""
        place = self.places.get(custom_id)
        if place is None:
            return None, UNKNOWN
        before = self.answered[place]
        if before == 2 or (before and not ok):
            return None, DUPLICATE
        self.answered[place] = 1 + ok
        return place, DUPLICATE if before else None


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
    known, found = _Asked(asked), dict[str, Outcome]()
    for line in lines:
        if isinstance(line, BadLine):
            odd(BAD, line.data)
            continue
        outcome = classify(line)
        place, what = known.place(outcome.custom_id, outcome.status == "ok")
        if what is not None:
            odd(what, _bytes(line))
        if place is not None:
            found[outcome.custom_id] = outcome
    return {custom_id: found.get(custom_id) or no_line(custom_id, status) for custom_id in known.places}


def join_files(
    asked: Sequence[str],
    chunks: Iterable[bytes],
    absent: Callable[[str], Outcome],
    odd: Odd = lambda what, line: None,
    raw: bool = False,
) -> pa.Table:
    """As `join_lines`, for many: a table of `OUTCOMES`, one row for each `custom_id` asked, in the order asked.

    Args:
        asked: The `custom_id`s of the batch's requests.
        chunks: The bytes of its output file and error file.
        absent: The outcome of a request without a line.
        odd: Told of each line that belongs to no request.
        raw: Whether of an answer nothing is known, so that all of it is kept.
    """
    joined, first = _Joined(asked, odd, raw=raw), 1
    lines = raw_lines(chunks)
    while block := list(islice(lines, AT_ONCE)):
        joined.take(block, first)
        first += len(block)
    return joined.table(absent)


class _Joined:
    """The outcomes of a batch's lines as columns, and which of them stands for which request."""

    def __init__(self, asked: Iterable[str], odd: Odd, *, raw: bool = False) -> None:
        import numpy as np

        self._known, self._odd, self._raw = _Asked(asked), odd, raw
        self._columns = Columns()
        self._kept = np.full(len(self._known.places), -1)  # by the request's place, the outcome's
        self._answered = np.frombuffer(self._known.answered, np.uint8)  # the same memory

    def take(self, lines: Sequence[bytes], first: int) -> None:
        """Join a block of lines; `first` is the number of the first of them."""
        import numpy as np

        read = [None if self._raw else read_answer(data) for data in lines]
        answers = [answer for answer in read if answer is not None]
        others, odd = _others(lines, read, first, raw=self._raw) if len(answers) < len(lines) else ([], [])
        start = self._columns.add_answers(answers)
        for _, outcome in others:
            self._columns.add(as_values(outcome))
        ids = [answer[0] for answer in answers] + [outcome.custom_id for _, outcome in others]
        oks = [True] * len(answers) + [outcome.status == "ok" for _, outcome in others]
        rows = np.arange(start, start + len(ids))
        if not self._place(ids, oks, rows):
            at = [at for at, answer in enumerate(read) if answer is not None] + [at for at, _ in others]
            for number, custom_id, ok, row in sorted(zip(at, ids, oks, rows.tolist(), strict=True)):
                place, what = self._known.place(custom_id, ok)
                if what is not None:
                    odd.append((number, what))
                if place is not None:
                    self._kept[place] = row
        for number, what in sorted(odd):
            self._odd(what, lines[number])

    def _place(self, ids: Sequence[str], oks: Sequence[bool], rows: np.ndarray) -> bool:
        """Keep these rows, if each is the first for its request; otherwise nothing is changed."""
        import numpy as np

        places = np.fromiter(map(self._known.places.get, ids, repeat(-1)), np.int64, len(ids))
        if (places < 0).any() or self._answered[places].any() or len(np.unique(places)) < len(places):
            return False
        self._kept[places], self._answered[places] = rows, 1 + np.array(oks, np.uint8)
        return True

    def table(self, absent: Callable[[str], Outcome]) -> pa.Table:
        """One outcome for each request; `absent` makes that of a request without a line."""
        import numpy as np

        without = np.flatnonzero(self._kept < 0)
        if len(without):
            ids = list(self._known.places)
            self._kept[without] = [self._columns.add(as_values(absent(ids[place]))) for place in without.tolist()]
        return self._columns.table().take(self._kept)


def _others(
    lines: Sequence[bytes], read: Sequence[PlainAnswer | None], first: int, *, raw: bool
) -> tuple[list[tuple[int, Outcome]], list[tuple[int, str]]]:
    """The outcomes of those lines that are no plain answers, and the broken ones, each with its place in the block."""
    outcomes, bad = [], []
    for at, data in ((at, data) for at, (data, answer) in enumerate(zip(lines, read, strict=True)) if answer is None):
        line = read_line(first + at, data)
        if isinstance(line, BadLine):
            bad.append((at, BAD))
        elif line is not None:
            outcomes.append((at, classify(line, raw=raw)))
    return outcomes, bad


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
