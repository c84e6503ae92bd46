"""The Batch API through the real client over real HTTP, synchronously and not."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest

from ractobatch_dagster.errors import (
    ProviderAPIError,
    ProviderAuthError,
    ProviderError,
    ProviderNotFoundError,
    ProviderTimeoutError,
    QueueFullError,
)
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from ractobatch_dagster.provider.client import Account, AsyncProvider, Provider

LINE = (
    b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions",'
    b'"body":{"model":"m","messages":[{"role":"user","content":"hi"}]}}\n'
)


def account(server: LocalServer, **options: Any) -> Account:
    return Account(**{"api_key": server.api_key, "base_url": server.base_url, **options})


class Both:
    """A provider called one way or the other; the tests are the same for both."""

    def __init__(self, kind: str, given: Account) -> None:
        self.kind, self.given = kind, given
        self.pauses: list[float] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self.kind == "async":
                return asyncio.run(self._awaited(name, *arguments, **named))
            return getattr(Provider(self.given, sleep=self.pauses.append), name)(*arguments, **named)

        return call

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    async def _awaited(self, name: str, *arguments: Any, **named: Any) -> Any:
        provider = AsyncProvider(self.given, sleep=self._pause)
        try:
            return await getattr(provider, name)(*arguments, **named)
        finally:
            await provider.close()


@pytest.fixture(params=["sync", "async"])
def both(request: pytest.FixtureRequest, batch_server: LocalServer) -> Both:
    return Both(request.param, account(batch_server))


def create(provider: Any, file_id: str, **metadata: str) -> Any:
    return provider.create(
        input_file_id=file_id, endpoint="/v1/chat/completions", completion_window="24h", metadata=metadata or None
    )


def test_a_whole_life(batch_server: LocalServer, both: Both) -> None:
    """Upload, create, look, download, delete."""
    file_id = both.upload(io.BytesIO(LINE), "mine.jsonl").id
    assert batch_server.read(file_id) == LINE
    created = create(both, file_id, k="v")
    batch_server.wait_idle()
    ended = both.retrieve(created.id)
    assert (ended.status, ended.total, ended.completed, ended.metadata) == ("completed", 1, 1, {"k": "v"})
    target = io.BytesIO(b"before")
    target.seek(0, io.SEEK_END)
    size = both.download(ended.output_file_id, target)
    assert target.getvalue() == b"before" + batch_server.read(ended.output_file_id)
    assert size == len(target.getvalue()) - 6
    both.delete_file(file_id)
    both.delete_file(file_id)  # gone already
    assert file_id not in [file["id"] for file in batch_server.files()]


def test_an_upload_is_repeated_whole(batch_server: LocalServer, both: Both) -> None:
    """An upload that fails in passing is repeated from the first byte."""
    batch_server.faults = Faults(outage=1)
    assert batch_server.read(both.upload(io.BytesIO(LINE), "mine.jsonl").id) == LINE


@pytest.mark.parametrize(
    ("faults", "kind", "status"),
    [
        (Faults(lost_create_replies=9), ProviderAPIError, 500),
        (Faults(queue_full="429", queue_full_times=9), QueueFullError, 429),
        (Faults(queue_full="400", queue_full_times=9), QueueFullError, 400),
    ],
)
def test_create_is_sent_once(
    batch_server: LocalServer, both: Both, faults: Faults, kind: type[ProviderError], status: int
) -> None:
    """Whatever the reply, there is exactly one POST /batches, for each one that arrives is billed."""
    file_id = both.upload(io.BytesIO(LINE), "mine.jsonl").id
    batch_server.faults = faults
    with pytest.raises(kind) as caught:
        create(both, file_id)
    assert type(caught.value) is kind
    assert caught.value.status_code == status
    assert isinstance(caught.value.__cause__, openai.APIStatusError)
    assert batch_server.creates == 1


def test_a_file_that_is_not_visible_yet(batch_server: LocalServer, both: Both) -> None:
    """A refusal that says only that the new file cannot be found is waited out."""
    file_id = both.upload(io.BytesIO(LINE), "mine.jsonl").id
    batch_server.faults = Faults(not_found_after_upload=1)
    create(both, file_id)
    assert len(batch_server.batches()) == 1
    assert batch_server.creates == 2
    assert both.pauses == [0.5]


@pytest.mark.parametrize("faults", [Faults(cut_downloads=1), Faults(bad_gateway_downloads=1)])
def test_a_download_is_whole(batch_server: LocalServer, both: Both, faults: Faults) -> None:
    """A download that breaks off or fails in passing is repeated, and nothing of the first try is left."""
    file_id = both.upload(io.BytesIO(LINE * 5), "mine.jsonl").id
    batch_server.faults = faults
    target = io.BytesIO()
    both.download(file_id, target)
    assert target.getvalue() == LINE * 5


def test_a_download_that_never_works(batch_server: LocalServer) -> None:
    """After four tries it is an error, and the target is as it was."""
    both = Both("sync", account(batch_server, max_retries=0))
    file_id = both.upload(io.BytesIO(LINE), "mine.jsonl").id
    batch_server.faults = Faults(cut_downloads=9)
    target = io.BytesIO()
    with pytest.raises(ProviderError, match="broke"):
        both.download(file_id, target)
    assert target.getvalue() == b""
    assert len(both.pauses) == 3


def test_what_is_not_there(both: Both) -> None:
    """A batch or file that does not exist is told apart, and not asked for again."""
    for call in (lambda: both.retrieve("batch_none"), lambda: both.download("file-none", io.BytesIO())):
        with pytest.raises(ProviderNotFoundError) as caught:
            call()
        assert caught.value.status_code == 404
        assert isinstance(caught.value.__cause__, openai.NotFoundError)
    assert both.pauses == []


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_wrong_key(batch_server: LocalServer, kind: str) -> None:
    """A refused key is told apart, and not shown."""
    provider = Both(kind, account(batch_server, api_key="sk-secret-and-wrong"))
    with pytest.raises(ProviderAuthError) as caught:
        provider.retrieve("batch_1")
    assert caught.value.status_code == 401
    assert "sk-secret" not in f"{caught.value} {caught.value!r}"


def test_no_answer_in_time() -> None:
    """An answer that does not come in time is a timeout of both our and Python's kind."""
    over = threading.Event()
    with replying(lambda _: over.wait(10)) as address, pytest.raises(ProviderTimeoutError) as caught:
        Provider(Account("k", address, timeout=0.2, max_retries=0)).retrieve("batch_1")
    over.set()
    assert isinstance(caught.value, TimeoutError)
    assert isinstance(caught.value.__cause__, openai.APITimeoutError)


