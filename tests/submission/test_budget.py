"""Budgets: what may be spent is reserved before anything is created, and what was spent is what counts afterwards."""

from __future__ import annotations

import datetime as dt
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pandas as pd
import pytest

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.results.cost import answers_cost, prompts_cost
from ractobatch_dagster.submission import budget
from ractobatch_dagster.submission.alarms import Patience, alarms
from ractobatch_dagster.submission.budget import Entry, Ledger, Limit, committed, may_cost
from ractobatch_dagster.submission.engine import SUBMIT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.log import Log
from ractobatch_dagster.submission.opening import Terms, open_submission
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import Owner
from tests.submission.test_engine import Bench, bench

__all__ = ["bench"]

ONE_EACH = Limits(max_requests=1, max_bytes=100_000)


class Purses:
    """A bench whose engines have budgets; each row is a batch, and each may cost about the same."""

    def __init__(self, bench: Bench, *limits: Limit) -> None:
        self.bench, self.limits = bench, limits

    def open(
        self, rows: int, asset: str = "answers", most: int | None = 1_000, model: str = "gpt-4o-mini"
    ) -> SubmissionFiles:
        """A submission of so many batches."""
        table = TableFiles(self.bench.store, asset)
        template = RequestTemplate(model, max_tokens=most)
        opened = open_submission(
            table,
            Owner(asset=asset),
            {None: pd.DataFrame({"user_message": [f"text {row} of {asset}" for row in range(rows)]})},
            Terms(provider=self.bench.engine().identity, template=template, limits=ONE_EACH),
            now=lambda: self.bench.clock,
        )
        return table.submission(opened.submissions[None])

    def engine(self, *limits: Limit) -> Engine:
        """An engine as another process would have it."""
        bench = self.bench
        return Engine(
            bench.store,
            bench.engine()._provider,
            limits=ONE_EACH,
            now=lambda: bench.clock,
            budgets=limits or self.limits,
        )

    def ledger(self) -> Ledger:
        """What is written down."""
        version = Log(self.bench.store, "budget/log", Ledger).load()
        return version.state if version else Ledger()

    def each(self, files: SubmissionFiles) -> float:
        """What a batch may cost."""
        state = files.state()
        (cost, *_) = [may_cost(state, batch) for batch in state.batches]
        assert cost is not None
        return cost


def created(files: SubmissionFiles) -> int:
    """How many batches exist."""
    return sum(batch.batch_id is not None for batch in files.state().batches)


def usd(batches: float, per: str = "total", asset: str | None = None) -> Limit:
    """A budget for about so many batches: one may cost 0.0003 USD."""
    return Limit(usd=batches * 0.00032, per=per, asset=asset)  # type: ignore[arg-type]


def test_what_does_not_fit_waits_and_goes_on_when_the_budget_is_raised(bench: Bench) -> None:
    """A clear state meanwhile, which is told; nothing is lost and nothing is sent twice."""
    purses = Purses(bench, usd(3))
    files = purses.open(5)
    state = purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 3
    assert str(progress(state)).startswith("0 of 5 batches ended, 3 running, 2 waiting for the budget")
    assert "batch 3 may cost" in state.held
    assert "of the budget of 0.00096 USD in all for all tables" in state.held
    purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 3
    purses.engine(usd(5)).advance(files, steps=SUBMIT)
    assert created(files) == 5
    assert not files.state().held
    bench.finish(files)
    assert bench.answers(files) == ["ok"] * 5
    assert bench.server.creates == 5


def test_what_was_spent_is_what_counts(bench: Bench) -> None:
    """Answers are short, so that once they are collected there is room for all."""
    purses = Purses(bench, usd(2))
    files = purses.open(6)
    engine, end = purses.engine(), 40
    while not engine.advance(files).collected:
        bench.server.wait_idle()
        bench.clock += 10
        assert created(files) <= 6
        end -= 1
        assert end
    assert bench.answers(files) == ["ok"] * 6
    state = files.state()
    spent = sum(batch.usd or 0.0 for batch in state.batches)
    (entry,) = purses.ledger().entries.values()
    assert sum(entry.days.values()) == pytest.approx(spent)
    assert 0 < spent < purses.each(files)


def test_a_budget_of_all_tables_is_shared(bench: Bench) -> None:
    """Of two submissions the second has what the first has left; one table's own budget is its own."""
    purses = Purses(bench, usd(4), usd(3, asset="a"))
    first, second = purses.open(5, "a"), purses.open(5, "b")
    purses.engine().advance(first, steps=SUBMIT)
    purses.engine().advance(second, steps=SUBMIT)
    assert (created(first), created(second)) == (3, 1)
    assert "for 'a'" in first.state().held
    assert "for all tables" in second.state().held


