"""Budgets: what batches may cost is reserved in the store before they are created, and settled to what they did cost.

An intent to create is committed first, then what the submission may cost with it is written into one ledger, by one
atomic commit after the other; only then is anything created. So of two that want the last of a budget one is too late,
and a crash anywhere leaves too much reserved, never too little; whoever goes on with the submission puts that right.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from ractobatch_dagster.results.cost import answers_cost, prompts_cost
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import SubmissionFiles, open_states
from ractobatch_dagster.submission.log import Log
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["PERIODS", "Limit", "Purse", "Stop", "budget_log", "committed", "may_cost"]

Period = Literal["submission", "day", "week", "month", "total"]
PERIODS: tuple[Period, ...] = ("submission", "day", "week", "month", "total")

_MANY, _OLD = 1_000, dt.timedelta(days=62)
"""With so many entries, those that have not changed for so long are summed up by table and day."""

_ROUNDING = 1e-9

Days = dict[str, float]
"""US dollars by day (UTC), as ISO has it."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """So many US dollars at most in a period, for one table or for all of a root."""

    usd: float
    per: Period
    asset: str | None = None

    def __str__(self) -> str:
        whose = f"for {self.asset!r}" if self.asset else "for all tables"
        return f"{_usd(self.usd)} {'in all' if self.per == 'total' else f'a {self.per}'} {whose}"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What one submission has spent, or may still spend on batches that were created."""

    asset: str
    days: Days


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """All entries, by submission; under an asset's name in brackets what its old ones come to."""

    entries: dict[str, Entry] = {}


def budget_log(store: Store) -> Log[Ledger]:
    """The ledger's log, which a root has one of."""
    return Log(store, "budget/log", Ledger, prunable=True)


class Stop(NamedTuple):
    """Why a budget does not admit a batch, and whether time will not change that."""

    why: str = ""
    for_good: bool = False


def may_cost(state: SubmissionState, batch: BatchState) -> float | None:
    """What a batch may cost at most, by its bytes and the most tokens of its answers; `None` where nobody can know.

    No text has more tokens than bytes. What pictures and documents cost does not go by their bytes: with them it is an
    estimate.
    """
    model = batch.model or state.model
    if state.most_tokens is None:
        return None
    prompts = prompts_cost(model, batch.size, state.prices, longest=batch.size)
    most = batch.requests * state.most_tokens
    answers = answers_cost(model, most, state.prices, longest=batch.size) if most else 0.0
    return None if prompts is None or answers is None else prompts + answers


def committed(state: SubmissionState) -> Days:
    """What the submission's batches have cost, by the day of their creation; or may cost, until they are collected.

    The day is that of the intent, by the store's clock, as it was when the budget admitted the batch.
    """
    days: Days = {}
    for batch in state.batches:
        usd = _committed(state, batch)
        if usd:
            at = batch.intended_at or (batch.intent.at if batch.intent else None) or batch.created_at
            day = _day(at or batch.file_created_at or state.created_at).isoformat()
            days[day] = days.get(day, 0.0) + usd
    return days


def _committed(state: SubmissionState, batch: BatchState) -> float:
    if batch.batch_id is None and batch.intent is None and not batch.intended_at:
        return 0.0
    most = may_cost(state, batch) or 0.0
    if not batch.collected or batch.usd is None or batch.gone:  # answers that are gone were billed
        return most
    return batch.usd + most * min(batch.lost, batch.requests) / batch.requests if batch.requests else batch.usd


