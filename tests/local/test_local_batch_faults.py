"""What goes wrong with batches as a whole: their creation, their life, how they are shown, their files."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from typing import Any

import httpx2
import openai
import pytest

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import AZURE, Faults, LocalServer
from tests.local.helpers import connect, create, finish, lines, raw_lines, results, submit, upload, wait_for


@pytest.fixture
def client(batch_server: LocalServer) -> openai.OpenAI:
    return connect(batch_server)


def fetch(server: LocalServer, file_id: str, **headers: str) -> httpx2.Response:
    """A download as it is on the wire."""
    headers = {"Authorization": f"Bearer {server.api_key}", **headers}
    return httpx2.get(f"{server.base_url}/files/{file_id}/content", headers=headers)


def test_single_batches_can_have_faults_of_their_own(client, batch_server):
    """By their number; they have those and none of the others', each with counts of its own."""
    own = {
        1: Faults(requests={"row-0": 500}, empty_file_ids=True),
        2: Faults(not_found_after_upload=1, fails_with="billing_hard_limit_reached"),
        3: Faults(),
    }
    batch_server.faults = Faults(drop_ids=frozenset({"row-1"}), batches=own)
    file_id = upload(client, lines(3))
    first, second = finish(client, create(client, file_id)), finish(client, create(client, file_id))
    with pytest.raises(openai.BadRequestError, match="Cannot find file"):
        create(client, file_id)
    third, fourth = finish(client, create(client, file_id)), finish(client, create(client, file_id))
    assert sorted(results(client, first.output_file_id)) == ["row-0", "row-2"]
    assert sorted(results(client, second.output_file_id)) == ["row-1", "row-2"]
    assert (first.error_file_id, third.status, fourth.error_file_id) == (None, "failed", None)
    assert len(results(client, fourth.output_file_id)) == 3
    assert [one.status for one in client.batches.list()] == ["completed", "failed", "completed", "completed"]


def test_faults_of_single_batches_have_no_others_in_them():
    """That would have no meaning."""
    with pytest.raises(ConfigurationError, match="of their own"):
        Faults(batches={0: Faults(batches={1: Faults()})})


def test_only_the_first_batches_have_a_bad_life(client, batch_server):
    """With `first_attempts` the next batch is validated, shown and written as it should be."""
    batch_server.faults = Faults(fails_with="input_modified", upper_case_statuses=True, first_attempts=1)
    first, second = finish(client, submit(client, lines(1))), finish(client, submit(client, lines(1)))
    assert (first.status, second.status) == ("FAILED", "completed")


def test_validation_can_fail_without_a_line(client, batch_server):
    """With any code."""
    batch_server.faults = Faults(fails_with="model_not_found")
    batch = finish(client, submit(client, lines(1)))
    assert [(one.code, one.line) for one in batch.errors.data] == [("model_not_found", None)]
    assert (batch.status, batch.in_progress_at) == ("failed", None)


def test_a_batch_can_expire_when_its_day_is_over(client, batch_server):
    """What was answered in time is in the output file."""
    batch_server.faults = Faults(takes=3.0, day=1.2)
    begin = time.time()
    batch = finish(client, submit(client, lines(10)))
    assert batch.status == "expired"
    assert 1.2 <= time.time() - begin < 2.5
    output, errors = results(client, batch.output_file_id), results(client, batch.error_file_id)
    assert 0 < len(output) < 10
    assert len(output) + len(errors) == 10
    assert {one["error"]["code"] for one in errors.values()} == {"batch_expired"}
    assert batch.expires_at <= batch.expired_at


def test_a_batch_can_go_on_after_its_day(client, batch_server):
    """Its `expires_at` is over, and it is completed later."""
    batch_server.faults = Faults(takes=1.2, day=0, overtime=True)
    batch = submit(client, lines(5))
    assert batch.expires_at == batch.created_at
    batch = finish(client, batch)
    assert (batch.status, batch.request_counts.completed) == ("completed", 5)
    assert batch.completed_at > batch.expires_at


def test_one_batch_can_take_longer_than_the_others(client, batch_server):
    """The second one is done before it."""
    batch_server.faults = Faults(batches={0: Faults(takes=60)})
    slow = submit(client, lines(1))
    assert finish(client, submit(client, lines(1))).status == "completed"
    assert client.batches.retrieve(slow.id).status == "validating"


