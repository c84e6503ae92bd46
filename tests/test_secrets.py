"""No key, password or header value is in anything that is raised, shown or logged, whatever the server echoes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import logging
import threading
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import ConfigurationError, ProviderError, RactobatchError
from ractobatch_dagster.processor import OpenAIBatchProcessor
from ractobatch_dagster.provider.client import Account, AsyncProvider, Provider
from ractobatch_dagster.secrecy import MASK, redacted, secrets_in
from tests.scripted import items

KEY = "zz_recognisable_key_1"
TENANT = "tenant-recognisable-2"
PASSWORD = "word/recognisable 3"
QUOTED = "word%2Frecognisable%203"
LOGIN = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
TOLD = (KEY, TENANT, PASSWORD, QUOTED, LOGIN)


class Echo:
    """A server that answers everything with a status of its own, and repeats the keys it was sent."""

    def __init__(self) -> None:
        self.status = 401
        self.shape = "error"
        self.address = ""

    def body(self, headers: Any) -> bytes:
        heard = f"{headers['Authorization']} {headers['X-Tenant']} {KEY} http://me:{QUOTED}@here/v1"
        if LOGIN in heard:
            heard += f" {PASSWORD}"
        if self.shape == "page":
            return f"<html>{'.' * 150} {heard} for {heard}</html>".encode()
        if self.shape == "failed":
            return json.dumps({"id": "b", "status": "failed", "errors": {"data": [{"message": heard}]}}).encode()
        if self.shape == "broken":
            return f'{{"id": "{heard}'.encode()
        return json.dumps({"error": {"message": f"Incorrect API key provided: {heard}.", "code": heard}}).encode()


@pytest.fixture
def echo() -> Iterator[Echo]:
    """The server."""
    server_says = Echo()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            data = server_says.body(self.headers)
            self.send_response(server_says.status)
            self.send_header("Content-Type", "text/html" if server_says.shape == "page" else "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_DELETE = do_GET  # noqa: N815

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server_says.address = f"127.0.0.1:{server.server_port}/v1"
    try:
        yield server_says
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def account(echo: Echo, *, login: bool = False) -> Account:
    address = f"http://me:{QUOTED}@{echo.address}" if login else f"http://{echo.address}"
    return Account(KEY, address, max_retries=1, default_headers={"X-Tenant": f"Token {TENANT}"})


CREATE: dict[str, Any] = {"input_file_id": "f", "endpoint": "/v1/x", "completion_window": "24h", "metadata": None}

CALLS: dict[str, Callable[[Any], Any]] = {
    "upload": lambda provider: provider.upload(io.BytesIO(b"{}\n"), "a.jsonl"),
    "create": lambda provider: provider.create(**CREATE),
    "retrieve": lambda provider: provider.retrieve("b"),
    "download": lambda provider: provider.download("f", io.BytesIO()),
    "delete": lambda provider: provider.delete_file("f"),
    "cancel": lambda provider: provider.cancel("b"),
    "list": lambda provider: provider.list_batches(),
    "find": lambda provider: provider.find_files("a"),
}

AWAITED = ("upload", "create", "retrieve", "download", "delete")


def sync_call(name: str, given: Account) -> None:
    CALLS[name](Provider(given, sleep=lambda _: None))


def async_call(name: str, given: Account) -> None:
    async def pause(_: float) -> None:
        return None

    async def run() -> None:
        provider = AsyncProvider(given, sleep=pause)
        try:
            await CALLS[name](provider)
        finally:
            await provider.close()

    asyncio.run(run())


def shown(error: BaseException) -> str:
    """Everything that a person or a tracker may see of an exception, contexts that Python hides included."""
    texts = ["".join(traceback.format_exception(error)), repr(getattr(error, "code", None))]
    one: BaseException | None = error
    while one is not None:
        texts += [str(one), repr(one), repr(getattr(one, "body", None))]
        one = one.__cause__ or one.__context__
    return "\n".join(texts)


def nothing_told(text: str) -> None:
    assert [secret for secret in TOLD if secret in text] == []
    assert "recognisable" not in text


@pytest.mark.parametrize("login", [False, True], ids=["plain", "login"])
@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 429, 500])
@pytest.mark.parametrize(
    ("call", "name"),
    [*((sync_call, name) for name in CALLS), *((async_call, name) for name in AWAITED)],
    ids=[*CALLS, *(f"a{name}" for name in AWAITED)],
)
def test_what_a_server_echoes_is_not_passed_on(
    echo: Echo, caplog: pytest.LogCaptureFixture, call: Any, name: str, status: int, login: bool
) -> None:
    """Neither by messages nor tracebacks nor the logs of the client; the rest of what it says is."""
    echo.status = status
    if name in ("delete", "adelete") and status == 404:
        return
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderError) as caught:
        call(name, account(echo, login=login))
    nothing_told(shown(caught.value) + caplog.text)
    assert "Incorrect API key provided" in str(caught.value)
    assert MASK in str(caught.value)


@pytest.mark.parametrize("shape", ["page", "broken"])
@pytest.mark.parametrize("name", ["upload", "create", "retrieve", "cancel", "find"])
def test_what_is_no_answer_is_quoted_without_keys(echo: Echo, name: str, shape: str) -> None:
    """Nor is a key in the piece of a web page that a message quotes, also where the piece ends within it."""
    echo.status, echo.shape = 200, shape
    if (name, shape) == ("find", "page"):
        echo.status = 500
    with pytest.raises(ProviderError) as caught:
        sync_call(name, account(echo))
    nothing_told(shown(caught.value))


def processor(echo: Echo) -> OpenAIBatchProcessor:
    return OpenAIBatchProcessor(
        default_prompt="p",
        api_key=KEY,
        base_url=f"http://me:{QUOTED}@{echo.address}",
        max_retries=0,
        default_headers={"X-Tenant": TENANT},
    )


@pytest.mark.parametrize("status", [401, 500])
@pytest.mark.parametrize(
    "call",
    [
        lambda one: one.submit_batch(items("a")),
        lambda one: one.submit_and_wait(items("a")),
        lambda one: one.poll_status("b"),
        lambda one: one.get_results("b"),
        lambda one: asyncio.run(one.asubmit_batch(items("a"))),
        lambda one: asyncio.run(one.asubmit_and_wait(items("a"))),
        lambda one: asyncio.run(one.apoll_status("b")),
        lambda one: asyncio.run(one.aget_results("b")),
    ],
    ids=["submit", "wait", "poll", "results", "asubmit", "await", "apoll", "aresults"],
)
def test_the_processor_tells_nothing(echo: Echo, caplog: pytest.LogCaptureFixture, call: Any, status: int) -> None:
    """All of its methods, awaited or not."""
    echo.status = status
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderError) as caught:
        call(processor(echo))
    nothing_told(shown(caught.value) + caplog.text)
    assert "Incorrect API key provided" in str(caught.value)


def test_the_reasons_of_a_refused_batch_tell_nothing(echo: Echo) -> None:
    """A gateway may quote its own key in them."""
    echo.status, echo.shape = 200, "failed"
    one = processor(echo)
    with pytest.raises(RactobatchError, match="was refused") as caught:
        one.get_results("b")
    nothing_told(shown(caught.value))
    nothing_told(repr(one.poll_status("b").errors))


def test_a_create_that_is_in_doubt_tells_nothing(echo: Echo) -> None:
    """The advice that is added to the message is added to the redacted one."""
    echo.status = 500
    one = Provider(account(echo))
    with pytest.raises(ProviderError) as caught:
        one.create(**CREATE)
    assert not caught.value.refused
    nothing_told(shown(caught.value))


def test_what_holds_no_key_is_chained(echo: Echo) -> None:
    """The client's own exception is the cause as long as it gives nothing away."""
    echo.status = 401
    with pytest.raises(ProviderError) as caught:
        Provider(Account("another", f"http://{echo.address}")).retrieve("b")
    assert caught.value.__cause__ is None  # the server quotes a password in an address
    echo.body = lambda _: b'{"error": {"message": "Incorrect API key provided: sk-ab***********yz."}}'  # type: ignore[method-assign]
    with pytest.raises(ProviderError, match=r"sk-ab\*+yz") as caught:
        Provider(Account(KEY, f"http://{echo.address}")).retrieve("b")
    assert isinstance(caught.value.__cause__, openai.AuthenticationError)


