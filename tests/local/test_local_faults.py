"""Each fault of the local server does what its documentation says, and nothing else."""

from __future__ import annotations

import json
import time

import httpx2
import openai
import pytest

from ractobatch_dagster.local import Faults, LocalServer
from tests.local.helpers import connect, create, finish, lines, raw_lines, results, submit, upload, wait_for


@pytest.fixture
def client(batch_server: LocalServer) -> openai.OpenAI:
    return connect(batch_server)


def test_a_batch_can_expire_half_way(client, batch_server):
    """The share that was answered is in the output file, the rest is `batch_expired`."""
    batch_server.faults = Faults(expire_at=0.7)
    batch = finish(client, submit(client, lines(10)))
    assert batch.status == "expired"
    assert batch.expired_at
    assert len(results(client, batch.output_file_id)) == 7
    errors = results(client, batch.error_file_id)
    assert [one["error"]["code"] for one in errors.values()] == ["batch_expired"] * 3


def test_requests_can_vanish(client, batch_server):
    """A share and exact ids are in neither file."""
    batch_server.faults = Faults(drop=0.2, drop_ids=frozenset({"row-0"}))
    batch = finish(client, submit(client, lines(10)))
    found = results(client, batch.output_file_id)
    assert batch.error_file_id is None
    assert "row-0" not in found
    assert len(found) in (7, 8)


def test_requests_can_fail_with_any_status(client, batch_server):
    """Shares and exact ids end in the error file with a proper error body."""
    batch_server.faults = Faults(fail={429: 0.2, 500: 0.1}, fail_ids={"row-3": 400})
    batch = finish(client, submit(client, lines(10)))
    errors = results(client, batch.error_file_id)
    statuses = sorted(one["response"]["status_code"] for one in errors.values())
    assert errors["row-3"]["response"]["status_code"] == 400
    assert statuses.count(400) == 1
    assert len(statuses) == batch.request_counts.failed in (3, 4)
    assert all(one["response"]["body"]["error"]["message"] and one["error"] is None for one in errors.values())
    assert len(results(client, batch.output_file_id)) == 10 - len(statuses)


def test_requests_can_be_ghosts(client, batch_server):
    """A ghost has status 0, an empty body and no error, and counts as completed."""
    batch_server.faults = Faults(ghost=0.3)
    batch = finish(client, submit(client, lines(10)))
    ghosts = results(client, batch.error_file_id).values()
    assert [one["response"] for one in ghosts] == [{"status_code": 0, "request_id": "", "body": {}}] * 3
    assert batch.request_counts.failed == 0


def test_only_the_first_batches_have_faults(client, batch_server):
    """With `first_attempts` a retry succeeds."""
    batch_server.faults = Faults(drop=1.0, first_attempts=1)
    first = finish(client, submit(client, lines(4)))
    assert (first.output_file_id, first.error_file_id) == (None, None)
    second = finish(client, submit(client, lines(4)))
    assert len(results(client, second.output_file_id)) == 4


def test_the_same_seed_draws_the_same_requests(tmp_path):
    """What goes wrong can be repeated."""

    def failed(folder, seed):
        with LocalServer(tmp_path / folder, faults=Faults(fail={500: 0.3}, seed=seed)) as server:
            client = connect(server)
            batch = finish(client, submit(client, lines(20)))
            return set(results(client, batch.error_file_id))

    assert failed("a", 1) == failed("b", 1) != failed("c", 2)


def test_lines_can_be_duplicated_unknown_or_broken(client, batch_server):
    """Each is done to so many lines of the output file, and to no others."""
    batch_server.faults = Faults(bad_lines=1, duplicate_lines=2, unknown_lines=3)
    batch = finish(client, submit(client, lines(10)))
    bad, good = 0, []
    for raw in raw_lines(client, batch.output_file_id):
        try:
            good.append(json.loads(raw)["custom_id"])
        except json.JSONDecodeError:
            bad += 1
    known = [one for one in good if one.startswith("row-")]
    assert (bad, len(known), len(set(known)), len(good) - len(known)) == (1, 11, 9, 3)


def test_answers_can_hold_unicode_line_separators(client, batch_server):
    """They are raw in the file: splitting it by `splitlines` breaks it, splitting it by line feeds does not."""
    batch_server.faults = Faults(separators=True)
    batch = finish(client, submit(client, lines(3)))
    content = client.files.content(batch.output_file_id).text
    assert len(content.splitlines()) > 3
    assert len(results(client, batch.output_file_id)) == 3


def test_counts_can_lie(client, batch_server):
    """Nothing has failed, they say."""
    batch_server.faults = Faults(lying_counts=True, fail={400: 0.5})
    batch = finish(client, submit(client, lines(4)))
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 4, "failed": 0}
    assert len(results(client, batch.error_file_id)) == 2