def test_a_budget_of_a_submission_is_each_ones_own(bench: Bench) -> None:
    """Whatever others have spent."""
    purses = Purses(bench, usd(2, "submission"))
    both = purses.open(3, "a"), purses.open(3, "b")
    for files in both:
        purses.engine().advance(files, steps=SUBMIT)
    assert [created(files) for files in both] == [2, 2]


@pytest.mark.parametrize(("per", "hours"), [("day", 24), ("week", 7 * 24), ("month", 31 * 24)])
def test_the_next_period_has_a_budget_of_its_own(bench: Bench, per: str, hours: int) -> None:
    """By the calendar, in UTC."""
    purses = Purses(bench, usd(2, per))
    files = purses.open(4)
    purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 2
    bench.clock += hours * 3600 + 60
    purses.engine().advance(files, steps=SUBMIT)
    # the server's clock stands where it was, so that what it calls created stays in the period before
    assert created(files) == 4


@pytest.mark.parametrize(("most", "model"), [(None, "gpt-4o-mini"), (100, "made-up-model")])
def test_what_nobody_can_know_is_not_created(bench: Bench, most: int | None, model: str) -> None:
    """Without a limit on answers, or a price, a budget cannot be kept; that is said."""
    purses = Purses(bench, usd(100))
    files = purses.open(1, most=most, model=model)
    state = purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 0
    why = "a budget needs `max_tokens`" if most is None else "the batch price of made-up-model is not known"
    assert why in state.held


def test_without_budgets_nothing_is_written(bench: Bench) -> None:
    """Not even a ledger."""
    files = bench.open("a")
    bench.finish(files)
    assert not bench.store.names("budget/log")


def test_a_batch_that_was_refused_gives_back_what_it_had(bench: Bench) -> None:
    """A queue that was full costs nothing, and the next try reserves anew."""
    bench.server.faults = Faults(queue_full="429", queue_full_times=1)
    purses = Purses(bench, usd(1))
    files = purses.open(1)
    purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 0
    assert purses.ledger().entries == {}
    bench.clock += 120
    purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 1
    assert len(purses.ledger().entries) == 1


def test_of_many_at_once_no_more_than_fit_are_created(batch_server: LocalServer, tmp_path: Path) -> None:
    """Eight processes, as it were, of four submissions, on one budget: never more than it admits."""
    bench = Bench(batch_server, tmp_path / "store")
    purses = Purses(bench, usd(5))
    many = [purses.open(3, f"table {number}") for number in range(4)]

    def run(files: SubmissionFiles) -> None:
        for _ in range(3):
            purses.engine().advance(files, steps=SUBMIT)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, many * 2))  # what one of them raises is raised here
    assert batch_server.creates == sum(created(files) for files in many) <= 5
    for files in many:
        purses.engine().advance(files, steps=SUBMIT)
    assert sum(created(files) for files in many) == 5
    reserved = sum(sum(entry.days.values()) for entry in purses.ledger().entries.values())
    assert reserved == pytest.approx(sum(sum(committed(files.state()).values()) for files in many))


def test_a_server_that_does_not_say_when_counts_all_the_same(bench: Bench) -> None:
    """Then the batch is as old as its input file."""
    purses = Purses(bench, usd(2, "day"))
    files = purses.open(3)
    purses.engine().advance(files, steps=SUBMIT)
    state = files.state()
    silent = msgspec.structs.replace(
        state, batches=tuple(msgspec.structs.replace(one, created_at=None) for one in state.batches)
    )
    assert committed(silent) == committed(state)
    without = tuple(msgspec.structs.replace(one, file_created_at=0.0) for one in silent.batches)
    assert committed(msgspec.structs.replace(silent, batches=without)) == committed(state)


@pytest.mark.parametrize("late", [0, 24 * 3600, -24 * 3600])
def test_the_day_is_that_of_our_clock(bench: Bench, late: int) -> None:
    """However wrong the server's is, what was created counts on the day on which the budget admitted it."""
    purses = Purses(bench, usd(2, "day"))
    files = purses.open(8)
    bench.clock += late
    for _ in range(4):
        purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 2


