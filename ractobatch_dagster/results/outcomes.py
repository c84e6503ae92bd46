"""Every request's outcome as it is stored: the raw answer and what the provider said about it.

Whether an answer fits the output model is decided when the table lands, so that a better
validator or model costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from ractobatch_dagster.results.classify import Outcome
    from ractobatch_dagster.results.quick import PlainAnswer

__all__ = ["ANSWERED", "AT_ONCE", "OUTCOMES", "Columns", "as_values"]

_TEXTS = ("status", "text", "finish_reason", "model", "error_code", "error", "request_id")
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
_FLAGS = ("retryable", "never_run")

ANSWERED = (*_TEXTS, *_TOKENS, "more")
"""What an outcome says of a row."""

_ANSWER = ("custom_id", "text", "model", "request_id", *_TOKENS)
_CONSTANT = {"status": "ok", "finish_reason": "stop", "retryable": False, "never_run": False}
"""What a plain answer tells, and what is the same for all of them."""

AT_ONCE = 1_000
"""Python values become Arrow's in blocks of so many: larger ones no longer fit a processor's cache."""

Values = tuple[Any, ...]
"""One outcome, in the order of `ANSWERED`, then whether asking again may help, and whether it never ran."""


def OUTCOMES() -> pa.Schema:  # noqa: N802  (a constant, but for the import that it delays)
    """The schema of a file of results, but for the row's number in front and what is wrong with the answer behind."""
    import pyarrow as pa

    return pa.schema(
        [
            *((name, pa.string()) for name in _TEXTS),
            *((name, pa.int64()) for name in _TOKENS),
            ("more", pa.string()),  # beside the text, as JSON: calls of tools, further choices, probabilities
            *((name, pa.bool_()) for name in _FLAGS),
        ]
    )


def as_values(outcome: Outcome) -> Values:
    """An outcome as it goes into `Columns`."""
    return (
        outcome.status,
        outcome.text,
        outcome.finish_reason,
        outcome.model,
        outcome.error_code,
        outcome.error,
        outcome.request_id,
        outcome.prompt_tokens,
        outcome.cached_tokens,
        outcome.completion_tokens,
        outcome.reasoning_tokens,
        outcome.more,
        outcome.retryable,
        outcome.never_run,
    )


class Columns:
    """Collects outcomes as columns, in the order in which they come."""

    def __init__(self) -> None:
        self._schema = OUTCOMES()
        self._batches: list[pa.RecordBatch] = []
        self._waiting: list[Values] = []
        self.count = 0

    def add(self, values: Values) -> int:
        """Append one outcome; its place, counted from 0."""
        self._waiting.append(values)
        if len(self._waiting) == AT_ONCE:
            self._flush()
        self.count += 1
        return self.count - 1

    def add_answers(self, answers: Sequence[PlainAnswer]) -> int:
        """Append some plain answers, at most `AT_ONCE` for speed; the place of the first."""
        import pyarrow as pa

        self._flush()
        first, size = self.count, len(answers)
        if size:
            given = dict(zip(_ANSWER, zip(*answers, strict=True), strict=True))
            arrays = [
                pa.array(given[field.name], field.type)
                if field.name in given
                else pa.repeat(pa.scalar(_CONSTANT.get(field.name), field.type), size)
                for field in self._schema
            ]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self.count += size
        return first

    def table(self) -> pa.Table:
        """All of them."""
        import pyarrow as pa

        self._flush()
        return pa.Table.from_batches(self._batches, self._schema)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            columns = zip(*self._waiting, strict=True)
            arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
            self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._waiting = []
