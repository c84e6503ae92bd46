"""Other processes for work that keeps a processor busy."""

from __future__ import annotations

import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor

__all__ = ["pool"]


def pool(count: int) -> ProcessPoolExecutor:
    """So many processes, started when they are first needed.

    They are started anew and never forked, since a fork of a process with threads may hang; and they end with this one,
    however it ends.
    """
    return ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent)


def _end_with_parent() -> None:
    """A worker holds both ends of the pipe that it reads from, so it would never be told that its parent is gone."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
