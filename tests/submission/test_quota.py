"""The quota: no more is enqueued than the provider takes, over all submissions of a store, and fairly."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import queue_limit
from ractobatch_dagster.submission.engine import LIGHT, SUBMIT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.plan import Poll, Upload, progress
from ractobatch_dagster.submission.quota import Counted, Quota, counted, queue_lines
from tests.submission.test_budget import ONE_EACH, Purses, created, usd
from tests.submission.test_engine import Bench, bench

__all__ = ["bench"]

MODEL = "gpt-4o-mini"
REFUSED = (
    "Enqueued token limit reached for gpt-4o-mini in organization org-a. Limit: {:,} enqueued tokens. Please try again "
    "once some in_progress batches have been completed."
)


def tokens(files: SubmissionFiles) -> int:
    """What a batch counts, one row each."""
    return files.state().batches[0].size // 3


def engine(bench: Bench, batches: float | None, files: SubmissionFiles, per_hour: int | None = None) -> Engine:
    """An engine as another process would have it, whose queue takes so many batches."""
    given = {} if batches is None else {MODEL: int((tokens(files) + 1) * batches)}
    made = Engine(bench.store, bench.engine()._provider, limits=ONE_EACH, now=lambda: bench.clock, enqueued=given)
    if per_hour is not None:
        made._quota = Quota(bench.store, made.identity, given, per_hour, lambda: bench.clock)  # type: ignore[misc]
    return made


def seen_to_end(bench: Bench, files: SubmissionFiles) -> None:
    """All batches that run come to their end, and that is seen; nothing else is done."""
    bench.server.wait_idle()
    bench.clock += 60
    engine(bench, 100, files).advance(files, steps={Poll})


def ledger(bench: Bench) -> Counted:
    """What is counted."""
    found = counted(bench.store, bench.engine().identity)
    assert found is not None
    return found


def test_batches_are_created_as_others_finish(bench: Bench) -> None:
    """Never more at a time than the queue takes; a clear state meanwhile; everything lands."""
    files = Purses(bench).open(7)
    state = engine(bench, 3, files).advance(files, steps=SUBMIT)
    assert created(files) == 3
    assert "4 waiting for the quota" in str(progress(state))
    assert "the provider's queue takes" in state.queued
    engine(bench, 3, files).advance(files, steps=SUBMIT)
    assert created(files) == 3
    for wanted in (6, 7):
        seen_to_end(bench, files)
        engine(bench, 3, files).advance(files, steps=SUBMIT)
        assert created(files) == wanted
    bench.finish(files)
    assert bench.answers(files) == ["ok"] * 7
    assert bench.server.creates == 7


def test_of_several_submissions_each_has_its_share(bench: Bench) -> None:
    """Whoever comes late is let in as room comes free, though the first wants it all."""
    purses = Purses(bench)
    first, second = purses.open(12, "a"), purses.open(3, "b")
    engine(bench, 4, first).advance(first, steps=SUBMIT)
    engine(bench, 4, first).advance(second, steps=SUBMIT)
    assert (created(first), created(second)) == (4, 0)
    assert ledger(bench).shares[second.id].waits.keys() == {MODEL}
    (line,) = queue_lines(bench.store, bench.engine().identity, bench.clock)
    assert line.startswith(f"{MODEL}: about {4 * tokens(first)} tokens enqueued")
    assert line.endswith("2 submissions wait")
    seen_to_end(bench, first)
    for files in (first, second):
        engine(bench, 4, first).advance(files, steps=SUBMIT)
    assert (created(first), created(second)) == (6, 2)


def test_a_submission_that_nobody_steps_gives_up_its_share(bench: Bench) -> None:
    """It waits in the ledger, and after an hour nobody waits for it."""
    purses = Purses(bench)
    first, second = purses.open(12, "a"), purses.open(3, "b")
    engine(bench, 4, first).advance(first, steps=SUBMIT)
    engine(bench, 4, first).advance(second, steps=SUBMIT)
    bench.clock += 3_700
    seen_to_end(bench, first)
    engine(bench, 4, first).advance(first, steps=SUBMIT)
    assert created(first) == 8


def test_whoever_waits_for_a_budget_takes_no_room(bench: Bench) -> None:
    """The queue is for those who may be created."""
    purses = Purses(bench, usd(0.5))
    held, files = purses.open(3, "a"), purses.open(5, "b")
    engine(bench, 4, files).advance(held, steps={Upload})
    purses.engine().advance(held, steps=SUBMIT)
    assert held.state().held
    engine(bench, 4, files).advance(files, steps=SUBMIT)
    assert created(files) == 4
    assert held.id not in ledger(bench).shares


def test_a_large_batch_does_not_starve(bench: Bench) -> None:
    """After half an hour small ones leave it the room that it needs."""
    purses = Purses(bench)
    small, large = purses.open(12, "a"), purses.open(1, "b")
    engine(bench, 4, small).advance(large, steps={Upload})
    batch = large.state().batches[0]
    large.change(lambda _: {0: msgspec.structs.replace(batch, size=4 * batch.size)})
    engine(bench, 4, small).advance(small, steps=SUBMIT)
    engine(bench, 4, small).advance(large, steps=SUBMIT)
    assert (created(small), created(large)) == (4, 0)

    def one_ends() -> None:
        one = next(b for b in small.state().batches if b.batch_id and b.status is not BatchStatus.COMPLETED)
        small.change(lambda _: {one.number: msgspec.structs.replace(one, status=BatchStatus.COMPLETED)})

    for seconds, ends in ((10, 3), (1_900, 1)):
        bench.clock += seconds
        for _ in range(ends):
            one_ends()
        for files in (large, small):
            engine(bench, 4, small).advance(files, steps=SUBMIT)
        assert (created(small), created(large)) == (5, 0)
    seen_to_end(bench, small)
    for files in (small, large):
        engine(bench, 4, small).advance(files, steps=SUBMIT)
    assert (created(small), created(large)) == (5, 1)


def test_a_model_over_its_limit_stops_no_other(bench: Bench) -> None:
    """A limit that was learnt late is of that model alone."""
    files = Purses(bench).open(3)
    other = {2: msgspec.structs.replace(files.state().batches[2], model="gpt-4o", not_before=bench.clock + 100)}
    files.change(lambda _: other)
    engine(bench, None, files).advance(files, steps=SUBMIT)
    made = engine(bench, None, files)
    made._quota.learn(MODEL, REFUSED.format(1), files.state())
    bench.clock += 200
    made.advance(files, steps=SUBMIT)
    assert [batch.batch_id is not None for batch in files.state().batches] == [True, True, True]


def test_dated_names_have_the_limit_of_the_model(bench: Bench) -> None:
    """As prices do."""
    files = Purses(bench).open(3, model="gpt-4o-mini-2024-07-18")
    engine(bench, 2, files).advance(files, steps=SUBMIT)
    assert created(files) == 2


def test_what_a_crash_left_in_the_count_is_noticed(bench: Bench) -> None:
    """A writer that ends between the submission's log and the ledger leaves a share that nobody will ever settle."""
    purses = Purses(bench)
    gone, files = purses.open(2, "a"), purses.open(3, "b")
    engine(bench, 2, gone).advance(gone, steps=SUBMIT)
    gone.replace(lambda _: {"collected": True})
    gone.store.delete("submissions/a")
    engine(bench, 2, files).advance(files, steps=SUBMIT)
    assert created(files) == 0
    bench.clock += 3_700
    for _ in range(2):
        engine(bench, 2, files).advance(files, steps=SUBMIT)
    assert created(files) == 2


