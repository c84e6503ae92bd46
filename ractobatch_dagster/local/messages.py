"""Anthropic's Message Batches, as another face of the same batches: other words, no files, no metadata."""

from __future__ import annotations

import datetime as dt
import math
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ractobatch_dagster.local.calls import json_response
from ractobatch_dagster.local.disk import TERMINAL, Batch, Json
from ractobatch_dagster.local.downloads import download
from ractobatch_dagster.local.parsing import page, read_body
from ractobatch_dagster.local.problems import ANTHROPIC_ERRORS, MESSAGES, ApiError
from ractobatch_dagster.local.work import Work

__all__ = ["MessageBatches"]

_MONTH = 29 * 24 * 60 * 60
_MOST = 100_000
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PREFIX, _OURS = "msgbatch_", "batch_"


class MessageBatches:
    """The endpoints below `/v1/messages/batches`.

    Args:
        work: The batches.
        find_file: A result file, unless its time is over.
    """

    def __init__(self, work: Work, find_file: Callable[[str], Json | None]) -> None:
        self._work, self._disk, self._find_file = work, work.disk, find_file

    @property
    def routes(self) -> list[Route]:
        """Where they are."""
        root = f"{MESSAGES}/batches"
        return [
            Route(root, self._create, methods=["POST"]),
            Route(root, self._list),
            Route(f"{root}/{{id}}", self._delete, methods=["DELETE"]),
            Route(f"{root}/{{id}}", self._retrieve),
            Route(f"{root}/{{id}}/cancel", self._cancel, methods=["POST"]),
            Route(f"{root}/{{id}}/results", self._results),
        ]

    async def _create(self, request: Request) -> Response:
        requests = _checked((await read_body(request)).get("requests"))
        begun = [batch.started for batch in self._disk.batches.values()]
        trouble = self._work.trouble.at(len(self._disk.batches))
        trouble.before_create("file-0", math.inf, self._work.open_batches, begun)
        path = self._disk.upload_folder() / secrets.token_hex(8)
        with path.open("wb") as target:
            for one in requests:
                line = {"custom_id": one["custom_id"], "method": "POST", "url": MESSAGES, "body": one["params"]}
                target.write(msgspec.json.encode(line) + b"\n")
        file = self._disk.add_file(path, filename="requests.jsonl", purpose="batch", lifetime=_MONTH)
        shown = {"input_file_id": file["id"], "endpoint": MESSAGES, "completion_window": "24h", "metadata": None}
        counts = {"total": len(requests), "completed": 0, "failed": 0}
        batch = self._work.create({**shown, "request_counts": counts}, output_lifetime=_MONTH)
        return json_response(_shown(batch, self._work.show(batch), request))

    async def _list(self, request: Request) -> Response:
        batches = [batch for batch in self._disk.batches.values() if _is_message(batch) and self._work.is_listed(batch)]
        ascending = self._work.trouble.faults.oldest_first
        entries = [batch.shown for batch in (batches if ascending else batches[::-1])]
        after = _ours(request.query_params.get("after_id", ""))
        listed = page(request, entries, ascending=ascending, maximum=1_000, default=20, after=after)
        some = [self._disk.batches[entry["id"]] for entry in listed["data"]]
        data = [_shown(batch, self._work.show_listed(batch), request) for batch in some]
        ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
        return json_response({"data": data, "has_more": listed["has_more"], **ends})

    async def _retrieve(self, request: Request) -> Response:
        batch = self._find(request)
        return json_response(_shown(batch, self._work.show(batch), request))

    async def _cancel(self, request: Request) -> Response:
        batch = self._find(request)
        self._work.cancel(batch)
        return json_response(_shown(batch, self._work.show(batch), request))

    async def _delete(self, request: Request) -> Response:
        batch = self._find(request)
        if batch.status not in TERMINAL:
            raise ApiError(400, f"Batch {request.path_params['id']} cannot be deleted while it is in progress.")
        for name in ("output_file_id", "error_file_id"):
            if (file_id := batch.shown[name]) in self._disk.files:
                self._disk.delete_file(file_id)
        batch.shown["deleted"] = True
        self._disk.save_batch(batch)
        return json_response({"id": request.path_params["id"], "type": "message_batch_deleted"})

    async def _results(self, request: Request) -> Response:
        batch = self._find(request)
        named = [file_id for name in ("output_file_id", "error_file_id") if (file_id := batch.shown[name])]
        if batch.status not in TERMINAL or not all(self._find_file(file_id) for file_id in named):
            raise ApiError(404, f"There are no results of batch {request.path_params['id']}.")
        path = self._disk.upload_folder() / secrets.token_hex(8)
        with path.open("wb") as target:
            target.writelines(line for file_id in named for line in _result_lines(self._disk.data(file_id)))
        response = download(request, path, self._work.trouble.at(batch.number))
        response.background = BackgroundTask(path.unlink)
        return response

    def _find(self, request: Request) -> Batch:
        name = request.path_params["id"]
        batch = self._disk.batches.get(_ours(name))
        if batch is None or not _is_message(batch):
            raise ApiError(404, f"There is no batch {name}.")
        return batch


