"""The answers of one running batch, kept on disk as they come.

Each answer is appended to the batch's `answers` file at once, so a server that was killed goes on where it
was; only where each line begins is held in memory. The two result files are made from it at the end.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.faults import DROPPED, GHOST, LATE
from ractobatch_dagster.local.problems import error_body

__all__ = ["Progress"]

SLICE = 0.1
"""For how many seconds a thread works on one batch before it is another batch's turn."""

Ask = Callable[[str, Json], tuple[int, Json]]


class Progress:
    """What of a batch has been answered. `answer_some` may run in several threads at once.

    Args:
        source: The batch's input, which has been validated.
        spool: Where its answers are collected.
        total: How many requests it holds.
        fates: What happens to single requests instead of an answer, by `custom_id`.
        ask: Gives the status and body that answer an endpoint and a request body.
    """

    def __init__(self, source: Path, spool: Path, total: int, fates: Mapping[str, int], ask: Ask) -> None:
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
        return LATE in self._fates.values()

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
        self.halted = True
        with self._lock:
            self._closed = True

    def close_out(self, code: str, message: str) -> None:
        """Note every request that has no answer as one that was not executed."""
        with self._source.open("rb") as file:
            for raw in file:
                custom_id = msgspec.json.decode(raw)["custom_id"]
                if custom_id not in self._done:
                    line = _line(custom_id, response=None, error={"code": code, "message": message})
                    self._keep(line, failed=True)

    def result_lines(self, shuffle: Callable[[list[Any]], None], *, failed: bool) -> Iterator[bytes]:
        """The lines of the output file, or of the error file, in the order that `shuffle` makes."""
        lines = [line for line in self._lines if line[2] is failed]
        shuffle(lines)
        if not lines:
            return
        with self._spool.open("rb") as file:
            for begin, length, _ in lines:
                file.seek(begin)
                yield file.read(length)

    def has_lines(self, *, failed: bool) -> bool:
        """Whether there is anything to write into the output file, or the error file."""
        return any(line[2] is failed for line in self._lines)

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
        if fate == LATE:
            return
        if fate == DROPPED:
            with self._lock:
                self._done.add(custom_id)
                self.completed += 1
            return
        if fate == GHOST:
            response: Json = {"status_code": 0, "request_id": "", "body": {}}
        else:
            status, body = (
                self._ask(request["url"], request["body"])
                if fate is None
                else (fate, error_body(fate, f"This request was made to fail with status {fate}."))
            )
            response = {"status_code": status, "request_id": f"req_{secrets.token_hex(12)}", "body": body}
        line = _line(custom_id, response=response, error=None)
        with self._lock:
            if not self._closed:
                self._keep(line, failed=_has_failed(response))
                self._count(response)

    def _keep(self, line: Json, *, failed: bool) -> None:
        data = msgspec.json.encode(line) + b"\n"
        with self._spool.open("ab") as file:
            begin = file.tell()
            file.write(data)
        self._lines.append((begin, len(data), failed))
        self._done.add(line["custom_id"])

    def _count(self, response: Json) -> None:
        if response["status_code"] >= 400:
            self.failed += 1
            return
        self.completed += 1  # the API counts lines with status 0 as completed, too
        self.usage.update(_usage(response["body"].get("usage") or {}))

    def _resume(self) -> None:
        """Take up what an earlier server process has answered; a half-written last line is dropped."""
        self._spool.touch()
        good = 0
        with self._spool.open("rb+") as file:
            for raw in file:
                if not raw.endswith(b"\n"):
                    break
                line = msgspec.json.decode(raw)
                response = line["response"]
                self._lines.append((good, len(raw), _has_failed(response)))
                self._done.add(line["custom_id"])
                if response is not None:
                    self._count(response)
                good += len(raw)
            file.truncate(good)


def _line(custom_id: str, *, response: Json | None, error: Json | None) -> Json:
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }


def _has_failed(response: Json | None) -> bool:
    return response is None or not 200 <= response["status_code"] < 300


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
