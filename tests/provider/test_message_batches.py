"""Anthropic behind the face of a provider, with its own client over real HTTP."""

from __future__ import annotations

import inspect
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ractobatch_dagster.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderError,
    ProviderNotFoundError,
    QueueFullError,
)
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider import message_batches
from ractobatch_dagster.provider.account import Account
from ractobatch_dagster.provider.calls import Calls
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.connecting import connect, profile_of
from ractobatch_dagster.provider.message_batches import AnthropicProvider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.provider.translate import misses_file
from ractobatch_dagster.requests.body import MESSAGES
from ractobatch_dagster.requests.encode import encode_line
from ractobatch_dagster.store import Store
from tests.anthropic_project import MODEL, provider, sent

KEY = "20261125T213300123-abcd1234/3/1"
RESULTS = "/v1/messages/batches/{id}/results"


@pytest.fixture
def claude(batch_server: LocalServer, tmp_path: Path) -> AnthropicProvider:
    """A provider and its store."""
    return provider(batch_server, Store(tmp_path / "store"))


def lines(count: int) -> bytes:
    """An input file."""
    body = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": 'It is "good", \u2028 {]}.'}]}
    return b"".join(encode_line(f"row-{number:08d}", body, endpoint=MESSAGES) for number in range(count))


def created(claude: AnthropicProvider, count: int = 3) -> RemoteBatch:
    """A batch of so many requests."""
    file = claude.upload(io.BytesIO(lines(count)), "ractobatch-s-00003-1-x.jsonl")
    return create(claude, file.id)


def create(claude: AnthropicProvider, file_id: str) -> RemoteBatch:
    """A batch of what was uploaded."""
    return claude.create(
        input_file_id=file_id, endpoint=MESSAGES, completion_window="24h", metadata={"ractobatch": KEY, "more": "x"}
    )


def test_each_step_is_its_own() -> None:
    """Nothing of OpenAI's calls is left over: whatever asks the client something is asked otherwise."""
    steps = {name for name, one in vars(Calls).items() if inspect.isgeneratorfunction(one) and "client" in _source(one)}
    shared = {
        "_once",
        "_repeated",
        "_downloading_once",
        "_uploaded",
    }  # which ask nothing themselves, or only for another step
    assert steps - shared <= vars(AnthropicProvider).keys()
    assert {"_creating", "_listing", "_told_size"} <= steps - shared


def _source(function: Any) -> str:
    return inspect.getsource(function)


def test_a_batch_from_its_requests_to_its_results(batch_server: LocalServer, claude: AnthropicProvider) -> None:
    """What waits in the store is sent with the key in each id, and is gone afterwards; the results are as they came."""
    file = claude.upload(io.BytesIO(lines(3)), "ractobatch-s-00003-1-x.jsonl")
    assert file.size == len(lines(3))
    assert abs(file.created_at - time.time()) < 30  # by the server's clock
    assert [one.id for one in claude.find_files("ractobatch-s-")] == [file.id]
    assert not claude.find_files("ractobatch-t-")
    made = create(claude, file.id)
    assert (made.total, made.status, made.metadata, made.anonymous) == (3, BatchStatus.IN_PROGRESS, {}, True)
    assert not claude.find_files("ractobatch-")
    batch_server.wait_idle()
    ended = claude.retrieve(made.id)
    assert (ended.status, ended.completed, ended.output_file_id) == (BatchStatus.COMPLETED, 3, made.id)
    assert claude.whose(ended).metadata == {"ractobatch": KEY}
    target = io.BytesIO()
    assert claude.download(made.id, target) == len(target.getvalue())
    found = [json.loads(line) for line in target.getvalue().splitlines()]
    assert {line["custom_id"] for line in found} == {f"row-{n:08d}_{KEY.replace('/', '_')}" for n in range(3)}
    assert [json.loads(line)["params"] for line in lines(3).splitlines()] == [one["body"] for one in sent(batch_server)]


