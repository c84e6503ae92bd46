"""The HTTP face of the server: OpenAI's Files and Batches API, Anthropic's, and the model's own endpoints."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ractobatch_dagster.local.calls import Activity, json_response
from ractobatch_dagster.local.disk import Batch, Json
from ractobatch_dagster.local.downloads import download
from ractobatch_dagster.local.messages import MessageBatches
from ractobatch_dagster.local.parsing import page, read_body
from ractobatch_dagster.local.problems import MESSAGES, ApiError, as_told, error_body
from ractobatch_dagster.local.trouble import Trouble, cannot_find
from ractobatch_dagster.local.uploads import receive_form
from ractobatch_dagster.local.work import Work

__all__ = ["ENDPOINTS", "build_app"]

ENDPOINTS = (
    "/v1/chat/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/completions",
    "/v1/moderations",
    "/v1/images/generations",
    "/v1/images/edits",
    "/v1/videos",
)
"""What a batch may be made for, at OpenAI; what of it is answered is the model's affair."""

_MONTH = 30 * 24 * 60 * 60
_MAX_UPLOAD = 512_000_000


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
        return json_response({"status": "ok", "nonce": nonce})

    async def answer(request: Request) -> Response:
        body = await read_body(request)
        if body.get("stream"):
            raise ApiError(400, "Streaming is not supported.", param="stream")
        status, content = await work.answer(request.url.path, body)
        return json_response(content if status < 400 else as_told(request.url.path, status, content), status)

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
            *MessageBatches(work, files.get).routes,
            *(Route(endpoint, answer, methods=["POST"]) for endpoint in (*ENDPOINTS, MESSAGES)),
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
        return json_response(file)

    async def list(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose")
        lag = self._work.trouble.faults.file_list_lag
        files = [
            file
            for file_id in list(self._disk.files)
            if (file := self.get(file_id)) and purpose in (None, file["purpose"]) and self._disk.age(file_id) >= lag
        ]
        ascending = request.query_params.get("order") == "asc"
        entries, after = files if ascending else files[::-1], request.query_params.get("after")
        return json_response(page(request, entries, ascending=ascending, maximum=10_000, after=after))

    async def retrieve(self, request: Request) -> Response:
        return json_response(self._find(request))

    async def delete(self, request: Request) -> Response:
        file = self._find(request)
        self._disk.delete_file(file["id"])
        return json_response({"id": file["id"], "object": "file", "deleted": True})

    async def content(self, request: Request) -> Response:
        file_id = self._find(request)["id"]
        return download(request, self._disk.data(file_id), self._trouble(file_id))

    def _check_batch_file(self, filename: str, path: Path) -> None:
        if not filename.endswith(".jsonl"):
            raise ApiError(400, "Invalid file format for Batch API. Must be .jsonl")
        if path.stat().st_size > self._work.limits.max_bytes:
            raise ApiError(400, "File is too large.", param="file")

    def _find(self, request: Request) -> Json:
        file_id = request.path_params["id"]
        file = self.get(file_id)
        if file is None:
            raise ApiError(404, f"No such File object: {file_id}", param="id")
        return file

    def get(self, file_id: str) -> Json | None:
        """The file, unless there is none or its time is over."""
        file = self._disk.file(file_id)
        if file and file["purpose"] == "batch_output":
            lifetime = self._trouble(file_id).faults.output_lifetime
            if lifetime is not None and self._disk.age(file_id) >= lifetime:
                self._disk.delete_file(file_id)
                return None
        return file

    def _trouble(self, file_id: str) -> Trouble:
        batch = self._disk.batch_with(file_id)
        return self._work.trouble.at(batch.number if batch else None)


class _Batches:
    def __init__(self, work: Work) -> None:
        self._work, self._disk = work, work.disk

    async def create(self, request: Request) -> Response:
        body = await read_body(request)
        for name in ("input_file_id", "endpoint", "completion_window"):
            if not body.get(name):
                raise _missing(name)
        _check_choice(body, "endpoint", ENDPOINTS)
        _check_choice(body, "completion_window", ("24h",))
        metadata = _metadata(body.get("metadata"))
        output_lifetime = _lifetime((body.get("output_expires_after") or {}).get("seconds"), "output_expires_after")
        self._check_input(str(body["input_file_id"]))
        shown = {name: body[name] for name in ("input_file_id", "endpoint", "completion_window")}
        batch = self._work.create({**shown, "metadata": metadata}, output_lifetime=output_lifetime or _MONTH)
        return self._show(batch)

    def _check_input(self, file_id: str) -> None:
        trouble = self._work.trouble.at(len(self._disk.batches))
        file = self._disk.file(file_id)
        if file is None:
            if not trouble.faults.missing_file_accepted:
                raise cannot_find(file_id)
        elif file["purpose"] != "batch":
            message = f"The file {file_id} has the purpose '{file['purpose']}', not 'batch'."
            raise ApiError(400, message, param="input_file_id")
        age = self._disk.age(file_id) if file else math.inf
        begun = [batch.started for batch in self._disk.batches.values()]
        trouble.before_create(file_id, age, self._work.open_batches, begun)

    async def list(self, request: Request) -> Response:
        listed = (batch for batch in self._disk.batches.values() if self._work.is_listed(batch))
        batches = [batch.shown for batch in listed if batch.shown["endpoint"] != MESSAGES]
        ascending = self._work.trouble.faults.oldest_first
        entries, after = batches if ascending else batches[::-1], request.query_params.get("after")
        shown = page(request, entries, ascending=ascending, maximum=100, default=20, after=after)
        shown["data"] = [self._work.show_listed(self._disk.batches[one["id"]]) for one in shown["data"]]
        return json_response(shown)

    async def retrieve(self, request: Request) -> Response:
        return self._show(self._find(request))

    async def cancel(self, request: Request) -> Response:
        batch = self._find(request)
        self._work.cancel(batch)
        return self._show(batch)

    def _show(self, batch: Batch) -> Response:
        return json_response(self._work.show(batch))

    def _find(self, request: Request) -> Batch:
        batch_id = request.path_params["id"]
        batch = self._disk.batches.get(batch_id)
        if batch is None:
            raise ApiError(404, f"No batch found with id '{batch_id}'.", param="batch_id")
        return batch


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


async def _on_error(request: Request, error: Exception) -> Response:
    status, headers = 500, dict[str, str]()
    if isinstance(error, ApiError):
        status, body, headers = error.status_code, error.body, error.headers
    elif isinstance(error, HTTPException):
        status = error.status_code
        body = error_body(status, f"{error.detail}: {request.method} {request.url.path}")
    else:
        body = error_body(500, f"The server failed: {type(error).__name__}: {error}")
    response = json_response(as_told(request.url.path, status, body), status)
    response.headers.update(headers)
    return response
