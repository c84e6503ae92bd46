"""What a person should look at: batches that are stuck, answers that nobody collects or that will soon be deleted."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["Patience", "alarms"]

_HOUR, _DAY = 3600.0, 86_400.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long things may take before they are an alarm, in seconds.

    Attributes:
        stuck_after: A batch that shows no progress for so long is stuck.
        uncollected_after: If all batches have ended for so long, nobody collects the answers.
        kept_for: For how long the provider keeps its files; OpenAI 30 days.
        warn_before: How long before their deletion we warn.
        unresolved_after: For how long it may be unknown whether a batch exists.
        refusals: How many times in a row a batch may be turned away; about a day.
    """

    stuck_after: float = 12 * _HOUR
    uncollected_after: float = 6 * _HOUR
    kept_for: float = 30 * _DAY
    warn_before: float = 7 * _DAY
    unresolved_after: float = _HOUR
    refusals: int = 100


def alarms(state: SubmissionState, now: float, patience: Patience) -> list[str]:
    """What is wrong with an open submission, one sentence each; they stay the same for as long as it does."""
    if state.collected:
        return []
    found = [text for batch in state.batches for text in _of(batch, now, patience)]
    if state.held_for_good and not state.cancelled:
        found.append(f"a budget admits no more of its batches: {state.held}")
    ended = max((batch.seen_at for batch in state.batches if batch.stage == "ended"), default=0.0)
    if not found and state.ready and ended and now - ended >= patience.uncollected_after:
        found = [
            f"its last batch ended at {_time(ended)} and the answers are not collected. See why the runs of its table "
            "fail, or materialise the table by hand."
        ]
    return [f"submission {state.id}: {text}" for text in found]


def _of(batch: BatchState, now: float, patience: Patience) -> Iterator[str]:
    since = batch.seen_at or batch.created_at or 0.0
    if batch.stage == "running" and since and now - since >= patience.stuck_after:
        word = batch.status.value if batch.status else "created"
        advice = "Look at it in the provider's dashboard; cancelling it keeps what was answered."
        if batch.status is BatchStatus.CANCELLING:
            advice = "If it does not end, give it up with `ractobatch cancel --abandon`."
        yield f"batch {batch.batch_id} has been {word} without progress since {_time(since)}. {advice}"
    deleted_at = since + patience.kept_for
    if batch.stage == "ended" and batch.file_ids and since and now >= deleted_at - patience.warn_before:
        yield (
            f"the provider deletes the answers of batch {batch.batch_id} about {_time(deleted_at)}, and they are not "
            "collected. Materialise the table."
        )
    if batch.intent is not None and now - batch.intent.at >= patience.unresolved_after:
        yield (
            f"whether batch {batch.number} exists at the provider has been unknown since {_time(batch.intent.at)}. It "
            "is not created again before that is known; see the sensor's log for why."
        )
    if batch.stage in ("planned", "uploaded") and batch.refusals >= patience.refusals:
        yield (
            f"the provider has turned batch {batch.number} away {patience.refusals} times or more; see the sensor's "
            "log for why. Nothing is lost, and it is tried again every quarter of an hour."
        )


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
