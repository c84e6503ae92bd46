"""The result table: the user's rows in their order, the typed answers, and one fixed block of `llm_` columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ractobatch_dagster.requests.frame import CUSTOM_ID, REQUEST_HASH
from ractobatch_dagster.results.classify import parse_text
from ractobatch_dagster.results.cost import batch_cost
from ractobatch_dagster.results.outcomes import OUTCOMES
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
    import pyarrow.compute as pc

    known = pa.concat_tables(outcomes) if outcomes else OUTCOMES().empty_table()
    columns = model_columns(output_type) if output_type else []
    known, typed = _typed(known, output_type, columns)
    place = pc.index_in(rows[CUSTOM_ID], value_set=known[CUSTOM_ID].combine_chunks(), skip_nulls=True)
    found = known.append_column("cost", _costs(known)).take(place)
    given = {
        **_block(found, rows[CUSTOM_ID]),
        "llm_fingerprint": pa.array([fingerprint] * len(rows)),
        REQUEST_HASH: rows[REQUEST_HASH],
        CUSTOM_ID: rows[CUSTOM_ID],
    }
    result = rows.select([name for name in rows.column_names if name not in (CUSTOM_ID, REQUEST_HASH)])
    for column, values in zip(columns, typed, strict=True):
        result = result.append_column(column.field(), pa.array(values, type=column.type).take(place))
    for field in llm_fields():
        result = result.append_column(field, _as_type(given[field.name], field.type))
    return result


def _as_type(values: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(values)
    return values.cast(kind)


def _block(found: pa.Table, custom_ids: pa.ChunkedArray) -> dict[str, Any]:
    """The fixed block but for what is the same in every row.

    A copy of another row's answer, or of an earlier submission's, costs nothing, so its tokens count as 0.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    asked = pc.is_valid(custom_ids)
    copies = pa.array(custom_ids.to_pandas().duplicated()) if len(custom_ids) else pa.array([], pa.bool_())
    reused = pc.and_(asked, pc.or_(copies, pc.fill_null(found["reused"], False)))
    block: dict[str, Any] = {
        "llm_status": pc.coalesce(found["status"], pc.if_else(asked, "missing", "skipped")),
        "llm_cost_usd": pc.if_else(pc.or_(reused, pc.is_null(found[CUSTOM_ID])), 0.0, found["cost"]),
        "llm_reused": reused,
    }
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"):
        spent = found[name]
        block[f"llm_{name}"] = pc.if_else(pc.and_(reused, pc.is_valid(spent)), 0, spent)
    for name in ("text", "error_code", "error", "finish_reason", "model", "batch_id", "request_id", "round"):
        block[f"llm_{name}"] = found[name]
    return block


def _costs(known: pa.Table) -> pa.Array:
    """What each request cost; null where its model's price is not known."""
    import pyarrow as pa

    names = ("status", "model", "prompt_tokens", "cached_tokens", "completion_tokens")
    costs = [
        # a request that failed without any usage was not billed
        0.0 if read is None and status != "ok" else batch_cost(model, read, cached, made)
        for status, model, read, cached, made in zip(*(known[name].to_pylist() for name in names), strict=True)
    ]
    return pa.array(costs, pa.float64())


def _typed(
    known: pa.Table, output_type: type[BaseModel] | None, columns: Sequence[Column]
) -> tuple[pa.Table, list[list[Any]]]:
    """The answers' columns, and the outcomes, of which those are `invalid_output` whose text fits not."""
    import pyarrow as pa

    typed: list[list[Any]] = [[] for _ in columns]
    if output_type is None:
        return known, typed
    statuses, codes, errors = (known[name].to_pylist() for name in ("status", "error_code", "error"))
    for number, text in enumerate(known["text"].to_pylist()):
        values, problem = _values(text, output_type, columns) if statuses[number] == "ok" else (None, None)
        if problem is not None:
            statuses[number], codes[number], errors[number] = "invalid_output", "invalid_output", problem
        for place, column in enumerate(typed):
            column.append(None if values is None else values[place])
    for name, changed in (("status", statuses), ("error_code", codes), ("error", errors)):
        known = known.set_column(known.schema.get_field_index(name), name, pa.array(changed, pa.string()))
    return known, typed


def _values(
    text: str | None, output_type: type[BaseModel], columns: Sequence[Column]
) -> tuple[list[Any] | None, str | None]:
    """One answer's values, or what is wrong with it: the text fits neither the model nor the columns."""
    value, problem = parse_text(text, output_type)
    try:
        if value is not None:
            return [column.convert(getattr(value, column.name)) for column in columns], None
    except (ValueError, TypeError, ArithmeticError) as error:
        problem = str(error)
    return None, problem or "it does not fit"
