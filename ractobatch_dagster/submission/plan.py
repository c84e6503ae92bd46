"""What to do next, as a pure function of what is known. Resuming is planning again; there is no other path."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = [
    "INTENT_AGE",
    "WAVE",
    "Collect",
    "Create",
    "Poll",
    "Progress",
    "Resolve",
    "Settle",
    "Step",
    "plan",
    "progress",
    "requeued",
    "seen",
]

INTENT_AGE = 600.0
"""Seconds after which an unresolved intent is taken over: twice the longest time one create may take."""

WAVE = 50
"""Creates per intent commit."""


@dataclass(frozen=True, slots=True)
class Create:
    """Create these batches: intent, upload, create, record."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out what became of these creates, whose writer never reported back."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Poll:
    """Ask the provider where these batches stand."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Collect:
    """Download what these ended batches returned."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Settle:
    """Every batch is collected: decode, and write the next round's files or the final outcomes."""


Step = Create | Resolve | Poll | Collect | Settle


def plan(state: SubmissionState, now: float, room: int = 1_000_000) -> list[Step]:
    """The steps that make sense now, in the order to do them.

    Args:
        state: The submission as last committed.
        now: Seconds since 1970.
        room: How many more batches the quota admits.
    """
    if state.collected:
        return []
    by_stage: dict[str, list[BatchState]] = {}
    for batch in state.batches:
        by_stage.setdefault(batch.stage, []).append(batch)

    aged = [b.number for b in by_stage.get("creating", []) if b.intent and now - b.intent.at >= INTENT_AGE]
    due = [b.number for b in by_stage.get("planned", []) if b.not_before <= now][: max(room, 0)]
    if state.cancelled:
        due = []
    running = [b.number for b in by_stage.get("running", [])]
    ended = [b.number for b in by_stage.get("ended", [])]

    steps: list[Step] = []
    if aged:
        steps.append(Resolve(tuple(aged)))
    steps += [Create(tuple(due[i : i + WAVE])) for i in range(0, len(due), WAVE)]
    if running:
        steps.append(Poll(tuple(running)))
    if ended:
        steps.append(Collect(tuple(ended)))
    final = ("collected", "planned") if state.cancelled else ("collected",)
    if all(batch.stage in final for batch in state.batches):
        steps.append(Settle())
    return steps


def seen(batch: BatchState, remote: RemoteBatch) -> BatchState:
    """The batch after a look at the provider. A status never moves backwards: lists lag, and polls overtake."""
    if batch.batch_id not in (None, remote.id):
        return batch
    if batch.status is not None and _ORDER[remote.status] < _ORDER[batch.status]:
        return batch
    return msgspec.structs.replace(
        batch,
        batch_id=remote.id,
        intent=None,
        file_id=remote.input_file_id or batch.file_id,
        status=remote.status,
        created_at=remote.created_at or batch.created_at,
        completed=max(remote.completed, batch.completed),
        failed=max(remote.failed, batch.failed),
        output_file_id=remote.output_file_id or batch.output_file_id,
        error_file_id=remote.error_file_id or batch.error_file_id,
        issues=tuple(remote.issues),
    )


def requeued(batch: BatchState, not_before: float) -> BatchState:
    """The batch back in the queue: the quota turned it away, nothing of it ran, and no attempt of a row is used up."""
    return BatchState(
        number=batch.number,
        round=batch.round,
        requests=batch.requests,
        size=batch.size,
        attempt=batch.attempt,
        not_before=not_before,
    )


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a submission is, in numbers a person understands."""

    batches: int
    waiting: int
    running: int
    ended: int
    requests: int
    completed: int
    failed: int
    round: int
    collected: bool

    def __str__(self) -> str:
        if self.collected:
            return f"all {self.requests} requests collected"
        parts = [f"{self.ended} of {self.batches} batches ended"]
        if self.running:
            parts.append(f"{self.running} running")
        if self.waiting:
            parts.append(f"{self.waiting} waiting to be created")
        answered = min(self.completed + self.failed, self.requests)
        parts.append(f"{answered} of {self.requests} requests answered")
        if self.round:
            parts.append(f"round {self.round}")
        return ", ".join(parts)


def progress(state: SubmissionState) -> Progress:
    """Sum up the submission's current round."""
    current = [batch for batch in state.batches if batch.round == state.round]
    stages = [batch.stage for batch in current]
    return Progress(
        batches=len(current),
        waiting=stages.count("planned") + stages.count("creating"),
        running=stages.count("running"),
        ended=stages.count("ended") + stages.count("collected"),
        requests=sum(batch.requests for batch in current),
        completed=sum(batch.completed for batch in current),
        failed=sum(batch.failed for batch in current),
        round=state.round,
        collected=state.collected,
    )


_ORDER = {
    BatchStatus.PENDING: 0,
    BatchStatus.IN_PROGRESS: 1,
    BatchStatus.FINALIZING: 2,
    BatchStatus.CANCELLING: 3,
    BatchStatus.FAILED: 4,
    BatchStatus.EXPIRED: 4,
    BatchStatus.CANCELLED: 4,
    BatchStatus.COMPLETED: 4,
}
