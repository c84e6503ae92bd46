"""What every HTTP call goes through: the key is checked, the call is counted, and what is to go wrong does."""

from __future__ import annotations

import asyncio
import hmac
import time
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.faults import CallFault
from ractobatch_dagster.local.problems import as_told, error_body
from ractobatch_dagster.local.trouble import retry_after
from ractobatch_dagster.local.work import Work

__all__ = ["Activity", "json_response"]

CREATES = (("POST", "/v1/batches"), ("POST", "/v1/messages/batches"))


class Activity:
    """Middleware around the whole application; it knows when the server was last used.

    Args:
        app: What answers.
        work: The batches, and the trouble they are in.
        api_key: What clients must send, as their bearer token or as Anthropic's `x-api-key`.
    """

    def __init__(self, app: ASGIApp, work: Work, api_key: str) -> None:
        self._app, self._work = app, work
        self._expected = api_key.encode()
        self._open = 0
        self._last = time.monotonic()

    @property
    def idle_for(self) -> float:
        """For how many seconds there has been no request."""
        return 0.0 if self._open else time.monotonic() - self._last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._open += 1
        try:
            answer = self._app if scope["path"] == "/health" else self._handle
            await answer(scope, receive, send)
        finally:
            self._open -= 1
            self._last = time.monotonic()

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route, object_id = _route(scope["path"])
        call = (scope["method"], route)
        self._work.counts.calls[call] += 1
        if not hmac.compare_digest(_key(scope), self._expected):
            message = "Incorrect API key provided. The key of this server was shown when it was started."
            body = as_told(scope["path"], 401, error_body(401, message, code="invalid_api_key"))
            await json_response(body, 401)(scope, receive, send)
            return
        trouble = self._work.trouble.at(self._number(call, object_id))
        countdown = trouble.call(*call)
        if countdown is None:
            await self._app(scope, receive, send)
            return
        mishap = _Mishap(countdown.fault, self._app, scope, receive, send)
        try:
            refusal = await mishap.run()
        except asyncio.CancelledError:  # the server ends before the call does
            await mishap.close()
            return
        if refusal:
            countdown.give_back()

    def _number(self, call: tuple[str, str], object_id: str) -> int | None:
        """The number of the batch that a call is about, by its own id or that of one of its files."""
        disk = self._work.disk
        if call in CREATES:
            return len(disk.batches)
        batch = disk.batches.get(object_id) or disk.batch_with(object_id)
        return batch.number if batch else None


@dataclass
class _Mishap:
    """A call to which something happens."""

    fault: CallFault
    app: ASGIApp
    scope: Scope
    receive: Receive
    send: Send
    _reply: list[Message] = field(default_factory=list)

    async def run(self) -> bool:
        """Let it happen; whether it was refused, and so did not count."""
        fault = self.fault
        if fault.wait:
            self.receive = await _received(self.receive)
            await asyncio.sleep(fault.wait)
        replaced = fault.status is not None or fault.closed
        if fault.done or not replaced:
            await self.app(self.scope, self.receive, self._keep if fault.done or fault.hold else self.send)
        refused = fault.done and self._reply[0]["status"] >= 400
        if fault.hold and not refused:
            await asyncio.sleep(fault.hold)
        if replaced and not refused:
            await (self.close() if fault.closed else self._fail())
        else:
            for message in self._reply:
                await self.send(message)
        return refused

    async def _keep(self, message: Message) -> None:
        self._reply.append(message)

    async def _fail(self) -> None:
        fault, status = self.fault, self.fault.status or 500
        message = fault.message or f"This call was made to fail with status {status}."
        body = error_body(status, message.replace("{key}", _key(self.scope).decode()), code=fault.code)
        response = json_response(as_told(self.scope["path"], status, body), status)
        response.headers.update(retry_after(fault.retry_after, as_date=fault.retry_after_date))
        await response(self.scope, self.receive, self.send)

    async def close(self) -> None:
        """Close the connection, for which ASGI has no word: uvicorn's `send` knows its transport."""
        cast("Any", self.send).__self__.transport.abort()
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def _received(receive: Receive) -> Receive:
    """The whole request, so that it is there even when the client has gone."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    kept = iter(messages)

    async def again() -> Message:
        return next(kept, None) or await receive()

    return again


def _key(scope: Scope) -> bytes:
    """The key that a client sends."""
    headers: dict[bytes, bytes] = dict(scope["headers"])
    return headers.get(b"x-api-key") or headers.get(b"authorization", b"").removeprefix(b"Bearer ")


def _route(path: str) -> tuple[str, str]:
    """A path with `{id}` in the place of an id, and that id as it is here."""
    parts = path.split("/")
    if len(parts) > 4 and parts[2:4] == ["messages", "batches"]:
        return "/".join([*parts[:4], "{id}", *parts[5:]]), parts[4].removeprefix("msg")
    if len(parts) > 3 and parts[2] in ("files", "batches"):
        return "/".join([*parts[:3], "{id}", *parts[4:]]), parts[3]
    return path, ""


def json_response(content: Json, status_code: int = 200) -> Response:
    """A JSON reply."""
    return Response(msgspec.json.encode(content), status_code, media_type="application/json")
