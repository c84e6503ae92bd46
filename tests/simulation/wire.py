"""The wire between the real `openai` client and the simulated provider: a transport that loses, delays and cuts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NoReturn
from urllib.parse import parse_qs

import openai

from tests.simulation.scheduler import Scheduler
from tests.simulation.world import RefusedError, World

httpx: Any = import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
"""The HTTP client that this `openai` rests on: httpx2, or httpx before version 3; the other may be installed too."""

__all__ = ["Wire", "WireChances", "client_over"]

TIMEOUT = 120.0
"""Seconds until a client gives up on a reply."""

_GATEWAY = (500, 502, 503)


@dataclass(slots=True)
class WireChances:
    """How likely a call meets each of these; `late` is for creates and `cut` for downloads."""

    refused: float = 0.0
    gateway: float = 0.0
    limited: float = 0.0
    lost: float = 0.0
    gateway_after: float = 0.0
    late: float = 0.0
    twice: float = 0.0
    cut: float = 0.0
    no_length: bool = False
    list_fails: float = 0.0


class Wire:
    """All calls of one schedule."""

    def __init__(self, scheduler: Scheduler, world: World, chances: WireChances) -> None:
        self.scheduler, self.world, self.chances = scheduler, world, chances
        self.calls = 0

    def handle(self, request: httpx.Request) -> httpx.Response:
        """One call: delivered or not, answered or not."""
        self.calls += 1
        request.read()
        what = f"{request.method} {request.url.path.removeprefix('/v1')}"
        return self.scheduler.io(what, lambda: self._deliver(request, what))

    def _deliver(self, request: httpx.Request, what: str) -> httpx.Response:
        creating = what == "POST /batches"
        if stopped := self._stopped(request, what):
            return stopped
        if creating and self._happens(self.chances.late, "creates that arrive late"):
            self._arrives_late(request)
            self._gives_up(request, f"{what}: it is UNDER WAY when the client gives up")
        response = self._answer(request, what)
        if creating and response.status_code == 200 and self._happens(self.chances.twice, "creates delivered twice"):
            self._arrives_twice(request, response)
        if self._happens(self.chances.lost, "replies lost"):
            self._gives_up(request, "  … and the reply is LOST")
        if self._happens(self.chances.gateway_after, "5xx after the effect"):
            self.scheduler.note("  … and the reply is a 5xx")
            return self._error(request, 500, "Internal error", None, {})
        return response

    def _stopped(self, request: httpx.Request, what: str) -> httpx.Response | None:
        """What happens to a call that does not reach the provider."""
        happens, note, chances = self._happens, self.scheduler.note, self.chances
        if happens(chances.refused, "connections refused"):
            note(f"{what}: connection REFUSED")
            raise httpx.ConnectError("connection refused", request=request)
        if happens(chances.gateway, "5xx without effect"):
            note(f"{what}: 5xx, without effect")
            return self._error(request, 502, "Bad gateway", None, {})
        if happens(chances.limited, "429"):
            note(f"{what}: 429")
            return self._error(request, 429, "Slow down", "rate_limit_exceeded", {"retry-after": "3"})
        if what == "GET /batches" and happens(chances.list_fails, "lists that fail"):
            note(f"{what}: 503")
            return self._error(request, 503, "The list is not available", None, {})
        return None

    def _happens(self, chance: float, what: str) -> bool:
        return self.scheduler.happens(chance, what)

    def _gives_up(self, request: httpx.Request, why: str) -> NoReturn:
        """The client waits for a reply as long as it has patience."""
        self.scheduler.note(why)
        self.scheduler.sleep(float(request.extensions.get("timeout", {}).get("read") or TIMEOUT))
        raise httpx.ReadTimeout("timed out", request=request)

    def _arrives_twice(self, request: httpx.Request, response: httpx.Response) -> None:
        self.scheduler.note("  … and it is delivered TWICE")
        for made in (response, self._answer(request, "POST /batches")):
            if made.status_code == 200:
                self.world.batches[made.json()["id"]].doubled = True

    def _arrives_late(self, request: httpx.Request) -> None:
        body = json.loads(request.content)
        random = self.scheduler.random
        at = self.scheduler.now + random.choice((5.0, 100.0, 500.0, 1000.0, 3000.0)) * random.uniform(0.5, 1.5)

        def arrive() -> None:
            try:
                made = self.world.create(body["input_file_id"], body.get("metadata") or {})["id"]
            except RefusedError as refused:
                made = f"refused: {refused.message}"
                self.scheduler.counts["late creates refused"] += 1
            self.scheduler.note(f"(a create of {body['input_file_id']} arrives only now: {made})")

        self.world.later(at, arrive)

    def _answer(self, request: httpx.Request, what: str) -> httpx.Response:
        self.world.settle(self.scheduler.now)
        try:
            reply = self._route(request)
        except RefusedError as refused:
            self.scheduler.note(f"{what}: {refused.status} {refused.message}")
            return self._error(request, refused.status, refused.message, refused.code, refused.headers)
        if isinstance(reply, bytes):
            self.scheduler.note(f"{what}: {len(reply)} bytes")
            return self._download(request, reply)
        told = reply.get("id") or [one["id"] for one in reply["data"]]
        self.scheduler.note(f"{what}: {told} {reply.get('status', '')}")
        return httpx.Response(200, json=reply, request=request)

    def _route(self, request: httpx.Request) -> dict[str, Any] | bytes:
        world = self.world
        parts = request.url.path.removeprefix("/v1/").split("/")
        query = {name: values[0] for name, values in parse_qs(request.url.query.decode()).items()}
        match request.method, *parts:
            case "POST", "files":
                return world.upload(*_multipart(request))
            case "GET", "files":
                return world.list_files(query.get("after"))
            case "GET", "files", file_id:
                return world.file(file_id)
            case "DELETE", "files", file_id:
                return world.delete_file(file_id)
            case "GET", "files", file_id, "content":
                return world.content(file_id)
            case "POST", "batches":
                body = json.loads(request.content)
                return world.create(body["input_file_id"], body.get("metadata") or {})
            case "GET", "batches":
                return world.list_batches(query.get("after"))
            case "GET", "batches", batch_id:
                return world.retrieve(batch_id)
            case "POST", "batches", batch_id, "cancel":
                return world.cancel(batch_id)
        raise AssertionError(f"no such route: {request.method} {request.url}")

    def _download(self, request: httpx.Request, data: bytes) -> httpx.Response:
        headers = {} if self.chances.no_length else {"content-length": str(len(data))}
        if data and self.scheduler.happens(self.chances.cut, "downloads cut"):
            self.scheduler.note("  … and it is CUT")
            data = data[: len(data) // 2]
        return httpx.Response(200, headers=headers, stream=_Stream(data), request=request)

    def _error(
        self, request: httpx.Request, status: int, message: str, code: str | None, headers: dict[str, str]
    ) -> httpx.Response:
        error = {"message": message, "type": "error", "code": code, "param": None}
        return httpx.Response(status, json={"error": error}, headers=headers, request=request)


class _Stream(httpx.SyncByteStream):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def __iter__(self) -> Iterator[bytes]:
        yield self._data


class _Transport(httpx.BaseTransport):
    """Hands each call to the wire of the schedule that is being played."""

    def __init__(self, current: Callable[[], Wire]) -> None:
        self._current = current

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return self._current().handle(request)


_playing: list[Wire] = []


@cache
def _client() -> openai.OpenAI:
    transport = _Transport(lambda: _playing[-1])
    return openai.OpenAI(
        api_key="sk-simulated",
        base_url="http://provider.test/v1",
        http_client=httpx.Client(transport=transport, trust_env=False),
        max_retries=0,
        timeout=TIMEOUT,
    )


def client_over(wire: Wire) -> openai.OpenAI:
    """The process's one client, over this wire from now on: building one takes longer than a schedule."""
    _playing[:] = [wire]
    return _client()


def _multipart(request: httpx.Request) -> tuple[str, bytes]:
    """The name and the bytes of the uploaded file."""
    boundary = request.headers["content-type"].partition("boundary=")[2].encode()
    for part in request.content.split(b"--" + boundary):
        head, _, body = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
            name = head.partition(b'filename="')[2].partition(b'"')[0].decode()
            return name, body.removesuffix(b"\r\n")
    raise AssertionError("an upload without a file")