def test_nobody_there() -> None:
    """A server that cannot be reached is an error without a status: nobody knows what it did."""
    with pytest.raises(ProviderError) as caught:
        Provider(Account("k", "http://127.0.0.1:9/v1", max_retries=0)).retrieve("batch_1")
    assert caught.value.status_code is None
    assert isinstance(caught.value.__cause__, openai.APIConnectionError)


def test_cancel_and_list(batch_server: LocalServer) -> None:
    """Cancelling twice is no error; a list has pages; files are found by name."""
    batch_server.faults = Faults(stuck_in="in_progress")
    provider = Provider(account(batch_server))
    ids = [create(provider, provider.upload(io.BytesIO(LINE), "mine.jsonl").id).id for _ in range(3)]
    assert provider.cancel(ids[0]).id == ids[0]
    for batch_id in ids[1:]:
        provider.cancel(batch_id)
    batch_server.wait_idle()
    assert provider.cancel(ids[0]).status == "cancelled"
    page = provider.list_batches()
    assert {one.id for one in page.batches} == set(ids)
    assert page.next_after is None
    assert [one.id for one in provider.list_batches(after=page.batches[0].id).batches] == [
        one.id for one in page.batches[1:]
    ]
    assert len(provider.find_files("mine.jsonl")) == 3
    assert provider.find_files("other.jsonl") == []
    with pytest.raises(ProviderNotFoundError):
        provider.cancel("batch_none")


def test_a_list_of_many_pages(batch_server: LocalServer) -> None:
    """More than a hundred batches come in several pages, each once."""
    provider = Provider(account(batch_server))
    file_id = provider.upload(io.BytesIO(LINE), "mine.jsonl").id
    ids = {create(provider, file_id).id for _ in range(101)}
    first = provider.list_batches()
    assert first.next_after == first.batches[-1].id
    second = provider.list_batches(after=first.next_after)
    assert second.next_after is None
    assert {one.id for one in (*first.batches, *second.batches)} == ids


