"""What many requests cost: by columns the same as one by one."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractobatch_dagster.results.cost import batch_cost, batch_costs, prompts_cost

MODELS = [
    *("gpt-4o-mini-2024-07-18", "gpt-4.1", "gpt-5-nano", "o1-pro", "gpt-4o", "gpt-3.5-turbo"),
    *("gpt-5.4", "gpt-5.4-pro", "gpt-5.5"),  # dearer beyond some length of the prompt
    *("claude-haiku-4-5-20251001", "claude-sonnet-4-5", "claude-opus-4-6"),
    *("text-embedding-3-small", "whisper-1", "no-such-model", "", None),
]
COUNTS = st.one_of(
    st.none(),
    st.integers(0, 5_000),
    st.sampled_from(
        [-1, 0, 1, 199_999, 200_000, 200_001, 271_999, 272_000, 272_001, 999_999_999, 1_000_000_001, (1 << 63) - 1]
    ),
    st.integers(-(1 << 63), (1 << 63) - 1),
)
ROWS = st.lists(st.tuples(st.sampled_from(MODELS), COUNTS, COUNTS, COUNTS), max_size=20)
Row = tuple[str | None, int | None, int | None, int | None]


def columns(rows: list[Row]) -> list[pa.Array]:
    """Model, prompt, cached and completion."""
    kinds = [pa.string(), pa.int64(), pa.int64(), pa.int64()]
    return [pa.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]


@settings(max_examples=100, deadline=None)
@given(ROWS)
def test_many_cost_what_each_costs(rows: list[Row]) -> None:
    """Known and unknown models, counts that cannot be, prompts on both sides of a dearer length."""
    model, *tokens = columns(rows)
    costs = batch_costs(model, *tokens)
    assert costs.type == pa.float64()
    for cost, row in zip(costs.to_pylist(), rows, strict=True):
        expected = batch_cost(*row)
        assert cost == expected or (cost and expected and math.isclose(cost, expected, rel_tol=1e-12)), row
    assert batch_costs(model.dictionary_encode(), *tokens).equals(costs)


def test_a_prompt_beyond_the_dearer_length_costs_more_a_token() -> None:
    """One token more, and every token is dearer; the row before is not."""
    short, long = batch_costs(*columns([("gpt-5.4", 272_000, 0, 0), ("gpt-5.4", 272_001, 0, 0)])).to_pylist()
    assert short == pytest.approx(272_000 * 1.25e-6)
    assert long == pytest.approx(272_001 * 2.5e-6)


def test_many_short_prompts_are_no_long_one() -> None:
    """A model that is dearer beyond a length of the prompt is not, because there are many prompts."""
    one = batch_cost("gpt-5.4", 1_000, 0, 0)
    assert one is not None
    assert prompts_cost("gpt-5.4", 1_000_000) == pytest.approx(1_000 * one)
    assert prompts_cost("a-model-of-our-own", 1_000) is None


def test_a_price_that_is_not_known_is_null() -> None:
    """Of a model that nobody knows, and of one that has no batch price."""
    rows: list[Row] = [
        ("no-such-model", 1, 0, 1),
        ("gpt-4o", 1_000_000, None, 0),
        (None, 1, 1, 1),
        ("gpt-4o", None, 0, 0),
    ]
    assert batch_costs(*columns(rows)).to_pylist() == [None, 1.25, None, None]
    assert batch_costs(*columns([])).to_pylist() == []
