"""What a run shows in the Dagster UI."""

from __future__ import annotations

import math
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

__all__ = ["column_schema", "submission_metadata", "table_metadata"]

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


def table_metadata(
    table: pa.Table, state: SubmissionState, partition: str | None, spec: BatchSpec, odd_lines: str
) -> dict[str, Any]:
    """What a landed table, or one partition of it, says: outcomes, tokens, cost, and a few rows to look at.

    Args:
        table: The table.
        state: Its submission.
        partition: Its partition.
        spec: Its asset.
        odd_lines: Where the lines are kept that belong to no request.
    """
    share = state.partition(partition)
    counts = status_counts(table)
    cost = _sum(table, "llm_cost_usd")
    unknown = table["llm_cost_usd"].null_count
    return {
        SUBMISSION: state.id,
        "rows": len(table),
        "rows_submitted": share.rows if share else 0,
        "ok": counts["ok"],
        "not_ok": len(table) - counts["ok"],
        **{f"status_{word}": count for word, count in counts.items() if count and word != "ok"},
        "prompt_tokens": int(_sum(table, "llm_prompt_tokens")),
        "cached_tokens": int(_sum(table, "llm_cached_tokens")),
        "completion_tokens": int(_sum(table, "llm_completion_tokens")),
        "reasoning_tokens": int(_sum(table, "llm_reasoning_tokens")),
        "cost_usd": round(cost, 8),
        **({"rows_without_price": unknown} if unknown else {}),
        "reused_answers": int(_sum(table, "llm_reused")),
        **({"anomalies": dg.MetadataValue.json(state.anomalies), "odd_lines": odd_lines} if state.anomalies else {}),
        **({"batches_one_too_many": state.strays} if state.strays else {}),
        "statuses": dg.MetadataValue.md(_status_table(table, counts)),
        "preview": _preview(table, spec),
        "dagster/column_schema": column_schema(table.schema),
    }


def status_counts(table: pa.Table) -> dict[str, int]:
    """How many rows have each of the ten statuses."""
    import pyarrow.compute as pc

    counted = {entry["values"].as_py(): entry["counts"].as_py() for entry in pc.value_counts(table["llm_status"])}
    return {word: counted.get(word, 0) for word in ROW_STATUSES}


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


def _status_table(table: pa.Table, counts: Mapping[str, int]) -> str:
    lines = ["| status | rows | first message |", "|---|---:|---|"]
    statuses, errors = table["llm_status"].to_pylist(), table["llm_error"].to_pylist()
    for word, count in counts.items():
        if count:
            first = next((e for s, e in zip(statuses, errors, strict=True) if s == word and e), "")
            lines.append(f"| {word} | {count:,} | {_cell(first).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


def _preview(table: pa.Table, spec: BatchSpec) -> dg.TableMetadataValue:
    answers = answer_names(spec.template.output_type)[:_PREVIEW_ANSWERS] or ["llm_text"]
    shown = [*([spec.key] if spec.key else []), PROMPT, *answers, "llm_status"]
    rows = table.select(shown).slice(0, _PREVIEW_ROWS).to_pylist()
    return dg.MetadataValue.table(
        [dg.TableRecord({name: _plain(value) for name, value in row.items()}) for row in rows],
        schema=dg.TableSchema([dg.TableColumn(name) for name in shown]),
    )


def _plain(value: Any) -> str | int | float | bool | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # the UI cannot parse a record with NaN
    return value if value is None or isinstance(value, (bool, int, float)) else _cell(value)


def _cell(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _sum(table: pa.Table, column: str) -> float:
    import pyarrow.compute as pc

    return float(pc.sum(table[column]).as_py() or 0)
