"""What is stored of an answer beside its text, and what is made of it: whatever comes, it has one outcome."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ractobatch_dagster.form import Form
from ractobatch_dagster.results.classify import Outcome, classify
from ractobatch_dagster.results.forms import More, raw_text, read_more, validator
from ractobatch_dagster.results.table import ResultTable
from tests.results.test_table import done, rows


class Move(BaseModel):
    """A call."""

    steps: int = Field(ge=-5, le=5)
    way: Literal["up", "down"] | None = None


class Say(BaseModel):
    """Another."""

    words: list[str]


TOOLS = {"move": Move, "say": Say}
BOTH = Form(Say, TOOLS, choices=True, logprobs=True)


def answered(*choices: Any, **more: Any) -> Outcome:
    """The outcome of a chat of these choices."""
    body = {"model": "m", "choices": list(choices), **more}
    return classify({"custom_id": "a", "response": {"status_code": 200, "body": body}})


def table(form: Form, *outcomes: Outcome) -> list[dict[str, Any]]:
    """The rows that become of outcomes."""
    found = [
        done(row, one.text, one.status, more=one.more, error=one.error, finish_reason=one.finish_reason)
        for row, one in enumerate(outcomes)
    ]
    given = pa.Table.from_pylist(found, schema=pa.schema(_final()))
    made = ResultTable(form, "f").block(rows(*"abcdefgh"[: len(found)]), given, 0, pa.nulls(len(found), pa.string()))
    made.validate(full=True)
    return list(made.to_pylist())


def _final() -> Any:
    from ractobatch_dagster.submission.answered import FINAL

    return FINAL()


def call(name: Any, arguments: Any) -> dict[str, Any]:
    """A call, as it comes."""
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}


MOVES = st.builds(Move, steps=st.integers(-5, 5), way=st.sampled_from(["up", "down", None]))
SAYS = st.builds(Say, words=st.lists(st.text(max_size=5), max_size=3))


@given(st.lists(st.lists(st.tuples(st.just("move"), MOVES) | st.tuples(st.just("say"), SAYS), max_size=4), max_size=8))
def test_good_calls_come_back_as_they_were(answers: list[list[tuple[str, BaseModel]]]) -> None:
    """All of them, in their order, by tool; a tool that was not called is null."""
    outcomes = [
        answered({"message": {"content": "", "tool_calls": [call(n, one.model_dump_json()) for n, one in calls]}})
        for calls in answers
    ]
    for row, calls in zip(table(Form(None, TOOLS), *outcomes), answers, strict=True):
        assert row["llm_status"] == "ok"
        for name in TOOLS:
            assert row[name] == ([one.model_dump() for tool, one in calls if tool == name] or None)


# JSON has no infinite numbers; of a line that has them all the same, only what is wrong with it is kept
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = (
    JSON | JSON.map(json.dumps) | st.sampled_from(['{"steps": 1}', '{"steps": 9}', "{}", "", "{", '{"steps":1}]'])
)
CALLS = st.lists(JSON | st.builds(call, st.sampled_from(["move", "say", "fly", None, 3]), ARGUMENTS), max_size=3)
CHOICES = st.lists(
    JSON
    | st.fixed_dictionaries(
        {
            "message": JSON | st.fixed_dictionaries({"content": st.text(max_size=9) | st.just('{"words": []}')})
            | st.fixed_dictionaries({"content": JSON, "refusal": JSON, "tool_calls": CALLS}),
            "finish_reason": st.sampled_from(["stop", "tool_calls", "length", "content_filter", None]) | JSON,
            "logprobs": JSON | st.fixed_dictionaries({"content": st.lists(st.fixed_dictionaries(
                {"token": JSON, "logprob": JSON}), max_size=3)}),
        }
    ),
    max_size=4,
)  # fmt: skip


@given(CHOICES)
def test_whatever_comes_is_one_row(choices: list[Any]) -> None:
    """Nothing raises; what is invalid has no typed value and a reason; landing and repairing say the same."""
    outcome = answered(*choices)
    (row,) = table(BOTH, outcome)
    plain = table(Form(), outcome)[0]
    judge = validator(BOTH)
    assert judge is not None
    problem = judge(outcome.text, outcome.more) if outcome.status == "ok" else None
    assert (row["llm_status"], row["llm_error"]) == (
        ("invalid_output", problem) if problem else (outcome.status, outcome.error)
    )
    typed = {name: row[name] for name in ("words", "move", "say")}
    if row["llm_status"] != "ok":
        assert typed == dict.fromkeys(typed)
    else:
        assert (typed["words"] is None) == bool(outcome.tool_calls)
    assert len(row["choices"] or []) in (0, len(choices))
    assert plain["llm_status"] == outcome.status
    assert plain.keys() & {"choices", "logprobs", "move"} == set()
    assert all(one["logprob"] is None or math.isfinite(one["logprob"]) for one in row["logprobs"] or [])


@pytest.mark.parametrize("problems", [{"steps": 9}, {"steps": "x"}, {}, {"steps": 1, "way": "left"}])
def test_one_bad_call_takes_the_others_along(problems: dict[str, Any]) -> None:
    """A row is either what it should be or it is not; the next row is not touched."""
    bad = [call("say", '{"words": ["a"]}'), call("move", json.dumps(problems))]
    good = [call("move", '{"steps": 1}')]
    first, second = table(
        Form(None, TOOLS), *(answered({"message": {"content": None, "tool_calls": calls}}) for calls in (bad, good))
    )
    assert (first["llm_status"], first["say"], first["move"]) == ("invalid_output", None, None)
    assert first["llm_error"].startswith("move.0.")
    assert json.loads(first["llm_text"]) == bad
    assert (second["llm_status"], second["move"]) == ("ok", [{"steps": 1, "way": None}])


def test_nothing_is_stored_that_is_not_there() -> None:
    """A plain answer has nothing beside its text."""
    outcome = answered({"message": {"content": "x"}, "finish_reason": "stop", "logprobs": None})
    assert outcome.more is None
    assert read_more(None) == More()
    (row,) = table(Form(choices=True, logprobs=True), outcome)
    assert row["choices"] == [{"text": "x", "refusal": None, "finish_reason": "stop"}]
    assert row["logprobs"] is None


def test_what_is_nested_too_deep_is_no_call() -> None:
    """It can be stored by nobody, and is said."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    outcome = answered({"message": {"content": None, "tool_calls": [deep]}})
    (row,) = table(Form(None, TOOLS), outcome)
    assert row["llm_status"] == "invalid_output"


