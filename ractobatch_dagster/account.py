"""What is under way at one provider account: an asset whose plots people watch, and a sentence that says it."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import dagster as dg
import msgspec

from ractobatch_dagster.requests.cut import BYTES_PER_TOKEN
from ractobatch_dagster.results.cost import prompts_cost
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["UnderWay", "account_asset", "account_key", "observed", "under_way"]


def account_key(resource_key: str) -> dg.AssetKey:
    """The asset of an account, by the key of its resource: `openai_batches` for `openai_batch`."""
    return dg.AssetKey(f"{resource_key}es" if resource_key.endswith("batch") else f"{resource_key}_batches")


@cache
def account_asset(resource_key: str = "openai_batch") -> dg.AssetSpec:
    """The external asset of one `OpenAIBatchResource`, which its sensor observes when something has changed.

    It is among the assets of every `batch_asset` that uses the resource, the same object each time. Its plots show
    what is open over time: batches waiting and running, requests answered, tokens enqueued, the age of the oldest.

    Args:
        resource_key: The key of the resource.
    """
    return dg.AssetSpec(
        account_key(resource_key),
        description=f"What is under way at the account of `{resource_key}`: one observation for each change.",
        kinds={"openai"},
    )


class UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """What of an account's open submissions is where.

    Attributes:
        submissions: How many are open.
        batches_waiting: Not created yet, `batches_refused` among them.
        batches_refused: Turned away by the provider's quota; they are tried again.
        batches_running: At the provider.
        batches_ended: Ended there; their answers are not collected yet.
        requests: What the open submissions' newest rounds ask.
        requests_answered: How many of those have an answer, or an error.
        tokens_enqueued: Input tokens of the running batches, estimated from their bytes.
        cost_enqueued: What those cost, in US dollars; answers come on top. Without models of unknown price.
    """

    submissions: int = 0
    batches_waiting: int = 0
    batches_refused: int = 0
    batches_running: int = 0
    batches_ended: int = 0
    requests: int = 0
    requests_answered: int = 0
    tokens_enqueued: int = 0
    cost_enqueued: float = 0.0

    def as_json(self) -> str:
        """It as text, to tell whether it is as before."""
        return msgspec.json.encode(self).decode()

    def sentence(self, seconds: int) -> str:
        """It in words.

        Args:
            seconds: Until the next look.
        """
        if not self.submissions:
            return "No submission is open."
        share = f"{self.requests_answered / self.requests:.0%}" if self.requests else "100%"
        share = share.replace("%", " %")
        parts = [f"{_batches(self.batches_running)} running ({share} of {self.requests:,} requests answered)"]
        created_later = self.batches_waiting - self.batches_refused
        parts += [f"{created_later:,} waiting to be created"] if created_later else []
        parts += [f"{self.batches_refused:,} waiting for quota"] if self.batches_refused else []
        parts += [f"{self.batches_ended:,} ended"] if self.batches_ended else []
        return f"{', '.join(parts)}, next look in {seconds} s"


def _batches(count: int) -> str:
    return f"{count:,} batch{'' if count == 1 else 'es'}"


def under_way(states: Iterable[SubmissionState]) -> UnderWay:
    """Sum up open submissions."""
    submissions = 0
    counts = dict.fromkeys(("waiting", "refused", "running", "ended"), 0)
    requests = answered = tokens = 0
    cost = 0.0
    for state in states:
        submissions += 1
        current = [batch for batch in state.batches if batch.round == state.round]
        for batch in current:
            requests += batch.requests
            answered += min(batch.completed + batch.failed, batch.requests)
        for batch in state.batches:
            if (place := _place(batch)) is not None:
                counts[place] += 1
            counts["refused"] += bool(place == "waiting" and batch.refusals)
            if place == "running":
                tokens += batch.size // BYTES_PER_TOKEN
                cost += prompts_cost(state.model, batch.size // BYTES_PER_TOKEN) or 0.0
    return UnderWay(
        submissions=submissions,
        **{f"batches_{name}": count for name, count in counts.items()},
        requests=requests,
        requests_answered=answered,
        tokens_enqueued=tokens,
        cost_enqueued=round(cost, 6),
    )


def _place(batch: BatchState) -> str | None:
    if batch.stage in ("planned", "uploaded", "creating"):
        return "waiting"
    return batch.stage if batch.stage in ("running", "ended") else None


def observed(resource_key: str, now: UnderWay, states: Iterable[SubmissionState], at: float) -> dg.AssetObservation:
    """What the account's asset says.

    Args:
        resource_key: The key of its resource.
        now: What is under way.
        states: The open submissions.
        at: Seconds since 1970.
    """
    running = [batch.created_at for state in states for batch in state.batches if batch.stage == "running"]
    oldest = min((created for created in running if created), default=at)
    metadata: dict[str, Any] = {
        "submissions": now.submissions,
        "batches_waiting": now.batches_waiting,
        "batches_refused_by_quota": now.batches_refused,
        "batches_running": now.batches_running,
        "batches_ended": now.batches_ended,
        "requests": now.requests,
        "requests_answered": now.requests_answered,
        "prompt_tokens_enqueued_estimated": now.tokens_enqueued,
        "prompt_cost_usd_enqueued_estimated": now.cost_enqueued,
        "oldest_running_hours": round(max(at - oldest, 0.0) / 3600, 2),
    }
    return dg.AssetObservation(account_key(resource_key), metadata=metadata)
