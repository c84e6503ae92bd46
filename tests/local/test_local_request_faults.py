"""What becomes of single requests and of the lines that answer them."""

from __future__ import annotations

import json
from collections import Counter

import openai
import pytest

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import Faults, LocalServer
from tests.local.helpers import connect, finish, line, lines, raw_lines, results, submit, text_of


@pytest.fixture
def client(batch_server: LocalServer) -> openai.OpenAI:
    return connect(batch_server)


def fated(client: openai.OpenAI, server: LocalServer, fate: str | int):
    """The batch of four requests of which `row-1` has this fate, with its output and its errors."""
    server.faults = Faults(requests={"row-1": fate})
    batch = finish(client, submit(client, lines(4)))
    return batch, results(client, batch.output_file_id), results(client, batch.error_file_id)


def test_one_request_can_fail_with_a_status(client, batch_server):
    """It and no other is in the error file."""
    _, output, errors = fated(client, batch_server, 429)
    assert (sorted(output), list(errors)) == (["row-0", "row-2", "row-3"], ["row-1"])
    assert errors["row-1"]["response"]["status_code"] == 429


def test_one_request_can_be_dropped(client, batch_server):
    """It is in neither file."""
    batch, output, errors = fated(client, batch_server, "drop")
    assert (sorted(output), errors, batch.status) == (["row-0", "row-2", "row-3"], {}, "completed")


@pytest.mark.parametrize("fate", ["ghost", 0])
def test_one_request_can_be_a_ghost(client, batch_server, fate):
    """It has status 0 and nothing else."""
    _, _, errors = fated(client, batch_server, fate)
    assert errors["row-1"]["response"] == {"status_code": 0, "request_id": "", "body": {}}
    assert errors["row-1"]["error"] is None


@pytest.mark.parametrize(
    ("fate", "code", "failed"),
    [("error", "server_error", 1), ("expired", "batch_expired", 0), ("cancelled", "batch_cancelled", 0)],
)
def test_a_line_can_have_an_error_and_no_response(client, batch_server, fate, code, failed):
    """In a batch that is completed all the same."""
    batch, output, errors = fated(client, batch_server, fate)
    assert batch.status == "completed"
    assert batch.request_counts.failed == failed
    assert (len(output), errors["row-1"]["response"], errors["row-1"]["error"]["code"]) == (3, None, code)


def test_a_batch_can_expire_before_exactly_this_request(client, batch_server):
    """The request that is `late` is not reached; the others are."""
    batch, output, errors = fated(client, batch_server, "late")
    assert (batch.status, len(output)) == ("expired", 3)
    assert errors["row-1"]["error"]["code"] == "batch_expired"


def test_validation_can_blame_exactly_this_request(client, batch_server):
    """The batch fails before anything runs, and the error names the line."""
    batch, output, errors = fated(client, batch_server, "invalid")
    assert (batch.status, output, errors) == ("failed", {}, {})
    assert [(one.code, one.line) for one in batch.errors.data] == [("invalid_request", 2)]
    assert batch_server.billed == {}


def test_an_error_can_be_in_the_body_of_a_success(client, batch_server):
    """Status 200, `error` null, in the output file: only the body tells."""
    _, output, _ = fated(client, batch_server, "body_error")
    line = output["row-1"]
    assert (line["response"]["status_code"], line["error"]) == (200, None)
    assert line["response"]["body"]["error"]["message"]


def test_a_body_can_be_json_in_a_string(client, batch_server):
    """What is in the string is the answer."""
    _, output, _ = fated(client, batch_server, "text_body")
    body = output["row-1"]["response"]["body"]
    assert isinstance(body, str)
    assert json.loads(body)["choices"] == output["row-0"]["response"]["body"]["choices"]


def test_usage_can_be_null(client, batch_server):
    """In one answer, and it is missing in the sum of the batch."""
    batch, output, _ = fated(client, batch_server, "no_usage")
    assert output["row-1"]["response"]["body"]["usage"] is None
    assert batch.usage.input_tokens == 3 * output["row-0"]["response"]["body"]["usage"]["prompt_tokens"]


def test_one_answer_can_hold_unicode_line_separators(client, batch_server):
    """And the others do not."""
    batch, output, _ = fated(client, batch_server, "separators")
    assert len(output) == 4
    assert ["\u2028" in raw.decode() for raw in raw_lines(client, batch.output_file_id)].count(True) == 1
    assert "\u2028" in output["row-1"]["response"]["body"]["system_fingerprint"]


def test_one_request_can_be_in_both_files(client, batch_server):
    """Answered in one and failed in the other, asked once and counted once."""
    batch, output, errors = fated(client, batch_server, "both")
    assert (len(output), list(errors)) == (4, ["row-1"])
    assert errors["row-1"]["response"]["status_code"] == 500
    assert (batch.request_counts.completed, batch.request_counts.failed) == (4, 0)
    assert batch_server.billed[batch.id, "row-1"] == 1


