"""The faults at work: what goes wrong this time, and how often it has gone wrong already.

The server asks `Trouble` at the few points where something can go wrong: when a call comes in, when a batch is
created, when its requests are answered, when its files are written, and when something is shown or downloaded.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from email.utils import formatdate
from typing import Any

import msgspec

from ractobatch_dagster.local.disk import Batch, Json
from ractobatch_dagster.local.faults import CallFault, Fate, Faults
from ractobatch_dagster.local.problems import ApiError

__all__ = ["QUEUE_FULL", "Trouble", "cannot_find", "retry_after"]

QUEUE_FULL = (
    "Enqueued token limit reached for {model} in organization org-local. Limit: 2,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)
_LOST = "The server had an error while processing your request. Sorry about that!"
_COUNTED = ("queue_full_times", "not_found_after_upload", "cut_downloads", "short_downloads")


class Trouble:
    """The faults of a server, or of one of its batches, with what is left of those that are counted."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._left = {name: getattr(faults, name) for name in _COUNTED}
        self._calls = [_Countdown(fault) for fault in (*faults.calls, *_short_for(faults))]
        self._draw = random.Random(f"{faults.seed}/calls")
        self._parts = {number: Trouble(part) for number, part in faults.batches.items()}
        self._hit: dict[str, bool] = {}
        self._doomed: set[str] = set()

    def at(self, number: int | None) -> Trouble:
        """The trouble around the batch of this number, or of the server where there is none of its own."""
        return self if number is None else self._parts.get(number, self)

    def of(self, batch: Batch) -> Trouble:
        """The trouble that a batch itself has: none, where only the first ones are to have it."""
        if batch.number in self._parts:
            return self._parts[batch.number]
        return self if self._hit.get(batch.id, self.faults.first_attempts is None) else _NONE

    def happens(self, name: str) -> bool:
        """Whether a counted fault happens this time; asking uses it up."""
        self._left[name] -= 1
        return bool(self._left[name] >= 0)

    def call(self, method: str, route: str) -> _Countdown | None:
        """What happens to an HTTP call."""
        for countdown in self._calls:
            if countdown.fits(method, route) and countdown.strikes(self._draw):
                return countdown
        return None

    def before_create(self, file_id: str, age: float, open_batches: int, begun: Sequence[float]) -> None:
        """A batch is about to be created.

        Args:
            file_id: Its input file.
            age: For how many seconds that has been there.
            open_batches: How many batches have not ended.
            begun: When each batch was created.

        Raises:
            ApiError: It is not to be.
        """
        if self.happens("not_found_after_upload") or age < self.faults.not_found_for:
            raise cannot_find(file_id)
        self._check_hour(begun)
        shape = self.faults.queue_full
        full = shape in ("429", "400") and self._queue_is_full(open_batches)
        if full and shape == "429":
            headers = retry_after(self.faults.retry_after)
            raise ApiError(429, QUEUE_FULL.format(model="the model"), headers=headers)
        if full:
            raise ApiError(400, QUEUE_FULL.format(model="the model"), code="token_limit_exceeded")

    def created(self, batch: Batch, open_batches: int) -> None:
        """A batch was created, beside those that had not ended."""
        first = self.faults.first_attempts
        self._hit[batch.id] = first is None or len(self._hit) < first
        part = self.at(batch.number)
        if part.faults.queue_full == "failed" and part._queue_is_full(open_batches):
            self._doomed.add(batch.id)

    def dooms(self, batch: Batch) -> bool:
        """Whether the batch fails because the queue was full."""
        return batch.id in self._doomed

    def fates(self, batch: Batch, custom_ids: Sequence[str]) -> dict[str, Fate]:
        """What becomes of those requests that are not simply answered."""
        faults = self.faults
        shares: dict[Fate, float] = {"drop": faults.drop, "ghost": faults.ghost}
        shares.update(faults.fail.items())
        reached = faults.expire_at if faults.cancel_at is None else faults.cancel_at
        if reached is not None:
            shares["late"] = 1 - reached
        shuffled = list(custom_ids)
        self._random(batch).shuffle(shuffled)
        fates: dict[str, Fate] = {}
        for fate, share in {**shares, **faults.shares}.items():
            count = math.ceil(round(share * len(custom_ids), 6))
            fates.update(dict.fromkeys(shuffled[:count], fate))
            del shuffled[:count]
        fates.update(dict.fromkeys(faults.drop_ids, "drop"))
        fates.update({**faults.fail_ids, **faults.requests})
        return {custom_id: fates[custom_id] for custom_id in custom_ids if custom_id in fates}

    def spoil(self, lines: Iterable[bytes], fates: Mapping[str, Fate], *, failed: bool) -> Iterator[bytes]:
        """The lines of a result file as they are to be written."""
        faults = self.faults
        duplicates, unknown, bad = (
            (0, 0, 0) if failed else (faults.duplicate_lines, faults.unknown_lines, faults.bad_lines)
        )
        shaped = not faults.line_ids or not {"twice", "broken"}.isdisjoint(fates.values())
        for number, whole in enumerate(lines):
            line, fate = self._shape(whole, fates) if shaped else (whole, None)
            yield line[: len(line) // 2] + b"\n" if number < bad or fate == "broken" else line
            if bad <= number < bad + duplicates or fate == "twice":
                yield line
            if number < unknown:
                yield _encode(msgspec.json.decode(line) | {"custom_id": f"nobody-sent-this-{number}"})

    def show(self, shown: Json) -> Json:
        """A batch's object as it is to be shown."""
        faults = self.faults
        shown = dict(shown)
        shown["status"] = faults.statuses.get(shown["status"], shown["status"])
        if faults.upper_case_statuses:
            shown["status"] = shown["status"].upper()
        if faults.empty_file_ids:
            for name in ("output_file_id", "error_file_id"):
                shown[name] = shown[name] or ""
        if faults.lying_counts:
            total = shown["request_counts"]["total"]
            shown["request_counts"] = {"total": total, "completed": total, "failed": 0}
        hidden = {*faults.null_fields, *(["metadata"] if faults.no_metadata else [])}
        return shown | dict.fromkeys(hidden)

    def shuffler(self, batch: Batch) -> Callable[[list[Any]], None]:
        """Puts the lines of a result file in an order that has nothing to do with the input's."""
        return self._random(batch).shuffle

    def _shape(self, raw: bytes, fates: Mapping[str, Fate]) -> tuple[bytes, Fate | None]:
        line = msgspec.json.decode(raw)
        if not self.faults.line_ids:
            del line["id"]
            raw = _encode(line)
        return raw, fates.get(line["custom_id"])

    def _check_hour(self, begun: Sequence[float]) -> None:
        limit, now = self.faults.creates_per_hour, time.time()
        if limit is None:
            return
        recent = [moment for moment in begun if moment > now - self.faults.hour]
        if len(recent) >= limit:
            over = sorted(recent)[len(recent) - limit] + self.faults.hour - now if limit else self.faults.hour
            message = f"Rate limit reached for creating batches. Limit: {limit:,} an hour. Please try again later."
            raise ApiError(429, message, headers=retry_after(math.ceil(over)))

    def _queue_is_full(self, open_batches: int) -> bool:
        limit = self.faults.queue_limit
        return (limit is not None and open_batches >= limit) or self.happens("queue_full_times")

    def _random(self, batch: Batch) -> random.Random:
        return random.Random(f"{self.faults.seed}/{batch.number}")


class _Countdown:
    """A fault of HTTP calls, and how often it is still to happen."""

    def __init__(self, fault: CallFault) -> None:
        self.fault = fault
        self._skip, self._left = fault.skip, fault.times

    def fits(self, method: str, route: str) -> bool:
        """Whether such a call is meant."""
        return self.fault.method in ("*", method) and self.fault.route in ("*", route)

    def strikes(self, draw: random.Random) -> bool:
        """Whether it happens this time; asking uses it up."""
        if self._skip > 0:
            self._skip -= 1
            return False
        if self._left == 0 or (self.fault.chance < 1 and draw.random() >= self.fault.chance):
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def give_back(self) -> None:
        """It has not happened after all."""
        if self._left is not None:
            self._left += 1


def _short_for(faults: Faults) -> Iterator[CallFault]:
    """The faults of calls that have a field of their own."""
    if faults.outage:
        yield CallFault(times=faults.outage, status=503, message="The server is currently overloaded.")
    if faults.lost_create_replies:
        for route in ("/v1/batches", "/v1/messages/batches"):
            yield CallFault("POST", route, times=faults.lost_create_replies, done=True, status=500, message=_LOST)
    if faults.bad_gateway_downloads:
        for route in ("/v1/files/{id}/content", "/v1/messages/batches/{id}/results"):
            yield CallFault("GET", route, times=faults.bad_gateway_downloads, status=502, message="Bad gateway.")


def retry_after(seconds: float | None, *, as_date: bool = False) -> dict[str, str]:
    """The header that says when to try again, if any."""
    if seconds is None:
        return {}
    value = formatdate(time.time() + seconds, usegmt=True) if as_date else f"{seconds:g}"
    return {"Retry-After": value}


def cannot_find(file_id: str) -> ApiError:
    """What creating a batch from a file that is not there is answered with."""
    return ApiError(
        400,
        f"Cannot find file {file_id}, or organization org-local or project proj_local does not have access to it.",
        param="file_id",
    )


def _encode(line: Json) -> bytes:
    return msgspec.json.encode(line) + b"\n"


_NONE = Trouble(Faults())
