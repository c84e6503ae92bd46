"""What a result line says about its request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, field_validator

from ractobatch_dagster.models import ROW_STATUSES, BatchStatus
from ractobatch_dagster.results.classify import classify, no_line, parse_json, parse_text, without_fence
from ractobatch_dagster.results.lines import read_lines
from ractobatch_dagster.results.outcomes import OUTCOMES, Columns, as_values

KEYS = [
    "custom_id",
    "error",
    "response",
    "status_code",
    "request_id",
    "body",
    "choices",
    "message",
    "content",
    "refusal",
]
KEYS += ["tool_calls", "function", "name", "arguments", "finish_reason", "usage", "prompt_tokens", "completion_tokens"]
KEYS += ["prompt_tokens_details", "cached_tokens", "model", "code", "type", "reasoning_content", "text"]
WORDS = ["stop", "length", "content_filter", "tool_calls", "batch_expired", "batch_cancelled", "server_error"]

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, 200, 204, 400, 429, 500])
    | st.floats()
    | st.text(max_size=5)
    | st.text(st.characters(categories=["Cs"]), max_size=2)
    | st.sampled_from(WORDS)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=25,
)
objects = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)
choices = st.fixed_dictionaries({}, optional={"message": values, "finish_reason": values})
bodies = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.lists(choices, max_size=2) | values,
        "usage": values,
        "model": values,
        "error": values,
    },
)
lines = objects | st.fixed_dictionaries(
    {"custom_id": values},
    optional={
        "error": values,
        "response": st.fixed_dictionaries(
            {}, optional={"status_code": scalars, "body": bodies | values, "request_id": values, "message": values}
        ),
    },
)


def answer(message: Any, finish_reason: Any = "stop", **body: Any) -> dict[str, Any]:
    """A line of an output file."""
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    body = {"model": "m", "choices": [choice], **body}
    return {"custom_id": "a", "response": {"status_code": 200, "request_id": "r", "body": body}, "error": None}


def failure(status_code: Any, body: Any = None, error: Any = None) -> dict[str, Any]:
    """A line of an error file."""
    return {"custom_id": "a", "response": {"status_code": status_code, "body": body}, "error": error}


@given(lines)
def test_any_object_has_an_outcome_that_can_be_stored(line: dict[str, Any]) -> None:
    """Whatever JSON a provider writes, it has one of the ten statuses and goes into the table of outcomes."""
    outcome = classify(line)
    assert outcome.status in ROW_STATUSES
    assert outcome.status == "ok" or outcome.error
    columns = Columns()
    columns.add(as_values(outcome))
    table = columns.table()
    table.validate(full=True)
    assert table.schema == OUTCOMES()
    (stored,) = table.to_pylist()
    assert stored == {name: getattr(outcome, name) for name in OUTCOMES().names}


def test_an_object_nested_to_the_limit_has_an_outcome() -> None:
    """What can just be read can be classified as well, however little of the stack is left."""
    for depth in range(900, 1010):
        (line,) = read_lines([b'{"custom_id":"a","error":{"message":' + b"[" * depth + b"]" * depth + b"}}"])
        if isinstance(line, dict):
            assert classify(line).status == "error"


@pytest.mark.parametrize(
    ("line", "status", "code", "retryable"),
    [
        (answer({"content": "hi"}), "ok", None, False),
        (answer({"content": ""}), "ok", None, False),
        (answer({"content": "hi"}, None), "ok", None, False),
        (answer({"content": [{"type": "text", "text": "hi"}]}), "ok", None, False),
        (answer({"content": None, "tool_calls": [{"id": "c"}]}, "tool_calls"), "ok", None, False),
        (answer({"content": None, "refusal": "no"}), "refusal", "refusal", False),
        (answer({"content": "hi", "refusal": ""}), "ok", None, False),
        (answer({"content": "hi"}, "length"), "truncated", "length", False),
        (answer({"content": None}, "length"), "truncated", "length", False),
        (answer({"content": "hi"}, "content_filter"), "content_filter", "content_filter", False),
        (answer({"content": None}, "content_filter"), "content_filter", "content_filter", False),
        (answer({"content": None}), "invalid_output", "no_content", False),
        (answer(None), "invalid_output", "no_content", False),
        (answer({"content": "hi"}, usage=None), "ok", None, False),
        (failure(200, {"choices": []}), "error", "no_choices", True),
        (failure(400, {"error": {"message": "bad", "code": None, "type": "t"}}), "error", "t", False),
        (failure(400, {"error": {"message": "bad", "code": "c"}}), "error", "c", False),
        (failure(404, {}), "error", "no_answer", True),
        (failure(429, {"error": {"message": "slow"}}), "error", "http_429", True),
        (failure(500, {"error": {"message": "x"}}), "error", "http_500", True),
        (failure("200", {"choices": [{"message": {"content": "hi"}}]}), "ok", None, False),
        (failure(0, {}), "error", "no_answer", True),
        (failure(None, None), "error", "no_answer", True),
        (failure(200, {"error": {"message": "x", "code": "server_error"}}), "error", "server_error", True),
        (failure(None, None, {"code": "batch_expired", "message": "m"}), "expired", "batch_expired", True),
        (failure(None, None, {"code": "batch_cancelled", "message": "m"}), "cancelled", "batch_cancelled", True),
        (failure(None, None, {"code": "request_timeout", "message": "m"}), "error", "request_timeout", True),
        (failure(None, None, "just a text"), "error", None, False),
        ({"custom_id": "a"}, "error", "no_answer", True),
    ],
)
def test_each_shape_of_line_is_told_apart(line: dict[str, Any], status: str, code: str | None, retryable: bool) -> None:
    """Every shape that providers are known to write has its own status, code and chance."""
    outcome = classify(line)
    assert (outcome.status, outcome.error_code, outcome.retryable) == (status, code, retryable)


def test_the_text_of_an_http_error_is_kept() -> None:
    """What the provider said is the row's error, wherever it put it."""
    assert classify(failure(400, {"error": {"message": "max_tokens is too large"}})).error == "max_tokens is too large"
    assert classify({"response": {"status_code": 502, "message": "bad gateway"}}).error == "bad gateway"


