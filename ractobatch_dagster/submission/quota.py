"""The quota: a provider takes so many tokens of a model into its queue. What is in it is counted over all submissions.

The count is a ledger in the store, one for each provider, and is kept from the moment on at which a limit is given or
a refusal tells one. As with budgets the intent to create is committed first, then counted by one atomic commit, then
the batch is created; so runs side by side do not enqueue more than there is room for. What is given up too much by a
crash is put right by whoever goes on with the submission.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

import msgspec

from ractobatch_dagster.provider.remote import queue_limit
from ractobatch_dagster.requests.cut import BYTES_PER_TOKEN
from ractobatch_dagster.results.cost import named
from ractobatch_dagster.store import Store, table_name
from ractobatch_dagster.submission.files import SubmissionFiles, open_states
from ractobatch_dagster.submission.log import Log
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["Counted", "Quota", "counted", "queue_limits", "queue_lines", "quota_logs"]

_HOUR = 3_600

_LEARNT = 86_400.0
"""Seconds for which a limit holds that a refusal told: accounts rise, and then nobody refuses any more."""

_WAITS = 3_600.0
"""Seconds after which a submission that waits and has not come again leaves its share to others."""

_RECOUNT = 3_600.0
"""Seconds after which those in whose way a share is look whether it is still right."""

_STARVES = 1_800.0
"""Seconds after which the room that a waiting batch needs is left free, however small the others are."""

_ENQUEUED = 2 * 86_400.0
"""Seconds after which nothing of a submission that nobody has looked at since is in the queue: its batches expired."""

_LOOK_AGAIN = 300.0
"""Seconds after which it is seen again whether somebody counts."""

_MARGIN = 1.1
"""So many times the tokens that earlier answers were billed for, since the next rows may be longer."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """How many tokens of a model the provider said that it takes, and when it said so."""

    tokens: int
    at: float


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one submission has in the queue.

    Attributes:
        tokens: How many tokens, by model.
        waits: How many tokens the next batch has that it waits to add, by model.
        since: Since when it has waited for that in vain.
        at: When this was written down.
    """

    tokens: dict[str, int] = {}
    waits: dict[str, int] = {}
    since: dict[str, float] = {}
    at: float


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The queue of one provider.

    Attributes:
        shares: What each submission has there.
        learnt: Limits that refusals told, by model.
        billed: Input tokens that earlier answers were billed for, and the bytes of their input files, by model.
        created: How many batches were created, by hour since 1970.
    """

    shares: dict[str, Share] = {}
    learnt: dict[str, Limit] = {}
    billed: dict[str, tuple[int, int]] = {}
    created: dict[str, int] = {}


def counted(store: Store, provider: str) -> Counted | None:
    """The queue of this provider as it was last counted; `None` where no limit was ever given or told."""
    version = _log(store, provider).load()
    return version.state if version is not None else None


def queue_limits(store: Store, provider: str, given: Mapping[str, int], now: float) -> dict[str, int]:
    """How many tokens the queue takes, by model, as far as that is given or was told by a refusal."""
    ledger = counted(store, provider) or Counted()
    return {model: one.tokens for model, one in ledger.learnt.items() if now - one.at < _LEARNT} | dict(given)


def queue_lines(store: Store, provider: str, now: float) -> list[str]:
    """What is in the queue of this provider, a sentence for each model; nothing where no limit was ever met."""
    ledger = counted(store, provider) or Counted()
    fresh = [share for share in ledger.shares.values() if now - share.at < _ENQUEUED]
    said = []
    for model in sorted({*ledger.learnt, *(name for share in fresh for name in (*share.tokens, *share.waits))}):
        tokens = sum(share.tokens.get(model, 0) for share in fresh)
        waiting = sum(1 for share in fresh if model in share.waits)
        limit = ledger.learnt.get(model)
        of = f" of {limit.tokens:,} that a refusal told" if limit and now - limit.at < _LEARNT else ""
        said.append(f"{model}: about {tokens:,} tokens enqueued{of}, {waiting} submissions wait")
    return said


def quota_logs(store: Store) -> list[Log[Counted]]:
    """The ledgers' logs, one for each provider."""
    return [_log(store, unquote(name)) for name in store.folders("quota")]


