"""Exactly one outcome per request, whatever the files hold."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.models import ROW_STATUSES, BatchStatus, FinishReason, ToolCallResult
from ractobatch_dagster.provider.remote import Issue
from ractobatch_dagster.results.classify import no_line
from ractobatch_dagster.results.items import item_results
from ractobatch_dagster.results.join import BAD, DUPLICATE, UNKNOWN, join_files, join_lines, refused
from ractobatch_dagster.results.lines import BadLine, read_lines
from ractobatch_dagster.results.outcomes import OUTCOMES, Columns, as_values


def line(custom_id: Any, content: Any = "hi", finish_reason: str = "stop", **message: Any) -> dict[str, Any]:
    """A line of an output file."""
    choice = {"message": {"content": content, **message}, "finish_reason": finish_reason}
    body = {"model": "m", "choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}
    return {"custom_id": custom_id, "response": {"status_code": 200, "body": body}, "error": None}


def error(custom_id: str, status_code: int = 500) -> dict[str, Any]:
    """A line of an error file."""
    return {"custom_id": custom_id, "response": {"status_code": status_code, "body": {"error": {"message": "broke"}}}}


def written(*lines: dict[str, Any]) -> bytes:
    """Lines as a file."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in lines)


ids = st.sampled_from(["a", "b", "c", "d"])


@given(
    st.lists(ids, unique=True),
    st.lists(
        st.builds(line, ids | st.integers()) | st.builds(error, ids) | st.builds(BadLine, st.just(1), st.binary(), ids)
    ),
    st.sampled_from([BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED]),
)
def test_each_request_has_one_outcome_in_the_order_asked(
    asked: list[str], lines: list[dict[str, Any] | BadLine], status: BatchStatus
) -> None:
    """Shuffled, doubled, missing, unknown and unreadable lines change neither how many there are nor their order."""
    odd: list[str] = []
    outcomes = join_lines(asked, lines, status, lambda what, _: odd.append(what))
    assert list(outcomes) == asked
    assert all(outcome.custom_id == custom_id for custom_id, outcome in outcomes.items())
    assert all(outcome.status in ROW_STATUSES for outcome in outcomes.values())
    used = len({one["custom_id"] for one in lines if isinstance(one, dict)} & set(asked))
    assert len(odd) == len(lines) - used
    good = {one["custom_id"] for one in lines if isinstance(one, dict) and "error" in one}
    assert {custom_id for custom_id, outcome in outcomes.items() if outcome.status == "ok"} == good & set(asked)


def test_an_answer_stands_against_later_lines_that_are_none() -> None:
    """Only a better line takes the place of an earlier one: a refusal was answered and paid for."""
    outcomes = join_lines(["a", "b"], [line("a", None, refusal="no"), error("a"), error("b"), line("b")], _DONE)
    assert [outcome.status for outcome in outcomes.values()] == ["refusal", "ok"]


def by_columns(asked: list[str], data: bytes, status: BatchStatus, size: int = 1 << 20) -> tuple[Any, list[Any]]:
    """What `join_files` makes of a file that comes in chunks, and the odd lines."""
    odd: list[tuple[str, bytes]] = []
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    return join_files(asked, chunks, lambda id_: no_line(id_, status), lambda *one: odd.append(one)), odd


@given(
    st.lists(ids, unique=True),
    st.lists(st.builds(line, ids | st.integers()) | st.builds(error, ids)),
    st.sampled_from([BatchStatus.COMPLETED, BatchStatus.EXPIRED, BatchStatus.CANCELLED]),
    st.integers(1, 300),
)
def test_a_file_joined_by_columns_is_the_same_table(
    asked: list[str], lines: list[dict[str, Any]], status: BatchStatus, size: int
) -> None:
    """One row for each request, in the order asked, with what joining line by line gives; the same lines are odd."""
    told: list[str] = []
    columns = Columns()
    for outcome in join_lines(asked, lines, status, lambda what, _: told.append(what)).values():
        columns.add(as_values(outcome))
    table, odd = by_columns(asked, written(*lines), status, size)
    assert table.schema == OUTCOMES()
    assert table.to_pylist() == columns.table().to_pylist()
    assert [what for what, _ in odd] == told


def test_many_requests_are_joined_by_columns() -> None:
    """More than are turned into columns at a time, in another order than they were asked, and some without a line."""
    asked = [f"row-{number:08d}" for number in range(2_500)]
    answered = [line(id_, f"text of {id_}") for id_ in reversed(asked) if not id_.endswith("7")]
    table, odd = by_columns(asked, written(*answered), BatchStatus.EXPIRED, 1000)
    assert odd == []
    assert table["text"].to_pylist() == [None if id_.endswith("7") else f"text of {id_}" for id_ in asked]
    assert table["status"].to_pylist() == ["expired" if id_.endswith("7") else "ok" for id_ in asked]