def _ours(name: str) -> str:
    """The id that a batch has here."""
    return f"{_OURS}{name.removeprefix(_PREFIX)}" if name else ""


def _is_message(batch: Batch) -> bool:
    return batch.shown["endpoint"] == MESSAGES and not batch.shown.get("deleted")


def _checked(requests: Any) -> list[Json]:
    """The list of requests; what is wrong with the parameters of one shows only in its result."""
    if not isinstance(requests, list) or not 1 <= len(requests) <= _MOST:
        raise ApiError(400, f"requests: a list of 1 to {_MOST} is expected.")
    seen: set[str] = set()
    for place, one in enumerate(requests):
        custom_id = one.get("custom_id") if isinstance(one, dict) else None
        if not isinstance(custom_id, str) or not _CUSTOM_ID.fullmatch(custom_id):
            raise ApiError(400, f"requests.{place}.custom_id: it must match {_CUSTOM_ID.pattern}.")
        if not isinstance(one.get("params"), dict):
            raise ApiError(400, f"requests.{place}.params: an object is expected.")
        if custom_id in seen:
            raise ApiError(400, f"requests.{place}.custom_id: {custom_id} is there twice.")
        seen.add(custom_id)
    return requests


def _shown(batch: Batch, now: Json, request: Request) -> Json:
    """A batch in Anthropic's words."""
    status, name = str(now["status"]).lower(), f"{_PREFIX}{batch.id.removeprefix(_OURS)}"
    ended = status in TERMINAL
    return {
        "id": name,
        "type": "message_batch",
        "processing_status": "ended" if ended else "canceling" if status == "cancelling" else "in_progress",
        "request_counts": _counts(now["request_counts"], status, ended=ended),
        "created_at": _time(batch.started),
        "expires_at": _time(now["expires_at"]),
        "ended_at": _time(now[f"{status}_at"]) if ended else None,
        "cancel_initiated_at": _time(now["cancelling_at"]),
        "archived_at": None,
        "results_url": f"{str(request.base_url).rstrip('/')}{MESSAGES}/batches/{name}/results" if ended else None,
    }


def _counts(counts: Json, status: str, *, ended: bool) -> Json:
    """Until its end all requests of a batch are `processing`."""
    made = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    total, completed, failed = counts["total"], counts["completed"], counts["failed"]
    if not ended:
        return made | {"processing": total}
    rest = {"cancelled": "canceled", "failed": "errored"}.get(status, "expired")
    made |= {"succeeded": completed, "errored": failed}
    return made | {rest: made[rest] + total - completed - failed}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


def _result_lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        for raw in source:
            try:
                line = msgspec.json.decode(raw)
            except msgspec.DecodeError:
                yield raw  # it was cut in half on purpose
                continue
            yield msgspec.json.encode({"custom_id": line["custom_id"], "result": _result(line)}) + b"\n"


def _result(line: Json) -> Json:
    error, response = line["error"], line["response"] or {}
    if error is not None and error["code"] in ("batch_expired", "batch_cancelled"):
        return {"type": "expired" if error["code"] == "batch_expired" else "canceled"}
    body = response.get("body")
    if isinstance(body, str):
        body = msgspec.json.decode(body)
    if isinstance(body, dict) and body.get("type") == "message":
        return {"type": "succeeded", "message": body}
    said = error or (body or {}).get("error") or {"message": "The request was not answered."}
    kind = ANTHROPIC_ERRORS.get(response.get("status_code") or 500, "invalid_request_error" if body else "api_error")
    return {"type": "errored", "error": {"type": "error", "error": {"type": kind, "message": said["message"]}}}
