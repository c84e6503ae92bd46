"""Batches that show whose they are only in their results: nothing is paid twice, and nothing of others is taken."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ractobatch_dagster.errors import ProviderError
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from ractobatch_dagster.provider.message_batches import AnthropicProvider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.submission.engine import SUBMIT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.looking import scan, suspects
from ractobatch_dagster.submission.plan import INTENT_AGE, Create, Upload
from ractobatch_dagster.submission.state import Intent
from ractobatch_dagster.tending import reconcile
from tests.anthropic_project import MODEL, Claude, provider
from tests.submission.test_engine import LIMITS, Bench


class ClaudeBench(Bench):
    """A bench at Anthropic."""

    def provider(self, **account: Any) -> AnthropicProvider:
        """As another process would have it."""
        return provider(self.server, self.store, **account)

    def engine(self, **account: Any) -> Engine:
        """As `Bench.engine`."""
        return Engine(self.store, self.provider(**account), limits=LIMITS, now=lambda: self.clock)

    def open(self, *texts: str, model: str = MODEL, **terms: Any) -> SubmissionFiles:
        """As `Bench.open`."""
        return super().open(*texts, template=RequestTemplate(model).at(self.provider().profile), **terms)

    def stranger(self, requests: int = 1) -> str:
        """A batch of somebody else's in the same workspace."""
        params = {"model": MODEL, "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
        some: Any = [{"custom_id": f"row-{number:08d}", "params": params} for number in range(requests)]
        return str(self.provider().client.messages.batches.create(requests=some).id)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[ClaudeBench]:
    """A bench on disk."""
    with LocalServer(tmp_path / "server", model=Claude()) as server:
        yield ClaudeBench(server, tmp_path / "store")


def stage(bench: ClaudeBench, files: SubmissionFiles) -> str:
    """Where the first batch is after another run's steps; what they raise is a `ProviderError`."""
    with contextlib.suppress(ProviderError):
        bench.engine().advance(files, steps=SUBMIT)
    return files.state().batches[0].stage


def test_a_lost_reply_holds_the_batch_until_its_results_prove_it(bench: ClaudeBench) -> None:
    """While the one candidate runs nobody knows; once it has ended its ids do, and it is gone on with."""
    bench.server.faults = Faults(lost_create_replies=1, stuck_in="in_progress")
    files = bench.open("a", "b")
    with pytest.raises(ProviderError):
        bench.engine().advance(files, steps=SUBMIT)
    for _ in range(3):
        bench.clock += INTENT_AGE
        with pytest.raises(ProviderError, match=r"is known once batch msgbatch_.* has ended"):
            bench.engine().advance(files, steps=SUBMIT)
        assert files.state().batches[0].stage == "creating"
    bench.server.faults = Faults()
    bench.server.wait_idle()
    assert bench.finish(files) == ["ok", "ok"]
    assert (bench.server.creates, len(bench.server.billed)) == (1, 2)


def test_a_lost_reply_of_a_batch_that_has_ended_costs_nothing(bench: ClaudeBench) -> None:
    """It is found, whichever run looks for it."""
    bench.server.faults = Faults(lost_create_replies=1)
    files = bench.open("a", "b")
    stage(bench, files)
    bench.server.wait_idle()
    assert stage(bench, files) in ("running", "ended")
    assert bench.finish(files) == ["ok", "ok"]
    assert bench.server.creates == 1


def test_a_strangers_batch_of_the_same_size_is_not_taken(bench: ClaudeBench) -> None:
    """Ours was never created: the stranger's holds it until it has ended, and is neither adopted nor cancelled."""
    files = bench.open("a")
    bench.engine().advance(files, steps={Upload})
    bench.server.faults = Faults(outage=50)
    assert stage(bench, files) == "creating"
    bench.server.faults = Faults(stuck_in="in_progress")
    bench.stranger()
    for _ in range(4):
        bench.clock += INTENT_AGE
        assert stage(bench, files) == "creating"
    assert bench.server.creates == 2  # the one that did not arrive is counted as well
    bench.server.faults = Faults()
    bench.server.wait_idle()
    assert bench.server.batches()[0]["status"] == "completed"
    for _ in range(3):
        bench.clock += INTENT_AGE
        stage(bench, files)
    assert bench.finish(files) == ["ok"]
    assert bench.server.creates == 3


def test_batches_of_other_sizes_and_known_ones_hold_nothing(bench: ClaudeBench) -> None:
    """A batch that cannot be ours is no candidate; one that does not say how large it is may be ours."""
    files = bench.open(*(f"text {number}" for number in range(12)))  # a batch of ten and one of two
    bench.engine().advance(files, steps={Upload})
    bench.server.faults = Faults(stuck_in="in_progress")
    bench.stranger(7)
    bench.engine().advance(files, steps={Create})
    one, two = files.state().batches
    assert (one.stage, two.stage) == ("running", "running")
    two = msgspec.structs.replace(two, batch_id=None, intent=Intent(writer="w", at=bench.clock))
    known = files.state().with_batches({1: msgspec.structs.replace(two, batch_id=files.state().batches[1].batch_id)})
    find = suspects(known, [two], files.store)
    listed = bench.provider().list_batches().batches
    assert [remote.total for remote in listed] == [2, 10, 7]
    assert not any(find(remote) for remote in listed)
    assert find(replace(listed[0], id="another"))
    assert find(replace(listed[0], id="another", total=0))  # it does not say how large it is
    # one that began so long after the intent is none that was intended then
    assert not find(replace(listed[0], id="another", created_at=bench.clock + 3_600))


def test_what_another_submission_has_recorded_holds_nothing(bench: ClaudeBench) -> None:
    """Full batches are all of one size, and most of them are known."""
    one = bench.open("a")
    bench.table = TableFiles(bench.store, "others")
    other = bench.open("b")
    bench.engine().advance(other, steps=SUBMIT)
    (theirs,) = bench.provider().list_batches().batches
    lost = msgspec.structs.replace(one.state().batches[0], intent=Intent(writer="w", at=bench.clock))
    assert suspects(one.state(), [lost], one.store)(replace(theirs, id="a stranger's"))
    assert not suspects(one.state(), [lost], one.store)(theirs)


def test_a_look_that_takes_too_long_proves_nothing(bench: ClaudeBench) -> None:
    """Whose a batch is must have been read before another is sent."""
    files = bench.open("a")
    bench.engine().advance(files, steps={Upload})
    bench.server.faults = Faults(outage=50)
    assert stage(bench, files) == "creating"
    bench.server.faults = Faults()
    bench.stranger()
    bench.server.wait_idle()
    stages = iter([False, True])  # the list is read, the results are not
    with pytest.raises(ProviderError, match="whose batches these are"):
        scan(bench.provider(), ["s/0/1"], {"f": 0.0}, lambda: next(stages))


def test_results_that_cannot_be_read_prove_nothing(bench: ClaudeBench) -> None:
    """Then nobody knows whose the batch is, and the error says what could not be read."""
    bench.stranger()
    bench.server.wait_idle()
    bench.server.faults = Faults(calls=[CallFault("GET", "/v1/messages/batches/{id}/results", status=404)])
    with pytest.raises(ProviderError, match="looking whose batch msgbatch_"):
        scan(bench.provider(), ["s/0/1"], {"f": 0.0})


def test_a_create_that_never_happened_waits_for_the_list(bench: ClaudeBench) -> None:
    """Without a file to fence it off, absence takes ten minutes to prove; then it is created once."""
    files = bench.open("a")
    bench.engine().advance(files, steps={Upload})
    bench.server.faults = Faults(outage=50)
    assert stage(bench, files) == "creating"
    bench.server.faults = Faults()
    assert stage(bench, files) == "creating"
    assert not bench.provider().find_files("")  # whoever comes late has nothing to send
    bench.clock += 599
    assert stage(bench, files) == "creating"
    bench.clock += 1
    assert bench.finish(files) == ["ok"]
    assert len(bench.server.batches()) == 1


def test_a_writer_that_slept_sends_nothing(bench: ClaudeBench) -> None:
    """What it was to send is gone when it wakes."""
    files = bench.open("a")
    slow = bench.engine()
    slow.advance(files, steps={Upload})
    create = slow._provider.create

    def late(**arguments: Any) -> RemoteBatch:
        for _ in range(2):
            bench.clock += INTENT_AGE
            bench.engine().advance(files, steps=SUBMIT)
        return create(**arguments)

    slow._provider.create = late  # type: ignore[method-assign, assignment]
    with pytest.raises(ProviderError, match="No such file"):
        slow.advance(files, steps={Create})
    assert bench.finish(files) == ["ok"]
    assert len(bench.server.batches()) == 1


@pytest.mark.parametrize("seed", range(8))
def test_whatever_becomes_of_creates_each_row_is_paid_once(bench: ClaudeBench, seed: int) -> None:
    """Creates that arrive and are not answered, that do not arrive, that are turned away; runs that go on or crash."""
    draw = random.Random(seed)
    create: Any = ("POST", "/v1/messages/batches")
    lost = CallFault(*create, chance=0.3, times=6, done=True, closed=True)
    others = [CallFault(*create, chance=0.3, times=6, status=status) for status in (503, 429)]
    files = bench.open(*(f"text {number}" for number in range(35)))
    for _ in range(30):
        stuck = "in_progress" if draw.random() < 0.5 else None
        bench.server.faults = Faults(seed=draw.randrange(1000), calls=[lost, *others], stuck_in=stuck)
        engine = bench.engine()
        if draw.random() < 0.3:  # its process dies before it records what it has created
            engine._creator._record = lambda *_: files.state()  # type: ignore[method-assign]
        with contextlib.suppress(ProviderError):
            engine.advance(files, steps=SUBMIT)
        bench.clock += draw.choice([1, 130, 700])
    bench.server.faults = Faults()
    bench.server.wait_idle()
    for _ in range(4):
        stage(bench, files)
        bench.clock += INTENT_AGE
    assert bench.finish(files) == ["ok"] * 35
    assert sum(bench.server.billed.values()) == 35


def test_a_full_queue_loses_nothing(bench: ClaudeBench) -> None:
    """What was turned away waits, with its requests."""
    bench.server.faults = Faults(queue_full="429", queue_full_times=2)
    files = bench.open("a", "b", max_rounds=0)
    assert bench.finish(files) == ["ok", "ok"]
    assert not bench.provider().find_files("")


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (Faults(expire_at=0.5), ["expired", "ok"]),
        (Faults(fail={529: 0.5}), ["error", "ok"]),
        (Faults(shares={"cancelled": 0.5}), ["cancelled", "ok"]),
        (Faults(drop=0.5), ["missing", "ok"]),
        (Faults(bad_lines=1), ["missing", "ok"]),
        (Faults(ghost=0.5), ["error", "ok"]),
    ],
)
def test_each_request_has_one_outcome_and_another_round(
    bench: ClaudeBench, faults: Faults, expected: list[str]
) -> None:
    """What did not succeed is told, and asked again where rounds are left; what did is never asked again."""
    bench.server.faults = faults
    files = bench.open("a", "b", max_rounds=0)
    assert sorted(bench.finish(files)) == expected
    bench.land()
    bench.server.faults = Faults(**{**vars(faults), "first_attempts": 1})
    again = bench.open("c", "d", max_rounds=1)
    bench.finish(again)
    assert bench.answers(again) == ["ok", "ok"]


def test_a_batch_that_nobody_recorded_is_reported(bench: ClaudeBench) -> None:
    """`reconcile` reads the ids of those that have ended; a stranger's is none of its business."""
    files = bench.open("a")
    state = bench.engine().advance(files, steps={Upload})
    batch = state.batches[0]
    first = bench.provider().create(
        input_file_id=str(batch.file_id),
        endpoint=state.endpoint,
        completion_window="24h",
        metadata={"ractobatch": f"{state.id}/0/1"},
    )
    bench.stranger()
    bench.server.wait_idle()
    found = {finding.what: finding.text for finding in reconcile(bench.store, bench.provider())}
    assert first.id in found["being made"]
    assert "foreign" not in found