def test_one_line_can_be_there_twice(client, batch_server):
    """The same line, and only that."""
    batch, _, _ = fated(client, batch_server, "twice")
    seen = Counter(raw_lines(client, batch.output_file_id))
    assert sorted(seen.values()) == [1, 1, 1, 2]
    assert json.loads(seen.most_common(1)[0][0])["custom_id"] == "row-1"


def test_one_line_can_be_broken(client, batch_server):
    """It is no JSON, and the others are."""
    batch_server.faults = Faults(requests={"row-1": "broken"})
    batch = finish(client, submit(client, lines(4)))
    good = []
    for raw in raw_lines(client, batch.output_file_id):
        try:
            good.append(json.loads(raw)["custom_id"])
        except json.JSONDecodeError:
            assert b"row-1" in raw
    assert sorted(good) == ["row-0", "row-2", "row-3"]


def test_shares_take_every_fate(client, batch_server):
    """Exactly that share of the requests has it, and the exact ids come on top."""
    batch_server.faults = Faults(shares={"error": 0.2, "body_error": 0.3, 404: 0.1}, requests={"row-0": "drop"})
    batch = finish(client, submit(client, lines(10)))
    output, errors = results(client, batch.output_file_id), results(client, batch.error_file_id)
    kinds = Counter("error" if one["error"] else one["response"]["status_code"] for one in errors.values())
    kinds["body_error"] = sum("error" in one["response"]["body"] for one in output.values())
    assert "row-0" not in output | errors
    wanted = Counter({"error": 2, "body_error": 3, 404: 1})
    assert (wanted - kinds).total() <= 1  # the one that may have been drawn for `row-0`
    assert (kinds - wanted).total() == 0


def test_every_request_can_fail(client, batch_server):
    """A batch of nothing but failures is completed and has no output file."""
    batch_server.faults = Faults(shares={400: 1.0})
    batch = finish(client, submit(client, lines(3)))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (0, 3)
    assert len(results(client, batch.error_file_id)) == 3


def test_a_batch_can_be_cancelled_by_somebody_else(client, batch_server):
    """The share that was answered is there, the rest is `batch_cancelled`."""
    batch_server.faults = Faults(cancel_at=0.5)
    batch = finish(client, submit(client, lines(4)))
    assert batch.status == "cancelled"
    assert batch.cancelling_at
    errors = results(client, batch.error_file_id)
    assert [one["error"]["code"] for one in errors.values()] == ["batch_cancelled"] * 2
    assert len(results(client, batch.output_file_id)) == 2


@pytest.mark.parametrize(
    "faults",
    [Faults(expire_at=0.5, unfinished_lines=False), Faults(cancel_at=0.5, unfinished_lines=False)],
    ids=["expired", "cancelled"],
)
def test_unfinished_requests_can_be_without_a_line(client, batch_server, faults):
    """They are in neither file, though the batch has ended early."""
    batch_server.faults = faults
    batch = finish(client, submit(client, lines(4)))
    assert batch.status in ("expired", "cancelled")
    assert batch.error_file_id is None
    assert len(results(client, batch.output_file_id)) == 2


def test_failures_can_be_in_the_output_file(client, batch_server):
    """And there is no error file."""
    batch_server.faults = Faults(errors_in_output=True, fail={400: 0.5})
    batch = finish(client, submit(client, lines(4)))
    statuses = [one["response"]["status_code"] for one in results(client, batch.output_file_id).values()]
    assert (sorted(statuses), batch.error_file_id) == ([200, 200, 400, 400], None)


def test_lines_can_be_without_an_id(client, batch_server):
    """In both files."""
    batch_server.faults = Faults(line_ids=False, fail={400: 0.5})
    batch = finish(client, submit(client, lines(4)))
    found = results(client, batch.output_file_id) | results(client, batch.error_file_id)
    assert {tuple(one) for one in found.values()} == {("custom_id", "response", "error")}


def test_what_the_model_answered_is_billed(client, batch_server):
    """Once for each request it has answered, and not for what failed or was never reached."""
    batch_server.faults = Faults(requests={"row-0": 500, "row-1": "drop", "row-2": "late", "row-3": "broken"})
    first = finish(client, submit(client, [*lines(6), line("refused", messages=[])]))
    assert first.request_counts.failed == 2
    batch_server.faults = Faults()
    second = finish(client, submit(client, lines(1)))
    client.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hello"}])
    rows = [(first.id, f"row-{number}") for number in (3, 4, 5)]
    assert batch_server.billed == dict.fromkeys([*rows, (second.id, "row-0")], 1)
    assert text_of(results(client, second.output_file_id)["row-0"]) == "4"


@pytest.mark.parametrize("wrong", [{"requests": {"a": "gone"}}, {"shares": {"gone": 0.1}}], ids=["requests", "shares"])
def test_an_unknown_fate_is_refused(wrong):
    """A misspelt word is no silent success."""
    with pytest.raises(ConfigurationError, match="'gone'"):
        Faults(**wrong)
