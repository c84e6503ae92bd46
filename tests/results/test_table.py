"""Rows, outcomes and typed answers as one table."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ractobatch_dagster.form import Form
from ractobatch_dagster.models import ROW_STATUSES
from ractobatch_dagster.results.cost import batch_cost
from ractobatch_dagster.results.table import ResultTable, llm_fields, reserved_names
from ractobatch_dagster.submission.answered import FINAL


class Label(BaseModel):
    """An answer."""

    mood: Literal["good", "bad"] = Field(description="How it sounds.")
    count: int = 0


def hash_of(question: str) -> bytes:
    """What stands for a request hash."""
    return hashlib.sha256(question.encode()).digest()[:16]


def rows(*questions: str | None) -> pa.RecordBatch:
    """The user's rows, each with its number, and the hash of what it asks."""
    return pa.record_batch(
        {
            "number": pa.array(range(len(questions)), pa.int64()),
            "llm_request_hash": pa.array([q and hash_of(q) for q in questions], pa.binary(16)),
        }
    )


def done(row: int, text: str | None, status: Any = "ok", **more: Any) -> dict[str, Any]:
    """The final outcome of a row, with tokens."""
    tokens = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000, "model": "gpt-4o-mini-2024-07-18"}
    origin = {"batch_id": "batch_1", "round": 0, "reused": False}
    return {**dict.fromkeys(FINAL().names), **tokens, **origin, "row": row, "status": status, "text": text, **more}


def made(
    block: pa.RecordBatch, *outcomes: dict[str, Any], output_type: type[BaseModel] | None = Label, start: int = 0
) -> pa.Table:
    """The result table of one block."""
    found = pa.Table.from_pylist(list(outcomes), schema=FINAL())
    asked = block.column("llm_request_hash").is_valid().to_pylist()
    ids = [f"row-{start + place}" if there else None for place, there in enumerate(asked)]
    return ResultTable(Form(output_type), "f").block(block, found, start, pa.array(ids, pa.string()))


def test_outcomes_may_begin_within_their_buffers() -> None:
    """Blocks are slices of what was read; before PyArrow 24 `if_else` read texts from behind where they begin."""
    texts = ['{"mood": "good", "count": 2}', "no JSON", '{"mood": "bad", "count": 3}', "neither"]
    before = done(0, "x" * 100)
    whole = pa.Table.from_pylist([before, *(done(1 + place, text) for place, text in enumerate(texts))], schema=FINAL())
    ids = pa.array([f"row-{place}" for place in range(1, 5)], pa.string())
    table = ResultTable(Form(Label), "f").block(rows("a", "b", "c", "d"), whole.slice(1), 1, ids)
    table.validate(full=True)
    assert table["llm_text"].to_pylist() == texts
    assert table["llm_status"].to_pylist() == ["ok", "invalid_output"] * 2
    assert table["count"].to_pylist() == [2, None, 3, None]


def test_an_answer_is_typed_and_its_origin_kept() -> None:
    """One row has the user's columns, the answer's and the fixed block, in this order."""
    result = made(rows("a"), done(0, '{"mood": "good", "count": 2}', request_id="req_1", round=1))
    assert result.column_names == ["number", "mood", "count", *(field.name for field in llm_fields())]
    (row,) = result.to_pylist()
    assert (row["number"], row["mood"], row["count"]) == (0, "good", 2)
    assert (row["llm_status"], row["llm_text"]) == ("ok", '{"mood": "good", "count": 2}')
    assert (row["llm_batch_id"], row["llm_request_id"], row["llm_round"]) == ("batch_1", "req_1", 1)
    assert (row["llm_request_hash"], row["llm_fingerprint"]) == (hash_of("a").hex(), "f")
    assert (len(row["llm_request_hash"]), row["custom_id"]) == (32, "row-0")
    assert row["llm_cost_usd"] == pytest.approx(0.375)
    assert row["llm_reused"] is False
    assert result.schema.field("mood").metadata == {b"description": b"How it sounds."}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nonsense", "Invalid JSON: "),
        ('{"mood": "so so"}', "mood: Input should be 'good' or 'bad'"),
        ('{"mood": "good", "count": 9223372036854775808}', "64 bits"),
        (None, "Invalid JSON: "),
    ],
)
def test_an_answer_that_does_not_fit_is_invalid_output(text: str | None, said: str) -> None:
    """What fits neither the model nor its columns has no typed values; the text, the reason and the cost stay."""
    bad, good = made(rows("a", "b"), done(0, text), done(1, '{"mood":"bad"}')).to_pylist()
    assert (bad["llm_status"], bad["llm_error_code"]) == ("invalid_output", "invalid_output")
    assert said in bad["llm_error"]
    assert (bad["mood"], bad["llm_text"]) == (None, text)
    assert bad["llm_cost_usd"] == pytest.approx(0.375)
    assert (good["llm_status"], good["mood"]) == ("ok", "bad")


def test_an_answer_that_was_paid_for_costs_nothing() -> None:
    """A copy of another row's answer, or of an earlier submission's, is marked as reused: no tokens and no cost."""
    first, copy = made(rows("a", "a"), done(0, '{"mood":"good"}'), done(1, '{"mood":"good"}', reused=True)).to_pylist()
    assert first["mood"] == copy["mood"] == "good"
    assert (first["llm_reused"], copy["llm_reused"]) == (False, True)
    assert first["llm_cost_usd"] > 0
    assert (copy["llm_cost_usd"], copy["llm_prompt_tokens"], copy["llm_cached_tokens"]) == (0.0, 0, None)
    assert copy["llm_completion_tokens"] == 0


