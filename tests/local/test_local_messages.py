"""Message Batches on the local server, through Anthropic's own client."""

from __future__ import annotations

import time
from typing import Any

import anthropic
import pytest

from ractobatch_dagster.local import CallFault, Faults, LocalServer
from tests.local.helpers import connect as connect_openai
from tests.local.helpers import create, lines, upload, wait_for

SCHEMA = {
    "type": "object",
    "properties": {"sentiment": {"enum": ["positive", "negative"], "type": "string"}},
    "required": ["sentiment"],
    "additionalProperties": False,
}


def connect(server: LocalServer, **options: Any) -> anthropic.Anthropic:
    """A client that never retries."""
    given = {"base_url": server.base_url.removesuffix("/v1"), "api_key": server.api_key, **options}
    return anthropic.Anthropic(max_retries=0, timeout=20, **given)


def requests(count: int, **params: Any) -> Any:
    """Some requests."""
    turn = {"role": "user", "content": "I love it."}
    body = {"model": "claude-rules", "max_tokens": 100, "messages": [turn], **params}
    return [{"custom_id": f"row-{number}", "params": body} for number in range(count)]


def finished(client: anthropic.Anthropic, batch_id: str) -> Any:
    """Wait until a batch has ended."""

    def ended() -> Any:
        now = client.messages.batches.retrieve(batch_id)
        return now if now.processing_status == "ended" else None

    return wait_for(ended)


def results(client: anthropic.Anthropic, batch_id: str) -> dict[str, Any]:
    """What became of each request."""
    return {line.custom_id: line.result for line in client.messages.batches.results(batch_id)}


def test_a_batch_from_its_creation_to_its_results(batch_server: LocalServer) -> None:
    """All requests are `processing` until the end; then each has its message."""
    client = connect(batch_server)
    before = time.time()
    made = client.messages.batches.create(
        requests=requests(3, output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
    )
    assert (made.processing_status, made.request_counts.processing, made.results_url) == ("in_progress", 3, None)
    assert before - 1 < made.created_at.timestamp() < time.time() + 1
    ended = finished(client, made.id)
    assert (ended.request_counts.succeeded, ended.request_counts.processing) == (3, 0)
    found = results(client, made.id)
    assert sorted(found) == ["row-0", "row-1", "row-2"]
    message = found["row-1"].message
    assert (message.content[0].text, message.stop_reason) == ('{"sentiment":"positive"}', "end_turn")
    assert message.usage.input_tokens > 0
    assert batch_server.creates == 1


def test_what_expired_was_cancelled_or_failed(batch_server: LocalServer) -> None:
    """Each has its own type, and is counted under it."""
    batch_server.faults = Faults(requests={"row-0": 400, "row-1": 529, "row-2": "expired", "row-3": "ghost"})
    client = connect(batch_server)
    batch_id = client.messages.batches.create(requests=requests(5)).id
    counts = finished(client, batch_id).request_counts
    found = results(client, batch_id)
    assert [found[f"row-{number}"].type for number in range(5)] == [
        "errored",
        "errored",
        "expired",
        "errored",
        "succeeded",
    ]
    assert found["row-0"].error.error.type == "invalid_request_error"
    assert found["row-1"].error.error.type == "overloaded_error"
    assert (counts.errored, counts.expired) == (2, 1)
    batch_server.faults = Faults(cancel_at=0.5)
    batch_id = client.messages.batches.create(requests=requests(4)).id
    assert finished(client, batch_id).request_counts.canceled == 2
    assert [one.type for one in results(client, batch_id).values()].count("canceled") == 2


def test_a_request_without_its_most_tokens_is_refused_in_its_result(batch_server: LocalServer) -> None:
    """Parameters are looked at when a request runs, not when the batch is created."""
    client = connect(batch_server)
    batch_id = client.messages.batches.create(requests=requests(1, max_tokens=None)).id
    finished(client, batch_id)
    assert results(client, batch_id)["row-0"].error.error.message == "max_tokens: Field required"


def test_requests_that_no_batch_takes(batch_server: LocalServer) -> None:
    """None, ids that are there twice, and ids with other letters."""
    client = connect(batch_server)
    for some in ([], requests(1) * 2, [{"custom_id": "a b", "params": {}}]):
        with pytest.raises(anthropic.BadRequestError, match="invalid_request_error"):
            client.messages.batches.create(requests=some)
    assert not batch_server.batches()


def test_lists_begin_with_the_newest_and_are_each_apis_own(batch_server: LocalServer) -> None:
    """Pages by a cursor; OpenAI's batches are not among Anthropic's, nor the other way round."""
    client, other = connect(batch_server), connect_openai(batch_server)
    made = [client.messages.batches.create(requests=requests(1)).id for _ in range(5)]
    theirs = create(other, upload(other, lines(1))).id
    assert [batch.id for batch in client.messages.batches.list(limit=2)] == made[::-1]
    assert [batch.id for batch in other.batches.list()] == [theirs]
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(theirs)


def test_cancelling_and_deleting(batch_server: LocalServer) -> None:
    """A batch that runs can be cancelled and not deleted; one that has ended the other way round."""
    client = connect(batch_server)
    batch_server.faults = Faults(stuck_in="in_progress")
    batch_id = client.messages.batches.create(requests=requests(2)).id
    with pytest.raises(anthropic.BadRequestError, match="cannot be deleted"):
        client.messages.batches.delete(batch_id)
    assert client.messages.batches.cancel(batch_id).processing_status in ("canceling", "ended")
    ended = finished(client, batch_id)
    assert ended.cancel_initiated_at is not None
    assert client.messages.batches.delete(batch_id).id == batch_id
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.retrieve(batch_id)


def test_faults_of_calls(batch_server: LocalServer) -> None:
    """A lost reply, a wrong key and an outage are in Anthropic's words."""
    batch_server.faults = Faults(
        lost_create_replies=1, calls=[CallFault("GET", "/v1/messages/batches/{id}/results", times=1, status=529)]
    )
    client = connect(batch_server)
    with pytest.raises(anthropic.InternalServerError, match="api_error"):
        client.messages.batches.create(requests=requests(1))
    (lost,) = client.messages.batches.list()
    finished(client, lost.id)
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        results(client, lost.id)
    assert len(results(client, lost.id)) == 1
    with pytest.raises(anthropic.AuthenticationError, match="authentication_error"):
        connect(batch_server, api_key="wrong").messages.batches.list()


def test_messages_outside_any_batch(batch_server: LocalServer) -> None:
    """They are answered at once; a tool that is insisted on is called."""
    client = connect(batch_server)
    turn: Any = {"role": "user", "content": "I love it."}
    tool: Any = {"name": "label", "input_schema": SCHEMA}
    said = client.messages.create(model="claude-rules", max_tokens=100, messages=[turn])
    assert said.stop_reason == "end_turn"
    assert client.messages.create(model="claude-rules", max_tokens=1, messages=[turn]).stop_reason == "max_tokens"
    choice: Any = {"type": "tool", "name": "label"}
    called: Any = client.messages.create(
        model="claude-rules", max_tokens=100, messages=[turn], tools=[tool], tool_choice=choice
    )
    assert (called.stop_reason, called.content[0].input) == ("tool_use", {"sentiment": "positive"})
