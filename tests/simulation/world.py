"""The provider: files, batches and their lives, in plain Python. It answers calls, and it keeps the bill."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.simulation.answers import Lines, Request, Verdict, read_requests, verdict_of

__all__ = ["Batch", "RefusedError", "World", "WorldChances"]

ENDED = ("completed", "failed", "expired", "cancelled")


class RefusedError(Exception):
    """The provider's error answer."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}


@dataclass(slots=True)
class WorldChances:
    """How likely the provider does each of these; per create, per batch or per request."""

    queue_full: float = 0.0
    queue_failed: float = 0.0
    not_found_yet: float = 0.0
    expire: float = 0.0
    refuse: float = 0.0
    outsider_cancels: float = 0.0
    output_lost: float = 0.0
    output_vanishes: float = 0.0
    """An output file is deleted while it may be on its way to us."""
    slow: float = 0.0
    lag: float = 0.0
    """Seconds by which lists lag behind, at most."""
    stale_states: bool = False
    keeps_metadata: bool = True
    has_list: bool = True
    accepts_missing_files: bool = False
    page: int = 100
    queue_tokens: int = 0
    """How many tokens of a model may be enqueued; no limit where it is nothing."""
    verdicts: dict[Verdict, float] = field(default_factory=dict)
    lines: Lines = field(default_factory=Lines)


@dataclass(slots=True)
class File:
    """One file at the provider."""

    id: str
    name: str
    data: bytes
    created_at: float
    purpose: str
    visible_at: float = 0.0
    usable_at: float = 0.0


@dataclass(slots=True, eq=False)
class Batch:
    """One batch, and what is to become of it."""

    id: str
    input_file_id: str
    file_name: str
    requests: list[Request]
    metadata: dict[str, str]
    created_at: float
    visible_at: float
    fate: str
    times: list[float]
    status: str = "validating"
    history: list[tuple[float, str]] = field(default_factory=list)
    cancel_at: float | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    issues: list[dict[str, Any]] = field(default_factory=list)
    completed: int = 0
    failed: int = 0
    answers_lost: bool = False
    vanished: bool = False
    """Whether its answers were lost only after somebody could have had them."""
    doubled: bool = False
    """Whether the network delivered its create twice."""


