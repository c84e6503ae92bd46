"""`OpenAIBatchProcessor`: what is refused, what is raised, how it waits, and on which client."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Mapping
from typing import Any

import openai
import pytest

from ractobatch_dagster import (
    BatchFailedError,
    BatchItem,
    BatchNotReadyError,
    BatchWaitTimeoutError,
    ConfigurationError,
    InvalidInputError,
    OpenAIBatchProcessor,
    ProviderError,
)
from ractobatch_dagster.errors import (
    QueueFullError,
    RactoGatewayAPIError,
    RactoGatewayAuthError,
    RactoGatewayError,
    RactoGatewayTimeoutError,
)
from ractobatch_dagster.local import Answer, Faults, LocalServer
from ractobatch_dagster.processor import _Wait
from tests.scripted import PROMPT, Scripted, items, made


def done(called: Any) -> Any:
    """What a method returned, or what its awaited twin comes to."""
    return asyncio.run(called) if asyncio.iscoroutine(called) else called


def test_no_prompt_is_a_value_error(batch_server: LocalServer) -> None:
    """The original's exception with the original's words, before anything is sent."""
    with pytest.raises(ValueError, match="No prompt provided and no default_prompt on the processor") as caught:
        made(batch_server, default_prompt=None).submit_batch(items("a"))
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize("bad", [[], items("a", "a"), items("x" * 65), items("a", extra={"x": float("nan")})])
def test_bad_input_is_refused_before_the_upload(batch_server: LocalServer, bad: list[BatchItem]) -> None:
    """Nothing is uploaded for items that cannot be sent, either way."""
    processor = made(batch_server)
    with pytest.raises(InvalidInputError):
        processor.submit_batch(bad)
    with pytest.raises(InvalidInputError):
        asyncio.run(processor.asubmit_batch(bad))
    assert batch_server.files() == []


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(
    ("shape", "left"), [(Faults(queue_full="429", queue_full_times=9), 0), (Faults(lost_create_replies=9), 1)]
)
def test_one_create_only(batch_server: LocalServer, awaited: bool, shape: Faults, left: int) -> None:
    """One POST /batches on 429 and 500. The file is deleted where no batch can have come of it, and told otherwise."""
    batch_server.faults = shape
    processor = made(batch_server)
    with pytest.raises(RactoGatewayAPIError) as caught:
        done((processor.asubmit_batch if awaited else processor.submit_batch)(items("a")))
    assert batch_server.creates == 1
    assert len([file for file in batch_server.files() if file["purpose"] == "batch"]) == left
    assert ("is not known" in str(caught.value)) == bool(left)
    assert isinstance(caught.value.__cause__, openai.APIStatusError)


def test_input_files_have_names_of_their_own(batch_server: LocalServer) -> None:
    """A file is looked for by its name after an upload of which nobody knows, so no two batches may share one."""
    processor = made(batch_server)
    processor.submit_batch(items("a"))
    processor.submit_batch(items("b"))
    asyncio.run(processor.asubmit_batch(items("c")))
    names = {file["filename"] for file in batch_server.files() if file["purpose"] == "batch"}
    assert len(names) == 3
    assert all(name.endswith(".jsonl") for name in names)


@pytest.mark.parametrize("awaited", [False, True])
def test_a_full_queue_says_when_there_is_room(batch_server: LocalServer, awaited: bool) -> None:
    """What the provider asks to wait is on the error."""
    batch_server.faults = Faults(queue_full="429", queue_full_times=1, retry_after=90)
    processor = made(batch_server)
    with pytest.raises(QueueFullError) as caught:
        done((processor.asubmit_batch if awaited else processor.submit_batch)(items("a")))
    assert caught.value.retry_after == 90.0


@pytest.mark.parametrize("awaited", [False, True])
def test_what_is_safe_to_repeat_is_repeated(batch_server: LocalServer, awaited: bool) -> None:
    """An upload and a look outlast a server that is down for a moment."""
    processor = made(batch_server)
    batch_server.faults = Faults(outage=1)
    job = done((processor.asubmit_batch if awaited else processor.submit_batch)(items("a")))
    batch_server.faults = Faults(outage=1)
    assert done((processor.apoll_status if awaited else processor.poll_status)(job.job_id)).job_id == job.job_id
    assert batch_server.creates == 1


def test_a_refused_batch_says_why(batch_server: LocalServer) -> None:
    """A batch that fails validation is a RuntimeError with the line and the reason."""
    processor = made(batch_server)
    with pytest.raises(RuntimeError, match=r"refused: line 1: .*Streaming.*\(invalid_request\)") as caught:
        processor.submit_and_wait(items("a", extra={"stream": True}), poll_interval_s=0.01)
    assert isinstance(caught.value, BatchFailedError)
    assert caught.value.batch_id == batch_server.batches()[0]["id"]
    assert processor.poll_status(caught.value.batch_id).errors == list(caught.value.issues)


def test_results_before_the_end(batch_server: LocalServer) -> None:
    """Results of a batch that goes on are a RuntimeError, as in the original."""
    batch_server.faults = Faults(stuck_in="validating")
    processor = made(batch_server)
    job = processor.submit_batch(items("a"))
    with pytest.raises(RuntimeError, match="is not completed yet") as caught:
        processor.get_results(job.job_id)
    assert isinstance(caught.value, BatchNotReadyError)


@pytest.mark.parametrize("awaited", [False, True])
def test_a_wait_that_is_too_long(batch_server: LocalServer, awaited: bool) -> None:
    """A TimeoutError that names the job, which goes on."""
    batch_server.faults = Faults(stuck_in="in_progress")
    processor = made(batch_server)
    wait: Any = processor.asubmit_and_wait if awaited else processor.submit_and_wait
    with pytest.raises(TimeoutError) as caught:
        done(wait(items("a"), poll_interval_s=0.01, max_wait_s=0.05))
    (batch,) = batch_server.batches()
    assert isinstance(caught.value, BatchWaitTimeoutError)
    assert batch["id"] in str(caught.value)


class Spoiling(Scripted):
    """A model during whose work the server breaks down for a while."""

    server: LocalServer
    faults = Faults()

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        self.server.faults = self.faults
        return super().answer(endpoint, body)


@pytest.mark.parametrize("awaited", [False, True])
def test_failed_looks_do_not_lose_the_job(awaited: bool) -> None:
    """A few failed looks in a row are waited out, with the client's own retries off."""
    model = Spoiling({"a": "x"})
    model.faults = Faults(outage=3)
    with LocalServer(model=model) as server:
        model.server = server
        processor = made(server, max_retries=0)
        wait: Any = processor.asubmit_and_wait if awaited else processor.submit_and_wait
        assert [result.ok for result in done(wait(items("a"), poll_interval_s=0.01))] == [True]