def test_odd_objects_can_be_shown(client, batch_server):
    """File ids that are empty strings, upper-case statuses, and metadata that was forgotten."""
    batch_server.faults = Faults(empty_file_ids=True, upper_case_statuses=True, no_metadata=True)
    batch = submit(client, lines(1), metadata={"k": "v"})
    assert (batch.status, batch.output_file_id, batch.metadata) == ("VALIDATING", "", None)
    batch = finish(client, batch)
    assert (batch.status, batch.error_file_id) == ("COMPLETED", "")
    assert batch_server.batches()[0]["metadata"] == {"k": "v"}


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing"])
def test_batches_can_be_stuck(client, batch_server, status):
    """They stay in that status until they are cancelled."""
    batch_server.faults = Faults(stuck_in=status)
    batch = submit(client, lines(2))
    wait_for(lambda: client.batches.retrieve(batch.id).status == status)
    client.batches.cancel(batch.id)
    assert finish(client, batch).status == "cancelled"


def test_a_full_queue_can_refuse(client, batch_server):
    """Creating is answered 429 or 400 so many times, then it works."""
    file_id = upload(client, lines(1))
    batch_server.faults = Faults(queue_full="429", queue_full_times=2, retry_after=3)
    for _ in range(2):
        with pytest.raises(openai.RateLimitError, match="Enqueued token limit") as error:
            create(client, file_id)
        assert error.value.response.headers["retry-after"] == "3"
    assert create(client, file_id).status == "validating"
    batch_server.faults = Faults(queue_full="400", queue_full_times=1)
    with pytest.raises(openai.BadRequestError, match="Enqueued token limit") as error:
        create(client, file_id)
    assert error.value.code == "token_limit_exceeded"
    assert create(client, file_id).status == "validating"


def test_a_full_queue_can_fail_a_batch_later(client, batch_server):
    """The batch is created, and has failed a moment later."""
    batch_server.faults = Faults(queue_full="failed", queue_full_times=1)
    batch = finish(client, submit(client, lines(1)))
    assert (batch.status, batch.errors.data[0].code) == ("failed", "token_limit_exceeded")
    assert batch.errors.data[0].line is None
    assert finish(client, submit(client, lines(1))).status == "completed"


@pytest.mark.parametrize("shape", ["429", "400", "failed"])
def test_the_queue_can_have_a_limit(client, batch_server, shape):
    """While so many batches are open one more is refused; when they have ended it is not."""
    batch_server.faults = Faults(queue_full=shape, queue_limit=1, stuck_in="in_progress")
    file_id = upload(client, lines(1))
    first = create(client, file_id)
    if shape == "failed":
        assert finish(client, create(client, file_id)).errors.data[0].code == "token_limit_exceeded"
    else:
        with pytest.raises(openai.APIStatusError, match="Enqueued token limit"):
            create(client, file_id)
    client.batches.cancel(first.id)
    batch_server.wait_idle()
    assert create(client, file_id).status == "validating"


def test_a_file_can_be_unknown_for_a_while(client, batch_server):
    """Creating says that the file cannot be found, then it works."""
    file_id = upload(client, lines(1))
    batch_server.faults = Faults(not_found_after_upload=1)
    with pytest.raises(openai.BadRequestError, match=f"Cannot find file {file_id}"):
        create(client, file_id)
    assert create(client, file_id).status == "validating"


def test_the_reply_of_a_create_can_be_lost(client, batch_server):
    """The client is told 500, and the batch is there: trying again makes a second one."""
    batch_server.faults = Faults(lost_create_replies=1)
    with pytest.raises(openai.InternalServerError):
        submit(client, lines(1), metadata={"k": "v"})
    assert [batch.metadata for batch in client.batches.list()] == [{"k": "v"}]
    retrying = client.with_options(max_retries=1)
    batch_server.faults = Faults(lost_create_replies=1)
    submit(retrying, lines(1))
    assert (batch_server.creates, len(batch_server.batches())) == (3, 3)


def test_a_new_batch_can_be_missing_in_lists(client, batch_server):
    """Lists lag behind; asking for the batch itself does not."""
    batch_server.faults = Faults(list_lag=0.3)
    batch = submit(client, lines(1))
    begin = time.time()
    assert client.batches.retrieve(batch.id).id == batch.id
    assert list(client.batches.list()) == [] or time.time() - begin > 0.25
    wait_for(lambda: list(client.batches.list()))


def test_downloads_can_fail(client, batch_server):
    """A 502, then a body that breaks off in the middle, then the whole file."""
    batch = finish(client, submit(client, lines(500)))
    batch_server.faults = Faults(bad_gateway_downloads=1, cut_downloads=1)
    with pytest.raises(openai.InternalServerError):
        client.files.content(batch.output_file_id)
    with pytest.raises((openai.APIConnectionError, httpx2.RemoteProtocolError)):
        _ = client.files.content(batch.output_file_id).content
    assert len(results(client, batch.output_file_id)) == 500


def test_the_server_can_be_down_for_a_while(client, batch_server):
    """So many requests of any kind are answered 503."""
    batch_server.faults = Faults(outage=2)
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            client.batches.list()
    assert list(client.batches.list()) == []


def test_without_faults_nothing_goes_wrong(client, batch_server):
    """Setting none takes them all back."""
    batch_server.faults = Faults(outage=100)
    batch_server.faults = Faults()
    assert finish(client, submit(client, lines(1))).status == "completed"
