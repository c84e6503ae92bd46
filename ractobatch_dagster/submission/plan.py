"""What to do next, as a pure function of what is known. Resuming is planning again; there is no other path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.naming import KEY
from ractobatch_dagster.provider.remote import Issue, RemoteBatch, says_file_missing, says_queue_full
from ractobatch_dagster.submission.state import BatchState, Intent, SubmissionState

__all__ = [
    "COMMIT_EVERY",
    "INTENT_AGE",
    "KEY",
    "WAVE",
    "Absorb",
    "Cancel",
    "Collect",
    "Create",
    "Poll",
    "Progress",
    "Resolve",
    "Settle",
    "Step",
    "Upload",
    "after_look",
    "batch_key",
    "plan",
    "progress",
    "requeued",
    "seen",
    "strays",
    "together",
    "turned_away",
]

INTENT_AGE = 600.0
"""Seconds after which an intent that nobody reported back on is taken over: more than any one create takes."""

WAVE = 50
"""Creates per intent commit."""

COMMIT_EVERY = 30.0
"""Seconds after which a long step records what it has done so far, so that a crash costs no more than that."""


def batch_key(submission: str, number: int, attempt: int) -> str:
    """What a batch's metadata says about whose it is."""
    return f"{submission}/{number}/{attempt}"


@dataclass(frozen=True, slots=True)
class Absorb:
    """Wait for the submissions that this one replaces, and take their answers over."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Find out what became of these creates, whose writer never reported back."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """Upload the input files of these batches. It costs nothing, and repeating it neither."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Create:
    """Create these batches, wave by wave: intent, create, record."""

    batches: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cancel:
    """Cancel these batches at the provider."""

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
    """Every batch is collected: plan the next round, or make the outcomes final."""


Step = Absorb | Resolve | Upload | Create | Cancel | Poll | Collect | Settle


def plan(state: SubmissionState, now: float, *, list_lag: float = 120.0) -> list[Step]:
    """The steps that make sense now, in the order to do them.

    Args:
        state: The submission as last committed.
        now: Seconds since 1970.
        list_lag: For how many seconds the provider's list may not show a new batch. So long after its input file was
            deleted a look proves that no batch came of an interrupted create.
    """
    if state.collected:
        return []
    if state.predecessors:
        return [Absorb()]
    stages: dict[str, list[BatchState]] = {}
    for batch in state.batches:
        stages.setdefault(batch.stage, []).append(batch)
    steps: list[Step] = []
    if unsure := _numbers(b for b in stages.get("creating", []) if b.intent and _is_due(b.intent, now, list_lag)):
        steps.append(Resolve(unsure))
    running = stages.get("running", [])
    if not state.cancelled:
        steps += _outgoing(stages, now)
    elif going := _numbers(b for b in running if b.status is not BatchStatus.CANCELLING):
        steps.append(Cancel(going))
    if running:
        steps.append(Poll(_numbers(running)))
    if ended := _numbers(stages.get("ended", [])):
        steps.append(Collect(ended))
    if stages.keys() <= {"collected", *(("planned", "uploaded") if state.cancelled else ())}:
        steps.append(Settle())
    return steps


def _outgoing(stages: Mapping[str, list[BatchState]], now: float) -> list[Step]:
    """What goes to the provider."""
    planned = _numbers(b for b in stages.get("planned", []) if b.not_before <= now)
    uploaded = _numbers(b for b in stages.get("uploaded", []) if b.not_before <= now)
    return [*([Upload(planned)] if planned else []), *([Create(uploaded)] if uploaded else [])]


def _numbers(batches: Iterable[BatchState]) -> tuple[int, ...]:
    return tuple(batch.number for batch in batches)


def _is_due(intent: Intent, now: float, list_lag: float) -> bool:
    """Whether it is time for the next look at an interrupted create."""
    if intent.fenced_at is None:
        return intent.given_up or now - intent.at >= INTENT_AGE
    return now - intent.fenced_at >= list_lag


def seen(batch: BatchState, remote: RemoteBatch, now: float = 0.0) -> BatchState:
    """The batch after a look at the provider. A status never moves backwards: lists lag, and polls overtake."""
    if batch.batch_id not in (None, remote.id):
        return batch
    if batch.status is not None and (batch.status.terminal or _ORDER[remote.status] < _ORDER[batch.status]):
        return batch
    moved = batch.status is not remote.status or remote.completed + remote.failed > batch.completed + batch.failed
    return msgspec.structs.replace(
        batch,
        batch_id=remote.id,
        intent=None,
        intended_at=batch.intended_at or (batch.intent.at if batch.intent else 0.0),
        file_id=remote.input_file_id or batch.file_id,
        status=remote.status,
        created_at=remote.created_at or batch.created_at,
        completed=max(remote.completed, batch.completed),
        failed=max(remote.failed, batch.failed),
        output_file_id=remote.output_file_id or batch.output_file_id,
        error_file_id=remote.error_file_id or batch.error_file_id,
        issues=tuple(remote.issues),
        told_tokens=remote.tokens or batch.told_tokens,
        seen_at=now if moved else batch.seen_at,
    )


def after_look(batch: BatchState, remote: RemoteBatch, now: float) -> BatchState:
    """As `seen`; a batch that failed for want of quota goes back into the queue, for that is how OpenAI refuses one.

    So does one that failed for want of its input file, which we may have deleted: some servers create it all the same.
    """
    if batch.stage != "ended" and _hides_its_files(remote):
        if not batch.ended_at:
            return msgspec.structs.replace(seen(batch, replace(remote, status=BatchStatus.PENDING), now), ended_at=now)
        if now - batch.ended_at < _FILES_SHOW:
            return batch
    after = seen(batch, remote, now)
    if batch.intent is not None and batch.intent.fenced_at is not None:
        after = msgspec.structs.replace(after, fenced=True)
    if after.status is not BatchStatus.FAILED or after.file_ids:
        return after
    if after.fenced or any(_passes(issue) for issue in after.issues):
        waiting = turned_away(after, now)
        return requeued(waiting, waiting.not_before)
    return after


