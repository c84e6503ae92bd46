"""Changed input: what a run does about an open submission that holds other rows, prompts or parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ractobatch_dagster.errors import InvalidInputError, ProviderError, SubmissionConflictError
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.reuse import Reuse
from ractobatch_dagster.submission.engine import LIGHT, SUBMIT
from ractobatch_dagster.submission.plan import Upload, after_look
from ractobatch_dagster.submission.sealing import Rules
from ractobatch_dagster.submission.state import BatchState, Intent
from tests.local.helpers import GatedModel, wait_for
from tests.submission.test_engine import Bench


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Bench]:
    """A bench whose server answers one request and then waits."""
    model = GatedModel(1)
    with LocalServer(tmp_path / "server", model=model) as server:
        yield Bench(server, tmp_path / "store")
        model.gate.set()


def test_the_same_rows_are_gone_on_with(slow: Bench) -> None:
    """Running it again sends nothing."""
    first = slow.open("a", "b")
    slow.engine().advance(first, steps=SUBMIT)
    assert slow.open("a", "b").id == first.id


def test_changed_rows_are_refused_with_what_changed(slow: Bench) -> None:
    """By default nothing is sent, and the message says which rows are new, gone or changed."""
    slow.engine().advance(slow.open("a", "b", "c"), steps=SUBMIT)
    with pytest.raises(SubmissionConflictError, match=r"1 row is changed \(row 1\)"):
        slow.open("a", "x", "c")
    with pytest.raises(SubmissionConflictError, match=r"1 row is new \(row 3\)"):
        slow.open("a", "b", "c", "d")
    with pytest.raises(SubmissionConflictError, match="the model changed"):
        slow.open("a", "b", "c", model="gpt-4o")
    assert len(slow.server.batches()) == 1


def test_attaching_goes_on_with_the_open_rows(slow: Bench) -> None:
    """The policy `attach` leaves the changed rows for another time."""
    first = slow.open("a")
    slow.engine().advance(first, steps=SUBMIT)
    assert slow.open("b", on_change="attach").id == first.id


def test_replacing_cancels_and_sends_only_what_was_not_answered(slow: Bench) -> None:
    """The open batch is cancelled; the answer that it had given is taken over, the rest and the new rows are sent."""
    first = slow.open("a", "b")
    slow.engine().advance(first, steps=SUBMIT)
    wait_for(lambda: slow.server.batches()[0]["status"] == "in_progress")
    wait_for(lambda: slow.server.billed.total())  # noqa: PLW0108 (`billed` is a copy)
    second = slow.open("a", "b", "c", on_change="replace")
    assert second.id != first.id
    slow.engine().advance(second, steps=SUBMIT)
    assert slow.server.batches()[0]["status"] in ("cancelling", "cancelled")
    assert second.state().predecessors == (first.id,)
    slow.server._running.work.model.gate.set()
    assert slow.finish(second) == ["ok"] * second.state().requests
    assert sum(slow.outcomes(second)["reused"].to_pylist()) + second.state().requests == 3
    assert slow.server.billed.total() == 3
    assert slow.table.log.load().state.open == {second.id: [None]}  # type: ignore[union-attr]


def test_a_submission_that_waits_for_another_is_ready_once_that_has_ended(slow: Bench) -> None:
    """The sensor's light steps see that the old one ends, and then ask for a run that takes its answers over."""
    first = slow.open("a", "b")
    slow.engine().advance(first, steps=SUBMIT)
    second = slow.open("c", on_change="replace")
    slow.engine().advance(second, steps=SUBMIT)
    assert not second.state().ready
    slow.server._running.work.model.gate.set()
    slow.server.wait_idle()
    assert slow.engine().advance(second, steps=LIGHT).ready
    assert slow.finish(second) == ["ok"]


def test_a_submission_of_which_nothing_was_created_gives_way(slow: Bench) -> None:
    """It cost nothing, so no policy is needed; what it had uploaded is deleted."""
    first = slow.open("a")
    slow.engine().advance(first, steps={Upload})
    second = slow.open("b")
    slow.engine().discard(first)
    assert second.id != first.id
    assert not slow.server.files()
    assert first.state().cancelled


def test_what_was_taken_over_before_is_still_there_after_replacing(slow: Bench) -> None:
    """Answers of the landed table, taken over when the new submission was sealed, survive what it absorbs later."""
    slow.server._running.work.model.gate.set()
    landed = slow.open("a")
    assert slow.finish(landed) == ["ok"]
    slow.land()
    first = slow.open("a", "b")
    slow.engine().advance(first, steps=SUBMIT)
    second = slow.open("a", "b", "c", on_change="replace")
    slow.finish(second)
    assert slow.answers(second) == ["ok", "ok", "ok"]
    assert max(slow.server.billed.values()) == 1