@pytest.mark.parametrize(
    ("text", "calls", "whole", "said"),
    [
        (None, [], True, None),
        ("x", [], True, "x"),
        ("x", [1], False, "x"),
        ("x", [1], True, "x\n[1]"),
        ("", [1], False, "[1]"),
        (None, ["ü"], False, '["ü"]'),
    ],
)
def test_calls_are_in_the_text_where_nothing_else_is(
    text: str | None, calls: list[Any], whole: bool, said: Any
) -> None:
    """Or where they are what is wrong."""
    assert raw_text(text, calls, whole=whole) == said


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ({"content": [{"token": "a", "logprob": -1.5, "top_logprobs": [{}]}, {"token": "b"}]},
         [("a", -1.5), ("b", None)]),
        ({"content": None, "refusal": [{"token": "No", "logprob": 0}]}, [("No", 0.0)]),
        ({"tokens": ["a", "b"], "token_logprobs": [None, -2]}, [("a", None), ("b", -2.0)]),
        ({"tokens": ["a"], "token_logprobs": [-1, -2]}, [("a", -1.0)]),
        ({"content": [{"token": "\ud800", "logprob": True}, None]}, [("?", None)]),
        ({"content": [{"token": "a", "logprob": -9999.0}, {"token": "b", "logprob": 10**400}]},
         [("a", -9999.0), ("b", None)]),
        ("odd", []),
        ([], []),
    ],
)  # fmt: skip
def test_probabilities_are_read_in_each_shape(said: Any, read: list[tuple[str, float | None]]) -> None:
    """Of a chat, of a refusal, of a completion; what is no number is null."""
    outcome = answered({"message": {"content": "x"}, "logprobs": said})
    assert [(one["token"], one["logprob"]) for one in outcome.logprobs] == read
    (row,) = table(Form(logprobs=True), outcome)
    assert [(one["token"], one["logprob"]) for one in row["logprobs"] or []] == read
