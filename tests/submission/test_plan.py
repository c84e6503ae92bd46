"""The plan: a pure function of the state and the clock."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.submission.plan import (
    INTENT_AGE,
    Absorb,
    Cancel,
    Collect,
    Create,
    Poll,
    Resolve,
    Settle,
    Upload,
    plan,
    progress,
    requeued,
    seen,
    strays,
    together,
    turned_away,
)
from ractobatch_dagster.submission.state import BatchState, Intent, PartitionRows, SubmissionState

NOW = 1_000_000.0


def submission(*batches: BatchState, **changes: object) -> SubmissionState:
    """A submission of these batches."""
    state = SubmissionState(
        id="s",
        asset="a",
        provider="p",
        endpoint="/v1/chat/completions",
        model="m",
        completion_window="24h",
        fingerprint="f",
        created_at=NOW,
        rows=10,
        sealed=10,
        requests=10,
        max_rounds=1,
        partitions=(PartitionRows(key=None, start=0, rows=10, digest="d"),),
        batches=batches,
    )
    return msgspec.structs.replace(state, **changes)


def batch(number: int = 0, **fields: object) -> BatchState:
    """One batch."""
    return BatchState(number=number, requests=10, size=100, **fields)


@st.composite
def batches(draw: st.DrawFn) -> BatchState:
    """A batch in any stage it can be in."""
    status = draw(st.none() | st.sampled_from(BatchStatus))
    return batch(
        draw(st.integers(0, 5)),
        intent=draw(st.none() | st.builds(Intent, writer=st.just("w"), at=st.floats(0, 2 * NOW))),
        file_id=draw(st.none() | st.just("f")),
        batch_id=draw(st.none() | st.just("b")),
        status=status,
        not_before=draw(st.sampled_from([0.0, NOW * 2])),
        collected=draw(st.booleans()),
    )


def test_planned_batches_are_uploaded() -> None:
    """All of them at once; one that the quota turned away waits for its time."""
    state = submission(*(batch(number) for number in range(3)), batch(3, not_before=NOW + 1))
    assert plan(state, NOW) == [Upload((0, 1, 2))]
    assert plan(state, NOW + 1) == [Upload((0, 1, 2, 3))]


def test_uploaded_batches_are_created() -> None:
    """All that may be tried now."""
    state = submission(*(batch(number, file_id="f") for number in range(3)), batch(3, file_id="f", not_before=NOW + 1))
    assert plan(state, NOW) == [Create((0, 1, 2))]
    assert plan(state, NOW + 1) == [Create((0, 1, 2, 3))]


def test_only_an_aged_intent_is_resolved() -> None:
    """Whoever set out to create a batch gets the time to finish; the list gets its time as well."""
    state = submission(batch(intent=Intent(writer="w", at=NOW)))
    assert plan(state, NOW + INTENT_AGE - 1) == []
    assert plan(state, NOW + INTENT_AGE) == [Resolve((0,))]
    fenced = submission(batch(intent=Intent(writer="w", at=NOW, fenced_at=NOW)))
    assert plan(fenced, NOW + 119) == []
    assert plan(fenced, NOW + 120) == [Resolve((0,))]


def test_a_writer_that_gave_up_is_not_waited_for() -> None:
    """It says itself that it does not know what came of it."""
    assert plan(submission(batch(intent=Intent(writer="w", at=NOW, given_up=True))), NOW) == [Resolve((0,))]


def test_running_is_polled_and_ended_is_collected() -> None:
    """Each stage has its one step; settling waits until every batch is collected."""
    running = batch(0, batch_id="x", status=BatchStatus.IN_PROGRESS)
    ended = batch(1, batch_id="y", status=BatchStatus.EXPIRED)
    assert plan(submission(running, ended), NOW) == [Poll((0,)), Collect((1,))]
    done = msgspec.structs.replace(ended, collected=True)
    assert plan(submission(running, done), NOW) == [Poll((0,))]
    assert plan(submission(done), NOW) == [Settle()]
    assert plan(submission(), NOW) == [Settle()]


def test_a_cancelled_submission_creates_nothing_more() -> None:
    """Its planned batches stay uncreated, and settling does not wait for them."""
    assert plan(submission(batch(), batch(1, file_id="f"), cancelled=True), NOW) == [Settle()]


def test_a_cancelled_submission_cancels_what_runs_until_it_has_ended() -> None:
    """Whoever cancelled may have died on the way, so it is a step like any other."""
    running, cancelling = (
        batch(0, batch_id="x", status=BatchStatus.IN_PROGRESS),
        batch(1, batch_id="y", status=BatchStatus.CANCELLING),
    )
    assert plan(submission(running, cancelling, cancelled=True), NOW) == [Cancel((0,)), Poll((0, 1))]


def test_a_submission_that_replaces_others_waits_for_them() -> None:
    """It plans nothing before their answers are known."""
    state = submission(predecessors=("other",))
    assert plan(state, NOW) == [Absorb()]
    assert not state.ready
    assert msgspec.structs.replace(state, predecessors_ended=True).ready


def test_a_batch_of_ours_that_nobody_recorded_is_taken_in_or_cancelled() -> None:
    """It stands in for one that is not created; beside one that is, it is one too many."""
    state = submission(batch(0, file_id="f"), batch(1, batch_id="x"), batch(2, intent=Intent(writer="w", at=NOW)))
    others = [
        RemoteBatch(f"b{number}", BatchStatus.IN_PROGRESS, metadata={"ractobatch": f"s/{number}/1"})
        for number in range(4)
    ]
    foreign = RemoteBatch("z", BatchStatus.IN_PROGRESS, metadata={"ractobatch": "t/0/1"})
    dead = RemoteBatch("d", BatchStatus.FAILED, metadata={"ractobatch": "s/1/1"})
    assert strays(state, [*others, foreign, dead]) == ({0: others[0]}, [others[1]])


def test_pauses_grow_while_the_queue_stays_full() -> None:
    """Each refusal in a row makes the next try later, up to a quarter of an hour; Retry-After is a lower bound."""
    one, pauses = batch(file_id="f"), []
    for _ in range(6):
        one = turned_away(one, NOW)
        pauses.append(one.not_before - NOW)
    assert pauses == [60, 120, 240, 480, 900, 900]
    assert turned_away(batch(), NOW, retry_after=3000).not_before == NOW + 3000
    assert one.stage == "uploaded"


@given(st.lists(batches(), max_size=6, unique_by=lambda one: one.number), st.booleans(), st.booleans())
def test_collected_submissions_are_left_alone_and_others_never_stall(
    many: list[BatchState], collected: bool, cancelled: bool
) -> None:
    """A collected submission has no steps; any other has one now, or waits for a time or a writer it can name."""
    state = submission(*many, collected=collected, cancelled=cancelled)
    steps = plan(state, NOW)
    assert plan(state, NOW) == steps
    if collected:
        assert steps == []
    elif not steps:
        late = [one for one in many if one.stage in ("planned", "uploaded") and one.not_before > NOW]
        waiting = late + [one for one in many if one.stage == "creating"]
        assert waiting
    created = [number for step in steps if isinstance(step, Create) for number in step.batches]
    assert all(one.stage == "uploaded" for one in many if one.number in created)


@given(st.sampled_from(BatchStatus), st.sampled_from(BatchStatus))
def test_a_status_never_moves_backwards(first: BatchStatus, second: BatchStatus) -> None:
    """Lists lag and polls overtake: an older look changes nothing."""
    once = seen(batch(), RemoteBatch("b", first))
    twice = seen(once, RemoteBatch("b", second))
    assert twice.status is not None
    assert twice.status.terminal or not first.terminal
    assert seen(twice, RemoteBatch("b", second)) == twice


def test_another_batch_is_not_taken_for_ours() -> None:
    """A look at a batch with another id changes nothing."""
    ours = seen(batch(), RemoteBatch("b", BatchStatus.IN_PROGRESS))
    assert seen(ours, RemoteBatch("c", BatchStatus.COMPLETED)) == ours


def test_a_requeued_batch_is_as_it_was_planned() -> None:
    """It keeps its number, its round and the count of attempts, and nothing of the batch that was turned away."""
    turned_away = batch(3, round=1, model="m", attempt=2, batch_id="x", status=BatchStatus.FAILED, file_id="f")
    again = requeued(turned_away, NOW)
    assert again.model == "m"
    assert (again.stage, again.number, again.round, again.attempt, again.not_before) == ("planned", 3, 1, 2, NOW)


def test_progress_reads_as_a_sentence() -> None:
    """What a person sees in the sensor, the log and the failure of an early table run."""
    state = submission(
        batch(0, batch_id="x", status=BatchStatus.COMPLETED, completed=10),
        batch(1, batch_id="y", status=BatchStatus.IN_PROGRESS, completed=4),
        batch(2),
    )
    assert str(progress(state)) == (
        "1 of 3 batches ended, 1 running, 1 waiting to be created, 14 of 30 requests answered"
    )


def test_progress_of_many_is_their_sum() -> None:
    """What a person sees of a table with many open submissions."""
    first = progress(submission(batch(0, batch_id="x", status=BatchStatus.COMPLETED, completed=10)))
    second = progress(submission(batch(0, batch_id="y", status=BatchStatus.IN_PROGRESS, round=1), batch(1)))
    assert str(together([first, second])) == "1 of 2 batches ended, 1 running, 10 of 20 requests answered, round 1"
    assert together([first]) == first
