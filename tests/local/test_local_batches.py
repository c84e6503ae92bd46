"""The Batches API of the local server and the life of a batch, seen through the real client."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx2
import openai
import pytest

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import Faults, LocalServer
from tests.local.helpers import (
    CHAT,
    GatedModel,
    connect,
    create,
    finish,
    line,
    lines,
    raw_lines,
    results,
    submit,
    text_of,
    upload,
    wait_for,
)


@pytest.fixture
def client(batch_server: LocalServer) -> openai.OpenAI:
    return connect(batch_server)


def test_a_batch_is_answered(client: openai.OpenAI):
    """Every request of a good batch has its answer in the output file, and there is no error file."""
    batch = submit(client, [line("sum", "What is 2+2?"), line("city", "Capital of France?")], metadata={"k": "v"})
    assert (batch.status, batch.metadata, batch.output_file_id) == ("validating", {"k": "v"}, None)
    batch = finish(client, batch)
    assert batch.status == "completed"
    assert batch.error_file_id is None
    assert batch.model == "rules"
    answers = results(client, batch.output_file_id)
    assert {key: text_of(answer) for key, answer in answers.items()} == {"sum": "4", "city": "Paris"}
    assert answers["sum"]["error"] is None
    assert answers["sum"]["response"]["status_code"] == 200
    assert answers["sum"]["id"].startswith("batch_req_")


def test_times_counts_and_usage_add_up(client: openai.OpenAI):
    """A completed batch has the times of what it went through, its counts, and the sum of its tokens."""
    batch = finish(client, submit(client, lines(7)))
    order = [batch.created_at, batch.in_progress_at, batch.finalizing_at, batch.completed_at]
    assert order == sorted(order)
    assert batch.expires_at - batch.created_at == 24 * 3600
    assert (batch.failed_at, batch.expired_at, batch.cancelling_at, batch.cancelled_at) == (None,) * 4
    assert batch.request_counts.model_dump() == {"total": 7, "completed": 7, "failed": 0}
    usages = [one["response"]["body"]["usage"] for one in results(client, batch.output_file_id).values()]
    assert batch.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages) > 0
    assert batch.usage.total_tokens == sum(usage["total_tokens"] for usage in usages)


def test_results_are_not_in_the_order_of_the_input(client: openai.OpenAI):
    """Whoever relies on the order of the output file finds out at once."""
    batch = finish(client, submit(client, lines(30)))
    order = [json.loads(one)["custom_id"] for one in raw_lines(client, batch.output_file_id)]
    assert order != [f"row-{number}" for number in range(30)]
    assert sorted(order) == sorted(f"row-{number}" for number in range(30))


def test_a_failed_request_is_in_the_error_file(client: openai.OpenAI):
    """A request that gets a 400 has its error inside the response's body, with `error` null."""
    bad = json.loads(line("bad"))
    bad["body"]["messages"] = []
    batch = finish(client, submit(client, [line("good"), json.dumps(bad)]))
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    assert list(results(client, batch.output_file_id)) == ["good"]
    failed = results(client, batch.error_file_id)["bad"]
    assert failed["error"] is None
    assert failed["response"]["status_code"] == 400
    assert failed["response"]["body"]["error"]["param"] == "messages"


def test_a_batch_whose_requests_all_failed_has_no_output_file(client: openai.OpenAI):
    """It is completed all the same."""
    bad = [json.loads(one) for one in lines(3)]
    for one in bad:
        del one["body"]["messages"]
    batch = finish(client, submit(client, map(json.dumps, bad)))
    assert (batch.status, batch.output_file_id) == ("completed", None)
    assert len(results(client, batch.error_file_id)) == batch.request_counts.failed == 3


def test_batches_are_listed_page_by_page_newest_first(client: openai.OpenAI):
    """Paging with `after` shows every batch once."""
    made = [submit(client, lines(1)).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    page = client.batches.list(limit=2, after=made[3])
    assert [batch.id for batch in page.data] == [made[2], made[1]]
    assert page.has_more


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"endpoint": "/v1/nothing"}, "endpoint"),
        ({"completion_window": "48h"}, "completion_window"),
        ({"metadata": {str(number): "x" for number in range(17)}}, "metadata"),
        ({"metadata": {"k" * 65: "x"}}, "metadata"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after.seconds"),
    ],
)
def test_a_bad_create_is_refused(client: openai.OpenAI, change, param):
    """Each bad parameter is a 400 that names it."""
    asked = {"input_file_id": upload(client, lines(1)), "endpoint": CHAT, "completion_window": "24h"} | change
    with pytest.raises(openai.BadRequestError) as error:
        client.batches.create(**asked)
    assert error.value.param == param


def test_a_batch_needs_a_file_that_is_there(client: openai.OpenAI, batch_server: LocalServer):
    """Creating from a file that was deleted is refused in the words that the API has for it."""
    file_id = upload(client, lines(1))
    client.files.delete(file_id)
    with pytest.raises(openai.BadRequestError, match=f"Cannot find file {file_id}") as error:
        create(client, file_id)
    assert error.value.param == "file_id"
    assert (batch_server.creates, batch_server.batches()) == (1, [])


def test_what_is_not_there_is_a_404(client: openai.OpenAI, batch_server: LocalServer):
    """Unknown batches and unknown addresses are answered in OpenAI's shape."""
    with pytest.raises(openai.NotFoundError, match="No batch found"):
        client.batches.retrieve("batch_unknown")
    reply = httpx2.get(batch_server.base_url + "/nothing", headers={"Authorization": "Bearer local"})
    assert (reply.status_code, reply.json()["error"]["type"]) == (404, "invalid_request_error")
    assert httpx2.put(batch_server.base_url + "/files", headers={"Authorization": "Bearer local"}).status_code == 405


