"""A few threads that compute, beside the one that talks HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

__all__ = ["Pool"]

T = TypeVar("T")


class Pool:
    """A fixed number of daemon threads: unlike those of an executor, they never hold up the end of a process."""

    def __init__(self, size: int) -> None:
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, daemon=True, name=f"ractobatch-local-{number}")
            for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, task: Callable[[], T]) -> T:
        """Run `task` in one of the threads, first come first served."""
        future: Future[T] = Future()
        self._tasks.put((future, task))
        return await asyncio.wrap_future(future)

    def close(self, patience: float = 1.0) -> None:
        """Let the threads end, and wait a little for what they are at; who needs longer is left alone."""
        for _ in self._threads:
            self._tasks.put(None)
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _work(self) -> None:
        while (entry := self._tasks.get()) is not None:
            future, task = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(task())
            except BaseException as error:  # noqa: BLE001 - it is raised again where the result is awaited
                future.set_exception(error)