def test_odd_lines_are_kept_as_they_came() -> None:
    """Byte for byte, whatever is odd about them, so that somebody can look at what the provider wrote."""
    stranger, broken = b'{"custom_id": "x",   "error": {"message":"\\u00e9"}}', b'{"custom_id":'
    again = b'{ "custom_id":"a", "error": {"code":"batch_expired"} }'
    data = b"\n".join([written(line("a")).strip(), stranger, broken, again])
    table, odd = by_columns(["a"], data, _DONE)
    assert table["status"].to_pylist() == ["ok"]
    assert odd == [(UNKNOWN, stranger), (BAD, broken), (DUPLICATE, again)]


def test_an_odd_line_nested_to_the_limit_ends_nothing() -> None:
    """What can just be read is kept aside as well, however little of the stack is left."""
    for depth in range(900, 1010):
        data = b'{"custom_id":"x","error":{"message":' + b"[" * depth + b"]" * depth + b"}}\n" + written(line("a"))
        table, odd = by_columns(["a"], data, _DONE)
        assert table["status"].to_pylist() == ["ok"]
        assert len(odd) == 1
        lines = list(read_lines([data]))
        assert join_lines(["a"], lines, _DONE)["a"].status == "ok"


def test_a_refused_batch_blames_the_line_and_tells_the_others_why() -> None:
    """Each request of a batch that failed validation has the reason; the one to blame has its own."""
    issues = [Issue("Bad JSON.", "invalid_json_line", 2), Issue("Enough.", "too_many")]
    outcomes = refused(["a", "b"], issues)
    assert outcomes["a"].error == "The provider refused the batch: Enough. (too_many)"
    assert outcomes["b"].error == "The provider refused the batch: line 2: Bad JSON. (invalid_json_line)"
    assert refused(["a", "b"], issues[:1])["a"].error == outcomes["b"].error
    assert refused(["a"], [])["a"].error == "The provider refused the batch: the provider gave no reason"
    assert [(one.retryable, one.never_run) for one in outcomes.values()] == [(True, True), (False, False)]
    assert not refused(["a"], issues[1:])["a"].retryable


_DONE = BatchStatus.COMPLETED


def test_results_without_a_known_order_are_those_that_came() -> None:
    """Where nobody knows what was asked, each line that names a request is one result."""
    data = written(line("b"), line(7), error("a")) + b"nonsense\n" + written(line("b"))
    results = item_results(None, data, _DONE, None)
    assert [(one.custom_id, one.status) for one in results] == [("b", "ok"), ("7", "ok"), ("a", "error")]


def test_tool_calls_are_filled_in() -> None:
    """Arguments are parsed; what is no call, or no JSON object, takes nothing else down."""
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": None, "function": {"name": "g", "arguments": "not json"}},
        {"function": {"arguments": "{}"}},
        "nonsense",
    ]
    (result,) = item_results(["a"], written(line("a", None, "tool_calls", tool_calls=calls)), _DONE, None)
    assert result.ok
    assert result.response is not None
    assert result.response.finish_reason is FinishReason.TOOL_CALL
    assert result.response.tool_calls == [
        ToolCallResult(id="c1", name="f", arguments={"x": 1}),
        ToolCallResult(id="", name="g", arguments={}),
    ]


def test_a_refusal_a_filter_and_a_cut_are_told_apart() -> None:
    """Each has its finish reason and its status; only the text that is cut off still counts as an answer."""
    data = written(
        line("refusal", None, refusal="I cannot."),
        line("filter", "half", "content_filter"),
        line("cut", "hal", "length"),
    )
    refusal, blocked, cut = item_results(["refusal", "filter", "cut"], data, _DONE, None)
    assert (refusal.ok, refusal.status, refusal.error) == (False, "refusal", "I cannot.")
    assert refusal.response is not None
    assert (refusal.response.refusal, refusal.response.content) == ("I cannot.", None)
    assert (blocked.ok, blocked.status) == (False, "content_filter")
    assert blocked.response is not None
    assert blocked.response.finish_reason is FinishReason.CONTENT_FILTER
    assert (cut.ok, cut.status) == (True, "truncated")
    assert cut.response is not None
    assert (cut.response.content, cut.response.finish_reason) == ("hal", FinishReason.LENGTH)


def test_usage_tells_the_details_where_there_are_any() -> None:
    """The three counts are always numbers; cached and reasoning tokens are there if the provider told them."""
    full = line("a")
    full["response"]["body"]["usage"] = {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    bare = line("b")
    bare["response"]["body"]["usage"] = None
    first, second = item_results(["a", "b"], written(full, bare), _DONE, None)
    assert first.response is not None
    assert second.response is not None
    counts = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    assert first.response.usage == {**counts, "cached_tokens": 4, "reasoning_tokens": 2}
    assert not any(second.response.usage.values())
