"""What a run shows in the Dagster UI."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from ractobatch_dagster.models import ROW_STATUSES
from ractobatch_dagster.requests.frame import PROMPT
from ractobatch_dagster.results.table import answer_names
from ractobatch_dagster.spec import SUBMISSION, BatchSpec
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import SubmissionState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableSummary", "column_schema", "submission_metadata"]

_PREVIEW_ROWS = 8
_PREVIEW_ANSWERS = 6
_CELL = 60


def submission_metadata(state: SubmissionState, key: str | None, dashboard: str | None) -> dict[str, Any]:
    """What a submission run says of one partition: how much went where, and how far its submission is."""
    now = progress(state)
    share = state.partition(key)
    created = [batch for batch in state.batches if batch.batch_id]
    return {
        SUBMISSION: state.id,
        "rows": share.rows if share else 0,
        "rows_in_submission": state.rows,
        "requests": state.requests,
        "batches": len(state.batches),
        "batches_created": len(created),
        "batches_waiting": now.waiting,
        "megabytes": round(sum(batch.size for batch in state.batches) / 1e6, 3),
        "model": state.model,
        "provider": state.provider,
        "progress": str(now),
        "batch_ids": dg.MetadataValue.json([batch.batch_id for batch in created[:20]]),
        **({"dashboard": dg.MetadataValue.url(dashboard)} if dashboard else {}),
    }


class TableSummary:
    """What a landed table, or one partition of it, says: outcomes, tokens, cost, and a few rows to look at.

    Told of the table block by block.

    Args:
        schema: The table's columns.
        spec: Its asset.
    """

    def __init__(self, schema: pa.Schema, spec: BatchSpec) -> None:
        self._schema = schema
        self._rows = 0
        self._statuses: Counter[str] = Counter()
        self._errors: dict[str, str] = {}
        self._sums: Counter[str] = Counter()
        self._cost: list[float] = []
        self._preview: list[dict[str, Any]] = []
        answers = answer_names(spec.template.output_type)[:_PREVIEW_ANSWERS] or ["llm_text"]
        wanted = [*([spec.key] if spec.key else []), PROMPT, *answers, "llm_status"]
        self._shown = [name for name in dict.fromkeys(wanted) if name in schema.names]

    def add(self, block: pa.Table) -> None:
        """Count in the next rows."""
        import pyarrow.compute as pc

        self._rows += len(block)
        for entry in pc.value_counts(block["llm_status"]):
            word = entry["values"].as_py()
            self._statuses[word] += entry["counts"].as_py()
            if word != "ok" and word not in self._errors:
                said = block["llm_error"].filter(pc.equal(block["llm_status"], word)).drop_null()
                if len(said):
                    self._errors[word] = said[0].as_py()
        for name in _SUMMED:
            self._sums[name] += int(pc.sum(block[f"llm_{name}"]).as_py() or 0)
        self._cost.append(float(pc.sum(block["llm_cost_usd"]).as_py() or 0))
        self._sums["rows_without_price"] += block["llm_cost_usd"].null_count
        missing = _PREVIEW_ROWS - len(self._preview)
        if missing:
            self._preview += block.select(self._shown).slice(0, missing).to_pylist()

    def metadata(self, state: SubmissionState, partition: str | None, odd_lines: str) -> dict[str, Any]:
        """All of it.

        Args:
            state: The table's submission.
            partition: The table's partition.
            odd_lines: Where the lines are kept that belong to no request.
        """
        share = state.partition(partition)
        counts: dict[str, int] = {word: self._statuses[word] for word in ROW_STATUSES}
        unknown = self._sums["rows_without_price"]
        return {
            SUBMISSION: state.id,
            "rows": self._rows,
            "rows_submitted": share.rows if share else 0,
            "ok": counts["ok"],
            "not_ok": self._rows - counts["ok"],
            **{f"status_{word}": count for word, count in counts.items() if count and word != "ok"},
            **{name: self._sums[name] for name in _SUMMED if name != "reused"},
            "cost_usd": round(math.fsum(self._cost), 8),
            **({"rows_without_price": unknown} if unknown else {}),
            "reused_answers": self._sums["reused"],
            **(
                {"anomalies": dg.MetadataValue.json(state.anomalies), "odd_lines": odd_lines} if state.anomalies else {}
            ),
            **({"batches_one_too_many": state.strays} if state.strays else {}),
            "statuses": dg.MetadataValue.md(_status_table(counts, self._errors)),
            "preview": self._preview_table(),
            "dagster/column_schema": column_schema(self._schema),
        }

    def _preview_table(self) -> dg.TableMetadataValue:
        return dg.MetadataValue.table(
            [dg.TableRecord({name: _plain(value) for name, value in row.items()}) for row in self._preview],
            schema=dg.TableSchema([dg.TableColumn(name) for name in self._shown]),
        )


_SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens", "reused")


def column_schema(schema: pa.Schema) -> dg.TableSchema:
    """An Arrow schema as Dagster shows it, descriptions included."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=field.name,
                type=_type_name(field.type),
                description=(field.metadata or {}).get(b"description", b"").decode() or None,
            )
            for field in schema
        ]
    )


def _type_name(kind: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return f"category of {kind.value_type}"
    return "string" if pa.types.is_large_string(kind) else str(kind)


def _status_table(counts: Mapping[str, int], errors: Mapping[str, str]) -> str:
    lines = ["| status | rows | first message |", "|---|---:|---|"]
    for word, count in counts.items():
        if count:
            lines.append(f"| {word} | {count:,} | {_cell(errors.get(word, '')).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _plain(value: Any) -> str | int | float | bool | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # the UI cannot parse a record with NaN
    return value if value is None or isinstance(value, (bool, int, float)) else _cell(value)


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