def test_a_given_client_is_used_and_left_open(batch_server: LocalServer) -> None:
    """A client of the user's own is used as it is, and not closed."""
    mine = openai.OpenAI(api_key=batch_server.api_key, base_url=batch_server.base_url)
    assert Provider(client=mine).client is mine

    async def run() -> bool:
        own = openai.AsyncOpenAI(api_key=batch_server.api_key, base_url=batch_server.base_url)
        provider = AsyncProvider(client=own)
        assert provider.client is own
        await provider.upload(io.BytesIO(LINE), "mine.jsonl")
        await provider.close()
        try:
            return own.is_closed()
        finally:
            await own.close()

    assert asyncio.run(run()) is False


def test_no_key() -> None:
    """Without a key the client's own error is raised, as ractogateway does."""
    with pytest.raises(openai.OpenAIError, match="api_key"):
        Provider(Account(base_url="http://127.0.0.1:9/v1")).retrieve("batch_1")


def test_other_exceptions_pass_through(both: Both) -> None:
    """What is neither the client's nor the HTTP library's is not touched, and nothing is tried again."""

    class Broken(io.BytesIO):
        def write(self, _: Any) -> int:
            raise KeyError("mine")

    file_id = both.upload(io.BytesIO(LINE), "mine.jsonl").id
    with pytest.raises(KeyError, match="mine"):
        both.download(file_id, Broken())
    assert both.pauses == []


Reply = Callable[[BaseHTTPRequestHandler], object]


@contextmanager
def replying(reply: Reply) -> Iterator[str]:
    """A server that answers every GET and POST in one way."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            reply(self)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def respond(handler: BaseHTTPRequestHandler, content: bytes, mime: str, length: int | None) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", mime)
    if length is None:
        handler.send_header("Connection", "close")
        handler.close_connection = True
    else:
        handler.send_header("Content-Length", str(length))
    handler.end_headers()
    handler.wfile.write(content)


def test_a_web_page_is_no_answer() -> None:
    """A log-in page in place of the API is an error that hints at the address, for files and batches."""
    page = b"<html>Please log in</html>"
    with replying(lambda handler: respond(handler, page, "text/html", len(page))) as address:
        provider = Provider(Account("k", address))
        for call in (
            lambda: provider.retrieve("batch_1"),
            lambda: provider.upload(io.BytesIO(LINE), "mine.jsonl"),
            lambda: create(provider, "file-1"),
        ):
            with pytest.raises(ProviderError, match="Is the base URL right"):
                call()


def test_a_reply_without_a_length_is_checked() -> None:
    """Where the reply ends with the connection, the file's own size tells whether it was cut."""
    content, told = b"x" * 10, 10

    def reply(handler: BaseHTTPRequestHandler) -> None:
        if handler.path.endswith("/content"):
            respond(handler, content, "application/octet-stream", None)
        else:
            described = b'{"id":"file-1","object":"file","bytes":%d}' % told
            respond(handler, described, "application/json", len(described))

    with replying(reply) as address:
        provider = Provider(Account("k", address, max_retries=0), sleep=lambda _: None)
        assert provider.download("file-1", io.BytesIO()) == 10
        told = 11
        with pytest.raises(ProviderError, match="broke off after 10 of 11 bytes"):
            provider.download("file-1", io.BytesIO())


def test_a_download_that_is_shorter_than_the_file_is_noticed(batch_server: LocalServer, both: Both) -> None:
    """Even where the reply's own length says that all is well: the provider knows how long its file is."""
    file_id = both.upload(io.BytesIO(LINE * 5), "mine.jsonl").id
    batch_server.faults = Faults(short_downloads=1)
    target = io.BytesIO()
    assert both.download(file_id, target) == len(LINE) * 5
    assert target.getvalue() == LINE * 5


def test_a_cut_download_is_not_taken_for_whole_while_the_size_cannot_be_asked(
    batch_server: LocalServer, both: Both
) -> None:
    """Too many requests is no answer to how long the file is: the download starts over."""
    file_id = both.upload(io.BytesIO(LINE * 5), "mine.jsonl").id
    busy = CallFault("GET", "/v1/files/{id}", status=429, times=1)
    batch_server.faults = Faults(short_downloads=1, no_content_length=True, calls=[busy])
    assert both.download(file_id, io.BytesIO()) == len(LINE) * 5