def test_a_job_that_cannot_be_collected_is_named() -> None:
    """Where the results cannot be downloaded after the wait, the error says how to collect them."""
    model = Spoiling({"a": "x"})
    model.faults = Faults(bad_gateway_downloads=99)
    with LocalServer(model=model) as server:
        model.server = server
        processor = made(server, max_retries=0)
        processor._provider._sleep = lambda _: None
        with pytest.raises(ProviderError, match=r"get_results\('batch_\w+'\) collects it") as caught:
            processor.submit_and_wait(items("a"), poll_interval_s=0.01)
        assert caught.value.status_code == 502
        assert isinstance(caught.value.__cause__, openai.InternalServerError)


def test_looks_that_are_of_no_use_end_the_wait(batch_server: LocalServer) -> None:
    """A refused key ends a wait at once, a rate limit or a server error only after several in a row."""
    job = made(batch_server).submit_batch(items("a"))
    with _Wait(job, 1, 60.0) as wait:
        with pytest.raises(ProviderError):
            wait.failed(ProviderError("no", status_code=401))
        wait.seen(job)
        for status in (429, 503, None, 408):
            assert wait.failed(ProviderError("later", status_code=status)) is False
        with pytest.raises(ProviderError):
            wait.failed(ProviderError("later", status_code=503))


