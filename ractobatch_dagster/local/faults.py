"""Everything the server can do wrong on request, so that a client can be shown to survive it.

`Faults` says what goes wrong; it is all there is to set. `Trouble` remembers what has gone wrong already. The
server asks it at the few points where something can: when a batch is created, when its requests are answered,
when its files are written, and when something is shown or downloaded.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from ractobatch_dagster.local.disk import Batch, Json
from ractobatch_dagster.local.problems import ApiError

__all__ = ["DROPPED", "GHOST", "LATE", "QUEUE_FULL", "Faults", "Trouble"]

GHOST = 0
"""The fate of a request whose result line says status 0 and nothing else."""
DROPPED = -1
"""The fate of a request that appears in neither file."""
LATE = -2
"""The fate of a request that is not reached before its batch expires."""

QUEUE_FULL = (
    "Enqueued token limit reached for {model} in organization org-local. Limit: 2,000,000 enqueued tokens. "
    "Please try again once some in_progress batches have been completed."
)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong; by default nothing.

    A share is a number from 0 to 1; the requests it falls on are drawn anew for each batch, exactly that share
    of them, rounded up. A count says how many times something happens before it works.

    Attributes:
        seed: Draws other requests, and another order of the result lines.
        first_attempts: Only this many batches have the faults of single requests, lines and counts, so that a
            retry succeeds; `None` is all of them.
        expire_at: The batch expires after this share of its requests was answered; the others are
            `batch_expired` in the error file.
        drop: Share of requests that are in neither file.
        drop_ids: Exactly these `custom_id`s are in neither file.
        fail: HTTP status, and the share of requests that end with it in the error file.
        fail_ids: `custom_id`, and the HTTP status it ends with.
        ghost: Share of requests whose line has status 0, no body and no error.
        duplicate_lines: How many lines of the output file appear twice.
        unknown_lines: How many lines answer a `custom_id` that nobody sent.
        bad_lines: How many lines of the output file are cut in half, so that they are no JSON.
        separators: Put U+2028, U+2029 and U+0085 unescaped into each answer.
        lying_counts: `request_counts` says that all were completed and none failed.
        stuck_in: Batches stay in this status for ever, until cancelled.
        empty_file_ids: File ids that are not there are `""`, not null.
        upper_case_statuses: `COMPLETED`, not `completed`.
        no_metadata: Metadata is taken and forgotten.
        queue_full: How a full queue shows, by `queue_full_times` or `queue_limit`: creating is answered `429`
            or `400`, or it succeeds and the batch has `failed` a moment later.
        queue_full_times: How many batches meet a full queue, however many are open.
        queue_limit: How many batches may be open at once; one more meets a full queue.
        retry_after: What the `Retry-After` of a 429 says, in seconds; `None` sends none.
        not_found_after_upload: How many times creating says that the input file cannot be found.
        lost_create_replies: How many times a batch is created but the reply is a 500.
        list_lag: For how many seconds a new batch is missing in lists.
        cut_downloads: How many downloads break off in the middle.
        bad_gateway_downloads: How many downloads are answered 502.
        outage: How many requests of any kind are answered 503.
    """

    seed: int = 0
    first_attempts: int | None = None
    expire_at: float | None = None
    drop: float = 0.0
    drop_ids: frozenset[str] = frozenset()
    fail: Mapping[int, float] = field(default_factory=dict)
    fail_ids: Mapping[str, int] = field(default_factory=dict)
    ghost: float = 0.0
    duplicate_lines: int = 0
    unknown_lines: int = 0
    bad_lines: int = 0
    separators: bool = False
    lying_counts: bool = False
    stuck_in: Literal["validating", "in_progress", "finalizing"] | None = None
    empty_file_ids: bool = False
    upper_case_statuses: bool = False
    no_metadata: bool = False
    queue_full: Literal["429", "400", "failed"] | None = None
    queue_full_times: int = 0
    queue_limit: int | None = None
    retry_after: float | None = None
    not_found_after_upload: int = 0
    lost_create_replies: int = 0
    list_lag: float = 0.0
    cut_downloads: int = 0
    bad_gateway_downloads: int = 0
    outage: int = 0