def test_tokens_are_counted_in_either_spelling() -> None:
    """Chat completions and responses name their usage differently; details may be missing or null."""
    chat = {
        "prompt_tokens": 9,
        "completion_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 8},
        "completion_tokens_details": {"reasoning_tokens": 3},
    }
    outcome = classify(answer({"content": "x"}, usage=chat))
    assert (outcome.prompt_tokens, outcome.cached_tokens) == (9, 8)
    assert (outcome.completion_tokens, outcome.reasoning_tokens) == (4, 3)
    outcome = classify(answer({"content": "x"}, usage={"input_tokens": "9", "output_tokens": 4.0}))
    assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.cached_tokens) == (9, 4, None)


def test_a_budget_spent_on_reasoning_is_said() -> None:
    """A truncated answer without text says where the tokens went and what to do."""
    usage = {"completion_tokens_details": {"reasoning_tokens": 64}}
    error = classify(answer({"content": None}, "length", usage=usage)).error
    assert error == "The answer was cut off at the token limit. Reasoning used the whole budget. Raise max_tokens."


@pytest.mark.parametrize(
    ("status", "word"),
    [
        (BatchStatus.COMPLETED, "missing"),
        (BatchStatus.FAILED, "missing"),
        (BatchStatus.EXPIRED, "expired"),
        (BatchStatus.CANCELLED, "cancelled"),
    ],
)
def test_a_request_without_a_line_is_explained_by_its_batch(status: BatchStatus, word: str) -> None:
    """What is in neither file shares the fate of its batch, and can be asked again."""
    outcome = no_line("a", status)
    assert (outcome.status, outcome.retryable, outcome.error_code) == (word, True, f"no_line_{status.value}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```json\n{}\n```", "{}"),
        ("\n```\nabc\n```\n", "abc"),
        ("```python\nprint(1)\n```", "print(1)"),
        ("Here:\n```python\nprint(1)\n```\nExplanation", None),
        ("```\na\n```\nand\n```\nb\n```", None),
        ("no fence", None),
        ("```json {}```", None),
        ("", None),
    ],
)
def test_a_fence_goes_only_where_it_holds_the_whole_text(text: str, expected: str | None) -> None:
    """Prose around a code block is part of the answer."""
    assert without_fence(text) == (text if expected is None else expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [('{"a":1}', {"a": 1}), (" [1]", [1]), ('"x"', None), ("1", None), ("null", None), ("{", None), ("[" * 9999, None)],
)
def test_only_objects_and_arrays_are_parsed(text: str, expected: Any) -> None:
    """A number or a quoted text is a text that happens to be JSON."""
    assert parse_json(text) == expected


class Point(BaseModel):
    """A model whose validator goes wrong for one value."""

    x: int

    @field_validator("x")
    @classmethod
    def not_seven(cls, x: int) -> int:
        """Raises what Pydantic does not catch."""
        if x == 7:
            raise KeyError("seven")
        return x


def test_an_answer_that_fits_is_parsed_and_one_that_does_not_says_why() -> None:
    """The place and the reason are named; a fence is no hindrance; a crashing validator is one row's problem."""
    assert parse_text('```json\n{"x": 1}\n```', Point) == (Point(x=1), None)
    assert parse_text('{"x": "a"}', Point)[1] == (
        "x: Input should be a valid integer, unable to parse string as an integer"
    )
    assert parse_text("nonsense", Point)[0] is None
    assert parse_text(None, Point)[0] is None
    assert parse_text('{"x": 7}', Point) == (None, "KeyError: 'seven'")


def test_a_body_that_is_json_in_text_is_read() -> None:
    """OGX writes the body as a string of JSON: it is the answer all the same, and is not asked for again."""
    body = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}], "model": "m"}
    outcome = classify({"custom_id": "a", "response": {"status_code": 200, "body": json.dumps(body)}, "error": None})
    assert (outcome.status, outcome.text, outcome.model) == ("ok", "4", "m")