def test_the_client_is_built_once(batch_server: LocalServer) -> None:
    """All calls go through one client, made with the options that were given."""
    processor = made(
        batch_server, organization="org", project="proj", timeout=7.0, max_retries=1, default_headers={"X-Mine": "1"}
    )
    client = processor._provider.client
    processor.submit_and_wait(items("a"), poll_interval_s=0.01)
    assert processor._provider.client is client
    assert (client.organization, client.project, client.timeout, client.max_retries) == ("org", "proj", 7.0, 1)
    assert client.default_headers["X-Mine"] == "1"


def test_a_given_client_is_used(batch_server: LocalServer) -> None:
    """Clients of the user's own are used as they are."""
    options = {"api_key": batch_server.api_key, "base_url": batch_server.base_url}
    mine = openai.OpenAI(**options)
    processor = OpenAIBatchProcessor(default_prompt=PROMPT, client=mine)
    assert processor.submit_and_wait(items("a"), poll_interval_s=0.01)[0].ok
    assert processor._provider.client is mine

    async def run() -> bool:
        async with openai.AsyncOpenAI(**options) as own:
            waiting = OpenAIBatchProcessor(default_prompt=PROMPT, async_client=own)
            return (await waiting.asubmit_and_wait(items("a"), poll_interval_s=0.01))[0].ok

    assert asyncio.run(run())


def test_a_missing_key_is_the_clients_own_error() -> None:
    """Without a key `openai.OpenAIError` is raised as it is, at the first call and not before."""
    processor = OpenAIBatchProcessor(default_prompt=PROMPT)
    for call in (lambda: processor.submit_batch(items("a")), lambda: asyncio.run(processor.asubmit_batch(items("a")))):
        with pytest.raises(openai.OpenAIError) as caught:
            call()
        assert not isinstance(caught.value, RactoGatewayError)


def test_exceptions_have_the_original_names(batch_server: LocalServer) -> None:
    """Code that catches ractogateway's exceptions catches ours, with the status and the cause."""
    processor = made(batch_server, api_key="sk-wrong")
    with pytest.raises(RactoGatewayAuthError, match=r"^\[openai\] ") as caught:
        processor.poll_status("batch_1")
    assert isinstance(caught.value, RactoGatewayError)
    assert isinstance(caught.value.__cause__, openai.AuthenticationError)
    with pytest.raises(RactoGatewayAPIError) as missing:
        made(batch_server).poll_status("batch_1")
    assert missing.value.status_code == 404
    assert issubclass(RactoGatewayTimeoutError, RactoGatewayError)


def test_the_key_is_never_shown(batch_server: LocalServer, caplog: pytest.LogCaptureFixture) -> None:
    """Neither repr, nor messages, nor tracebacks, nor logs hold the key."""
    key = "sk-very-secret"
    processor = made(batch_server, api_key=key)
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderError) as caught:
        processor.submit_and_wait(items("a"))
    shown = [repr(processor), str(processor), repr(processor._account), str(caught.value), repr(caught.value)]
    shown += [caplog.text, "".join(traceback.format_exception(caught.value))]
    assert key not in json.dumps(shown)


def test_timeouts_and_refused_keys_are_no_api_errors() -> None:
    """As in the original the three are siblings: whoever catches API errors first still sees the other two."""
    siblings = (RactoGatewayTimeoutError, RactoGatewayAuthError, RactoGatewayAPIError)
    assert all(issubclass(one, RactoGatewayError) for one in siblings)
    assert [(a, b) for a in siblings for b in siblings if a is not b and issubclass(a, b)] == []