def test_outcomes_find_their_rows_in_any_order() -> None:
    """Those of copies stand behind the others, some rows have none, and the block need not be the first."""
    outcomes = [done(102, "c"), done(100, "a"), done(103, "a", reused=True)]
    table = made(rows("a", "b", "c", "a", None), *outcomes, output_type=None, start=100)
    assert table["llm_text"].to_pylist() == ["a", None, "c", "a", None]
    assert table["llm_status"].to_pylist() == ["ok", "missing", "ok", "ok", "skipped"]
    assert table["llm_reused"].to_pylist() == [False, False, False, True, False]
    assert table["custom_id"].to_pylist() == ["row-100", "row-101", "row-102", "row-103", None]


def test_a_row_that_was_not_sent_is_skipped() -> None:
    """A row without a question lands with nothing but its status."""
    skipped, missing = made(rows(None, "gone")).to_pylist()
    assert (skipped["llm_status"], missing["llm_status"]) == ("skipped", "missing")
    assert skipped["llm_cost_usd"] == 0.0
    assert (skipped["llm_text"], skipped["llm_request_hash"], skipped["custom_id"]) == (None, None, None)


def test_what_failed_without_usage_was_not_billed() -> None:
    """An error without token counts costs 0; an answer without them costs nobody knows what."""
    unknown = {"prompt_tokens": None, "completion_tokens": None}
    failed, odd = made(
        rows("a", "b"), done(0, None, "error", **unknown), done(1, '{"mood":"good"}', **unknown)
    ).to_pylist()
    assert (failed["llm_cost_usd"], odd["llm_cost_usd"]) == (0.0, None)


def test_a_block_of_any_size_is_typed() -> None:
    """Answers are typed some at a time, and each stands on its own row."""
    texts = [f'{{"mood":"good","count":{n}}}' if n % 7 else "nonsense" for n in range(2_500)]
    table = made(rows(*map(str, range(2_500))), *(done(n, text) for n, text in enumerate(texts)))
    assert table["count"].to_pylist() == [n if n % 7 else None for n in range(2_500)]
    assert table["llm_status"].to_pylist() == ["ok" if n % 7 else "invalid_output" for n in range(2_500)]


texts = st.none() | st.text(max_size=3) | st.sampled_from(['{"mood":"good"}', '{"mood":"bad","count":3}', "{}"])
fates = st.tuples(st.sampled_from(ROW_STATUSES), texts)


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 3), st.none() | fates)), st.booleans(), st.integers(0, 9), st.data()
)
def test_one_row_in_one_row_out_and_one_schema(
    asked: list[tuple[int | None, tuple[Any, str | None] | None]], typed: bool, start: int, data: st.DataObject
) -> None:
    """Whatever came back, the table has the rows asked, in their order, and the same columns."""
    output_type = Label if typed else None
    known = [done(start + place, fate[1], fate[0]) for place, (_, fate) in enumerate(asked) if fate]
    block = rows(*(None if question is None else str(question) for question, _ in asked))
    result = made(block, *data.draw(st.permutations(known)), output_type=output_type, start=start)
    result.validate(full=True)
    assert result["number"].to_pylist() == list(range(len(asked)))
    for status, text, (question, fate) in zip(
        result["llm_status"].to_pylist(), result["llm_text"].to_pylist(), asked, strict=True
    ):
        if fate is None:
            assert (status, text) == ("skipped" if question is None else "missing", None)
        else:
            assert status == fate[0] or (fate[0], status, typed) == ("ok", "invalid_output", True)
            assert text == fate[1]
    empty = made(rows(), output_type=output_type)
    assert result.schema.equals(empty.schema, check_metadata=True)
    carried = [field for field in block.schema if field.name == "number"]
    assert result.schema.equals(ResultTable(Form(output_type), "f").schema(carried), check_metadata=True)


def test_the_names_that_are_taken_are_known_beforehand() -> None:
    """Whatever the table adds is reserved, so that no column of the user's is overwritten."""
    assert Form(Label).names == ["mood", "count"]
    assert Form().names == []
    assert set(made(rows()).column_names) - {"number"} == set(reserved_names(Form(Label)))


@pytest.mark.parametrize(
    ("model", "tokens", "expected"),
    [
        ("gpt-4o-mini", (1_000_000, None, 0), 0.075),  # half of 0.15
        ("gpt-4o-mini-2024-07-18", (1_000_000, 0, 1_000_000), 0.375),
        ("gpt-4o-mini", (0, 0, 0), 0.0),
        ("no-such-model", (1, 1, 1), None),
        (None, (1, 1, 1), None),
        ("gpt-4o-mini", (None, None, 1), None),
        ("gpt-4o-mini", (1, None, None), None),
    ],
)
def test_cost_is_at_the_batch_rate_or_not_known(model: str | None, tokens: Any, expected: float | None) -> None:
    """Prices are those of the Batch API; what has none has no cost, rather than a wrong one."""
    cost = batch_cost(model, *tokens)
    assert cost == (None if expected is None else pytest.approx(expected))


@given(*[st.none() | st.integers(0, 2**63 - 1)] * 3)
def test_cost_takes_any_counts(prompt: int | None, cached: int | None, completion: int | None) -> None:
    """More cached tokens than there are is the provider's slip, not a landing that fails."""
    cost = batch_cost("gpt-4o-mini", prompt, cached, completion)
    assert (cost is None) == (prompt is None or completion is None)
    assert cost is None or Decimal(cost) >= 0
