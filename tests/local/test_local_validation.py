"""What the local server finds wrong with an input file, by code and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.local.validation import Limits
from tests.local.helpers import connect, finish, line, lines, submit


def _without(name: str) -> str:
    request = json.loads(line("x"))
    del request[name]
    return json.dumps(request)


def _with(**changes: Any) -> str:
    return json.dumps(json.loads(line("x")) | changes)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], [("empty_file", None, None)]),
        ([line("a"), "{not json"], [("invalid_json_line", 2, None)]),
        ([line("a"), "", line("b")], [("invalid_json_line", 2, None)]),
        (["\ufeff" + line("a")], [("invalid_json_line", 1, None)]),
        ([line("a").replace('"rules"', "NaN")], [("invalid_json_line", 1, None)]),
        (["[1]"], [("invalid_json_line", 1, None)]),
        ([line("a"), line("b"), line("a")], [("duplicate_custom_id", 3, "custom_id")]),
        ([line("a"), line("b", url="/v1/responses")], [("url_mismatch", 2, "url")]),
        ([line("a"), line("b", model="other")], [("model_mismatch", 2, "body.model")]),
        ([_without("custom_id")], [("missing_required_parameter", 1, "custom_id")]),
        ([_without("method")], [("missing_required_parameter", 1, "method")]),
        ([_without("url")], [("missing_required_parameter", 1, "url")]),
        ([_without("body")], [("missing_required_parameter", 1, "body")]),
        ([line("a", model="")], [("missing_required_parameter", 1, "body.model")]),
        ([_with(custom_id=7)], [("invalid_request", 1, "custom_id")]),
        ([_with(method="GET")], [("invalid_method", 1, "method")]),
        ([_with(body="text")], [("invalid_request", 1, "body")]),
        ([line("a", stream=True)], [("invalid_request", 1, "body.stream")]),
        (
            [line("a"), "x", line("a"), line("c", url="/")],
            [("invalid_json_line", 2, None), ("duplicate_custom_id", 3, "custom_id"), ("url_mismatch", 4, "url")],
        ),
    ],
)
def test_each_mistake_has_its_code_and_line(batch_server: LocalServer, content, expected):
    """A file with mistakes fails as a whole, and every mistake is listed with its 1-based line."""
    client = connect(batch_server)
    batch = finish(client, submit(client, content))
    assert batch.status == "failed"
    assert [(error.code, error.line, error.param) for error in batch.errors.data] == expected
    assert all(error.message for error in batch.errors.data)
    assert batch.errors.object == "list"
    assert batch.failed_at >= batch.created_at
    assert (batch.output_file_id, batch.error_file_id, batch.in_progress_at) == (None, None, None)
    assert batch.request_counts.total == 0


def test_too_many_requests_are_one_error(tmp_path: Path):
    """A file with more requests than a batch may have fails with one error."""
    with LocalServer(tmp_path, limits=Limits(max_requests=3)) as server:
        client = connect(server)
        assert finish(client, submit(client, lines(3))).status == "completed"
        batch = finish(client, submit(client, lines(4)))
        assert [error.code for error in batch.errors.data] == ["too_many_tasks"]


def test_no_more_errors_are_listed_than_anyone_reads(batch_server: LocalServer):
    """The list ends after a hundred."""
    client = connect(batch_server)
    batch = finish(client, submit(client, ["x"] * 300))
    assert len(batch.errors.data) == 100


def test_a_last_line_needs_no_line_break(batch_server: LocalServer):
    """A file that ends without one is as good."""
    client = connect(batch_server)
    data = "\n".join(lines(2)).encode()
    file = client.files.create(file=("a.jsonl", data), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert finish(client, batch).request_counts.completed == 2
