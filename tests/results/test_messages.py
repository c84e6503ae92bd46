"""Anthropic's results: what becomes of each kind of line, and of each reason why a message ends."""

from __future__ import annotations

from typing import Any

import pytest

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.results.classify import classify, no_line
from ractobatch_dagster.results.join import join_files
from ractobatch_dagster.results.quick import read_answer
from tests.results.fuzz_reader import anthropic_message

TEXT = {"type": "text", "text": "Yes."}


def succeeded(**message: Any) -> dict[str, Any]:
    """A line of an answer."""
    return {
        "custom_id": "row-00000001_s_0_1",
        "result": {"type": "succeeded", "message": anthropic_message() | message},
    }


def errored(kind: str) -> dict[str, Any]:
    """A line of a request that failed."""
    error = {"type": "error", "error": {"type": kind, "message": "said so"}, "request_id": "req_1"}
    return {"custom_id": "row-00000001_s_0_1", "result": {"type": "errored", "error": error}}


def test_an_answer_with_its_tokens() -> None:
    """The prompt's include what the cache gave and what went into it; the batch's name is off the id."""
    outcome = classify(succeeded())
    assert (outcome.custom_id, outcome.status, outcome.finish_reason) == ("row-00000001", "ok", "stop")
    assert (outcome.prompt_tokens, outcome.cached_tokens, outcome.completion_tokens) == (8, 2, 3)
    assert (outcome.model, outcome.request_id) == ("claude-haiku-4-5-20251001", "msg_1")


@pytest.mark.parametrize(
    ("reason", "status", "finish"),
    [
        ("end_turn", "ok", "stop"),
        ("stop_sequence", "ok", "stop"),
        ("max_tokens", "truncated", "length"),
        ("model_context_window_exceeded", "truncated", "length"),
        ("refusal", "refusal", "refusal"),
        ("something_new", "ok", "something_new"),
        (None, "ok", None),
    ],
)
def test_why_a_message_ends(reason: str | None, status: str, finish: str | None) -> None:
    """Each reason has its status, and a new one is no error."""
    outcome = classify(succeeded(content=[TEXT], stop_reason=reason))
    assert (outcome.status, outcome.finish_reason, outcome.text) == (status, finish, "Yes.")


def test_a_refusal_says_why() -> None:
    """Its category and explanation, where it gives them; without any text there is still one."""
    details = {"type": "refusal", "category": "bio", "explanation": "Not this."}
    assert classify(succeeded(content=[], stop_reason="refusal", stop_details=details)).error == "bio: Not this."
    assert classify(succeeded(content=[], stop_reason="refusal")).error == "The model refused to answer."


def test_blocks_of_other_kinds() -> None:
    """Texts are joined, thinking is kept apart, a tool's input is what it is called with."""
    tool = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}}
    blocks = [{"type": "thinking", "thinking": "Hm."}, TEXT, TEXT, tool, {"type": "new"}, 5]
    outcome = classify(succeeded(content=blocks, stop_reason="tool_use"))
    assert (outcome.status, outcome.text, outcome.thinking) == ("ok", "Yes.Yes.", "Hm.")
    assert outcome.tool_calls[0]["function"] == {"name": "f", "arguments": '{"a": 1}'}


@pytest.mark.parametrize(
    ("kind", "retryable"),
    [
        ("invalid_request_error", False),
        ("request_too_large", False),
        ("billing_error", False),
        ("rate_limit_error", True),
        ("api_error", True),
        ("overloaded_error", True),
        ("timeout_error", True),
        ("something_new", True),
    ],
)
def test_what_failed_and_may_be_asked_again(kind: str, retryable: bool) -> None:
    """The request's own fault is for good; the provider's is not, and none of it was billed."""
    outcome = classify(errored(kind))
    assert (outcome.status, outcome.error_code, outcome.error) == ("error", kind, "said so")
    assert (outcome.retryable, outcome.request_id) == (retryable, "req_1")


@pytest.mark.parametrize(("kind", "status"), [("expired", "expired"), ("canceled", "cancelled")])
def test_what_never_ran(kind: str, status: str) -> None:
    """It goes out again without using up an attempt."""
    outcome = classify({"custom_id": "row-00000001_s_0_1", "result": {"type": kind}})
    assert (outcome.status, outcome.retryable, outcome.never_run) == (status, True, True)


@pytest.mark.parametrize("result", [{}, {"type": 5}, {"type": "errored", "error": "no"}, {"type": "succeeded"}])
def test_a_line_without_sense_is_an_error(result: Any) -> None:
    """Any object has an outcome."""
    assert classify({"custom_id": 5, "result": result}).status == "error"


def test_plain_answers_are_read_the_quick_way() -> None:
    """Nearly all lines are, and a file of them makes the same table."""
    import msgspec

    line = msgspec.json.encode(succeeded())
    assert read_answer(line) == (
        "row-00000001",
        '{"sentiment": "positive"}',
        "claude-haiku-4-5-20251001",
        "msg_1",
        8,
        2,
        3,
        None,
    )
    asked = ["row-00000001", "row-00000002"]
    table = join_files(asked, [line + b"\n"], lambda id_: no_line(id_, BatchStatus.COMPLETED))
    assert table["status"].to_pylist() == ["ok", "missing"]