class Trouble:
    """The faults at work: it counts down what happens a number of times."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._left = {
            name: getattr(faults, name)
            for name in (
                "queue_full_times",
                "not_found_after_upload",
                "lost_create_replies",
                "cut_downloads",
                "bad_gateway_downloads",
                "outage",
            )
        }
        self._hit: dict[str, bool] = {}
        self._doomed: set[str] = set()

    def happens(self, name: str) -> bool:
        """Whether a counted fault happens this time; asking uses it up."""
        self._left[name] -= 1
        return bool(self._left[name] >= 0)

    def before_create(self, file_id: str, open_batches: int) -> None:
        """A batch is about to be created, beside those that have not ended.

        Raises:
            ApiError: It is not to be.
        """
        if self.happens("not_found_after_upload"):
            raise cannot_find(file_id)
        shape = self.faults.queue_full
        full = shape in ("429", "400") and self._queue_is_full(open_batches)
        if full and shape == "429":
            raise ApiError(429, QUEUE_FULL.format(model="the model"), headers=self._retry_after())
        if full:
            raise ApiError(400, QUEUE_FULL.format(model="the model"), code="token_limit_exceeded")

    def created(self, batch: Batch, open_batches: int) -> None:
        """A batch was created, beside those that had not ended.

        Raises:
            ApiError: Its creator is not to learn of it.
        """
        first = self.faults.first_attempts
        self._hit[batch.id] = first is None or len(self._hit) < first
        if self.faults.queue_full == "failed" and self._queue_is_full(open_batches):
            self._doomed.add(batch.id)
        if self.happens("lost_create_replies"):
            raise ApiError(500, "The server had an error while processing your request. Sorry about that!")

    def dooms(self, batch: Batch) -> bool:
        """Whether the batch fails because the queue was full."""
        return batch.id in self._doomed

    def stuck(self, status: str) -> bool:
        """Whether batches stay in this status."""
        return self.faults.stuck_in == status

    def fates(self, batch: Batch, custom_ids: Sequence[str]) -> dict[str, int]:
        """What becomes of single requests: an HTTP status to fail with, `GHOST`, `DROPPED` or `LATE`."""
        if not self._hits(batch):
            return {}
        faults = self.faults
        shares = {DROPPED: faults.drop, GHOST: faults.ghost, **faults.fail}
        if faults.expire_at is not None:
            shares[LATE] = 1 - faults.expire_at
        shuffled = list(custom_ids)
        self._random(batch).shuffle(shuffled)
        fates: dict[str, int] = {}
        for fate, share in shares.items():
            count = math.ceil(round(share * len(custom_ids), 6))
            fates.update(dict.fromkeys(shuffled[:count], fate))
            del shuffled[:count]
        fates.update(dict.fromkeys(faults.drop_ids, DROPPED))
        fates.update(faults.fail_ids)
        return {custom_id: fates[custom_id] for custom_id in custom_ids if custom_id in fates}

    def alter(self, batch: Batch, body: Json) -> Json:
        """An answer as it is to be written."""
        if not (self.faults.separators and self._hits(batch)):
            return body
        return {**body, "system_fingerprint": "fp_\u2028local\u2029\u0085"}

    def spoil(self, batch: Batch, lines: Iterable[bytes]) -> Iterator[bytes]:
        """The lines of an output file as they are to be written."""
        faults, hit = self.faults, self._hits(batch)
        duplicates, unknown, bad = (
            (faults.duplicate_lines, faults.unknown_lines, faults.bad_lines) if hit else (0, 0, 0)
        )
        for number, line in enumerate(lines):
            yield line[: len(line) // 2] + b"\n" if number < bad else line
            if bad <= number < bad + duplicates:
                yield line
            if number < unknown:
                strange = msgspec.json.decode(line) | {"custom_id": f"nobody-sent-this-{number}"}
                yield msgspec.json.encode(strange) + b"\n"

    def show(self, batch: Batch, shown: Json) -> Json:
        """A batch's object as it is to be shown."""
        faults = self.faults
        shown = dict(shown)
        if faults.upper_case_statuses:
            shown["status"] = shown["status"].upper()
        if faults.empty_file_ids:
            for name in ("output_file_id", "error_file_id"):
                shown[name] = shown[name] or ""
        if faults.no_metadata:
            shown["metadata"] = None
        if faults.lying_counts and self._hits(batch):
            total = shown["request_counts"]["total"]
            shown["request_counts"] = {"total": total, "completed": total, "failed": 0}
        return shown

    def _queue_is_full(self, open_batches: int) -> bool:
        limit = self.faults.queue_limit
        return (limit is not None and open_batches >= limit) or self.happens("queue_full_times")

    def _hits(self, batch: Batch) -> bool:
        return self._hit.get(batch.id, self.faults.first_attempts is None)

    def _random(self, batch: Batch) -> random.Random:
        return random.Random(f"{self.faults.seed}/{batch.number}")

    def shuffler(self, batch: Batch) -> Callable[[list[Any]], None]:
        """Puts the lines of a result file in an order that has nothing to do with the input's."""
        return self._random(batch).shuffle

    def _retry_after(self) -> dict[str, str]:
        seconds = self.faults.retry_after
        return {} if seconds is None else {"Retry-After": f"{seconds:g}"}


def cannot_find(file_id: str) -> ApiError:
    """What creating a batch from a file that is not there is answered with."""
    return ApiError(
        400,
        f"Cannot find file {file_id}, or organization org-local or project proj_local does not have access to it.",
        param="file_id",
    )
