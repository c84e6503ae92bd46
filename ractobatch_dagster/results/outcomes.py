"""Every request's outcome as it is stored: the raw answer and what the provider said about it.

Whether an answer fits the output model is decided when the table lands, so that a better
validator or model costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.requests.frame import CUSTOM_ID, REQUEST_HASH

if TYPE_CHECKING:
    import pyarrow as pa

    from ractobatch_dagster.results.classify import Outcome

__all__ = ["OUTCOMES", "answers", "outcomes_table"]

_TEXTS = ("text", "finish_reason", "model", "error_code", "error", "request_id")
_TOKENS = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")


def OUTCOMES() -> pa.Schema:  # noqa: N802  (a constant, but for the import that it delays)
    """The schema of `results.parquet` and `reused.parquet`; one row per request."""
    import pyarrow as pa

    return pa.schema(
        [
            (CUSTOM_ID, pa.string()),
            ("status", pa.string()),
            *((name, pa.string()) for name in _TEXTS),
            *((name, pa.int64()) for name in _TOKENS),
            ("batch_id", pa.string()),
            ("round", pa.int32()),
            ("reused", pa.bool_()),
        ]
    )


def outcomes_table(outcomes: Iterable[tuple[Outcome, str | None, int]]) -> pa.Table:
    """Outcomes, each with the batch that it came from and its round, as one table."""
    import pyarrow as pa

    judged = list(outcomes)
    found = [one for one, _, _ in judged]
    columns: dict[str, list[Any]] = {
        name: [getattr(one, name) for one in found] for name in (CUSTOM_ID, "status", *_TEXTS, *_TOKENS)
    }
    columns["batch_id"] = [batch_id for _, batch_id, _ in judged]
    columns["round"] = [round_ for _, _, round_ in judged]
    columns["reused"] = [False] * len(judged)
    return pa.Table.from_pydict(columns, schema=OUTCOMES())


def answers(rows: pa.Table, outcomes: pa.Table) -> Iterator[tuple[str, dict[str, Any]]]:
    """A submission's answers, which others can take over, each with its request hash; nothing that had failed."""
    hashes = dict(zip(rows[CUSTOM_ID].to_pylist(), rows[REQUEST_HASH].to_pylist(), strict=True))
    for row in outcomes.to_pylist():
        if row["status"] == "ok" and row[CUSTOM_ID] in hashes:
            yield hashes[row[CUSTOM_ID]], {**row, "reused": True}
