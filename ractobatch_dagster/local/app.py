"""The HTTP face of the server: OpenAI's Files and Batches API, and the model's own endpoints beside it."""

from __future__ import annotations

import hmac
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from ractobatch_dagster.local.disk import Batch, Json
from ractobatch_dagster.local.faults import cannot_find
from ractobatch_dagster.local.problems import ApiError, error_body
from ractobatch_dagster.local.uploads import receive_form
from ractobatch_dagster.local.work import Work

__all__ = ["ENDPOINTS", "Activity", "build_app"]

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
)
_MONTH = 30 * 24 * 60 * 60
_MAX_UPLOAD = 512_000_000


class Activity:
    """Middleware that checks the key and knows when the server was last used."""

    def __init__(self, app: ASGIApp, work: Work, api_key: str) -> None:
        self._app, self._work = app, work
        self._expected = f"Bearer {api_key}".encode()
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
            refusal = None if scope["path"] == "/health" else self._refusal(dict(scope["headers"]))
            await (refusal or self._app)(scope, receive, send)
        finally:
            self._open -= 1
            self._last = time.monotonic()

    def _refusal(self, headers: dict[bytes, bytes]) -> Response | None:
        if not hmac.compare_digest(headers.get(b"authorization", b""), self._expected):
            message = "Incorrect API key provided. The key of this server was shown when it was started."
            return _json(error_body(401, message, code="invalid_api_key"), 401)
        if self._work.trouble.happens("outage"):
            return _json(error_body(503, "The server is currently overloaded."), 503)
        return None


def build_app(work: Work, api_key: str, nonce: str) -> Activity:
    """The application that serves `work` to whoever has the key.

    Args:
        work: The batches and files.
        api_key: What clients must send as their bearer token.
        nonce: What `/health` answers with, to tell this server from another on the same port.
    """
    files, batches = _Files(work), _Batches(work)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        work.resume()
        yield
        await work.close()

    async def health(_: Request) -> Response:
        return _json({"status": "ok", "nonce": nonce})

    async def answer(request: Request) -> Response:
        body = await _body(request)
        if body.get("stream"):
            raise ApiError(400, "Streaming is not supported.", param="stream")
        status, content = await work.answer(request.url.path, body)
        return _json(content, status)

    app = Starlette(
        routes=[
            Route("/health", health),
            Route("/v1/files", files.create, methods=["POST"]),
            Route("/v1/files", files.list),
            Route("/v1/files/{id}", files.delete, methods=["DELETE"]),
            Route("/v1/files/{id}", files.retrieve),
            Route("/v1/files/{id}/content", files.content),
            Route("/v1/batches", batches.create, methods=["POST"]),
            Route("/v1/batches", batches.list),
            Route("/v1/batches/{id}", batches.retrieve),
            Route("/v1/batches/{id}/cancel", batches.cancel, methods=["POST"]),
            *(Route(endpoint, answer, methods=["POST"]) for endpoint in ENDPOINTS),
        ],
        exception_handlers=dict.fromkeys((ApiError, HTTPException, Exception), _on_error),
        lifespan=lifespan,
    )
    return Activity(app, work, api_key)


