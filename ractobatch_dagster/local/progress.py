"""The answers of one running batch, kept on disk as they come.

Each answer is appended to the batch's `answers` file at once, so a server that was killed goes on where it
was; only where each line begins is held in memory. The two result files are made from it at the end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.faults import Fate
from ractobatch_dagster.local.lines import CANCELLED, EXPIRED, Ask, has_failed, result_line, unfinished_line

__all__ = ["Progress"]

SLICE = 0.1
"""For how many seconds a thread works on one batch before it is another batch's turn."""


class Progress:
    """What of a batch has been answered. `answer_some` may run in several threads at once.

    Args:
        source: The batch's input, which has been validated.
        spool: Where its answers are collected.
        total: How many requests it holds.
        fates: What happens to single requests instead of an answer, by `custom_id`.
        ask: Has a request answered.
    """

    def __init__(self, source: Path, spool: Path, total: int, fates: Mapping[str, Fate], ask: Ask) -> None:
        self._source, self._spool = source, spool
        self.total = total
        self._fates, self._ask = fates, ask
        self._lock = threading.Lock()
        self._position = 0
        self._lines: list[tuple[int, int, bool]] = []  # begin, length, failed
        self._done: set[str] = set()
        self.taken = self.completed = self.failed = 0
        self.usage: Counter[str] = Counter()
        self.halted = False
        self._closed = False
        self._resume()

    @property
    def exhausted(self) -> bool:
        """Whether every request has been taken up."""
        return self.taken >= self.total

    @property
    def expires(self) -> bool:
        """Whether some of its requests are never reached."""
        return "late" in self._fates.values()

    @property
    def counts(self) -> Json:
        """The `request_counts` of the batch as they are now."""
        return {"total": self.total, "completed": self.completed, "failed": self.failed}

    def answer_some(self, due: int) -> None:
        """Answer requests for a short while, until `due` of them have been taken up."""
        end = time.monotonic() + SLICE
        while not self.halted and time.monotonic() < end:
            request = self._take(due)
            if request is None:
                return
            if request["custom_id"] not in self._done:
                self._answer(request)

    def close(self) -> None:
        """Take no more answers, not even those that are being made: the batch is another server's from now."""
        with self._lock:
            self._closed = True

    def close_out(self, code: str, message: str) -> None:
        """Note every request that has no answer as one that was not executed."""
        with self._source.open("rb") as file:
            for raw in file:
                custom_id = msgspec.json.decode(raw)["custom_id"]
                if custom_id not in self._done:
                    self._keep(unfinished_line(custom_id, code, message))

    def result_lines(self, shuffle: Callable[[list[Any]], None], failed: Collection[bool]) -> Iterator[bytes]:
        """The lines of a result file, in the order that `shuffle` makes: those that failed, or did not, or both."""
        lines = [line for line in self._lines if line[2] in failed]
        shuffle(lines)
        if not lines:
            return
        with self._spool.open("rb") as file:
            for begin, length, _ in lines:
                file.seek(begin)
                yield file.read(length)

    def has_lines(self, failed: Collection[bool]) -> bool:
        """Whether there are any such lines."""
        return any(line[2] in failed for line in self._lines)

    def _take(self, due: int) -> Json | None:
        with self._lock:
            if self.taken >= min(due, self.total):
                return None
            with self._source.open("rb") as file:
                file.seek(self._position)
                raw = file.readline()
                self._position = file.tell()
            self.taken += 1
        request: Json = msgspec.json.decode(raw)
        return request

    def _answer(self, request: Json) -> None:
        custom_id = request["custom_id"]
        fate = self._fates.get(custom_id)
        if fate == "late":
            return
        if fate == "drop":
            with self._lock:
                self._done.add(custom_id)
                self.completed += 1
            return
        lines = [result_line(request, fate, self._ask)]
        if fate == "both":
            lines.append(result_line(request, 500, self._ask))
        with self._lock:
            if not self._closed:
                self._keep(*lines)
                self._count(lines[0])

    def _keep(self, *lines: Json) -> None:
        """Add the lines of one request, together, so that a process that is killed leaves all of them or none."""
        data = [msgspec.json.encode(line) + b"\n" for line in lines]
        with self._spool.open("ab") as file:
            begin = file.tell()
            file.write(b"".join(data))
        for line, raw in zip(lines, data, strict=True):
            self._lines.append((begin, len(raw), has_failed(line)))
            self._done.add(line["custom_id"])
            begin += len(raw)

    def _count(self, line: Json) -> None:
        response = line["response"]
        if response is None:
            self.failed += line["error"]["code"] not in (EXPIRED[0], CANCELLED[0])
            return
        if response["status_code"] >= 400:
            self.failed += 1
            return
        self.completed += 1  # the API counts lines with status 0 as completed, too
        body = response["body"]
        self.usage.update(_usage((body.get("usage") if isinstance(body, dict) else None) or {}))

    def _resume(self) -> None:
        """Take up what an earlier server process has answered; a half-written last line is dropped."""
        self._spool.touch()
        good = 0
        with self._spool.open("rb+") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                line = msgspec.json.decode(raw)
                self._lines.append((good, len(raw), has_failed(line)))
                if line["custom_id"] not in self._done:
                    self._done.add(line["custom_id"])
                    self._count(line)
                good += len(raw)
            file.truncate(good)


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """One answer's tokens under the names that a batch's own `usage` has, whatever the endpoint."""
    given = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    made = usage.get("completion_tokens_details") or usage.get("output_tokens_details") or {}
    return {
        "input": usage.get("prompt_tokens", usage.get("input_tokens", 0)) or 0,
        "output": usage.get("completion_tokens", usage.get("output_tokens", 0)) or 0,
        "cached": given.get("cached_tokens") or 0,
        "reasoning": made.get("reasoning_tokens") or 0,
    }
