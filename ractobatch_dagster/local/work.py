"""The life of a batch, from `validating` to its end.

Each batch that has not ended is one task of the server's event loop. The task waits, moves the status and
writes it down; reading, answering and writing lines is done by the threads of one pool, a slice at a time, so
that many batches go on together and HTTP stays quick. Nothing but what is on disk is needed to go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from ractobatch_dagster.local.answers import Model
from ractobatch_dagster.local.disk import TERMINAL, Batch, Disk, Json
from ractobatch_dagster.local.faults import QUEUE_FULL, Faults, Trouble
from ractobatch_dagster.local.pool import Pool
from ractobatch_dagster.local.problems import ApiError, error_body
from ractobatch_dagster.local.progress import Progress
from ractobatch_dagster.local.validation import Limits, Validated, validate

__all__ = ["WINDOW", "Work"]

logger = logging.getLogger(__name__)

WINDOW = 24 * 60 * 60
"""How long a batch may take, in seconds."""

_VALIDATED, _ANSWERED = 0.1, 0.9  # of a batch's time


class Work:
    """All batches that have not ended, and the model that answers them.

    Args:
        disk: Where everything is kept.
        model: Answers the requests.
        seconds: How long a batch takes at least, from its creation to its end.
        limits: What one batch may hold.
    """

    def __init__(self, disk: Disk, model: Model, *, seconds: float, limits: Limits) -> None:
        self.disk, self.model, self.seconds, self.limits = disk, model, seconds, limits
        self.trouble = Trouble(Faults())
        self._pool = Pool(model.concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._halts: dict[str, asyncio.Event] = {}
        self._running: dict[str, Progress] = {}
        self.creates = 0

    def resume(self) -> None:
        """Go on with what an earlier server process left unfinished."""
        for batch in self.disk.batches.values():
            if batch.status not in TERMINAL:
                self._start(batch)

    async def close(self) -> None:
        """Stop where things are; a later server process goes on from there."""
        for progress in self._running.values():
            progress.close()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._pool.close()

    @property
    def open_batches(self) -> int:
        """How many batches have not ended."""
        return len(self._tasks)

    async def wait_idle(self) -> None:
        """Wait until every batch has ended."""
        while self._tasks:
            await asyncio.wait(list(self._tasks.values()))

    def create(self, shown: Json, *, output_lifetime: int | None) -> Batch:
        """Start a new batch from what its creator asked for."""
        now = time.time()
        batch = Batch(
            shown={
                "id": self.disk.new_id("batch_"),
                "object": "batch",
                "model": None,
                "errors": None,
                "status": "validating",
                "output_file_id": None,
                "error_file_id": None,
                "created_at": int(now),
                "in_progress_at": None,
                "expires_at": int(now) + WINDOW,
                "finalizing_at": None,
                "completed_at": None,
                "failed_at": None,
                "expired_at": None,
                "cancelling_at": None,
                "cancelled_at": None,
                "request_counts": {"total": 0, "completed": 0, "failed": 0},
                "usage": None,
                **shown,
            },
            started=now,
            number=len(self.disk.batches),
            output_lifetime=output_lifetime,
        )
        self.disk.add_batch(batch)
        self._start(batch)
        return batch

    def cancel(self, batch: Batch) -> None:
        """Ask a batch to end early; what it has answered is kept.

        Raises:
            ApiError: It has ended already.
        """
        if batch.status in TERMINAL:
            raise ApiError(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status != "cancelling":
            self._move(batch, "cancelling")
        self._halts[batch.id].set()
        if progress := self._running.get(batch.id):
            progress.halted = True

    def show(self, batch: Batch) -> Json:
        """A batch as the API shows it now."""
        shown = batch.shown
        if progress := self._running.get(batch.id):
            shown = {**shown, "request_counts": progress.counts}
        return self.trouble.show(batch, shown)

    async def answer(self, endpoint: str, body: Json) -> tuple[int, Json]:
        """Answer one request outside any batch."""
        return await self._pool.run(partial(self._ask, endpoint, body))

    def _ask(self, endpoint: str, body: Json) -> tuple[int, Json]:
        try:
            answer = self.model.answer(endpoint, body)
        except Exception as error:
            logger.exception("the model failed")
            return 500, error_body(500, f"The model failed: {type(error).__name__}: {error}")
        return answer.status_code, dict(answer.body)

    def _start(self, batch: Batch) -> None:
        halt = self._halts[batch.id] = asyncio.Event()
        if batch.status == "cancelling":
            halt.set()
        self._tasks[batch.id] = asyncio.get_running_loop().create_task(self._run(batch, halt))

    async def _run(self, batch: Batch, halt: asyncio.Event) -> None:
        try:
            await self._live(batch, halt)
        except Exception as error:
            logger.exception("batch %s failed", batch.id)
            self._fail(batch, "server_error", f"The server failed: {type(error).__name__}: {error}")
        finally:
            for registry in (self._tasks, self._halts, self._running):
                registry.pop(batch.id, None)

    async def _live(self, batch: Batch, halt: asyncio.Event) -> None:
        await self._stay(batch, halt, "validating", _VALIDATED)
        path = self.disk.work(batch.id, "input")
        validated = await self._pool.run(partial(validate, path, batch.shown["endpoint"], self.limits))
        if batch.status == "validating" and not self._admit(batch, validated):
            return
        if batch.shown["in_progress_at"] is None:  # cancelled before anything ran
            self._end(batch, "cancelled")
            return
        progress = await self._pool.run(partial(self._progress, batch, path, validated.custom_ids))
        progress.halted = halt.is_set()
        self._running[batch.id] = progress
        await asyncio.gather(*(self._pull(batch, progress, halt) for _ in range(self.model.concurrency)))
        if batch.status != "cancelling":
            await self._stay(batch, halt, "in_progress", _ANSWERED)
        await self._finish(batch, progress, halt)

    def _admit(self, batch: Batch, validated: Validated) -> bool:
        """Let a validated batch run, or fail it."""
        if self.trouble.dooms(batch):
            self._fail(batch, "token_limit_exceeded", QUEUE_FULL.format(model=validated.model))
        elif validated.errors:
            self._end(batch, "failed", errors={"object": "list", "data": validated.errors})
        else:
            counts = {"total": len(validated.custom_ids), "completed": 0, "failed": 0}
            self._move(batch, "in_progress", model=validated.model, request_counts=counts)
        return batch.status == "in_progress"

    def _progress(self, batch: Batch, path: Path, custom_ids: list[str]) -> Progress:
        def ask(endpoint: str, body: Json) -> tuple[int, Json]:
            status, answer = self._ask(endpoint, body)
            return status, self.trouble.alter(batch, answer)

        fates = self.trouble.fates(batch, custom_ids)
        return Progress(path, self.disk.work(batch.id, "answers"), len(custom_ids), fates, ask)

    async def _pull(self, batch: Batch, progress: Progress, halt: asyncio.Event) -> None:
        """Have requests answered, no faster than the batch's pace, until there are none or it is to end."""
        while not (progress.exhausted or halt.is_set() or self._late(batch)):
            due, pause = self._pace(batch, progress)
            if progress.taken < due:
                await self._pool.run(partial(progress.answer_some, due))
            else:
                await _sleep(halt, pause)

    def _pace(self, batch: Batch, progress: Progress) -> tuple[int, float]:
        """How many requests are due by now, and in how many seconds the next one is."""
        span = self.seconds * (_ANSWERED - _VALIDATED)
        if span <= 0:
            return progress.total, 0.0
        elapsed = time.time() - batch.started - self.seconds * _VALIDATED
        due = min(progress.total, int(progress.total * elapsed / span))
        return due, max((due + 1) * span / progress.total - elapsed, 0.01)

    @staticmethod
    def _late(batch: Batch) -> bool:
        return time.time() >= float(batch.shown["expires_at"])

    async def _finish(self, batch: Batch, progress: Progress, halt: asyncio.Event) -> None:
        """Write the result files and end the batch."""
        if batch.status == "cancelling":
            code, message = "batch_cancelled", "This request was not executed because the batch was cancelled."
        else:
            code = "batch_expired"
            message = "This request could not be executed before the completion window expired."
        expired = progress.expires or not progress.exhausted
        if expired or batch.status == "cancelling":
            await self._pool.run(partial(progress.close_out, code, message))
        else:
            if batch.status == "in_progress":
                self._move(batch, "finalizing")
            await self._stay(batch, halt, "finalizing", 1.0)
        output = await self._write(batch, progress, failed=False)
        error = await self._write(batch, progress, failed=True)
        status = "cancelled" if batch.status == "cancelling" else "expired" if expired else "completed"
        self._end(
            batch,
            status,
            output_file_id=output,
            error_file_id=error,
            request_counts=progress.counts,
            usage=_batch_usage(progress),
        )

    async def _write(self, batch: Batch, progress: Progress, *, failed: bool) -> str | None:
        if not progress.has_lines(failed=failed):
            return None
        kind = "error" if failed else "output"
        lines: Iterable[bytes] = progress.result_lines(self.trouble.shuffler(batch), failed=failed)
        if not failed:
            lines = self.trouble.spoil(batch, lines)
        path = self.disk.work(batch.id, kind)
        await self._pool.run(partial(_write_lines, path, lines))
        file = self.disk.add_file(
            path,
            filename=f"{batch.id}_{kind}.jsonl",
            purpose="batch_output",
            lifetime=batch.output_lifetime,
        )
        return str(file["id"])

    async def _stay(self, batch: Batch, halt: asyncio.Event, status: str, share: float) -> None:
        """Let this share of the batch's time pass, unless it is to end before."""
        while not halt.is_set() and self.trouble.stuck(status):
            await _sleep(halt, 0.1)
        await _sleep(halt, batch.started + share * self.seconds - time.time())

    def _move(self, batch: Batch, status: str, **changes: Any) -> None:
        changes = {"status": status, f"{status}_at": int(time.time()), **changes}
        batch.shown.update(changes)
        self.disk.save_batch(batch)

    def _end(self, batch: Batch, status: str, **changes: Any) -> None:
        self._move(batch, status, **changes)
        self.disk.clear_work(batch.id)

    def _fail(self, batch: Batch, code: str, message: str) -> None:
        issue = {"code": code, "message": message, "param": None, "line": None}
        self._end(batch, "failed", errors={"object": "list", "data": [issue]})


async def _sleep(halt: asyncio.Event, seconds: float) -> None:
    if seconds > 0:
        with suppress(TimeoutError):
            await asyncio.wait_for(halt.wait(), seconds)


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        file.writelines(lines)


def _batch_usage(progress: Progress) -> Json:
    usage = progress.usage
    return {
        "input_tokens": usage["input"],
        "input_tokens_details": {"cached_tokens": usage["cached"]},
        "output_tokens": usage["output"],
        "output_tokens_details": {"reasoning_tokens": usage["reasoning"]},
        "total_tokens": usage["input"] + usage["output"],
    }