@pytest.mark.parametrize("count", [1, 2, 40_000])
def test_the_body_is_as_long_as_it_says(claude: AnthropicProvider, count: int) -> None:
    """Its length is computed before its first byte is made, whatever the store's chunks are."""
    file = claude.upload(io.BytesIO(data := lines(count)), "x.jsonl")
    body = b"".join(claude._sent(message_batches._path(file.id), b"_s_3_1", float("inf")))
    assert len(json.loads(body)["requests"]) == count
    assert len(body) == len(data) + count * len(b"_s_3_1") + len(b'{"requests":[]}') - 1


def test_a_create_that_takes_too_long_is_broken_off(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a body makes no batch, so what was given up cannot arrive later; whoever gave it up does not know that."""
    monkeypatch.setattr(message_batches, "_SEND_WITHIN", -1.0)
    claude = provider(batch_server, Store(tmp_path / "store"))
    file = claude.upload(io.BytesIO(lines(3)), "x.jsonl")
    with pytest.raises(ProviderError, match="not sent within") as caught:
        create(claude, file.id)
    assert not caught.value.refused
    assert not batch_server.batches()
    assert [one.id for one in claude.find_files("")] == [file.id]


def test_a_create_whose_file_goes_while_it_is_sent_is_broken_off(
    batch_server: LocalServer, claude: AnthropicProvider
) -> None:
    """Somebody has taken over from a writer that slept with half of it sent."""
    file = claude.upload(io.BytesIO(lines(3)), "x.jsonl")
    body = claude._sent(message_batches._path(file.id), b"", float("inf"))
    next(body)
    claude.delete_file(file.id)
    with pytest.raises(ProviderError, match="taken away"):
        list(body)


def test_without_its_input_file_nothing_is_created(batch_server: LocalServer, claude: AnthropicProvider) -> None:
    """Deleted, it fences off whoever comes later."""
    file = claude.upload(io.BytesIO(lines(3)), "x.jsonl")
    claude.delete_file(file.id)
    claude.delete_file(file.id)
    with pytest.raises(ProviderError) as caught:
        create(claude, file.id)
    assert misses_file(caught.value)
    assert not batch_server.creates


def test_a_create_is_never_repeated(batch_server: LocalServer, claude: AnthropicProvider) -> None:
    """After a lost reply nobody knows, and what waits stays."""
    batch_server.faults = Faults(lost_create_replies=1)
    with pytest.raises(ProviderError) as caught:
        created(claude)
    assert (caught.value.status_code, caught.value.refused, batch_server.creates) == (500, False, 1)
    assert claude.find_files("ractobatch-s-")


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (429, QueueFullError, "rate_limit_error"),
        (401, ProviderAuthError, "authentication_error"),
        (413, ProviderError, "request_too_large"),
    ],
)
def test_a_create_that_is_refused(
    batch_server: LocalServer, claude: AnthropicProvider, status: int, kind: type[ProviderError], code: str
) -> None:
    """Each refusal is what it is for OpenAI."""
    fault = CallFault("POST", "/v1/messages/batches", status=status, message="no {key}", retry_after=7)
    batch_server.faults = Faults(calls=[fault])
    with pytest.raises(kind) as caught:
        created(claude)
    assert (caught.value.refused, caught.value.code, caught.value.retry_after) == (True, code, 7)
    assert "[anthropic] creating the batch" in str(caught.value)


def test_no_error_shows_the_key(batch_server: LocalServer, tmp_path: Path) -> None:
    """Also where the server echoes it."""
    batch_server.faults = Faults(calls=[CallFault(status=400, message="Who is {key}?")])
    claude = provider(batch_server, Store(tmp_path), api_key="sk-ant-secret-1234567890")
    with pytest.raises(ProviderError) as caught:
        claude.list_batches()
    assert "sk-ant" not in str(caught.value)


def test_lists_are_read_page_by_page(batch_server: LocalServer, claude: AnthropicProvider) -> None:
    """Newest first, to the last."""
    made = [created(claude, 1).id for _ in range(3)]
    page = claude.list_batches()
    assert [one.id for one in page.batches] == made[::-1]
    assert page.next_after is None
    assert [one.id for one in claude.list_batches(after=made[2]).batches] == made[1::-1]


def test_how_a_batch_has_ended(batch_server: LocalServer, claude: AnthropicProvider) -> None:
    """Cancelled, expired, or completed, by what became of its requests."""
    batch_server.faults = Faults(stuck_in="in_progress")
    assert claude.cancel(created(claude).id).status in (BatchStatus.CANCELLING, BatchStatus.CANCELLED)
    batch_server.faults = Faults(expire_at=0.5)
    expired = created(claude, 2).id
    batch_server.wait_idle()
    assert claude.retrieve(expired).status is BatchStatus.EXPIRED
    assert claude.cancel(expired).status is BatchStatus.EXPIRED  # it stays as it is
    claude.delete_file(expired)
    with pytest.raises(ProviderNotFoundError):
        claude.retrieve(expired)


def test_results_that_are_not_there(batch_server: LocalServer, claude: AnthropicProvider) -> None:
    """Not yet, or no longer: they are not found."""
    batch_server.faults = Faults(stuck_in="in_progress")
    running = created(claude).id
    with pytest.raises(ProviderNotFoundError, match="in_progress"):
        claude.download(running, io.BytesIO())
    batch_server.faults = Faults(output_lifetime=0)
    ended = created(claude).id
    claude.cancel(running)
    batch_server.wait_idle()
    with pytest.raises(ProviderNotFoundError):
        claude.download(ended, io.BytesIO())


@pytest.mark.parametrize(
    "faults",
    [
        Faults(bad_gateway_downloads=2),
        Faults(cut_downloads=2),
        Faults(short_downloads=2, no_content_length=True),
        Faults(gzip_downloads=True),
    ],
    ids=["502", "cut", "short", "gzip"],
)
def test_downloads_that_break_off_are_repeated(
    batch_server: LocalServer, claude: AnthropicProvider, faults: Faults
) -> None:
    """Whole or not at all, as with files."""
    made = created(claude, 1).id
    batch_server.wait_idle()
    batch_server.faults = faults
    target = io.BytesIO()
    claude.download(made, target)
    assert json.loads(target.getvalue())["result"]["type"] == "succeeded"


def test_whose_a_foreign_batch_is(batch_server: LocalServer, claude: AnthropicProvider) -> None:
    """Nobody's of ours."""
    turn = {"role": "user", "content": "x"}
    params = {"model": MODEL, "max_tokens": 5, "messages": [turn]}
    made = claude.client.messages.batches.create(requests=[{"custom_id": "a_b_c", "params": params}])
    batch_server.wait_idle()
    assert claude.whose(claude.retrieve(made.id)).metadata == {}


def test_messages_at_once(claude: AnthropicProvider) -> None:
    """For previews."""
    body = {"model": MODEL, "max_tokens": 50, "messages": [{"role": "user", "content": "Good?"}]}
    assert claude.ask(MESSAGES, body)["type"] == "message"


def test_the_account_tells_the_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its kind or its address; keys and addresses come from variables of their own."""
    assert type(connect(Account("k"), lambda: Store("memory:///"))) is Provider
    by_address = connect(Account("k", "https://api.anthropic.com/v1"), lambda: Store("memory:///"))
    assert by_address.identity == "anthropic https://api.anthropic.com"
    assert profile_of(None, "https://api.anthropic.com").environ == "ANTHROPIC"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "from-outside\n")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    made = connect(Account(kind="anthropic"), lambda: Store("memory:///"))
    assert (made.client.api_key, str(made.client.base_url)) == ("from-outside", "https://api.anthropic.com")
    with pytest.raises(ConfigurationError, match="a key, not a function"):
        _ = connect(Account(lambda: "k", kind="anthropic"), lambda: Store("memory:///")).client


def test_an_address_that_cannot_be_read_is_the_clients_to_refuse() -> None:
    """Who is meant is not the question then, and a password in it is not shown."""
    with pytest.raises(ConfigurationError, match="base URL cannot be read") as caught:
        _ = connect(Account("k", "https://me:secret@[half"), lambda: Store("memory:///")).identity
    assert "secret" not in str(caught.value)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error says what to install."""
    monkeypatch.setitem(sys.modules, "anthropic", None)
    with pytest.raises(ConfigurationError, match=r"ractobatch-dagster\[anthropic\]"):
        _ = connect(Account("k", kind="anthropic"), lambda: Store("memory:///")).identity
