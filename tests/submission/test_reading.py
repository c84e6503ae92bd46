"""Many submissions at once: what a look at them costs, that it misses no commit, and that it skips only no-ops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Account, Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.engine import LIGHT, Engine
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.looking import Looked
from ractobatch_dagster.submission.plan import KEY
from ractobatch_dagster.submission.reading import newest_states
from ractobatch_dagster.submission.state import Owner, PartitionState, TableState
from ractobatch_dagster.submission.watching import is_quiet, open_submissions
from tests.integration.s3 import BUCKET, moto, options
from tests.submission.test_plan import NOW, batch, batches, submission

MANY = 60
IDS = [f"20260101T{number:09d}-abcd" for number in range(MANY)]


@pytest.fixture(scope="module")
def s3() -> Iterator[int]:
    """The port of an S3."""
    with moto() as port:
        yield port


def on_s3(port: int) -> Store:
    """A store there that nobody has used."""
    return Store(f"s3://{BUCKET}/{uuid4().hex}", options(port))


@pytest.fixture(params=["memory", "disk", "s3"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> TableFiles:
    """A table with many submissions of two versions each."""
    if request.param == "s3":
        store = on_s3(request.getfixturevalue("s3"))
    else:
        store = Store("memory:///" if request.param == "memory" else tmp_path)
    table = TableFiles(store, "answers")
    for id_ in IDS:
        log = table.submission(id_).log
        log.commit(log.commit(None, submission(id=id_)), submission(batch(), id=id_))
    return table


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The calls that reach the store, by name; a listing counts by its pages."""
    counted: Counter[str] = Counter()

    def counting(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if name == "list":
                return pages(real(*arguments, **options))
            counted[name] += 1
            return real(*arguments, **options)

        return call

    def pages(listing: Iterator[Any]) -> Iterator[Any]:
        for page in listing:
            counted["list"] += 1
            yield page

    for name in ("get", "put", "head", "list", "list_with_delimiter"):
        monkeypatch.setattr(obstore, name, counting(name, getattr(obstore, name)))
    return counted


def test_the_newest_version_of_each_is_read(table: TableFiles) -> None:
    """Not the first one, and not another submission's."""
    states = newest_states(table, IDS)
    assert {id_: (state.id, len(state.batches)) for id_, state in states.items()} == {id_: (id_, 1) for id_ in IDS}


def test_a_second_look_costs_a_listing(s3: int, calls: Counter[str]) -> None:
    """On S3 a log is read once, and again only when somebody has committed to it."""
    table = TableFiles(on_s3(s3), "answers")
    for id_ in IDS:
        table.submission(id_).log.commit(None, submission(id=id_))
    calls.clear()
    newest_states(table, IDS)
    assert calls == {"list": 1, "get": MANY}
    calls.clear()
    newest_states(table, IDS)
    assert calls == {"list": 1}
    TableFiles(table.store, "answers").submission(IDS[7]).replace(lambda _: {"cancelled": True})
    calls.clear()
    assert newest_states(table, IDS)[IDS[7]].cancelled
    assert calls == {"list": 1, "get": 1}


def test_what_others_commit_between_two_looks_is_seen(table: TableFiles) -> None:
    """A change of a state, also where the log was put back to an earlier version and went on otherwise."""
    newest_states(table, IDS)
    table.submission(IDS[3]).replace(lambda _: {"collected": True})
    assert newest_states(table, IDS)[IDS[3]].collected
    path = f"{table.submission(IDS[3]).prefix}/log/00000002.json.gz"
    first = table.store.read(f"{table.submission(IDS[3]).prefix}/log/00000000.json.gz")
    assert first is not None
    table.store.write(path, first)
    assert not newest_states(table, IDS)[IDS[3]].collected


def test_what_cannot_be_read_is_told_and_the_others_are_read(table: TableFiles) -> None:
    """A torn log and one that is not there are each their own trouble, and stay it."""
    table.store.write(f"{table.submission(IDS[5]).prefix}/log/00000009.json.gz", b"torn")
    wanted = [*IDS, "20270101T000000000-gone"]
    for _ in range(2):
        states = newest_states(table, wanted)
        failed = {id_ for id_, state in states.items() if isinstance(state, StoreError)}
        assert failed == {IDS[5], wanted[-1]}
        assert len(states) == MANY + 1


def test_what_is_not_reached_in_time_is_for_the_next_look(table: TableFiles) -> None:
    """It is told, and it is not always the same ones."""
    owner = Owner(asset="answers")
    opened = TableState(
        owner=owner, partitions=tuple(PartitionState(key=id_, submission=id_, digest="d") for id_ in IDS)
    )
    notes: list[str] = []
    assert list(open_submissions(table, opened, notes, lambda: True)) == []
    assert notes == [f"answers: the store is slow; {MANY} submissions are for the next look"]
    reached = [one.state.id for one in open_submissions(table, opened, notes)]
    assert reached == IDS


NOBODY = Provider(Account(api_key="k", base_url="http://127.0.0.1:1/v1", max_retries=0))

remotes = st.builds(
    RemoteBatch,
    id=st.just("b"),
    status=st.sampled_from(BatchStatus),
    created_at=st.sampled_from([0.0, 5.0]),
    input_file_id=st.sampled_from([None, "f"]),
    output_file_id=st.sampled_from([None, "o"]),
    completed=st.integers(0, 1),
    metadata=st.sampled_from([{}, {KEY: "s/0/1"}, {KEY: "s/1/1"}, {KEY: "t/0/1"}]),
)


@settings(max_examples=400)
@given(
    st.lists(batches(), max_size=2),
    st.lists(remotes, max_size=2),
    st.lists(remotes, max_size=1),
    st.booleans(),
    st.sampled_from([(), ("p",)]),
)
def test_a_tick_skips_only_what_would_change_nothing(
    some: list[Any], found: list[RemoteBatch], others: list[RemoteBatch], cancelled: bool, predecessors: tuple[str, ...]
) -> None:
    """What is quiet is left as it is by the engine too, without a word to the provider, which is not there."""
    known = [
        msgspec.structs.replace(one, number=number, batch_id=one.batch_id and f"b{number}")
        for number, one in enumerate(some)
    ]
    state = submission(*known, cancelled=cancelled, predecessors=predecessors)
    table = TableFiles(Store("memory:///"), "a")
    engine = Engine(
        table.store, NOBODY, limits=Limits(max_requests=1, max_bytes=1), now=lambda: NOW, log=lambda _: None
    )
    state = msgspec.structs.replace(state, provider=engine.identity)
    files = table.submission("s")
    files.log.commit(None, state)
    seen = {f"b{number}": replace(remote, id=f"b{number}") for number, remote in enumerate(found)}
    looked = Looked(seen, {}, [replace(remote, id="x") for remote in others if remote.metadata])
    if is_quiet(state, looked, NOW, NOBODY.profile.list_lag):
        assert engine.advance(files, steps=LIGHT, looked=looked) == state
        version = files.log.load()
        assert version is not None
        assert (version.number, version.state) == (0, state)


def test_a_batch_that_runs_on_is_quiet_and_one_that_moved_is_not() -> None:
    """Only a look that brought something new is worth a step."""
    running = batch(batch_id="b", file_id="f", status=BatchStatus.IN_PROGRESS, created_at=5.0)
    state = submission(running)
    same = RemoteBatch(id="b", status=BatchStatus.IN_PROGRESS, created_at=5.0, input_file_id="f")
    ended = RemoteBatch(id="b", status=BatchStatus.COMPLETED, created_at=5.0, input_file_id="f")
    assert is_quiet(state, Looked({"b": same}), NOW, 120.0)
    assert is_quiet(state, Looked(), NOW, 120.0)
    assert not is_quiet(state, Looked({"b": ended}), NOW, 120.0)
    assert not is_quiet(submission(batch()), Looked(), NOW, 120.0)
    stray = RemoteBatch(id="c", status=BatchStatus.IN_PROGRESS, metadata={KEY: "s/0/1"})
    assert not is_quiet(state, Looked({"b": same}, {}, [stray]), NOW, 120.0)
