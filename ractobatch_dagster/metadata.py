"""What a run shows in the Dagster UI."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from ractobatch_dagster.models import ROW_STATUSES
from ractobatch_dagster.requests.frame import PROMPT
from ractobatch_dagster.results.cost import prompts_cost
from ractobatch_dagster.results.table import cell
from ractobatch_dagster.spec import SUBMISSION, BatchSpec
from ractobatch_dagster.submission.expecting import prompt_tokens
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import PartitionRows, SubmissionState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ESTIMATE",
    "LABELS",
    "Held",
    "TableSummary",
    "cells_table",
    "column_lineage",
    "column_schema",
    "is_label",
    "submission_metadata",
]

ESTIMATE = "cost_usd_estimated"
"""What was to be expected of the answers' cost when they were asked for."""

_PREVIEW_ROWS = 10
_PREVIEW_ANSWERS = 6
_BATCHES = 20
_LABELS = 30
"""A column with more different answers than these is no label."""


@dataclass(frozen=True, slots=True)
class Held:
    """How many of a submission's rows are not asked: their answer was paid for before, another row asks the same, or
    there is nothing to ask."""

    reused: int
    repeated: int
    skipped: int


def submission_metadata(
    state: SubmissionState,
    key: str | None,
    *,
    dashboard: str | None,
    held: Held | None = None,
    prompts: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """What a submission run says of one partition: how much went where, and how far its submission is.

    Args:
        state: The submission.
        key: The partition.
        dashboard: Where a person sees the provider's batches.
        held: What is not asked; `None` where that is not planned yet.
        prompts: A few of the partition's rows.
    """
    now = progress(state)
    share = state.partition(key)
    created = [batch for batch in state.batches if batch.batch_id]
    size = sum(batch.size for batch in state.batches)
    tokens = [prompt_tokens(state, batch) for batch in state.batches]
    pairs = zip(state.batches, tokens, strict=True)
    costs = [prompts_cost(batch.model or state.model, count, state.prices) for batch, count in pairs]
    cost = None if None in costs else sum(cost or 0.0 for cost in costs)
    return {
        SUBMISSION: state.id,
        "rows": share.rows if share else 0,
        "rows_in_submission": state.rows,
        "requests": state.requests,
        **({f"rows_{name}": count for name, count in asdict(held).items()} if held else {}),
        "batches": len(state.batches),
        "batches_created": len(created),
        "batches_waiting": now.waiting,
        "megabytes": round(size / 1e6, 3),
        "prompt_tokens_estimated": sum(tokens),
        **({} if cost is None else {"prompt_cost_usd_estimated": round(cost, 6)}),
        **_expected(state, share),
        "model": state.asks,
        "provider": state.provider,
        "progress": str(now),
        **({"held_by_budget": state.held} if state.held else {}),
        **({"queued_by_quota": state.queued} if state.queued else {}),
        "batch_ids": dg.MetadataValue.json([batch.batch_id for batch in created[:_BATCHES]]),
        **({"batch_table": dg.MetadataValue.md(_batch_table(state, dashboard))} if state.batches else {}),
        **({"prompts": cells_table(list(prompts), list(prompts[0]))} if prompts else {}),
        **({"dashboard": dg.MetadataValue.url(dashboard)} if dashboard else {}),
    }


def _expected(state: SubmissionState, share: PartitionRows | None) -> dict[str, float]:
    """What the rows of a partition that are asked were expected to cost, of all that the submission asks."""
    if state.expected_usd is None or share is None or share.asked is None:
        return {}
    asked = sum(one.asked or 0 for one in state.partitions)
    return {ESTIMATE: round(state.expected_usd * share.asked / asked, 8) if asked else 0.0}


def _batch_table(state: SubmissionState, dashboard: str | None) -> str:
    lines = ["| batch | model | state | requests | MB |", "|---|---|---|---:|---:|"]
    for batch in state.batches[:_BATCHES]:
        name = batch.batch_id or f"number {batch.number}"
        if batch.batch_id and dashboard:
            name = f"[{name}]({dashboard}/{name})"
        model = batch.model or state.model
        lines.append(f"| {name} | {model} | {batch.stage} | {batch.requests:,} | {batch.size / 1e6:.2f} |")
    if len(state.batches) > _BATCHES:
        lines.append(f"| and {len(state.batches) - _BATCHES:,} more | | | | |")
    return "\n".join(lines)


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
        self._used: dict[str, Counter[str]] = {}
        self._cost: list[float] = []
        self._preview: list[dict[str, Any]] = []
        answers = spec.template.form.names
        self._labels: dict[str, Counter[str]] = {
            name: Counter() for name in answers if is_label(schema.field(name).type)
        }
        wanted = [
            *([spec.key] if spec.key else []),
            PROMPT,
            *(answers[:_PREVIEW_ANSWERS] or ["llm_text"]),
            "llm_status",
        ]
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
        self._use(block)
        for name, counts in self._labels.items():
            for entry in pc.value_counts(block[name].drop_null()):
                counts[str(entry["values"].as_py())] += entry["counts"].as_py()
        missing = _PREVIEW_ROWS - len(self._preview)
        if missing:
            self._preview += block.select(self._shown).slice(0, missing).to_pylist()

    def _use(self, block: pa.Table) -> None:
        """Count calls and tokens by model, of the rows that were asked for this table."""
        import pyarrow as pa
        import pyarrow.compute as pc

        columns = {name: block[f"llm_{name}"] for name in ("prompt_tokens", "completion_tokens")}
        used = pa.table({"model": block["llm_model"].cast(pa.string()), **columns})
        used = used.filter(pc.and_(pc.is_valid(used["prompt_tokens"]), pc.invert(block["llm_reused"])))
        sums = [(name, "sum") for name in columns]
        for row in used.group_by("model").aggregate([*sums, ("prompt_tokens", "count")]).to_pylist():
            counts = self._used.setdefault(row["model"] or "unknown", Counter())
            counts["calls"] += row["prompt_tokens_count"]
            for name in columns:
                counts[name] += row[f"{name}_sum"] or 0

    def metadata(self, state: SubmissionState, partition: str | None, odd_lines: str, now: float) -> dict[str, Any]:
        """All of it.

        Args:
            state: The table's submission.
            partition: The table's partition.
            odd_lines: Where the lines are kept that belong to no request.
            now: Seconds since 1970.
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
            **_expected(state, share),
            **({"rows_without_price": unknown} if unknown else {}),
            "reused_answers": self._sums["reused"],
            "seconds_from_submission": round(max(now - state.created_at, 0.0), 1),
            **self._usage(),
            **(
                {"anomalies": dg.MetadataValue.json(state.anomalies), "odd_lines": odd_lines} if state.anomalies else {}
            ),
            **({"tokens_billed_beyond_answers": state.unexplained_tokens} if state.unexplained_tokens else {}),
            **({"batches_one_too_many": state.strays} if state.strays else {}),
            "statuses": dg.MetadataValue.md(_status_table(counts, self._errors)),
            **({"statuses_chart": dg.MetadataValue.md(_status_chart(counts))} if self._rows else {}),
            **self._label_counts(),
            "preview": cells_table(self._preview, self._shown),
            "dagster/column_schema": column_schema(self._schema),
        }

    def _usage(self) -> dict[str, int]:
        """Calls and tokens as `dagster-openai` names them, so that what adds those up counts these."""
        told: dict[str, int] = {}
        for model, counts in self._used.items():
            prompt, completion = counts["prompt_tokens"], counts["completion_tokens"]
            told[f"openai.{model}.calls"] = counts["calls"]
            told[f"openai.{model}.total_tokens"] = prompt + completion
            told[f"openai.{model}.prompt_tokens"] = prompt
            told[f"openai.{model}.completion_tokens"] = completion
        return told

    def _label_counts(self) -> dict[str, Any]:
        found = {name: counts for name, counts in self._labels.items() if 0 < len(counts) <= _LABELS}
        return {LABELS: dg.MetadataValue.json({n: dict(c.most_common()) for n, c in found.items()})} if found else {}


LABELS = "label_counts"
"""Metadata key of how often each label was answered, by column."""


def is_label(kind: pa.DataType) -> bool:
    """Whether answers of a type are one of few words: enums, literals, booleans."""
    import pyarrow as pa

    return bool(pa.types.is_dictionary(kind) or pa.types.is_boolean(kind))


def cells_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> dg.TableMetadataValue:
    """A few rows as the UI shows them: cells cut short, since it does not wrap them."""
    return dg.MetadataValue.table(
        [dg.TableRecord({name: _plain(row[name]) for name in columns}) for row in rows],
        schema=dg.TableSchema([dg.TableColumn(name) for name in columns]),
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


def column_lineage(
    spec: BatchSpec, columns: Sequence[str], told: Sequence[str] | None = None
) -> dg.TableColumnLineage | None:
    """Which of the upstream's columns each of the table's columns comes from; `None` where that is not known.

    An answer comes from the columns that the template and the overrides name, and a column that the table keeps from
    the one of the same name, where the upstream tells that it has it.

    Args:
        spec: The table's asset.
        columns: The table's columns.
        told: The columns that the upstream says it has; `None` where it says nothing.
    """
    upstream = spec.upstream
    if upstream is None:
        return None

    def of(names: Sequence[str]) -> list[dg.TableColumnDep]:
        return [dg.TableColumnDep(upstream, name) for name in names if told is None or name in told]

    own = spec.overrides.columns.values() if spec.overrides is not None else []
    asked = of([*(spec.prompts.columns if spec.prompts is not None else []), *own])
    answers = [*spec.template.form.names, "llm_text"]
    found = {name: asked for name in answers if name in columns and asked}
    found |= {name: of([name]) for name in columns if told is not None and name in told}
    return dg.TableColumnLineage(found) if found else None


def _type_name(kind: pa.DataType) -> str:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return f"category of {kind.value_type}"
    return "string" if pa.types.is_large_string(kind) else str(kind)


def _status_table(counts: Mapping[str, int], errors: Mapping[str, str]) -> str:
    lines = ["| status | rows | first message |", "|---|---:|---|"]
    for word, count in counts.items():
        if count:
            lines.append(f"| {word} | {count:,} | {cell(errors.get(word, '')).replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


_COLOURS = {"ok": "#2b9e78", "skipped": "#b8b8b8", "refusal": "#e8a33d", "truncated": "#e8a33d"}


def _status_chart(counts: Mapping[str, int]) -> str:
    """A bar of the statuses' shares, as an image that the UI shows in place: it does so below 1,000 characters."""
    total, left = sum(counts.values()), 0.0
    parts = []
    for word, count in counts.items():
        width = 300 * count / total
        if width >= 0.5:
            parts.append(
                f"<path fill='{_COLOURS.get(word, '#d1495b')}' d='M{left:.0f} 0h{max(width, 1):.0f}v14H{left:.0f}'/>"
            )
        left += width
    image = f"<svg xmlns='http://www.w3.org/2000/svg' width='300' height='14'>{''.join(parts)}</svg>"
    return f"![rows by status](data:image/svg+xml;base64,{base64.b64encode(image.encode()).decode()})"


def _plain(value: Any) -> str | int | float | bool | None:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # the UI cannot parse a record with NaN
    return value if value is None or isinstance(value, (bool, int, float)) else cell(value)