def test_reprs_tell_nothing(echo: Echo) -> None:
    """Of the account, the providers and the processor."""
    given = account(echo, login=True)
    providers = [Provider(given), AsyncProvider(given), Provider(given).hurried(1, 1)]
    for one in (given, *providers, processor(echo)):
        nothing_told(f"{one!r} {one}")
    nothing_told(providers[0].identity)


def test_a_client_of_ones_own_tells_nothing(echo: Echo) -> None:
    """Its key and headers are hidden as those of an account."""
    mine = openai.OpenAI(api_key=KEY, base_url=f"http://{echo.address}", default_headers={"X-Tenant": TENANT})
    with pytest.raises(ProviderError) as caught:
        Provider(client=mine).retrieve("b")
    nothing_told(shown(caught.value))


def test_a_key_made_by_a_function_tells_nothing(echo: Echo) -> None:
    """A client may ask for its key anew for each call."""
    mine = openai.OpenAI(api_key=lambda: KEY, base_url=f"http://{echo.address}")
    with pytest.raises(ProviderError) as caught:
        Provider(client=mine).retrieve("b")
    assert KEY not in shown(caught.value)


@pytest.mark.parametrize("from_environment", [False, True])
def test_a_line_feed_after_the_key_is_taken_off(
    echo: Echo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, from_environment: bool
) -> None:
    """A mounted secret often ends in one; sent, it would be an error that the HTTP library logs with the key."""
    if from_environment:
        monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    given = Account(None if from_environment else KEY + "\n", f"http://{echo.address}", max_retries=0)
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderError, match="Incorrect API key") as caught:
        Provider(given).retrieve("b")
    assert KEY not in shown(caught.value) + caplog.text