@pytest.mark.parametrize("faults", [Faults(takes=600), Faults(stuck_in="validating")], ids=["takes", "stuck"])
def test_a_batch_goes_on_once_its_faults_are_taken_back(client, batch_server, faults):
    """What held it up holds it no longer."""
    batch_server.faults = faults
    batch = submit(client, lines(1))
    assert client.batches.retrieve(batch.id).status == "validating"
    batch_server.faults = Faults()
    assert finish(client, batch).status == "completed"


def test_cancelling_can_take_a_while(client, batch_server):
    """The batch is `cancelling` until then."""
    batch_server.faults = Faults(stuck_in="in_progress", cancelling_takes=0.5)
    batch = submit(client, lines(2))
    wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed == 2)
    begin = time.monotonic()
    client.batches.cancel(batch.id)
    assert client.batches.cancel(batch.id).status == "cancelling"
    assert finish(client, batch).status == "cancelled"
    assert time.monotonic() - begin >= 0.5


def test_statuses_can_have_other_words(client, batch_server):
    """Known ones spelt differently, or words nobody knows."""
    batch_server.faults = Faults(statuses={"validating": "queued_for_review", "cancelled": "canceled"}, takes=60)
    batch = submit(client, lines(1))
    assert batch.status == "queued_for_review"
    client.batches.cancel(batch.id)
    wait_for(lambda: client.batches.retrieve(batch.id).status == "canceled")


def test_fields_can_be_null(client, batch_server):
    """Any of them, in every place where a batch is shown."""
    names = {"request_counts", "usage", "model", "errors", "expires_at"}
    batch_server.faults = Faults(null_fields=frozenset(names), fails_with="server_error")
    batch = finish(client, submit(client, lines(1)))
    for shown in (batch, client.batches.list().data[0]):
        assert {getattr(shown, name) for name in names} == {None}
    assert batch_server.batches()[0]["errors"]["data"][0]["code"] == "server_error"


def test_azure_is_different(client, batch_server):
    """An error file of zero bytes, lines without ids, no endpoint; other faults can be added."""
    batch_server.faults = dataclasses.replace(AZURE, fail_ids={"bad": 400})
    assert submit(client, lines(1)).error_file_id == ""
    batch = finish(client, submit(client, lines(2)))
    assert (batch.status, batch.endpoint) == ("completed", None)
    assert client.files.retrieve(batch.error_file_id).bytes == 0
    assert client.files.content(batch.error_file_id).content == b""
    assert all(b'"id":"batch_req' not in raw for raw in raw_lines(client, batch.output_file_id))


def test_so_many_batches_an_hour(client, batch_server):
    """One more is a 429 that says when the hour is over, and then it works."""
    batch_server.faults = Faults(creates_per_hour=2, hour=2.0)
    file_id = upload(client, lines(1))
    create(client, file_id), create(client, file_id)
    with pytest.raises(openai.RateLimitError, match="2 an hour") as error:
        create(client, file_id)
    assert error.value.response.headers["retry-after"] in ("1", "2")
    assert len(batch_server.batches()) == 2

    def created() -> Any:
        with suppress(openai.RateLimitError):
            return create(client, file_id)

    assert wait_for(created).created_at - batch_server.batches()[0]["created_at"] >= 2


def test_a_file_can_be_unknown_for_some_seconds(client, batch_server):
    """However often one asks, and then it is there."""
    batch_server.faults = Faults(not_found_for=0.5)
    file_id = upload(client, lines(1))
    refused = 0

    def created() -> Any:
        nonlocal refused
        with suppress(openai.BadRequestError):
            return create(client, file_id)
        refused += 1
        return None

    wait_for(created)
    assert refused > 1
    assert client.files.retrieve(file_id).id == file_id


def test_a_missing_input_file_can_be_noticed_late(client, batch_server):
    """Creating succeeds, and the batch has failed a moment later."""
    batch_server.faults = Faults(missing_file_accepted=True)
    batch = finish(client, create(client, "file-never"))
    assert batch.status == "failed"
    assert "Cannot find file file-never" in batch.errors.data[0].message
    assert finish(client, submit(client, lines(1))).status == "completed"


