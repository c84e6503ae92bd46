"""Independent pieces of work, several at a time, within bounds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import ParamSpec, TypeVar

from ractobatch_dagster.errors import ConfigurationError, ProviderError
from ractobatch_dagster.processes import pool

__all__ = ["Workers"]

Task = TypeVar("Task")
Result = TypeVar("Result")
P = ParamSpec("P")


class Workers:
    """How many pieces of work are under way at a time.

    Args:
        transfers: Uploads or downloads. Each has a connection and a thread of its own, and a file on disk; 1 does
            them one after the other.
        processes: Processes that make input files and read answers, beside this one; 0 does it here. They are started
            anew and never forked, since a fork of a process with threads may hang.
    """

    def __init__(self, transfers: int = 1, processes: int = 0) -> None:
        self._transfers = transfers
        self._processes = processes
        self._turn = threading.Lock()
        self._started: ProcessPoolExecutor | None = None
        self._starting = threading.Lock()

    def close(self) -> None:
        """End the processes, if any were started; the next piece of work would start others."""
        with self._starting:
            started, self._started = self._started, None
        if started is not None:
            started.shutdown()

    def apart(self, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Do a piece of work for the processor in another process, if there are any. All it takes is pickled."""
        if not self._processes:
            return self.in_turn(work, *args, **kwargs)
        with self._starting:
            self._started = self._started or pool(self._processes)
            workers = self._started
        try:
            return workers.submit(work, *args, **kwargs).result()
        except BrokenProcessPool as error:
            self.close()
            raise ConfigurationError(
                "A process that makes input files or reads answers was ended from outside, perhaps for want of memory. "
                "Nothing is lost: run it again, with fewer `processes`."
            ) from error

    def in_turn(self, work: Callable[P, Result], *args: P.args, **kwargs: P.kwargs) -> Result:
        """Do a piece of work here, one after the other: several at once are no quicker and need as much memory each."""
        with self._turn:
            return work(*args, **kwargs)

    def each(
        self, work: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result | ProviderError]]:
        """Do each task; tells what came of it as soon as that is known. A task begins when there is room for it.

        Args:
            work: Does one task. What goes wrong at the provider is a result. Anything else is raised, as is an
                interruption of the caller, but only once it is told what came of the tasks under way.
            tasks: What there is to do. Whoever wants to stop ends it, and is still told of what is under way.
        """
        if self._transfers == 1:
            for task in tasks:
                yield task, _attempt(work, task)
            return
        left = iter(tasks)
        with ThreadPoolExecutor(self._transfers, thread_name_prefix="ractobatch") as threads:
            going: dict[Future[Result | ProviderError], Task] = {}
            problem: BaseException | None = None
            while True:
                try:
                    for task in islice(left, 0 if problem else self._transfers - len(going)):
                        going[threads.submit(_attempt, work, task)] = task
                    if not going:
                        break
                    finished = wait(going, return_when=FIRST_COMPLETED).done
                except BaseException as error:  # noqa: BLE001 (raised below; what is under way is not lost to it)
                    problem, finished = problem or error, set()
                for done in finished:
                    task = going.pop(done)
                    if (error_there := done.exception()) is None:
                        yield task, done.result()
                    else:
                        problem = problem or error_there
            if problem is not None:
                raise problem


def _attempt(work: Callable[[Task], Result], task: Task) -> Result | ProviderError:
    try:
        return work(task)
    except ProviderError as error:
        return error