def test_a_password_in_the_address_of_the_environment_is_not_logged(
    echo: Echo, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The HTTP library logs whole addresses at level INFO; the login goes into a header instead."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://me:{QUOTED}@{echo.address}")
    heard: list[str] = []
    echo.body = lambda headers: heard.append(headers["Authorization"]) or b"{}"  # type: ignore[method-assign, func-returns-value]
    with caplog.at_level(logging.DEBUG), pytest.raises(ProviderError):
        Provider(Account(KEY)).retrieve("b")
    assert heard == [f"Basic {LOGIN}"]
    assert "HTTP Request" in caplog.text
    nothing_told(caplog.text)


@pytest.mark.parametrize(
    "given",
    [
        Account("zz_recognisable_ключ", "http://127.0.0.1:9/v1"),
        Account("zz_recognisable\nkey", "http://127.0.0.1:9/v1"),
        Account(KEY, "http://me:word/recognisable@127.0.0.1:9/v1"),
        Account(KEY, "http://[me:recognisable@127.0.0.1:9/v1"),
    ],
    ids=["letters", "lines", "password", "brackets"],
)
def test_what_cannot_be_used_is_not_shown(given: Account, caplog: pytest.LogCaptureFixture) -> None:
    """A key that is none, or an address that cannot be read, is refused before anything is sent."""
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigurationError) as caught:
        Provider(given).retrieve("b")
    nothing_told(shown(caught.value) + caplog.text + repr(given))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("key sk-abcdef123 was refused", f"key {MASK} was refused"),
        ("sk-proj-abc_DEF-123: no", f"{MASK}: no"),
        ("Authorization: Bearer abc.def-ghi=, sorry", f"Authorization: Bearer {MASK}, sorry"),
        ("b'Bearer abcdefgh\\n'", f"b'Bearer {MASK}\\n'"),
        ("Basic bWU6c2VjcmV0LXdvcmQ=", f"Basic {MASK}"),
        ("at https://me:pa@ss@host/v1?x=1", f"at https://{MASK}@host/v1?x=1"),
        ("a@b.org has risk-assessment and sk-12***yz", "a@b.org has risk-assessment and sk-12***yz"),
        ("https://host/v1/@x", "https://host/v1/@x"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, expected: str) -> None:
    """Keys by their beginning, what follows `Bearer`, and logins in addresses; the rest stays."""
    assert redacted(text) == expected
    assert redacted(redacted(text)) == expected


@given(st.lists(st.text(st.characters(codec="ascii", categories=("L", "N", "P")), min_size=8), min_size=1), st.text())
def test_no_secret_survives(secrets: list[str], text: str) -> None:
    """Whatever the secrets and the text between them."""
    hidden = secrets_in(secrets)
    told = redacted(text.join(secrets) + text, hidden)
    assert [secret for secret in hidden if secret in told.replace(MASK, "\n")] == []


def test_a_secret_within_another_leaves_nothing_of_it() -> None:
    """The longer of two is hidden first, whole."""
    assert redacted("got abcdefgh-ijklmnop", {"abcdefgh", "abcdefgh-ijklmnop"}) == f"got {MASK}"


@pytest.mark.parametrize("short", ["", "k", "ollama", None, 5, b"bytes-that-are-long"])
def test_short_texts_are_no_secrets(short: object) -> None:
    """A made-up key such as `ollama` is not blotted out of every message."""
    assert secrets_in([short]) == frozenset()