class World:
    """The provider's side of the wire, by its own clock, which is the true one."""

    def __init__(self, random: Random, chances: WorldChances, happens: Callable[[float, str], bool]) -> None:
        self.random, self.chances, self._happens = random, chances, happens
        self.now = 0.0
        self.files: dict[str, File] = {}
        self.batches: dict[str, Batch] = {}
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = iter(range(1, 1 << 60))

    # -- time -------------------------------------------------------------------------------------

    def settle(self, now: float) -> None:
        """Let everything happen that was to happen until now, in order."""
        while self._later and self._later[0][0] <= now:
            at, _, call = heapq.heappop(self._later)
            self.now = max(self.now, at)
            call()
        self.now = max(self.now, now)

    def later(self, at: float, call: Callable[[], object]) -> None:
        """Do something at that time."""
        heapq.heappush(self._later, (at, next(self._numbers), call))

    def _id(self, kind: str) -> str:
        return f"{kind}-{next(self._numbers):04d}"

    # -- files ------------------------------------------------------------------------------------

    def upload(self, name: str, data: bytes, purpose: str = "batch") -> dict[str, Any]:
        """POST /files."""
        lag = self.random.uniform(0, self.chances.lag)
        race = self.random.uniform(1, 30) if self._happens(self.chances.not_found_yet, "files not found yet") else 0.0
        file = File(self._id("file"), name, data, self.now, purpose, self.now + lag, self.now + race)
        self.files[file.id] = file
        return self._file(file)

    def file(self, file_id: str) -> dict[str, Any]:
        """GET /files/{id}."""
        return self._file(self._the_file(file_id))

    def list_files(self, after: str | None) -> dict[str, Any]:
        """GET /files."""
        there = [one for one in self.files.values() if one.purpose == "batch" and one.visible_at <= self.now]
        return self._page([self._file(one) for one in reversed(there)], after)

    def delete_file(self, file_id: str) -> dict[str, Any]:
        """DELETE /files/{id}."""
        self._the_file(file_id)
        del self.files[file_id]
        return {"id": file_id, "object": "file", "deleted": True}

    def content(self, file_id: str) -> bytes:
        """GET /files/{id}/content."""
        return self._the_file(file_id).data

    def _the_file(self, file_id: str) -> File:
        if file_id not in self.files:
            raise RefusedError(404, f"No such File object: {file_id}")
        return self.files[file_id]

    def _file(self, file: File) -> dict[str, Any]:
        return {
            "id": file.id,
            "object": "file",
            "filename": file.name,
            "bytes": len(file.data),
            "created_at": int(file.created_at),
            "purpose": file.purpose,
            "status": "processed",
        }

    # -- batches ----------------------------------------------------------------------------------

    def create(self, input_file_id: str, metadata: dict[str, str]) -> dict[str, Any]:
        """POST /batches."""
        if self._happens(self.chances.queue_full, "queues full"):
            if self.random.random() < 0.5:
                raise RefusedError(429, "Too many batches this hour", "rate_limit_exceeded", {"retry-after": "90"})
            raise RefusedError(400, "Enqueued token limit reached", "token_limit_exceeded")
        file = self.files.get(input_file_id)
        if file is None and self.chances.accepts_missing_files:
            batch = self._new(File(input_file_id, "", b"", self.now, "batch"), metadata, "missing file")
            return self.shown(batch)
        if file is None or file.usable_at > self.now:
            raise RefusedError(400, f"Cannot find file {input_file_id}", "invalid_request")
        return self.shown(self._new(file, metadata, self._fate(file)))

    def _fate(self, file: File) -> str:
        if any(request.verdict is Verdict.POISON for request in read_requests(file.data, self._verdict)):
            return "poisoned"
        if self._happens(self.chances.queue_failed, "batches failed for the queue"):
            return "queue"
        if self.queue_is_full(file):
            self._happens(1.0, "batches failed for a queue that was full")
            return "queue"
        if self._happens(self.chances.refuse, "batches refused"):
            return "refused"
        if self._happens(self.chances.expire, "batches expired"):
            return "expired"
        return "completed"

    def queue_is_full(self, file: File) -> bool:
        """Whether one more batch is too much for the queue of its model."""
        requests = read_requests(file.data, self._ok)
        enqueued = [one for batch in self.batches.values() if batch.status not in ENDED for one in batch.requests]
        tokens = sum(one.tokens for one in enqueued if one.model == requests[0].model) if requests else 0
        limit = self.chances.queue_tokens
        return bool(limit and tokens) and tokens + sum(one.tokens for one in requests) > limit

    @staticmethod
    def _ok(question: str) -> Verdict:
        return Verdict.OK

    def _new(self, file: File, metadata: dict[str, str], fate: str) -> Batch:
        slow = 20 if self._happens(self.chances.slow, "batches slow") else 1
        spans = (self.random.uniform(5, 60), self.random.uniform(30, 400) * slow, self.random.uniform(5, 60))
        times = [self.now, self.now + spans[0], self.now + spans[0] + spans[1], self.now + sum(spans)]
        batch = Batch(
            id=self._id("batch"),
            input_file_id=file.id,
            file_name=file.name,
            requests=read_requests(file.data, self._verdict),
            metadata=metadata if self.chances.keeps_metadata else {},
            created_at=self.now,
            visible_at=self.now + self.random.uniform(0, self.chances.lag),
            fate=fate,
            times=times,
        )
        self.batches[batch.id] = batch
        self._becomes(batch, "validating")
        if fate in ("poisoned", "queue", "refused", "missing file"):
            self.later(times[1], lambda: self._fail(batch))
            return batch
        self.later(times[1], lambda: self._becomes(batch, "in_progress"))
        last = len(batch.requests) if fate == "completed" else self.random.randrange(len(batch.requests) + 1)
        for place, request in enumerate(batch.requests[:last]):
            at = times[1] + spans[1] * (place + 0.5) / (len(batch.requests) + 1)
            self.later(at, lambda request=request: self._serve(batch, request))
        self.later(times[2], lambda: self._becomes(batch, "finalizing"))
        self.later(times[3], lambda: self._end(batch, fate))
        if self._happens(self.chances.outsider_cancels, "batches cancelled by others"):
            self.later(self.random.uniform(times[0], times[2]), lambda: self._cancel(batch))
        return batch

    def _verdict(self, question: str) -> Verdict:
        return verdict_of(question, self.random, self.chances.verdicts)

    def _becomes(self, batch: Batch, status: str) -> None:
        if batch.status not in ENDED and not (batch.status == "cancelling" and status not in ENDED):
            batch.status = status
            batch.history.append((self.now, status))

    def _serve(self, batch: Batch, request: Request) -> None:
        if batch.status == "in_progress":
            request.served = True
            if request.verdict.answered:
                batch.completed += 1
            else:
                batch.failed += 1

    def _fail(self, batch: Batch) -> None:
        if batch.status != "validating":
            return
        if batch.fate == "poisoned":
            batch.issues = [
                {"message": "Invalid request.", "code": "invalid_request", "line": number}
                for number, request in enumerate(batch.requests, start=1)
                if request.verdict is Verdict.POISON
            ]
        elif batch.fate == "queue":
            told = f" Limit: {self.chances.queue_tokens:,} enqueued tokens." if self.chances.queue_tokens else ""
            message = f"Enqueued token limit reached for m in organization o.{told}"
            batch.issues = [{"message": message, "code": "token_limit_exceeded"}]
        elif batch.fate == "missing file":
            batch.issues = [{"message": f"Cannot find file {batch.input_file_id}.", "code": "validation_failed"}]
        else:
            batch.issues = [{"message": "The batch could not be validated.", "code": "validation_failed"}]
        self._becomes(batch, "failed")

    def _end(self, batch: Batch, status: str) -> None:
        if batch.status in ENDED or (batch.status == "cancelling" and status != "cancelled"):
            return
        self._becomes(batch, status)
        lines = self.chances.lines
        output, errors = lines.files(self.random, batch.requests, status, batch.id)
        if output or lines.empty_files:
            batch.output_file_id = self._answers(batch, "output", output)
        if errors or lines.empty_files:
            batch.error_file_id = self._answers(batch, "errors", errors)
        if lines.lying_counts:
            batch.completed, batch.failed = len(batch.requests), 0
        if batch.output_file_id and self._happens(self.chances.output_lost, "outputs lost"):
            batch.answers_lost = True
            del self.files[batch.output_file_id]
        elif batch.output_file_id and self._happens(self.chances.output_vanishes, "outputs vanish"):
            self.later(self.now + self.random.uniform(0, 400), lambda: self._vanish(batch))

    def _vanish(self, batch: Batch) -> None:
        batch.vanished = True
        self.files.pop(str(batch.output_file_id), None)

    def _answers(self, batch: Batch, kind: str, data: bytes) -> str:
        file = File(self._id("file"), f"{batch.id}_{kind}.jsonl", data, self.now, "batch_output")
        self.files[file.id] = file
        return file.id

    def _cancel(self, batch: Batch) -> None:
        if batch.status in ENDED or batch.status == "cancelling":
            return
        self._becomes(batch, "cancelling")
        self.later(self.now + self.random.uniform(1, 60), lambda: self._end(batch, "cancelled"))

    def cancel(self, batch_id: str) -> dict[str, Any]:
        """POST /batches/{id}/cancel."""
        batch = self._the_batch(batch_id)
        if batch.status in ENDED:
            raise RefusedError(409, f"Cannot cancel a batch with status '{batch.status}'.")
        self._cancel(batch)
        return self.shown(batch)

    def retrieve(self, batch_id: str) -> dict[str, Any]:
        """GET /batches/{id}."""
        return self.shown(self._the_batch(batch_id))

    def list_batches(self, after: str | None) -> dict[str, Any]:
        """GET /batches: the newest first, and not the newest of all."""
        if not self.chances.has_list:
            raise RefusedError(404, "Not found")
        there = [one for one in self.batches.values() if one.visible_at <= self.now]
        return self._page([self.shown(one, listed=True) for one in reversed(there)], after)

    def _the_batch(self, batch_id: str) -> Batch:
        if batch_id not in self.batches:
            raise RefusedError(404, f"No batch found with id '{batch_id}'.")
        return self.batches[batch_id]

    def _page(self, rows: list[dict[str, Any]], after: str | None) -> dict[str, Any]:
        start = next((i + 1 for i, row in enumerate(rows) if row["id"] == after), 0)
        end = start + self.chances.page
        return {"object": "list", "data": rows[start:end], "has_more": end < len(rows)}

    def shown(self, batch: Batch, *, listed: bool = False) -> dict[str, Any]:
        """A batch as it is told."""
        status = batch.status
        if listed and self.chances.stale_states:
            seen = [word for at, word in batch.history if at <= self.now - self.random.uniform(0, 60)]
            status = seen[-1] if seen else "validating"
        ended = status in ENDED
        none = "" if self.chances.lines.empty_ids else None
        return {
            "id": batch.id,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "completion_window": "24h",
            "input_file_id": batch.input_file_id,
            "status": status.upper() if self.chances.lines.upper_case else status,
            "created_at": int(batch.created_at),
            "output_file_id": batch.output_file_id if ended else none,
            "error_file_id": (batch.error_file_id if ended else None) or none,
            "errors": {"object": "list", "data": batch.issues} if batch.issues else None,
            "metadata": dict(batch.metadata),
            "request_counts": {"total": len(batch.requests), "completed": batch.completed, "failed": batch.failed},
        }

    def bytes_of(self, value: dict[str, Any]) -> bytes:
        """A reply's body."""
        return json.dumps(value).encode()