def test_a_wrong_key_is_refused(batch_server: LocalServer):
    """Nothing but `/health` is open to whoever has no key."""
    stranger = openai.OpenAI(base_url=batch_server.base_url, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError) as error:
        stranger.batches.list()
    assert error.value.code == "invalid_api_key"
    root = batch_server.base_url.removesuffix("/v1")
    assert httpx2.get(root + "/v1/files").status_code == 401
    assert httpx2.get(root + "/health").json()["status"] == "ok"


def test_a_batch_takes_its_time(tmp_path: Path):
    """With `seconds` a batch goes through its statuses in order, counts on the way, and ends no sooner."""
    with LocalServer(tmp_path, seconds=1.0) as server:
        client = connect(server)
        begin = time.time()
        batch = submit(client, lines(20))
        seen: list[str] = []
        counts: list[int] = []

        def ended() -> bool:
            now = client.batches.retrieve(batch.id)
            seen.append(now.status)
            counts.append(now.request_counts.completed)
            return now.status == "completed"

        wait_for(ended)
        assert 1.0 <= time.time() - begin < 3.0
        assert list(dict.fromkeys(seen)) == ["validating", "in_progress", "finalizing", "completed"]
        assert counts == sorted(counts)
        assert len(set(counts)) > 5


def test_cancelling_keeps_what_was_answered(tmp_path: Path):
    """A cancelled batch has its answers so far, and a line for each request that was not executed."""
    model = GatedModel(3)
    with LocalServer(tmp_path, model=model) as server:
        client = connect(server)
        batch = submit(client, lines(10))
        wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed == 3)
        assert client.batches.cancel(batch.id).status == "cancelling"
        model.gate.set()
        batch = finish(client, batch)
        assert batch.status == "cancelled"
        assert batch.cancelled_at >= batch.cancelling_at
        answered, others = results(client, batch.output_file_id), results(client, batch.error_file_id)
        assert len(answered) in (3, 4)
        assert len(answered) + len(others) == 10
        assert {one["error"]["code"] for one in others.values()} == {"batch_cancelled"}
        assert {one["response"] for one in others.values()} == {None}


def test_a_batch_can_be_cancelled_before_it_runs(tmp_path: Path):
    """Then it has no files at all."""
    with LocalServer(tmp_path, seconds=60) as server:
        client = connect(server)
        batch = submit(client, lines(2))
        client.batches.cancel(batch.id)
        batch = finish(client, batch)
        assert (batch.status, batch.output_file_id, batch.error_file_id) == ("cancelled", None, None)


def test_a_batch_that_has_ended_cannot_be_cancelled(client: openai.OpenAI):
    """Trying is a 409 that names the status."""
    batch = finish(client, submit(client, lines(1)))
    with pytest.raises(openai.ConflictError, match="status 'completed'"):
        client.batches.cancel(batch.id)


def test_a_running_batch_outlives_its_input_file(tmp_path: Path):
    """Deleting the input of a batch that was created does not disturb it."""
    model = GatedModel(0)
    with LocalServer(tmp_path, model=model) as server:
        client = connect(server)
        batch = submit(client, lines(5))
        client.files.delete(batch.input_file_id)
        model.gate.set()
        assert finish(client, batch).request_counts.completed == 5
        assert list((tmp_path / "work").iterdir()) == []


def test_a_server_without_a_folder_leaves_nothing_behind():
    """It keeps its state in a temporary folder, which is gone afterwards."""
    with LocalServer() as server:
        batch = submit(connect(server), lines(1))
        server.wait_idle()
        assert [one["id"] for one in server.batches()] == [batch.id]
        server.faults = Faults(stuck_in="validating")
        submit(connect(server), lines(1))
        with pytest.raises(TimeoutError, match="1 batches"):
            server.wait_idle(timeout=0.01)
    with pytest.raises(ConfigurationError, match="not running"):
        server.batches()


def test_the_asynchronous_client_works_too(batch_server: LocalServer):
    """The same batch through `AsyncOpenAI`."""

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=batch_server.base_url, api_key=batch_server.api_key) as client:
            data = (line("a") + "\n").encode()
            file = await client.files.create(file=("a.jsonl", data), purpose="batch")
            batch = await client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
            while batch.status != "completed":
                batch = await client.batches.retrieve(batch.id)
            return (await client.files.content(batch.output_file_id)).text

    assert text_of(json.loads(asyncio.run(run()))) == "4"


def test_every_answering_endpoint_takes_batches_and_single_requests(client: openai.OpenAI):
    """Responses and embeddings are answered like chat completions, in a batch and by themselves."""
    assert client.responses.create(model="rules", input="What is 2+3?").output_text == "5"
    vectors = client.embeddings.create(model="rules", input=["a b", "a b", "c"], encoding_format="float").data
    assert vectors[0].embedding == vectors[1].embedding != vectors[2].embedding
    assert sum(value * value for value in vectors[2].embedding) == pytest.approx(1)
    packed = client.embeddings.create(model="rules", input="c").data[0].embedding
    assert packed == pytest.approx(vectors[2].embedding)
    body = {"model": "rules", "input": "What is 2+3?"}
    request = {"custom_id": "a", "method": "POST", "url": "/v1/responses", "body": body}
    batch = client.batches.create(
        input_file_id=upload(client, [json.dumps(request)]), endpoint="/v1/responses", completion_window="24h"
    )
    batch = finish(client, batch)
    answer = results(client, batch.output_file_id)["a"]["response"]["body"]
    assert answer["output"][0]["content"][0]["text"] == "5"
    assert batch.usage.output_tokens == 1
