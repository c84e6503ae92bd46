"""Replies that no well-behaved server gives, and what is made of them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from ractobatch_dagster.errors import (
    ProviderAPIError,
    ProviderAuthError,
    ProviderError,
    ProviderNotFoundError,
    QueueFullError,
    RactobatchError,
)
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Account, AsyncProvider, Provider
from tests.provider.scripted import Scripted, scripted_server

BATCH = {"id": "b", "object": "batch", "status": "completed"}


@pytest.fixture
def script() -> Iterator[Scripted]:
    """A server that says what it is told to."""
    with scripted_server() as server:
        yield server


@pytest.fixture
def provider(script: Scripted) -> Provider:
    """That server as a provider, which does not wait."""
    return Provider(Account("k", script.base_url, max_retries=0, timeout=20), sleep=lambda _: None)


@pytest.mark.parametrize(
    ("reply", "kind", "status"),
    [
        ((401, {"error": {"message": "m"}}), ProviderAuthError, 401),
        ((403, {"error": {"message": "m"}}), ProviderAuthError, 403),
        ((404, {"error": {"message": "m"}}), ProviderNotFoundError, 404),
        ((429, {"error": {"message": "m"}}), QueueFullError, 429),
        ((429, {"error": {"message": "m", "code": "insufficient_quota"}}), ProviderAPIError, 429),
        ((400, {"error": {"message": "m", "code": "token_limit_exceeded"}}), QueueFullError, 400),
        ((400, {"error": {"message": "The number of enqueued tokens has surpassed"}}), QueueFullError, 400),
        ((400, {"error": {"message": "m", "code": 400}}), ProviderAPIError, 400),  # vLLM writes numbers
        ((400, {"message": "m", "code": 400}), ProviderAPIError, 400),
        ((400, "<html>bad</html>"), ProviderAPIError, 400),
        ((500, {}), ProviderAPIError, 500),
        ((200, "<html>Welcome</html>"), ProviderAPIError, None),
        ((200, {}), ProviderAPIError, None),
    ],
)
def test_each_refusal_of_a_create_is_told_apart(
    script: Scripted, provider: Provider, reply: Any, kind: type, status: int | None
) -> None:
    """Later, never, or nobody knows: the error's type and status tell which, and it is asked once."""
    script.say("POST /batches", reply)
    with pytest.raises(RactobatchError) as caught:
        provider.create(input_file_id="f", endpoint="/v1/x", completion_window="24h", metadata=None)
    assert type(caught.value) is kind
    assert isinstance(caught.value, ProviderError)
    assert caught.value.status_code == status
    assert caught.value.code is None or isinstance(caught.value.code, str)
    assert script.requests == ["POST /batches"]


def test_creating_is_sent_once_through_a_client_that_would_retry(script: Scripted) -> None:
    """A client of the user's own may retry everything else; each create that arrives is billed."""
    script.say("POST /batches", (500, {}))
    mine = openai.OpenAI(base_url=script.base_url, api_key="k", max_retries=5)
    with pytest.raises(ProviderError):
        Provider(client=mine).create(input_file_id="f", endpoint="/v1/x", completion_window="24h", metadata=None)
    assert script.requests == ["POST /batches"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"status": BatchStatus.COMPLETED, "total": 0, "metadata": {}, "issues": ()}),
        ({"status": "COMPLETED"}, {"status": BatchStatus.COMPLETED}),
        ({"status": None}, {"status": BatchStatus.IN_PROGRESS}),
        ({"output_file_id": "", "error_file_id": ""}, {"output_file_id": None, "error_file_id": None}),
        ({"request_counts": None}, {"total": 0}),
        ({"request_counts": {"total": 3, "completed": None}}, {"total": 3, "completed": 0, "failed": 0}),
        ({"request_counts": "3/3"}, {"total": 0}),
        ({"metadata": {"a": 1}}, {"metadata": {"a": "1"}}),
        ({"metadata": "nonsense"}, {"metadata": {}}),
        ({"created_at": "2024-01-01"}, {"created_at": 0.0}),
        ({"errors": "nonsense"}, {"issues": ()}),
        ({"errors": {"data": [{"message": "m", "line": "3"}]}}, {}),
    ],
)
def test_a_batch_is_read_as_the_client_hands_it_over(
    script: Scripted, provider: Provider, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    """Servers leave fields out, empty them, and write them their own way."""
    script.say("GET /batches/b", (200, {**BATCH, **given}))
    batch = provider.retrieve("b")
    assert {name: getattr(batch, name) for name in expected} == expected
    assert batch.job_info("openai").job_id == "b"


@pytest.mark.parametrize("status", [400, 409])
def test_cancelling_what_has_ended_is_no_error(script: Scripted, provider: Provider, status: int) -> None:
    """The batch is looked at instead."""
    script.say("POST /batches/b/cancel", (status, {"error": {"message": "Cannot cancel."}}))
    script.say("GET /batches/b", (200, BATCH))
    assert provider.cancel("b").status is BatchStatus.COMPLETED


@pytest.mark.parametrize("claimed", [0, 3, None, "3"])
def test_only_too_few_bytes_are_a_broken_download(script: Scripted, provider: Provider, claimed: Any) -> None:
    """A server that writes without a length and tells another size, or none, has still sent the file."""
    script.chunked = True
    script.say("GET /files/f/content", (200, b"{}\n"))
    script.say("GET /files/f", (200, {"id": "f", "object": "file", "bytes": claimed}))
    assert provider.download("f", io.BytesIO()) == 3


def test_too_few_bytes_are_noticed(script: Scripted, provider: Provider) -> None:
    """Where the reply has no length, the file's own size tells that something is missing."""
    script.chunked = True
    script.say("GET /files/f/content", (200, b"{}"), (200, b"{}\n"))
    script.say("GET /files/f", (200, {"id": "f", "object": "file", "bytes": 3}))
    target = io.BytesIO()
    assert provider.download("f", target) == 3
    assert target.getvalue() == b"{}\n"


def test_a_password_in_the_address_is_not_shown() -> None:
    """Not in a repr, and not in the identity that goes into hashes and records."""
    account = Account("secret-key", "https://me:secret-word@example.com/v1")
    provider = Provider(account)
    for text in (repr(account), str(account), repr(provider), provider.identity, repr(AsyncProvider(account))):
        assert "secret" not in text
    assert provider.identity == "compatible https://example.com/v1"


def test_who_answers_is_the_address_but_for_the_local_server() -> None:
    """The identity goes into every request's hash, so the local server's port must not."""
    assert Provider(Account("k", "https://api.openai.com/v1/")).identity == "openai https://api.openai.com/v1"
    assert Provider(Account("k", "http://127.0.0.1:1/v1", kind="local")).identity == "local"