def test_a_limit_is_learnt_from_a_refusal(bench: Bench) -> None:
    """Whether creating is refused or the batch fails; it is forgotten after a day, for accounts rise."""
    files = Purses(bench).open(4)
    limit = 2 * tokens(files) + 10
    made = engine(bench, None, files)
    made._quota.learn(MODEL, REFUSED.format(limit), files.state())
    assert ledger(bench).learnt[MODEL].tokens == limit
    engine(bench, None, files).advance(files, steps=SUBMIT)
    assert created(files) == 2
    bench.clock += 25 * 3600
    engine(bench, None, files).advance(files, steps=SUBMIT)
    assert created(files) == 4


@pytest.mark.parametrize("shape", ["400", "failed"])
def test_a_refusal_is_read(bench: Bench, shape: str) -> None:
    """The local server refuses in OpenAI's words, which name 2,000,000 tokens."""
    bench.server.faults = Faults(queue_full=shape, queue_full_times=1)  # type: ignore[arg-type]
    files = Purses(bench).open(2)
    engine(bench, None, files).advance(files, steps=SUBMIT)
    bench.server.wait_idle()
    engine(bench, None, files).advance(files, steps=LIGHT)
    assert ledger(bench).learnt[MODEL].tokens == 2_000_000
    for _ in range(6):
        bench.clock += 1_000
        engine(bench, None, files).advance(files)
        bench.server.wait_idle()
    assert bench.answers(files) == ["ok"] * 2


