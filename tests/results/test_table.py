"""Rows, outcomes and typed answers as one table."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ractobatch_dagster.models import ROW_STATUSES
from ractobatch_dagster.results.classify import Outcome
from ractobatch_dagster.results.cost import batch_cost
from ractobatch_dagster.results.outcomes import ANSWERED, Columns, as_values
from ractobatch_dagster.results.table import ResultTable, answer_names, llm_fields, reserved_names


class Label(BaseModel):
    """An answer."""

    mood: Literal["good", "bad"] = Field(description="How it sounds.")
    count: int = 0


def rows(*custom_ids: str | None) -> pa.RecordBatch:
    """The user's rows, each with its number; those that ask nothing have no id."""
    hashes = pa.array([None if i is None else i.encode().rjust(16, b"-") for i in custom_ids], pa.binary(16))
    numbers = pa.array(range(len(custom_ids)), pa.int64())
    return pa.RecordBatch.from_arrays([numbers, hashes], ["number", "llm_request_hash"])


def done(custom_id: str, text: str | None, status: Any = "ok", **more: Any) -> Outcome:
    """An outcome with tokens."""
    tokens = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000, "model": "gpt-4o-mini-2024-07-18"}
    return Outcome(custom_id, status, text=text, **{**tokens, **more})


def made(
    custom_ids: Sequence[str | None],
    *outcomes: Outcome,
    output_type: type[BaseModel] | None = Label,
    reused: bool = False,
    round_: int = 0,
) -> pa.Table:
    """The result table of rows with these ids; one whose id stands before it is a copy."""
    known = {outcome.custom_id: outcome for outcome in outcomes}
    found = [(row, known[id_]) for row, id_ in enumerate(custom_ids) if id_ in known]
    columns = Columns()
    for _, outcome in found:
        columns.add(as_values(outcome))
    table = columns.table().select(ANSWERED).add_column(0, "row", pa.array([row for row, _ in found], pa.int64()))
    copies = [reused or custom_ids.index(custom_ids[row]) < row for row, _ in found]
    table = table.append_column("batch_id", pa.array(["batch_1"] * len(found), pa.string()))
    table = table.append_column("round", pa.array([round_] * len(found), pa.int32()))
    table = table.append_column("reused", pa.array(copies, pa.bool_()))
    return ResultTable(output_type, "f").block(rows(*custom_ids), table, 0, custom_ids)


def table(custom_ids: Sequence[str | None], *outcomes: Outcome, **options: Any) -> list[dict[str, Any]]:
    """The result table's rows."""
    return made(custom_ids, *outcomes, **options).to_pylist()


def test_an_answer_is_typed_and_its_origin_kept() -> None:
    """One row has the user's columns, the answer's and the fixed block, in this order."""
    result = made(["a"], done("a", '{"mood": "good", "count": 2}', request_id="req_1"), round_=1)
    assert result.column_names == ["number", "mood", "count", *(field.name for field in llm_fields())]
    (row,) = result.to_pylist()
    assert (row["number"], row["mood"], row["count"]) == (0, "good", 2)
    assert (row["llm_status"], row["llm_text"]) == ("ok", '{"mood": "good", "count": 2}')
    assert (row["llm_batch_id"], row["llm_request_id"], row["llm_round"]) == ("batch_1", "req_1", 1)
    assert (row["llm_request_hash"], row["llm_fingerprint"], row["custom_id"]) == (b"a".rjust(16, b"-").hex(), "f", "a")
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
    bad, good = table(["a", "b"], done("a", text), done("b", '{"mood":"bad"}'))
    assert (bad["llm_status"], bad["llm_error_code"]) == ("invalid_output", "invalid_output")
    assert said in bad["llm_error"]
    assert (bad["mood"], bad["llm_text"]) == (None, text)
    assert bad["llm_cost_usd"] == pytest.approx(0.375)
    assert (good["llm_status"], good["mood"]) == ("ok", "bad")


def test_rows_that_share_a_question_pay_once() -> None:
    """Copies have the same answer, no tokens and no cost."""
    first, copy = table(["a", "a"], done("a", '{"mood":"good"}'))
    assert first["mood"] == copy["mood"] == "good"
    assert (first["llm_reused"], copy["llm_reused"]) == (False, True)
    assert (copy["llm_cost_usd"], copy["llm_prompt_tokens"], copy["llm_cached_tokens"]) == (0.0, 0, None)


def test_an_answer_taken_over_costs_nothing() -> None:
    """What an earlier submission has paid for is marked as reused."""
    (row,) = table(["a"], done("a", '{"mood":"good"}'), reused=True)
    assert (row["llm_reused"], row["llm_cost_usd"], row["llm_completion_tokens"]) == (True, 0.0, 0)


def test_a_row_that_was_not_sent_is_skipped() -> None:
    """A row without a question lands with nothing but its status."""
    skipped, missing = table([None, "gone"])
    assert (skipped["llm_status"], missing["llm_status"]) == ("skipped", "missing")
    assert skipped["llm_cost_usd"] == 0.0
    assert skipped["llm_text"] is None


def test_what_failed_without_usage_was_not_billed() -> None:
    """An error without token counts costs 0; an answer without them costs nobody knows what."""
    failed, odd = table(
        ["a", "b"],
        done("a", None, "error", prompt_tokens=None, completion_tokens=None),
        done("b", '{"mood":"good"}', prompt_tokens=None, completion_tokens=None),
    )
    assert (failed["llm_cost_usd"], odd["llm_cost_usd"]) == (0.0, None)


texts = st.none() | st.text(max_size=3) | st.sampled_from(['{"mood":"good"}', '{"mood":"bad","count":3}', "{}"])
fates = st.tuples(st.sampled_from(ROW_STATUSES), texts)


@given(st.lists(st.none() | st.integers(0, 3)), st.dictionaries(st.integers(0, 3), fates), st.booleans())
def test_one_row_in_one_row_out_and_one_schema(
    asked: list[int | None], known: dict[int, tuple[Any, str | None]], typed: bool
) -> None:
    """Whatever came back, the table has the rows asked, in their order, and the same columns."""
    outcomes = [done(str(i), text, status) for i, (status, text) in known.items()]
    output_type = Label if typed else None
    result = made([None if i is None else str(i) for i in asked], *outcomes, output_type=output_type)
    assert result["number"].to_pylist() == list(range(len(asked)))
    assert set(result["llm_status"].to_pylist()) <= set(ROW_STATUSES)
    assert result.schema.equals(made([], output_type=output_type).schema, check_metadata=True)


def test_the_names_that_are_taken_are_known_beforehand() -> None:
    """Whatever the table adds is reserved, so that no column of the user's is overwritten."""
    assert answer_names(Label) == ["mood", "count"]
    assert answer_names(None) == []
    added = set(made([]).column_names) - {"number"}
    assert added == set(reserved_names(Label))


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
