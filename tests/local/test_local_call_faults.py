"""What goes wrong with single HTTP calls: refused, slow, or done with the reply lost."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import openai
import pytest

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from tests.local.helpers import connect, create, finish, lines, results, submit, upload, wait_for

UPLOAD, CREATE = ("POST", "/v1/files"), ("POST", "/v1/batches")
RETRIEVE, CANCEL = ("GET", "/v1/batches/{id}"), ("POST", "/v1/batches/{id}/cancel")
LOST = [{"done": True, "status": 500}, {"done": True, "closed": True}, {"hold": 1.2}]
LOST_IDS = ["as-500", "closed", "too-late"]


@pytest.fixture
def client(batch_server: LocalServer) -> openai.OpenAI:
    return connect(batch_server)


@pytest.fixture
def hasty(client: openai.OpenAI) -> openai.OpenAI:
    """A client that waits half a second for a reply."""
    return client.with_options(timeout=0.5)


@pytest.mark.parametrize("patience", [0.2, 60.0], ids=["given-up", "waiting"])
def test_a_server_ends_while_a_reply_is_held(patience, caplog):
    """Without a word of it in the log, whether the client has given up or waits for the reply."""
    fault = CallFault("GET", "/v1/batches", hold=600.0)
    with ThreadPoolExecutor(1) as threads:
        with LocalServer(faults=Faults(calls=[fault])) as server:
            waiting = threads.submit(connect(server).with_options(timeout=patience).batches.list)
            wait_for(lambda: waiting.done() if patience < 1 else server.calls)
        with pytest.raises(openai.APIConnectionError):
            waiting.result()
    assert [record.exc_text for record in caplog.records if record.exc_info] == []


@pytest.mark.parametrize("shape", LOST, ids=LOST_IDS)
def test_the_reply_of_an_upload_can_be_lost(batch_server, client, hasty, shape):
    """The client learns nothing, and the file is there."""
    batch_server.faults = Faults(calls=[CallFault(*UPLOAD, times=1, **shape)])
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
        upload(hasty, lines(2))
    assert [file.id for file in client.files.list()] == [batch_server.files()[0]["id"]]
    assert batch_server.read(batch_server.files()[0]["id"]).count(b"\n") == 2


@pytest.mark.parametrize("shape", LOST, ids=LOST_IDS)
def test_the_reply_of_a_create_can_be_lost(batch_server, client, hasty, shape):
    """The client learns nothing, and the batch is there and runs."""
    batch_server.faults = Faults(calls=[CallFault(*CREATE, times=1, **shape)])
    file_id = upload(client, lines(2))
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
        create(hasty, file_id)
    (batch,) = list(client.batches.list())
    assert batch.input_file_id == file_id
    assert finish(client, batch).request_counts.completed == 2


@pytest.mark.parametrize("shape", LOST, ids=LOST_IDS)
def test_the_reply_of_a_cancel_can_be_lost(batch_server, client, hasty, shape):
    """The client learns nothing, and the batch is cancelled."""
    batch_server.faults = Faults(stuck_in="in_progress", calls=[CallFault(*CANCEL, times=1, **shape)])
    batch = submit(client, lines(2))
    with pytest.raises((openai.APIConnectionError, openai.InternalServerError)):
        hasty.batches.cancel(batch.id)
    assert finish(client, batch).status == "cancelled"


@pytest.mark.parametrize("call", [UPLOAD, CREATE], ids=["upload", "create"])
def test_a_call_can_arrive_after_its_client_has_given_up(batch_server, client, call):
    """At first nothing has happened, and then it has, with nobody there who asked for it."""
    file_id = upload(client, lines(2))
    batch_server.faults = Faults(calls=[CallFault(*call, times=1, wait=1.0)])
    impatient = client.with_options(timeout=0.2)
    with pytest.raises(openai.APITimeoutError):
        upload(impatient, lines(3)) if call == UPLOAD else create(impatient, file_id)
    assert (len(batch_server.files()), len(batch_server.batches())) == (1, 0)
    if call == CREATE:
        wait_for(batch_server.batches)
        assert batch_server.batches()[0]["input_file_id"] == file_id
    else:
        wait_for(lambda: len(batch_server.files()) == 2)
        assert batch_server.read(batch_server.files()[1]["id"]).count(b"\n") == 3


def test_a_create_that_waits_is_refused_once_its_file_is_gone(batch_server, client):
    """Deleting the input file fences off a create that is still under way."""
    file_id = upload(client, lines(1))
    batch_server.faults = Faults(calls=[CallFault(*CREATE, wait=0.5)])
    with pytest.raises(openai.APITimeoutError):
        create(client.with_options(timeout=0.1), file_id)
    client.files.delete(file_id)
    with pytest.raises(openai.BadRequestError, match="Cannot find file"):
        create(client, file_id)  # it comes after the first one, which so has been decided as well
    assert batch_server.batches() == []


def test_a_lost_reply_counts_only_when_there_was_something_to_lose(batch_server, client):
    """A create that is refused gets its refusal; the next one is done and its reply lost."""
    batch_server.faults = Faults(not_found_after_upload=1, calls=[CallFault(*CREATE, times=1, done=True, status=500)])
    file_id = upload(client, lines(1))
    with pytest.raises(openai.BadRequestError, match="Cannot find file"):
        create(client, file_id)
    with pytest.raises(openai.InternalServerError):
        create(client, file_id)
    assert len(batch_server.batches()) == 1
    assert create(client, file_id).status == "validating"


def test_a_connection_can_be_closed_before_anything_is_done(batch_server, client):
    """Then there is nothing, and trying again works."""
    batch_server.faults = Faults(calls=[CallFault(*UPLOAD, times=1, closed=True)])
    with pytest.raises(openai.APIConnectionError) as error:
        upload(client, lines(1))
    assert not isinstance(error.value, openai.APITimeoutError)
    assert batch_server.files() == []
    assert upload(client, lines(1)) == batch_server.files()[0]["id"]


def test_one_endpoint_can_be_down_and_the_others_not(batch_server, client):
    """An outage of creating touches neither uploads nor lists."""
    batch_server.faults = Faults(calls=[CallFault(*CREATE, status=503)])
    file_id = upload(client, lines(1))
    for _ in range(3):
        with pytest.raises(openai.InternalServerError) as error:
            create(client, file_id)
        assert error.value.status_code == 503
    assert list(client.batches.list()) == []


@pytest.mark.parametrize("path", ["/v1/batches", "/v1/files"])
def test_a_server_can_be_without_a_list(batch_server, client, path):
    """The list is a 404, and everything else works."""
    batch_server.faults = Faults(calls=[CallFault("GET", path, status=404)])
    with pytest.raises(openai.NotFoundError):
        client.get(path.removeprefix("/v1"), cast_to=object)
    assert finish(client, submit(client, lines(1))).status == "completed"


def test_a_refusal_can_say_when_to_come_back_in_seconds(batch_server, client):
    """`Retry-After` is a number, on any endpoint."""
    batch_server.faults = Faults(calls=[CallFault("GET", "*", status=429, retry_after=7)])
    for ask in (client.batches.list, client.files.list, lambda: client.batches.retrieve("batch_x")):
        with pytest.raises(openai.RateLimitError) as error:
            ask()
        assert error.value.response.headers["retry-after"] == "7"


def test_a_refusal_can_say_when_to_come_back_as_a_date(batch_server, client):
    """`Retry-After` is an HTTP date."""
    batch_server.faults = Faults(calls=[CallFault(status=429, retry_after=100, retry_after_date=True)])
    with pytest.raises(openai.RateLimitError) as error:
        client.batches.list()
    when = parsedate_to_datetime(error.value.response.headers["retry-after"])
    assert 95 < when.timestamp() - time.time() <= 100


def test_a_refusal_can_give_the_key_away(batch_server, client):
    """As some gateways do; whoever logs the message logs the key."""
    message = "Incorrect API key provided: {key}."
    batch_server.faults = Faults(calls=[CallFault(status=401, message=message, code="invalid_api_key", times=1)])
    with pytest.raises(openai.AuthenticationError, match=f"provided: {batch_server.api_key}") as error:
        client.batches.list()
    assert error.value.code == "invalid_api_key"
    assert list(client.batches.list()) == []


@pytest.mark.parametrize("slow", [{"wait": 0.6}, {"hold": 0.6}], ids=["wait", "hold"])
def test_replies_can_be_slow(batch_server, client, slow):
    """A patient client gets the right one."""
    file_id = upload(client, lines(1))
    batch_server.faults = Faults(calls=[CallFault("GET", "*", times=2, **slow)])
    begin = time.monotonic()
    assert client.files.retrieve(file_id).id == file_id
    assert client.files.content(file_id).content.count(b"\n") == 1
    assert time.monotonic() - begin >= 1.2
    begin = time.monotonic()
    client.files.retrieve(file_id)
    assert time.monotonic() - begin < 0.6


def test_some_calls_can_go_well_before(batch_server, client):
    """With `skip` it is the third call that fails, with `times` only that one; then the next fault has its turn."""
    batch_server.faults = Faults(
        calls=[CallFault("GET", "/v1/batches", skip=2, times=1, status=500), CallFault(skip=3, times=1, status=418)]
    )
    seen = []
    for _ in range(6):
        try:
            seen.append(client.batches.with_raw_response.list().status_code)
        except openai.APIStatusError as error:
            seen.append(error.status_code)
    assert seen == [200, 200, 500, 200, 418, 200]


def test_calls_can_fail_by_chance_and_the_seed_decides(batch_server, client):
    """The same seed, the same calls."""

    def failed(seed: int) -> list[bool]:
        batch_server.faults = Faults(seed=seed, calls=[CallFault(status=500, chance=0.5)])
        outcomes = []
        for _ in range(20):
            try:
                client.batches.list()
                outcomes.append(False)
            except openai.InternalServerError:
                outcomes.append(True)
        return outcomes

    first = failed(1)
    assert 0 < sum(first) < 20
    assert first == failed(1) != failed(2)


def test_the_calls_of_one_batch_can_fail(batch_server, client):
    """Those that create it, name it or download its results, and no others."""
    batch_server.faults = Faults(
        batches={
            1: Faults(calls=[CallFault(*CREATE, times=1, status=500), CallFault("GET", "*", status=502)]),
            2: Faults(stuck_in="in_progress"),
        }
    )
    good = finish(client, submit(client, lines(1)))
    with pytest.raises(openai.InternalServerError):
        submit(client, lines(1))
    bad = submit(client, lines(1))
    batch_server.wait_idle()
    bad = batch_server.batches()[1]
    for ask in (lambda: client.batches.retrieve(bad["id"]), lambda: client.files.content(bad["output_file_id"])):
        with pytest.raises(openai.InternalServerError) as error:
            ask()
        assert error.value.status_code == 502
    assert len(results(client, good.output_file_id)) == len(list(client.batches.list())) - 1 == 1
    assert client.batches.cancel(submit(client, lines(1)).id).status == "cancelling"


def test_every_call_is_counted(batch_server, client):
    """Also one that was refused or got no reply; a create is counted whatever the reply was."""
    batch_server.faults = Faults(
        calls=[CallFault(*RETRIEVE, times=1, closed=True), CallFault(*CREATE, times=1, status=500)]
    )
    with pytest.raises(openai.InternalServerError):
        submit(client, lines(1))
    batch = submit(client, lines(1))
    with pytest.raises(openai.APIConnectionError):
        client.batches.retrieve(batch.id)
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=batch_server.base_url, api_key="wrong", max_retries=0).batches.list()
    assert batch_server.calls == {UPLOAD: 2, CREATE: 2, RETRIEVE: 1, ("GET", "/v1/batches"): 1}
    assert batch_server.creates == 2


@pytest.mark.parametrize("wrong", [{}, {"status": 500, "closed": True}, {"done": True}], ids=["empty", "two", "done"])
def test_a_fault_that_makes_no_sense_is_refused(wrong):
    """It does nothing, or two things at once."""
    with pytest.raises(ConfigurationError):
        CallFault("GET", "*", **wrong)