def test_what_runs_when_counting_begins_is_counted(bench: Bench) -> None:
    """Of other submissions of the store, those that are replaced among them."""
    purses = Purses(bench)
    before, files = purses.open(2, "b"), purses.open(3, "a")
    engine(bench, None, files).advance(before, steps=SUBMIT)
    assert counted(bench.store, bench.engine().identity) is None
    engine(bench, 3, files).advance(files, steps=SUBMIT)
    assert created(files) == 1
    assert set(ledger(bench).shares) == {before.id, files.id}


def test_a_batch_larger_than_the_queue_goes_alone(bench: Bench) -> None:
    """Its tokens are an estimate, and the provider may take it."""
    files = Purses(bench).open(2)
    engine(bench, 0.5, files).advance(files, steps=SUBMIT)
    assert created(files) == 1


def test_another_model_has_a_queue_of_its_own(bench: Bench) -> None:
    """A full queue of one does not stop the other, whichever comes first."""
    files = Purses(bench).open(4)
    other = {3: msgspec.structs.replace(files.state().batches[3], model="gpt-4o")}
    files.change(lambda _: other)
    engine(bench, 1, files).advance(files, steps=SUBMIT)
    assert [batch.batch_id is not None for batch in files.state().batches] == [True, False, False, True]


def test_so_many_batches_an_hour(bench: Bench) -> None:
    """The rest is created in the next hours, by submissions side by side as well."""
    purses = Purses(bench)
    files, other = purses.open(5, "a"), purses.open(2, "b")
    for one in (files, other):
        engine(bench, 100, files, per_hour=3).advance(one, steps=SUBMIT)
    assert (created(files), created(other)) == (3, 0)
    assert files.state().queued == "the provider takes 3 batches an hour"
    bench.clock += 2 * 3600
    for one in (files, other):
        engine(bench, 100, files, per_hour=3).advance(one, steps=SUBMIT)
    assert created(files) + created(other) == 6


def test_tokens_are_as_earlier_answers_were_billed(bench: Bench) -> None:
    """The bytes are a guess until the first batch is collected."""
    files = Purses(bench).open(3)
    engine(bench, 1, files).advance(files, steps=SUBMIT)
    bench.server.wait_idle()
    bench.clock += 60
    for _ in range(2):
        engine(bench, 1, files).advance(files)
    billed, size = ledger(bench).billed[MODEL]
    assert 0 < billed < size // 3
    assert created(files) == 3


def test_at_once_no_more_than_there_is_room_for(batch_server: LocalServer, tmp_path: Path) -> None:
    """Eight processes, as it were, of four submissions."""
    bench = Bench(batch_server, tmp_path / "store")
    purses = Purses(bench)
    many = [purses.open(3, f"table {number}") for number in range(4)]

    def run(files: SubmissionFiles) -> None:
        for _ in range(3):
            engine(bench, 5, many[0]).advance(files, steps=SUBMIT)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, many * 2))  # what one of them raises is raised here
    assert 4 <= sum(created(files) for files in many) <= 5
    assert batch_server.creates == sum(created(files) for files in many)


def test_without_a_limit_nothing_is_counted(bench: Bench) -> None:
    """Not even a ledger."""
    files = bench.open("a")
    bench.finish(files)
    assert counted(bench.store, bench.engine().identity) is None


def test_the_words_of_a_refusal() -> None:
    """As OpenAI writes them, and others."""
    assert queue_limit(REFUSED.format(90_000)) == 90_000
    assert queue_limit("Enqueued token limit reached for m") is None
    assert queue_limit("Rate limit reached. Limit: 200 requests") is None