def _hides_its_files(remote: RemoteBatch) -> bool:
    """Whether a batch has ended and says that it has answered, and not where: that may take a moment to show."""
    ended = remote.status.terminal and remote.status is not BatchStatus.FAILED
    return ended and remote.completed + remote.failed > 0 and not (remote.output_file_id or remote.error_file_id)


def requeued(batch: BatchState, not_before: float = 0.0) -> BatchState:
    """The batch as it was planned, to be uploaded and created anew; nothing of it ran."""
    return BatchState(
        number=batch.number,
        round=batch.round,
        model=batch.model,
        requests=batch.requests,
        size=batch.size,
        token=batch.token,
        group=batch.group,
        start=batch.start,
        stop=batch.stop,
        attempt=batch.attempt,
        refusals=batch.refusals,
        not_before=not_before,
    )


def turned_away(batch: BatchState, now: float, retry_after: float | None = None) -> BatchState:
    """An uploaded batch that the provider would not create now: back in the queue, with a growing pause."""
    pause = max(min(_QUEUE_PAUSE * 2**batch.refusals, _LONGEST_PAUSE), retry_after or 0.0)
    return msgspec.structs.replace(batch, intent=None, refusals=batch.refusals + 1, not_before=now + pause)


def strays(state: SubmissionState, others: Iterable[RemoteBatch]) -> tuple[dict[int, RemoteBatch], list[RemoteBatch]]:
    """Batches that carry this submission's key and that it does not know, found on the way.

    Returns:
        By number, those that stand in for a batch which is not created, and those that are one too many.
    """
    adopted: dict[int, RemoteBatch] = {}
    surplus: list[RemoteBatch] = []
    by_number = {batch.number: batch for batch in state.batches}
    for remote in others:
        submission, _, rest = remote.metadata.get(KEY, "").partition("/")
        number = rest.partition("/")[0]
        batch = by_number.get(int(number)) if submission == state.id and number.isdecimal() else None
        if batch is None or remote.id == batch.batch_id or batch.stage == "creating":
            continue  # no business of ours, known, or about to be recorded by its writer
        dead = remote.status.terminal and not (remote.output_file_id or remote.error_file_id)
        if batch.batch_id is None and not dead and batch.number not in adopted:
            adopted[batch.number] = remote
        elif not remote.status.terminal and remote.status is not BatchStatus.CANCELLING:
            surplus.append(remote)
    return adopted, surplus


def _passes(issue: Issue) -> bool:
    """Whether what is wrong lies not in the requests: a full queue, or a batch without its file."""
    return says_queue_full(issue.message, issue.code) or (issue.line is None and says_file_missing(issue.message))


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
    held: int = 0
    queued: int = 0

    @property
    def answered(self) -> int:
        """How many requests have an answer or an error; the provider's count may run ahead of what was asked."""
        return min(self.completed + self.failed, self.requests)

    def __str__(self) -> str:
        if self.collected:
            return "everything is collected"
        if not self.batches:
            return "waiting for the submission that it replaces to end"
        parts = [f"{self.ended} of {self.batches} batches ended"]
        if self.running:
            parts.append(f"{self.running} running")
        if later := self.waiting - self.held - self.queued:
            parts.append(f"{later} waiting to be created")
        if self.held:
            parts.append(f"{self.held} waiting for the budget")
        if self.queued:
            parts.append(f"{self.queued} waiting for the quota")
        parts.append(f"{self.answered} of {self.requests} requests answered")
        if self.round:
            parts.append(f"round {self.round}")
        return ", ".join(parts)


def together(parts: Sequence[Progress]) -> Progress:
    """How far several submissions are in all."""
    return Progress(
        batches=sum(one.batches for one in parts),
        waiting=sum(one.waiting for one in parts),
        running=sum(one.running for one in parts),
        ended=sum(one.ended for one in parts),
        requests=sum(one.requests for one in parts),
        completed=sum(one.completed for one in parts),
        failed=sum(one.failed for one in parts),
        round=max(one.round for one in parts),
        collected=all(one.collected for one in parts),
        held=sum(one.held for one in parts),
        queued=sum(one.queued for one in parts),
    )


def progress(state: SubmissionState) -> Progress:
    """Sum up the submission's current round."""
    round_ = state.round
    current = [batch for batch in state.batches if batch.round == round_]
    stages = [batch.stage for batch in current]
    return Progress(
        batches=len(current),
        waiting=sum(stages.count(stage) for stage in ("planned", "uploaded", "creating")),
        running=stages.count("running"),
        ended=stages.count("ended") + stages.count("collected"),
        requests=sum(batch.requests for batch in current),
        completed=sum(batch.completed for batch in current),
        failed=sum(batch.failed for batch in current),
        round=round_,
        collected=state.collected,
        held=stages.count("uploaded") if state.held else 0,
        queued=sum(1 for batch in current if batch.stage == "uploaded" and _queues(state, batch)),
    )


def _queues(state: SubmissionState, batch: BatchState) -> bool:
    """Whether an uploaded batch waits for room in the provider's queue."""
    return not state.held and bool(state.queued or batch.refusals)


_QUEUE_PAUSE, _LONGEST_PAUSE = 60.0, 900.0
"""Seconds before a batch that the quota turned away is tried again: the first time, and at most."""

_FILES_SHOW = 600.0
"""For how many seconds a batch that has ended may not show its files yet."""

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
