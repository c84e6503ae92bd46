"""What is under way at one provider account: an asset whose plots people watch, and a sentence that says it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache

import dagster as dg
import msgspec

from ractobatch_dagster.results.cost import prompts_cost
from ractobatch_dagster.submission.expecting import prompt_tokens
from ractobatch_dagster.submission.plan import progress, together
from ractobatch_dagster.submission.state import SubmissionState

__all__ = ["UnderWay", "account_asset", "account_key", "observed", "read_under_way", "under_way"]


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
        kinds={"llm"},
    )


class UnderWay(msgspec.Struct, frozen=True, kw_only=True):
    """What of an account's open submissions is where, under the names that the UI plots.

    Attributes:
        submissions: How many are open.
        batches_waiting: Not created yet, those that wait for the quota or a budget among them.
        batches_waiting_for_quota: Not created, because the provider's queue has no room for them.
        batches_held_by_budget: Not created, because a budget has no room for them.
        batches_running: At the provider.
        batches_ended: Ended there; their answers are not collected yet.
        requests: What the open submissions' newest rounds ask.
        requests_answered: How many of those have an answer, or an error.
        prompt_tokens_enqueued_estimated: Input tokens of the running batches, estimated from their bytes.
        prompt_cost_usd_enqueued_estimated: What those cost; answers come on top. Without models of unknown price.
        spent_usd: What the collected answers of open submissions have cost. Without models of unknown price.
    """

    submissions: int = 0
    batches_waiting: int = 0
    batches_waiting_for_quota: int = 0
    batches_held_by_budget: int = 0
    batches_running: int = 0
    batches_ended: int = 0
    requests: int = 0
    requests_answered: int = 0
    prompt_tokens_enqueued_estimated: int = 0
    prompt_cost_usd_enqueued_estimated: float = 0.0
    spent_usd: float = 0.0

    def as_json(self) -> str:
        """It as text, to tell whether it is as before."""
        return msgspec.json.encode(self).decode()

    def __add__(self, other: UnderWay) -> UnderWay:
        """Both together."""
        return UnderWay(**{name: value + getattr(other, name) for name, value in msgspec.structs.asdict(self).items()})

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
        queued = self.batches_waiting_for_quota
        held = self.batches_held_by_budget
        created_later = self.batches_waiting - queued - held
        parts += [f"{created_later:,} waiting to be created"] if created_later else []
        parts += [f"{queued:,} waiting for the quota"] if queued else []
        parts += [f"{held:,} waiting for the budget"] if held else []
        parts += [f"{self.batches_ended:,} ended"] if self.batches_ended else []
        return f"{', '.join(parts)}, next look in {seconds} s"


def read_under_way(told: str) -> UnderWay:
    """It from text, as an earlier release may have written it."""
    try:
        return msgspec.json.decode(told, type=UnderWay)
    except msgspec.MsgspecError:
        return UnderWay()


def _batches(count: int) -> str:
    return f"{count:,} batch{'' if count == 1 else 'es'}"


def under_way(states: Collection[SubmissionState]) -> UnderWay:
    """Sum up open submissions."""
    if not states:
        return UnderWay()
    now = together([progress(state) for state in states])
    batches = [batch for state in states for batch in state.batches]
    enqueued = [
        (batch.model or state.model, prompt_tokens(state, batch), state.prices)
        for state in states
        for batch in state.batches
        if batch.stage == "running"
    ]
    return UnderWay(
        submissions=len(states),
        batches_waiting=now.waiting,
        batches_waiting_for_quota=now.queued,
        batches_held_by_budget=now.held,
        batches_running=now.running,
        batches_ended=sum(1 for batch in batches if batch.stage == "ended"),
        requests=now.requests,
        requests_answered=now.answered,
        prompt_tokens_enqueued_estimated=sum(count for _, count, _ in enqueued),
        spent_usd=round(sum(batch.usd or 0.0 for batch in batches), 6),
        prompt_cost_usd_enqueued_estimated=round(sum(prompts_cost(*one) or 0.0 for one in enqueued), 6),
    )


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
    metadata = {**msgspec.structs.asdict(now), "oldest_running_hours": round(max(at - oldest, 0.0) / 3600, 2)}
    return dg.AssetObservation(account_key(resource_key), metadata=metadata)