def _log(store: Store, provider: str) -> Log[Counted]:
    return Log(store, f"quota/{table_name(provider)}/log", Counted, prunable=True)


class Quota:
    """What may be enqueued at one provider.

    Args:
        store: The root.
        provider: The provider's identity.
        given: Limits, in tokens by model; others are learnt from refusals.
        batches_per_hour: How many batches may be created in an hour.
        now: Seconds since 1970, by the store's clock.
    """

    def __init__(
        self,
        store: Store,
        provider: str,
        given: Mapping[str, int],
        batches_per_hour: int | None,
        now: Callable[[], float],
    ) -> None:
        self._store, self._provider = store, provider
        self._log = _log(store, provider)
        self._given = dict(given)
        self._per_hour = batches_per_hour
        self._now = now
        self._counts: bool | None = None  # whether there is a ledger, which nobody takes away again
        self._looked_at = 0.0
        self._unsettled: set[str] = set()

    def fitting(self, state: SubmissionState, numbers: Sequence[int], most: int) -> tuple[list[int], str]:
        """Which of these batches there is room for now, in their order, and what stops the others.

        A batch that is larger than the queue goes when the queue is empty: its tokens are an estimate. Where others
        wait as well, a submission takes no more than its share.

        Args:
            state: The submission.
            numbers: Batches that are uploaded.
            most: How many are enough.
        """
        ledger, now = self._ledger(), self._now()
        if ledger is None and self._given:
            ledger = self._census(state)
        wanted = set(numbers)
        self._unsettled.add(state.id)
        room = self._this_hour(state, ledger, now)
        queue = _Queue(state, ledger, self._given, now)
        fits, why = list[int](), ""
        for batch in (batch for batch in state.batches if batch.number in wanted):
            if len(fits) == min(most, room):
                break
            stopped = queue.add(batch)
            why = why or stopped
            if not stopped:
                fits.append(batch.number)
        if len(fits) == room < min(most, len(wanted)):
            why = f"the provider takes {self._per_hour:,} batches an hour"
        elif why and ledger is not None:
            self._recount(ledger, state, now)
        return fits, why

    def reserve(self, files: SubmissionFiles, batches: int) -> str:
        """Count what the submission intends; why not, if somebody else was quicker.

        Args:
            files: The submission; it is read anew after the ledger is, in each try.
            batches: How many batches are about to be created.
        """
        why = ""

        def reserved(ledger: Counted | None) -> Counted | None:
            nonlocal why
            state, now = files.state(), self._now()
            after = self._with(ledger, state, batches)
            full = _Queue(state, after, self._given, now).overfull()
            why = f"somebody else has just taken the room in the queue of {full}" if full else ""
            if self._per_hour is not None and _created(after, now) > self._per_hour:
                why = f"the provider takes {self._per_hour:,} batches an hour"
            return None if why else after

        if self._ledger() is not None or self._given:
            self._log.update(reserved)
            self._counts = True
        return why

    def settle(self, before: SubmissionState, state: SubmissionState, files: SubmissionFiles) -> None:
        """Count the submission as it is now, where that may be something else than before."""
        moved = state.collected or state.id in self._unsettled or _share(before, {}, 0.0) != _share(state, {}, 0.0)
        if moved and self._ledger() is not None:
            self._log.update(lambda ledger: ledger and self._with(ledger, files.state(), 0))
            self._unsettled.discard(state.id)

    def learn(self, model: str, message: str, state: SubmissionState) -> None:
        """Remember the limit that a refusal tells."""
        tokens = queue_limit(message)
        if tokens is None or model in self._given:
            return
        now = self._now()

        def learnt(ledger: Counted | None) -> Counted | None:
            ledger = ledger or self._census(state)
            known = ledger.learnt.get(model)
            if known is not None and known.tokens == tokens and now - known.at < _LEARNT / 2:
                return None
            return msgspec.structs.replace(ledger, learnt={**ledger.learnt, model: Limit(tokens=tokens, at=now)})

        self._log.update(learnt)
        self._counts = True
        self._unsettled.add(state.id)

    def _ledger(self) -> Counted | None:
        now = self._now()
        if self._counts is False and now - self._looked_at < _LOOK_AGAIN:
            return None
        version, self._looked_at = self._log.load(), now
        self._counts = version is not None
        return version.state if version is not None else None

    def _this_hour(self, state: SubmissionState, ledger: Counted | None, now: float) -> int:
        """How many more batches may be created: by what is counted, or else by the submission's own."""
        if self._per_hour is None:
            return len(state.batches)
        mine = sum(1 for batch in state.batches if batch.created_at and batch.created_at > now - _HOUR)
        return max(self._per_hour - max(mine, _created(ledger, now) if ledger is not None else 0), 0)

    def _with(self, ledger: Counted | None, state: SubmissionState, batches: int) -> Counted:
        """The count with this submission as it is."""
        ledger, now = ledger or self._census(state), self._now()
        billed = {**ledger.billed, **_billed(state)}
        shares = dict(ledger.shares)
        share = _share(state, billed, now)
        known = shares.get(state.id)
        if not share.tokens and not share.waits:
            shares.pop(state.id, None)
        elif known is None or batches or _moved(known, share):
            before = known.since if known is not None and not batches else {}
            since = {model: before.get(model, now) for model in share.waits}
            shares[state.id] = msgspec.structs.replace(share, since=since)
        created = ledger.created
        if batches:
            hour = int(now // _HOUR)
            created = {name: count for name, count in created.items() if int(name) >= hour - 1}
            created[str(hour)] = created.get(str(hour), 0) + batches
        return Counted(shares=shares, learnt=ledger.learnt, billed=billed, created=created)

    def _recount(self, ledger: Counted, mine: SubmissionState, now: float) -> None:
        """See whether what is in the way is still there, where nobody has told for long: whoever counts may crash."""
        old = {id_ for id_, share in ledger.shares.items() if id_ != mine.id and now - share.at >= _RECOUNT}
        if not old:
            return
        found = self._census(mine).shares

        def recounted(newest: Counted | None) -> Counted | None:
            shares = dict(newest.shares) if newest else {}
            for id_ in old & shares.keys():
                there = shares.pop(id_)
                if id_ in found:
                    shares[id_] = msgspec.structs.replace(found[id_], waits=there.waits, since=there.since)
            return newest and msgspec.structs.replace(newest, shares=shares)

        self._log.update(recounted)

    def _census(self, mine: SubmissionState) -> Counted:
        """What is in the queue when counting begins."""
        now = self._now()
        found = {
            state.id: _share(state, {}, now) for state in open_states(self._store) if state.provider == self._provider
        }
        return Counted(shares={id_: share for id_, share in found.items() if share.tokens and id_ != mine.id})


class _Queue:
    """The queue as one submission sees it."""

    def __init__(self, state: SubmissionState, ledger: Counted | None, given: Mapping[str, int], now: float) -> None:
        ledger = ledger or Counted()
        self._model = state.model
        self._billed = {**ledger.billed, **_billed(state)}
        told = {model: limit.tokens for model, limit in ledger.learnt.items() if now - limit.at < _LEARNT}
        self._limits = {**told, **given}
        others = [share for id_, share in ledger.shares.items() if id_ != state.id and now - share.at < _ENQUEUED]
        self._theirs = Counter[str]()
        for share in others:
            self._theirs.update(share.tokens)
        self._others, self._now = others, now
        own = ledger.shares.get(state.id)
        self._since = own.since if own is not None else {}
        there = [batch for batch in state.batches if _is_enqueued(batch)]
        self._batches = Counter(batch.model or state.model for batch in there)
        self._intended = {batch.model or state.model for batch in there if batch.stage == "creating"}
        self._mine = Counter[str]()
        for batch in there:
            self._mine[batch.model or state.model] += _tokens(batch, state.model, self._billed)

    def add(self, batch: BatchState) -> str:
        """Put it into the queue, or say why not."""
        model = batch.model or self._model
        tokens, limit = _tokens(batch, self._model, self._billed), _limit(self._limits, model)
        if limit is not None and not self._admits(model, tokens, limit):
            return f"the provider's queue takes {limit:,} tokens of {model}"
        self._mine[model] += tokens
        return ""

    def overfull(self) -> str | None:
        """A model of which more is in the queue than it takes, with something of ours."""
        for model in self._intended:
            tokens, limit, theirs = self._mine[model], _limit(self._limits, model), self._theirs[model]
            alone = not theirs and self._batches[model] == 1
            if limit is not None and theirs + tokens > limit and not alone:
                return model
        return None

    def _admits(self, model: str, tokens: int, limit: int) -> bool:
        mine, all_ = self._mine[model], self._mine[model] + self._theirs[model]
        waiting = [one for one in self._others if model in one.waits and self._now - one.at < _WAITS]
        if any(self._starves(one, model, all_ + tokens, limit) for one in waiting):
            return False
        if not all_:
            return True
        if all_ + tokens > limit:
            return False
        sharing = 1 + sum(1 for one in self._others if one in waiting or one.tokens.get(model))
        share = limit / sharing
        if not any(one.tokens.get(model, 0) < share for one in waiting):
            return True
        return not mine or mine + tokens <= share

    def _starves(self, other: Share, model: str, all_: int, limit: int) -> bool:
        """Whether somebody has waited for long, and longer than we, for more room than we would leave."""
        since = other.since.get(model, self._now)
        longest = since < min(self._now - _STARVES, self._since.get(model, self._now))
        return longest and all_ + other.waits[model] > limit


def _limit(limits: Mapping[str, int], model: str) -> int | None:
    """What is said of a model, or of the one whose dated name it is."""
    name = named(model, limits)
    return None if name is None else limits[name]


def _created(ledger: Counted, now: float) -> int:
    """How many batches were created in this hour and the one before."""
    return sum(ledger.created.get(str(int(now // _HOUR) - before), 0) for before in (0, 1))


def _is_enqueued(batch: BatchState) -> bool:
    return batch.stage in ("creating", "running")


def _tokens(batch: BatchState, model: str, billed: Mapping[str, tuple[int, int]]) -> int:
    """About how many input tokens a batch has: as earlier ones of its model had, or by its bytes."""
    tokens, size = billed.get(batch.model or model, (0, 0))
    return math.ceil(batch.size * _MARGIN * tokens / size) if tokens and size else batch.size // BYTES_PER_TOKEN


def _billed(state: SubmissionState) -> dict[str, tuple[int, int]]:
    """Input tokens that were billed, and bytes of input files, by model; of whole batches only."""
    found: dict[str, tuple[int, int]] = {}
    for batch in state.batches:
        if batch.collected and batch.tokens and not batch.failed and not batch.gone:
            tokens, size = found.get(batch.model or state.model, (0, 0))
            found[batch.model or state.model] = (tokens + batch.tokens, size + batch.size)
    return found


def _share(state: SubmissionState, billed: Mapping[str, tuple[int, int]], now: float) -> Share:
    tokens = Counter[str]()
    for batch in state.batches:
        if _is_enqueued(batch):
            tokens[batch.model or state.model] += _tokens(batch, state.model, billed)
    waits: dict[str, int] = {}
    for batch in state.batches:
        # whoever waits for a budget does not wait for the queue
        if batch.stage in ("planned", "uploaded") and not (state.cancelled or state.collected or state.held):
            waits.setdefault(batch.model or state.model, _tokens(batch, state.model, billed))
    return Share(tokens=dict(tokens), waits=waits, at=now)


def _moved(known: Share, share: Share) -> bool:
    """Whether a share has to be written down anew."""
    same = (known.tokens, known.waits) == (share.tokens, share.waits)
    return not same or share.at - known.at > _WAITS / 2