def test_lists_can_show_an_older_state(client, batch_server):
    """The batch itself says that it is completed, while lists still know it as it was."""
    batch_server.faults = Faults(list_lag=1.0, takes=2.5)
    batch = submit(client, lines(2))
    (first,) = wait_for(lambda: client.batches.list().data)
    assert (first.status, client.batches.retrieve(batch.id).status) == ("validating", "in_progress")
    finish(client, batch)
    listed = client.batches.list().data[0]
    assert listed.status in ("in_progress", "finalizing")
    assert listed.output_file_id is None
    wait_for(lambda: client.batches.list().data[0].status == "completed")


def test_a_new_file_can_be_missing_in_lists(client, batch_server):
    """Asking for the file itself finds it."""
    batch_server.faults = Faults(file_list_lag=0.7)
    file_id = upload(client, lines(1))
    assert list(client.files.list(purpose="batch")) == []
    assert client.files.retrieve(file_id).id == file_id
    wait_for(lambda: [one.id for one in client.files.list(purpose="batch")] == [file_id])


def test_lists_can_begin_with_the_oldest(client, batch_server):
    """And pages go on from there."""
    batch_server.faults = Faults(oldest_first=True)
    made = [submit(client, lines(1)).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made


def test_more_batches_than_fit_on_a_page(client, batch_server):
    """A page holds a hundred at most; the pages together hold each once."""
    file_id = upload(client, lines(1))
    made = [create(client, file_id).id for _ in range(105)]
    page = client.batches.list(limit=100)
    assert (len(page.data), page.has_more) == (100, True)
    assert [batch.id for batch in page] == made[::-1]
    with pytest.raises(openai.BadRequestError, match="limit"):
        client.batches.list(limit=101)


def test_results_can_be_gone_before_they_are_fetched(client, batch_server):
    """The batch names a file that is a 404 everywhere; its input is still there."""
    batch_server.faults = Faults(output_lifetime=0)
    batch = finish(client, submit(client, lines(1)))
    for ask in (client.files.content, client.files.retrieve):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            ask(batch.output_file_id)
    assert [one.id for one in client.files.list()] == [batch.input_file_id]


def test_results_can_be_gone_after_a_while(client, batch_server):
    """They are there at first."""
    batch_server.faults = Faults(output_lifetime=1.0)
    batch = finish(client, submit(client, lines(1)))
    assert len(results(client, batch.output_file_id)) == 1

    def gone() -> bool:
        return fetch(batch_server, batch.output_file_id).status_code == 404

    wait_for(gone)


@pytest.mark.parametrize("length", [False, True], ids=["with-length", "chunked"])
def test_downloads_can_be_compressed(client, batch_server, length):
    """For a client that takes it, which sees the plain bytes; the length is that of what is sent."""
    batch = finish(client, submit(client, lines(200)))
    plain = batch_server.read(batch.output_file_id)
    batch_server.faults = Faults(gzip_downloads=True, no_content_length=length)
    reply = fetch(batch_server, batch.output_file_id)
    assert (reply.headers["content-encoding"], reply.content == plain) == ("gzip", True)
    assert ("content-length" in reply.headers) is not length
    assert length or int(reply.headers["content-length"]) < len(plain)
    assert len(results(client, batch.output_file_id)) == 200
    reply = fetch(batch_server, batch.output_file_id, **{"Accept-Encoding": "identity"})
    assert ("content-encoding" in reply.headers, reply.content == plain) == (False, True)


def test_downloads_can_be_without_a_length(client, batch_server):
    """They are whole all the same, and one that breaks off is noticed."""
    batch = finish(client, submit(client, lines(200)))
    batch_server.faults = Faults(no_content_length=True, cut_downloads=1)
    with pytest.raises(httpx2.RemoteProtocolError):
        fetch(batch_server, batch.output_file_id)
    reply = fetch(batch_server, batch.output_file_id)
    assert "content-length" not in reply.headers
    assert reply.content == batch_server.read(batch.output_file_id)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_downloads_can_end_too_early_as_if_that_were_all(client, batch_server, packed):
    """Only the file's size tells; the next download is whole."""
    batch = finish(client, submit(client, lines(200)))
    size = client.files.retrieve(batch.output_file_id).bytes
    batch_server.faults = Faults(short_downloads=1, gzip_downloads=packed)
    reply = fetch(batch_server, batch.output_file_id)
    assert (reply.status_code, len(reply.content)) == (200, size // 2)
    assert len(fetch(batch_server, batch.output_file_id).content) == size