class _Files:
    def __init__(self, work: Work) -> None:
        self._work, self._disk = work, work.disk

    async def create(self, request: Request) -> Response:
        async with receive_form(request, self._disk.upload_folder(), _MAX_UPLOAD) as form:
            purpose = form.fields.get("purpose")
            if not purpose:
                raise _missing("purpose")
            if form.path is None:
                raise _missing("file")
            if purpose == "batch":
                self._check_batch_file(form.filename, form.path)
            lifetime = _lifetime(form.fields.get("expires_after[seconds]"), "expires_after")
            file = self._disk.add_file(
                form.path,
                filename=form.filename,
                purpose=purpose,
                lifetime=lifetime or (_MONTH if purpose == "batch" else None),
            )
        return _json(file)

    async def list(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose")
        files = [
            file
            for file_id in list(self._disk.files)
            if (file := self._disk.file(file_id)) and purpose in (None, file["purpose"])
        ]
        ascending = request.query_params.get("order") == "asc"
        page = _page(request, files if ascending else files[::-1], ascending=ascending, maximum=10_000)
        return _json(page)

    async def retrieve(self, request: Request) -> Response:
        return _json(self._find(request))

    async def delete(self, request: Request) -> Response:
        file = self._find(request)
        self._disk.delete_file(file["id"])
        return _json({"id": file["id"], "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file = self._find(request)
        if self._work.trouble.happens("bad_gateway_downloads"):
            raise ApiError(502, "Bad gateway.")
        path = self._disk.data(file["id"])
        if self._work.trouble.happens("cut_downloads"):
            return _cut_response(path, file["bytes"])
        return FileResponse(path, media_type="application/octet-stream")

    def _check_batch_file(self, filename: str, path: Path) -> None:
        if not filename.endswith(".jsonl"):
            raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")
        if path.stat().st_size > self._work.limits.max_bytes:
            raise ApiError(400, "File is too large.", param="file")

    def _find(self, request: Request) -> Json:
        file_id = request.path_params["id"]
        file = self._disk.file(file_id)
        if file is None:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return file


class _Batches:
    def __init__(self, work: Work) -> None:
        self._work, self._disk = work, work.disk

    async def create(self, request: Request) -> Response:
        self._work.creates += 1
        body = await _body(request)
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not body.get(name):
                raise _missing(name)
        _check_choice(body, "endpoint", ENDPOINTS)
        _check_choice(body, "completion_window", ("24h",))
        metadata = _metadata(body.get("metadata"))
        output_lifetime = _lifetime((body.get("output_expires_after") or {}).get("seconds"), "output_expires_after")
        file = self._disk.file(str(body["input_file_id"]))
        if file is None:
            raise cannot_find(body["input_file_id"])
        if file["purpose"] != "batch":
            raise ApiError(
                400, f"The file {file['id']} has the purpose '{file['purpose']}', not 'batch'.", param="input_file_id"
            )
        open_batches = self._work.open_batches
        self._work.trouble.before_create(file["id"], open_batches)
        shown = {name: body[name] for name in ("input_file_id", "endpoint", "completion_window")}
        batch = self._work.create(
            {**shown, "metadata": metadata},
            output_lifetime=output_lifetime or _MONTH,
        )
        self._work.trouble.created(batch, open_batches)
        return self._show(batch)

    async def list(self, request: Request) -> Response:
        newest = time.time() - self._work.trouble.faults.list_lag
        batches = [batch.shown for batch in reversed(self._disk.batches.values()) if batch.started <= newest]
        page = _page(request, batches, ascending=False, maximum=100, default=20)
        page["data"] = [self._work.show(self._disk.batches[shown["id"]]) for shown in page["data"]]
        return _json(page)

    async def retrieve(self, request: Request) -> Response:
        return self._show(self._find(request))

    async def cancel(self, request: Request) -> Response:
        batch = self._find(request)
        self._work.cancel(batch)
        return self._show(batch)

    def _show(self, batch: Batch) -> Response:
        return _json(self._work.show(batch))

    def _find(self, request: Request) -> Batch:
        batch_id = request.path_params["id"]
        batch = self._disk.batches.get(batch_id)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
        return batch


def _page(
    request: Request, newest_last_or_first: Iterable[Json], *, ascending: bool, maximum: int, default: int | None = None
) -> Json:
    """One page of a list; ids sort by age, so a cursor works even when its object is gone."""
    text = request.query_params.get("limit", str(default or maximum))
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise ApiError(400, f"Invalid 'limit': it must be a whole number from 1 to {maximum}.", param="limit")
    after = request.query_params.get("after")
    entries = [
        entry
        for entry in newest_last_or_first
        if not after or (entry["id"] > after if ascending else entry["id"] < after)
    ]
    data = entries[: int(text)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(entries) > len(data),
    }


def _missing(name: str) -> ApiError:
    return ApiError(400, f"Missing required parameter: '{name}'.", code="missing_required_parameter", param=name)


def _check_choice(body: Json, name: str, choices: tuple[str, ...]) -> None:
    if body[name] not in choices:
        supported = ", ".join(f"'{choice}'" for choice in choices)
        raise ApiError(
            400,
            f"Invalid value: '{body[name]}'. Supported values are: {supported}.",
            code="invalid_value",
            param=name,
        )


def _metadata(metadata: Any) -> Json | None:
    """The metadata of a new batch, where it is within the API's limits."""
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise ApiError(
            400, "Invalid type for 'metadata': an object is expected.", code="invalid_type", param="metadata"
        )
    if len(metadata) > 16:
        raise ApiError(400, f"Invalid 'metadata': at most 16 pairs, not {len(metadata)}.", param="metadata")
    for key, value in metadata.items():
        if len(key) > 64:
            raise ApiError(400, f"Invalid 'metadata': the key {key!r} is longer than 64.", param="metadata")
        if not isinstance(value, str) or len(value) > 512:
            message = f"Invalid 'metadata.{key}': the value must be a string of at most 512 characters."
            raise ApiError(400, message, param=f"metadata.{key}")
    return metadata


def _lifetime(seconds: str | int | None, name: str) -> int | None:
    """For how long a file is kept, in seconds, where the client said it."""
    if seconds is None:
        return None
    if not str(seconds).isdecimal() or not 3600 <= int(seconds) <= _MONTH:
        message = f"Invalid '{name}.seconds': it must be a whole number from 3600 to {_MONTH}."
        raise ApiError(400, message, param=f"{name}.seconds")
    return int(seconds)


async def _body(request: Request) -> Json:
    try:
        body = msgspec.json.decode(await request.body())
    except msgspec.DecodeError:
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request: an object is expected.")
    return body


def _cut_response(path: Path, size: int) -> Response:
    """A download that promises the whole file and breaks off in the middle."""

    async def half() -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            yield file.read(size // 2)
        raise ConnectionResetError("the download was cut, as asked for")

    return StreamingResponse(half(), media_type="application/octet-stream", headers={"Content-Length": str(size)})


def _json(content: Json, status_code: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status_code, media_type="application/json")


async def _on_error(request: Request, error: Exception) -> Response:
    if isinstance(error, ApiError):
        response = _json(error.body, error.status_code)
        response.headers.update(error.headers)
        return response
    if isinstance(error, HTTPException):
        message = f"{error.detail}: {request.method} {request.url.path}"
        return _json(error_body(error.status_code, message), error.status_code)
    return _json(error_body(500, f"The server failed: {type(error).__name__}: {error}"), 500)