class Purse:
    """The budgets of a root.

    Args:
        store: The root.
        limits: What is admitted; none is no limit, and then nothing is written either.
        now: Seconds since 1970, by the store's clock.
    """

    def __init__(self, store: Store, limits: Sequence[Limit], now: Callable[[], float]) -> None:
        self._log = budget_log(store)
        self._limits, self._now = limits, now
        self._store = store
        self._kept: bool | None = None
        self._reserved: set[str] = set()  # submissions for which something was reserved and not settled since

    def fitting(self, state: SubmissionState, numbers: Collection[int]) -> tuple[list[int], Stop]:
        """Which of these batches fit the budgets as they stand, in their order, and what stops the others.

        Nothing is reserved by that. A batch that can never fit does not stop those behind it.
        """
        limits = [limit for limit in self._limits if limit.asset in (None, state.asset)]
        if not limits:
            return list(numbers), Stop()
        ledger, today = self._ledger() or self._census(), _day(self._now())
        left = [(limit, limit.usd - _spent(limit, ledger, state, today)) for limit in limits]
        fits, stop, added = list[int](), Stop(), 0.0
        for batch in (batch for batch in state.batches if batch.number in numbers):
            usd = may_cost(state, batch)
            stopped = _stop(state, batch, usd, added, left)
            if usd is not None and not stopped.why:
                added += usd
                fits.append(batch.number)
                continue
            stop = stop if stop.why and stopped.for_good else stopped
            if not stop.for_good:
                break
        return fits, stop

    def reserve(self, files: SubmissionFiles) -> str:
        """Write down what the submission may cost with what it intends; why not, if somebody else was quicker.

        Its state is read anew after the ledger is, in each try: whoever intends more meanwhile writes after us, or
        makes us try again, so that no entry is ever lower than what was intended before it.
        """
        why = ""

        def reserved(ledger: Ledger | None) -> Ledger | None:
            nonlocal why
            state, today = files.state(), _day(self._now())
            after = self._with(ledger, state)
            over = [limit for limit in self._limits if limit.asset in (None, state.asset)
                    if _spent(limit, after, state, today) > limit.usd + _ROUNDING]  # fmt: skip
            why = f"somebody else has just taken what was left of the budget of {over[0]}" if over else ""
            return None if over else after

        if self._limits or self._ledger() is not None:
            self._log.update(reserved)
            self._reserved.add(files.id)
        return why

    def settle(self, before: SubmissionState, state: SubmissionState, files: SubmissionFiles) -> None:
        """Write down what the submission has come to, where that may be another sum than before."""
        if not self._limits and self._kept is False:
            return
        moved = files.id in self._reserved or state.collected or committed(before) != committed(state)
        if moved and (self._limits or self._ledger() is not None):
            self._log.update(lambda ledger: self._with(ledger, files.state()))  # as in `reserve`
            self._reserved.discard(files.id)

    def _ledger(self) -> Ledger | None:
        """The ledger, which is there from the first budget on; then those write into it, too, that know of none."""
        if self._kept is False:
            return None
        version = self._log.load()
        self._kept = version is not None
        return version.state if version is not None else None

    def _census(self) -> Ledger:
        """What was created before there was a ledger, of submissions that are still open."""
        found = {one.id: Entry(asset=one.asset, days=committed(one)) for one in open_states(self._store)}
        return Ledger(entries={id_: entry for id_, entry in found.items() if entry.days})

    def _with(self, ledger: Ledger | None, state: SubmissionState) -> Ledger:
        ledger = ledger or self._census()
        self._kept = True
        entries, days = dict(ledger.entries), committed(state)
        if state.collected and state.id not in entries and days and _is_old(days, _day(self._now())):
            return ledger  # it is among those that were summed up
        if days:
            entries[state.id] = Entry(asset=state.asset, days=days)
        else:
            entries.pop(state.id, None)
        return Ledger(entries=_folded(entries, _day(self._now())) if len(entries) > _MANY else entries)


def _spent(limit: Limit, ledger: Ledger, state: SubmissionState, today: dt.date) -> float:
    """What counts against a limit: this submission as it is now, the others as they were written down."""
    mine = committed(state)
    if limit.per == "submission":
        return sum(mine.values())
    others = [entry.days for id_, entry in ledger.entries.items() if id_ != state.id
              if limit.asset in (None, entry.asset)]  # fmt: skip
    return sum(_within(limit.per, [mine, *others], today))


def _within(per: Period, spent: Sequence[Days], today: dt.date) -> Iterator[float]:
    for days in spent:
        for day, usd in days.items():
            if per == "total" or _window(per, dt.date.fromisoformat(day)) == _window(per, today):
                yield usd


def _window(per: Period, day: dt.date) -> tuple[int, ...]:
    if per == "month":
        return day.year, day.month
    return day.isocalendar()[:2] if per == "week" else (day.toordinal(),)


def _folded(entries: Mapping[str, Entry], today: dt.date) -> dict[str, Entry]:
    """The entries, with old ones summed up; their submissions have long been collected."""
    kept: dict[str, Entry] = {}
    old: dict[str, Days] = {}
    for id_, entry in entries.items():
        if not _is_old(entry.days, today):
            kept[id_] = entry
            continue
        days = old.setdefault(entry.asset, {})
        for day, usd in entry.days.items():
            days[day] = days.get(day, 0.0) + usd
    return kept | {f"[{asset}]": Entry(asset=asset, days=days) for asset, days in old.items()}


def _is_old(days: Days, today: dt.date) -> bool:
    return dt.date.fromisoformat(max(days)) + _OLD < today


def _day(at: float) -> dt.date:
    return dt.datetime.fromtimestamp(at, dt.UTC).date()


def _usd(amount: float) -> str:
    return f"{amount:,.2f} USD" if amount >= 1 or not amount else f"{amount:.2g} USD"


def _stop(
    state: SubmissionState, batch: BatchState, usd: float | None, added: float, left: Sequence[tuple[Limit, float]]
) -> Stop:
    """What stops this batch, beside those that cost so much."""
    if usd is None:
        why = _NO_LIMIT if state.most_tokens is None else _NO_PRICE.format(batch.model or state.model)
        return Stop(f"nobody knows what batch {batch.number} may cost: {why}", for_good=True)
    may = f"batch {batch.number} may cost {_usd(usd)}"
    for limit, rest in left:
        if usd > limit.usd + _ROUNDING:
            return Stop(f"{may}, more than the whole budget of {limit}. {_TOO_DEAR}", for_good=True)
        if added + usd > rest + _ROUNDING:
            return Stop(f"{may}, and of the budget of {limit} {_usd(max(rest - added, 0.0))} are left")
    return Stop()


_NO_LIMIT = "a budget needs `max_tokens`, and there is none"
_NO_PRICE = "the batch price of {} is not known; give it as `prices` of the resource"
_TOO_DEAR = "Raise it; or cancel the submission and submit again, with a smaller `max_requests_per_batch`"