def test_what_replaces_keeps_to_what_it_may_take_over(slow: Bench) -> None:
    """Answers that are too old, or that a fresh start does not want, are not taken over on the way either."""
    slow.server._running.work.model.gate.set()
    slow.finish(slow.open("a"))
    slow.land()
    first = slow.open("a", "b")
    slow.engine().advance(first, steps=SUBMIT)
    anew = slow.open("a", "b", "c", on_change="replace", reuse=None)
    slow.finish(anew)
    assert slow.server.billed.total() == 4  # "a" again, which the first had only taken over
    slow.land()
    second = slow.open("a", "b", "c", "d")
    slow.engine().advance(second, steps=SUBMIT)
    slow.clock += 40 * 86_400
    old = slow.open("a", "b", "c", "e", on_change="replace", reuse=Reuse(max_age_days=30))
    slow.finish(old)
    assert old.state().expected_usd is not None
    assert old.state().reused == {}
    assert slow.server.billed.total() == 4 + 1 + 4


def test_what_was_taken_over_twice_is_not_asked_again(slow: Bench) -> None:
    """Replaced twice in a row: the second time, answers come from what the first replacement had taken over."""
    slow.server._running.work.model.gate.set()
    slow.finish(slow.open("a"))
    slow.land()
    first = slow.open("a", "b")
    slow.engine().advance(first, steps=SUBMIT)
    slow.server.wait_idle()
    second = slow.open("a", "b", "c", on_change="replace")
    slow.server.faults = Faults(fail={500: 1.0})
    while not second.state().batches:
        slow.engine().advance(second)
    third = slow.open("a", "b", "d", on_change="replace")
    slow.server.faults = Faults()
    slow.finish(third)
    assert slow.answers(third) == ["ok"] * 3
    assert slow.server.billed.total() == 3


def test_answers_of_a_submission_that_gives_way_are_not_paid_for_again(slow: Bench) -> None:
    """It had taken them over from the landed table; the next one takes them over from it."""
    slow.server._running.work.model.gate.set()
    slow.finish(slow.open("a"))
    slow.land()
    slow.open("a", "b")
    third = slow.open("a", "c")
    slow.finish(third)
    assert slow.answers(third) == ["ok", "ok"]
    assert slow.server.billed.total() == 2


def test_samples_are_taken_over_one_each(slow: Bench) -> None:
    """Identical rows that were asked apart keep their own answers; one more row is asked."""
    slow.server._running.work.model.gate.set()
    slow.finish(slow.open("a", "a", dedupe=False))
    slow.land()
    again = slow.open("a", "a", "a", dedupe=False)
    slow.finish(again)
    assert slow.answers(again) == ["ok"] * 3
    assert slow.server.billed.total() == 3


def test_a_batch_made_from_a_deleted_file_is_sent_again(slow: Bench) -> None:
    """Some servers create a batch whose input file is gone and fail it later: nothing of it ran."""
    fenced = BatchState(number=0, requests=1, size=1, file_id="f", intent=Intent(writer="w", at=0.0, fenced_at=1.0))
    found = after_look(fenced, RemoteBatch("b", BatchStatus.PENDING), 2.0)
    assert found.stage == "running"
    assert after_look(found, RemoteBatch("b", BatchStatus.FAILED), 3.0).stage == "planned"
    assert after_look(found, RemoteBatch("b", BatchStatus.COMPLETED), 3.0).stage == "ended"


def test_nothing_gives_way_to_rows_that_cannot_be_sent(slow: Bench) -> None:
    """The new rows are sealed before the old ones are stopped: one that no line can hold stops nothing."""
    first = slow.open("a")
    with pytest.raises(InvalidInputError):
        slow.open(" ", rules=Rules(on_null="error"))
    assert not first.state().cancelled


def test_the_same_rows_after_a_cancel_are_sent(slow: Bench) -> None:
    """Whoever submits again after cancelling wants answers: what was not answered goes out, the rest is taken over."""
    first = slow.open("a", "b")
    slow.engine().advance(first, steps=SUBMIT)
    wait_for(lambda: slow.server.billed.total())  # noqa: PLW0108 (`billed` is a copy)
    slow.engine().cancel(first)
    again = slow.open("a", "b")
    assert again.id != first.id
    slow.server._running.work.model.gate.set()
    slow.finish(again)
    assert slow.answers(again) == ["ok", "ok"]
    assert slow.server.billed.total() == 2


def test_abandoning_reaches_what_is_waited_for(slow: Bench) -> None:
    """A predecessor whose create is unknown would be waited for for ever."""
    no_list = CallFault("GET", "/v1/batches", status=404)
    slow.server.faults = Faults(lost_create_replies=1, calls=[no_list])
    first = slow.open("a")
    with pytest.raises(ProviderError):
        slow.engine().advance(first, steps=SUBMIT)
    second = slow.open("b", on_change="replace")
    with pytest.raises(ProviderError, match="--abandon"):
        slow.engine().advance(second)
    slow.engine().cancel(second, abandon=True)
    assert slow.engine().advance(second).collected
