"""The result table: the user's rows in their order, the typed answers, and one fixed block of `llm_` columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ractobatch_dagster.requests.frame import CUSTOM_ID, REQUEST_HASH
from ractobatch_dagster.results.classify import parse_text
from ractobatch_dagster.results.cost import batch_cost
from ractobatch_dagster.results.schema import Column, model_columns

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["answer_names", "llm_fields", "reserved_names", "result_table"]


def llm_fields() -> list[pa.Field]:
    """The fixed block, in order; the same types in every table, whatever the data."""
    import pyarrow as pa

    words = pa.dictionary(pa.int32(), pa.string())
    described = [
        ("llm_status", words, "What became of the row: ok, or why there is no answer to use."),
        ("llm_text", pa.string(), "The raw answer."),
        ("llm_error_code", pa.string(), "The provider's code for the error."),
        ("llm_error", pa.string(), "What the provider, or the validation, said."),
        ("llm_finish_reason", words, "Why the model stopped."),
        ("llm_model", words, "The model as served."),
        ("llm_prompt_tokens", pa.int64(), "Input tokens, cached ones included."),
        ("llm_cached_tokens", pa.int64(), "Input tokens read from the provider's cache."),
        ("llm_completion_tokens", pa.int64(), "Output tokens, reasoning included."),
        ("llm_reasoning_tokens", pa.int64(), "Output tokens spent on reasoning."),
        ("llm_cost_usd", pa.float64(), "Price at the batch rate; 0 for a reused answer, null where it is not known."),
        (REQUEST_HASH, pa.string(), "Identity of the question: provider and request body."),
        ("llm_fingerprint", words, "Hash of what all requests of the submission share."),
        ("llm_batch_id", words, "The batch that answered, at the provider."),
        ("llm_request_id", pa.string(), "The provider's id of the request."),
        ("llm_round", pa.int32(), "0 for the first try."),
        ("llm_reused", pa.bool_(), "Whether the answer was already paid for, by another row or an earlier submission."),
        (CUSTOM_ID, pa.string(), "The line in the batch's file that answers the row; null where nothing was asked."),
    ]
    return [pa.field(name, kind, metadata={b"description": text.encode()}) for name, kind, text in described]


def answer_names(output_type: type[BaseModel] | None) -> list[str]:
    """The names of the typed answer columns."""
    return list(output_type.model_fields) if output_type else []


def reserved_names(output_type: type[BaseModel] | None) -> list[str]:
    """Every name the result table adds to the user's columns."""
    return [*answer_names(output_type), *(field.name for field in llm_fields())]


def result_table(
    rows: pa.Table,
    outcomes: Sequence[pa.Table],
    *,
    output_type: type[BaseModel] | None,
    fingerprint: str,
) -> pa.Table:
    """Join rows to outcomes and type the answers.

    Args:
        rows: The user's rows with their `custom_id` and request hash, in input order.
        outcomes: Tables of `OUTCOMES`; every `custom_id` of the rows is in one of them.
        output_type: What the answers should be; `None` for text.
        fingerprint: The submission's.

    Returns:
        One row per row of `rows`, in the same order.
    """
    import pyarrow as pa

    known = {row[CUSTOM_ID]: row for table in outcomes for row in table.to_pylist()}
    columns = model_columns(output_type) if output_type else []
    parsed = {custom_id: _typed(row, output_type, columns) for custom_id, row in known.items()}

    ids = rows[CUSTOM_ID].to_pylist()
    asked: set[str] = set()
    block: list[dict[str, Any]] = []
    for custom_id in ids:
        block.append(_llm_row(known.get(custom_id), copy=custom_id in asked, asked=custom_id is not None))
        asked.add(custom_id)

    mine = [name for name in rows.column_names if name not in (CUSTOM_ID, REQUEST_HASH)]
    result = rows.select(mine)
    for column in columns:
        values = [(parsed.get(i) or {}).get(column.name) for i in ids]
        result = result.append_column(column.field(), pa.array(values, type=column.type))
    given = {REQUEST_HASH: rows[REQUEST_HASH], CUSTOM_ID: rows[CUSTOM_ID]}
    for field in llm_fields():
        if field.name in given:
            values = given[field.name].cast(field.type)
        elif field.name == "llm_fingerprint":
            values = pa.array([fingerprint] * len(rows), type=field.type)
        else:
            values = pa.array([row[field.name] for row in block], type=field.type)
        result = result.append_column(field, values)
    return result


def _typed(
    row: dict[str, Any], output_type: type[BaseModel] | None, columns: Sequence[Column]
) -> dict[str, Any] | None:
    """The answer's columns; marks the outcome `invalid_output` where the text fits neither the model nor them."""
    if output_type is None or row["status"] != "ok":
        return None
    value, problem = parse_text(row["text"], output_type)
    try:
        if value is not None:
            return {column.name: column.convert(getattr(value, column.name)) for column in columns}
    except (ValueError, TypeError, ArithmeticError) as error:
        problem = str(error)
    row["status"], row["error_code"], row["error"] = "invalid_output", "invalid_output", problem
    return None


def _llm_row(outcome: dict[str, Any] | None, *, copy: bool, asked: bool) -> dict[str, Any]:
    """One row of the fixed block. A copy of another row's answer costs nothing, so its tokens count as 0."""
    if outcome is None:
        return {**_NOTHING, "llm_status": "missing" if asked else "skipped"}
    reused = copy or outcome["reused"]
    tokens = {
        f"llm_{name}": 0 if reused and outcome[name] is not None else outcome[name]
        for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens")
    }
    used = (outcome["prompt_tokens"], outcome["cached_tokens"], outcome["completion_tokens"])
    # a request that failed without any usage was not billed
    cost = 0.0 if used[0] is None and outcome["status"] != "ok" else batch_cost(outcome["model"], *used)
    return {
        **tokens,
        "llm_status": outcome["status"],
        "llm_text": outcome["text"],
        "llm_error_code": outcome["error_code"],
        "llm_error": outcome["error"],
        "llm_finish_reason": outcome["finish_reason"],
        "llm_model": outcome["model"],
        "llm_cost_usd": 0.0 if reused else cost,
        "llm_batch_id": outcome["batch_id"],
        "llm_request_id": outcome["request_id"],
        "llm_round": outcome["round"],
        "llm_reused": reused,
    }


_NOTHING: dict[str, Any] = {
    "llm_text": None,
    "llm_error_code": None,
    "llm_error": None,
    "llm_finish_reason": None,
    "llm_model": None,
    "llm_prompt_tokens": None,
    "llm_cached_tokens": None,
    "llm_completion_tokens": None,
    "llm_reasoning_tokens": None,
    "llm_cost_usd": 0.0,
    "llm_batch_id": None,
    "llm_request_id": None,
    "llm_round": None,
    "llm_reused": False,
}
