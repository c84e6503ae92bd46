"""The life of a batch, from `validating` to its end.

Each batch that has not ended is one task of the server's event loop. The task waits, moves the status and
writes it down; reading, answering and writing lines is done by the threads of one pool, a slice at a time, so
that many batches go on together and HTTP stays quick. Nothing but what is on disk is needed to go on.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ractobatch_dagster.local.answers import Model
from ractobatch_dagster.local.disk import TERMINAL, Batch, Disk, Json
from ractobatch_dagster.local.faults import Fate, Faults
from ractobatch_dagster.local.lines import CANCELLED, EXPIRED, with_separators
from ractobatch_dagster.local.pool import Pool
from ractobatch_dagster.local.problems import ApiError, error_body
from ractobatch_dagster.local.progress import Progress
from ractobatch_dagster.local.trouble import QUEUE_FULL, Trouble, cannot_find
from ractobatch_dagster.local.validation import Limits, Validated, validate

__all__ = ["Counts", "Work"]

logger = logging.getLogger(__name__)

_NOTICED = 0.1  # seconds
_VALIDATED, _ANSWERED = 0.1, 0.9  # of a batch's time


@dataclass(frozen=True)
class Counts:
    """What a server has been asked and what it has done, whatever went wrong with it.

    Attributes:
        calls: HTTP calls, by method and route.
        billed: Answers of the model to requests of batches, by the batch's id and the `custom_id`.
    """

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    billed: Counter[tuple[str, str]] = field(default_factory=Counter)


class Work:
    """All batches that have not ended, and the model that answers them.

    Args:
        disk: Where everything is kept.
        model: Answers the requests.
        seconds: How long a batch takes at least, from its creation to its end.
        limits: What one batch may hold.
        counts: What is counted up.
    """

    def __init__(self, disk: Disk, model: Model, *, seconds: float, limits: Limits, counts: Counts) -> None:
        self.disk, self.model, self.seconds, self.limits = disk, model, seconds, limits
        self.counts = counts
        self.trouble = Trouble(Faults())
        self._pool = Pool(model.concurrency)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._halts: dict[str, asyncio.Event] = {}
        self._running: dict[str, Progress] = {}
        self._history: dict[str, list[tuple[float, Json]]] = {}

    def resume(self) -> None:
        """Go on with what an earlier server process left unfinished."""
        for batch in self.disk.batches.values():
            if batch.status not in TERMINAL:
                self._start(batch)

    async def close(self) -> None:
        """Stop where things are; a later server process goes on from there.

        What is just being answered is still waited for, but not long: an answer that is dropped is paid for twice.
        """
        running = list(self._running.values())
        for progress in running:
            progress.halted = True
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._pool.close()
        for progress in running:
            progress.close()

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
                "expires_at": None,
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
        self.trouble.created(batch, self.open_batches)
        batch.window = self._faults(batch).day
        batch.shown["expires_at"] = int(now + batch.window)
        self.disk.add_batch(batch)
        self._remember(batch)
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
        return self.trouble.of(batch).show(shown)

    def is_listed(self, batch: Batch) -> bool:
        """Whether lists have the batch yet."""
        return batch.started <= time.time() - self._list_lag(batch)

    def show_listed(self, batch: Batch) -> Json:
        """A batch as lists show it, which may lag behind."""
        lag = self._list_lag(batch)
        if not lag:
            return self.show(batch)
        then = time.time() - lag
        past = [shown for moment, shown in self._history.get(batch.id, ()) if moment <= then]
        return self.trouble.of(batch).show(past[-1] if past else batch.shown)

    def _list_lag(self, batch: Batch) -> float:
        return self.trouble.at(batch.number).faults.list_lag

    def _faults(self, batch: Batch) -> Faults:
        return self.trouble.of(batch).faults

    def _takes(self, batch: Batch) -> float:
        takes = self._faults(batch).takes
        return self.seconds if takes is None else takes

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
        if not path.exists():
            self._fail(batch, "invalid_request", str(cannot_find(batch.shown["input_file_id"])), "input_file_id")
            return
        validated = await self._pool.run(partial(validate, path, batch.shown["endpoint"], self.limits))
        fates = self.trouble.of(batch).fates(batch, validated.custom_ids)
        if batch.status == "validating" and not self._admit(batch, validated, fates):
            return
        if batch.shown["in_progress_at"] is None:  # cancelled before anything ran
            self._end(batch, "cancelled")
            return
        total = len(validated.custom_ids)
        progress = await self._pool.run(partial(self._progress, batch, path, fates, total))
        progress.halted = halt.is_set()
        self._running[batch.id] = progress
        await asyncio.gather(*(self._pull(batch, progress, halt) for _ in range(self.model.concurrency)))
        if batch.status != "cancelling":
            await self._stay(batch, halt, "in_progress", _ANSWERED)
        await self._finish(batch, progress, fates, halt)

    def _admit(self, batch: Batch, validated: Validated, fates: Mapping[str, Fate]) -> bool:
        """Let a validated batch run, or fail it."""
        if not validated.errors:
            for line, custom_id in enumerate(validated.custom_ids, start=1):
                if fates.get(custom_id) == "invalid":
                    validated.blame("invalid_request", "This request was made to be invalid.", line=line)
        if self.trouble.dooms(batch):
            self._fail(batch, "token_limit_exceeded", QUEUE_FULL.format(model=validated.model))
        elif (code := self._faults(batch).fails_with) is not None:
            self._fail(batch, code, f"The batch was made to fail with {code}.")
        elif validated.errors:
            self._end(batch, "failed", errors={"object": "list", "data": validated.errors})
        else:
            counts = {"total": len(validated.custom_ids), "completed": 0, "failed": 0}
            self._move(batch, "in_progress", model=validated.model, request_counts=counts)
        return batch.status == "in_progress"

    def _progress(self, batch: Batch, path: Path, fates: Mapping[str, Fate], total: int) -> Progress:
        separators = self._faults(batch).separators

        def ask(request: Json) -> tuple[int, Json]:
            status, body = self._ask(request["url"], request["body"])
            if 200 <= status < 300:
                self.counts.billed[batch.id, request["custom_id"]] += 1
            return status, with_separators(body) if separators else body

        return Progress(path, self.disk.work(batch.id, "answers"), total, fates, ask)

    async def _pull(self, batch: Batch, progress: Progress, halt: asyncio.Event) -> None:
        """Have requests answered, no faster than the batch's pace, until there are none or it is to end."""
        while not (progress.exhausted or halt.is_set() or self._time_left(batch) <= 0):
            due, pause = self._pace(batch, progress)
            if progress.taken < due:
                await self._pool.run(partial(progress.answer_some, due))
            else:
                await self._pause(batch, halt, min(pause, self._time_left(batch)))

    def _pace(self, batch: Batch, progress: Progress) -> tuple[int, float]:
        """How many requests are due by now, and in how many seconds the next one is."""
        seconds = self._takes(batch)
        span = seconds * (_ANSWERED - _VALIDATED)
        if span <= 0:
            return progress.total, 0.0
        elapsed = time.time() - batch.started - seconds * _VALIDATED
        due = min(progress.total, int(progress.total * elapsed / span))
        return due, max((due + 1) * span / progress.total - elapsed, 0.01)

    def _time_left(self, batch: Batch) -> float:
        """How many seconds are left until the batch expires."""
        return math.inf if self._faults(batch).overtime else batch.started + batch.window - time.time()

    async def _finish(self, batch: Batch, progress: Progress, fates: Mapping[str, Fate], halt: asyncio.Event) -> None:
        """Write the result files and end the batch."""
        faults = self._faults(batch)
        expired = progress.expires or not progress.exhausted
        if progress.expires and faults.cancel_at is not None and batch.status != "cancelling":
            self._move(batch, "cancelling")
        if expired or batch.status == "cancelling":
            if faults.unfinished_lines:
                reason = CANCELLED if batch.status == "cancelling" else EXPIRED
                await self._pool.run(partial(progress.close_out, *reason))
        else:
            if batch.status == "in_progress":
                self._move(batch, "finalizing")
            await self._stay(batch, halt, "finalizing", 1.0)
        if batch.status == "cancelling":
            begin = time.time()
            while time.time() < begin + self._faults(batch).cancelling_takes:
                await asyncio.sleep(_NOTICED)
        output = await self._write(batch, progress, fates, "output")
        error = await self._write(batch, progress, fates, "error")
        status = "cancelled" if batch.status == "cancelling" else "expired" if expired else "completed"
        self._end(
            batch,
            status,
            output_file_id=output,
            error_file_id=error,
            request_counts=progress.counts,
            usage=_batch_usage(progress),
        )

    async def _write(
        self, batch: Batch, progress: Progress, fates: Mapping[str, Fate], kind: Literal["output", "error"]
    ) -> str | None:
        """Make a result file; its id, or `None` where there is nothing to write into it."""
        trouble = self.trouble.of(batch)
        failed = {kind == "error"}
        if trouble.faults.errors_in_output:
            failed = {True, False} if kind == "output" else set()
        empty = kind == "error" and trouble.faults.empty_error_file
        if not (progress.has_lines(failed) or empty):
            return None
        lines = trouble.spoil(progress.result_lines(trouble.shuffler(batch), failed), fates, failed=kind == "error")
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
        while not halt.is_set():
            stuck = self._faults(batch).stuck_in == status
            left = min(batch.started + share * self._takes(batch) - time.time(), self._time_left(batch))
            if left <= 0 and not stuck:
                return
            await self._pause(batch, halt, left if left > 0 else _NOTICED)

    async def _pause(self, batch: Batch, halt: asyncio.Event, seconds: float) -> None:
        """Sleep, but where faults decide for how long, no longer than until it is seen that they were taken back."""
        faults = self._faults(batch)
        held = faults.stuck_in is not None or faults.takes is not None
        await _sleep(halt, min(seconds, _NOTICED) if held else seconds)

    def _move(self, batch: Batch, status: str, **changes: Any) -> None:
        changes = {"status": status, f"{status}_at": int(time.time()), **changes}
        batch.shown.update(changes)
        self.disk.save_batch(batch)
        self._remember(batch)

    def _remember(self, batch: Batch) -> None:
        """Keep how the batch stands now, for lists that lag."""
        if self._list_lag(batch):
            self._history.setdefault(batch.id, []).append((time.time(), dict(batch.shown)))

    def _end(self, batch: Batch, status: str, **changes: Any) -> None:
        self._move(batch, status, **changes)
        self.disk.clear_work(batch.id)

    def _fail(self, batch: Batch, code: str, message: str, param: str | None = None) -> None:
        issue = {"code": code, "message": message, "param": param, "line": None}
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