def test_a_batch_that_costs_more_than_the_whole_budget_is_said(bench: Bench) -> None:
    """Waiting will not help, so it is an alarm, and what fits goes."""
    purses = Purses(bench, usd(0.5, "day"))
    state = purses.engine().advance(purses.open(2), steps=SUBMIT)
    assert state.held_for_good
    assert "more than the whole budget of 0.00016 USD a day for all tables. Raise it; or cancel" in state.held
    assert any("a budget admits no more of its batches" in text for text in alarms(state, bench.clock, Patience()))


def test_a_price_that_nobody_knows_does_not_stop_other_models(bench: Bench) -> None:
    """Of two models in one submission the one with a price goes."""
    purses = Purses(bench, usd(5))
    files = purses.open(2)
    other = {0: msgspec.structs.replace(files.state().batches[0], model="made-up-model")}
    files.change(lambda _: other)
    state = purses.engine().advance(files, steps=SUBMIT)
    assert [batch.batch_id is None for batch in state.batches] == [True, False]
    assert "made-up-model" in state.held


def test_what_may_have_been_billed_counts(bench: Bench) -> None:
    """Requests of which the provider told nothing, and creates that were given up without knowing."""
    purses = Purses(bench, usd(5))
    files = purses.open(1)
    purses.engine().advance(files, steps=SUBMIT)
    (most,) = committed(files.state()).values()
    (batch,) = files.state().batches

    def with_(**what: object) -> float:
        changed = {0: msgspec.structs.replace(batch, **what)}
        return sum(committed(files.state().with_batches(changed)).values())

    assert with_(collected=True, usd=0.1, lost=0) == 0.1
    assert with_(collected=True, usd=0.1, lost=1) == pytest.approx(0.1 + most)
    assert with_(batch_id=None, status=None) == pytest.approx(most)
    assert with_(batch_id=None, status=None, intended_at=0.0) == 0


def test_a_ledger_that_cannot_be_written_leaves_no_intent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was created, so nothing waits to be resolved; the next try goes on."""
    purses = Purses(bench, usd(5))
    files = purses.open(2)
    create = bench.store.create

    def broken(path: str, data: bytes) -> bool:
        if path.startswith("budget/"):
            raise StoreError("no")
        return create(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(bench.store, "create", broken)
        with pytest.raises(StoreError):
            purses.engine().advance(files, steps=SUBMIT)
    assert [batch.stage for batch in files.state().batches] == ["uploaded"] * 2
    purses.engine().advance(files, steps=SUBMIT)
    assert created(files) == 2


def test_what_was_created_before_there_was_a_budget_counts(bench: Bench) -> None:
    """And so does what others create that know of none, once there is a ledger."""
    before = Purses(bench).open(2, "before")
    Engine(bench.store, bench.engine()._provider, limits=ONE_EACH, now=lambda: bench.clock).advance(
        before, steps=SUBMIT
    )
    purses = Purses(bench, usd(3))
    mine, other = purses.open(3, "mine"), purses.open(1, "other")
    purses.engine().advance(mine, steps=SUBMIT)
    assert created(mine) == 1
    Engine(bench.store, bench.engine()._provider, limits=ONE_EACH, now=lambda: bench.clock).advance(other, steps=SUBMIT)
    assert set(purses.ledger().entries) == {before.id, mine.id, other.id}


def test_a_long_prompt_may_cost_more_a_token() -> None:
    """Where a model has a dearer price beyond a length, a batch that may hold such a prompt counts at that."""
    short, long = prompts_cost("gpt-5.4", 1_000_000), prompts_cost("gpt-5.4", 1_000_000, longest=400_000)
    assert short is not None
    assert long is not None
    assert long > 1.5 * short
    assert prompts_cost("gpt-5.4", 1_000_000, longest=100_000) == short
    assert answers_cost("gpt-5.4", 1_000, longest=400_000) > answers_cost("gpt-5.4", 1_000)  # type: ignore[operator]


def test_old_entries_are_summed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By table and day; the sums are the same, and entries of late stay apart."""
    today = dt.date(2026, 11, 25)
    days = [(today - dt.timedelta(days=number)).isoformat() for number in range(100)]
    entries = {f"s{number}": Entry(asset=f"a{number % 2}", days={day: 1.0}) for number, day in enumerate(days)}
    folded = budget._folded(entries, today)
    assert len(folded) == 63 + 2
    assert sum(sum(entry.days.values()) for entry in folded.values()) == 100
    again = budget._folded(folded, today + dt.timedelta(days=100))
    assert set(again) == {"[a0]", "[a1]"}
    assert sum(sum(entry.days.values()) for entry in again.values()) == 100
