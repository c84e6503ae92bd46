"""The log: one winner per version, torn and foreign files detected."""

from __future__ import annotations

import gzip
import json
import threading
from pathlib import Path

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.log import Log, Version
from ractobatch_dagster.submission.state import SubmissionState

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
json_texts = (
    st.fixed_dictionaries(
        {}, optional={"format": st.integers(0, 3) | json_values, "nonce": st.text() | json_values, "state": json_values}
    ).map(json.dumps)
    | st.text()
)


class Count(msgspec.Struct, frozen=True):
    """A state."""

    value: int


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store on disk."""
    return Store(tmp_path)


@pytest.fixture
def log(store: Store) -> Log[Count]:
    """An empty log."""
    return Log(store, "log", Count)


def test_the_highest_version_is_the_truth(log: Log[Count]) -> None:
    """An empty log loads as nothing; after commits the last one counts."""
    assert log.load() is None
    first = log.commit(None, Count(1))
    second = log.commit(first, Count(2))
    assert log.load() == second
    assert second is not None
    assert second.number == 1


def test_of_two_writers_one_wins(log: Log[Count]) -> None:
    """A commit after a version that already has a successor is refused."""
    first = log.commit(None, Count(1))
    assert log.commit(first, Count(2)) is not None
    assert log.commit(first, Count(3)) is None
    loaded = log.load()
    assert loaded is not None
    assert loaded.state == Count(2)


def test_no_update_is_lost(store: Store) -> None:
    """Writers in parallel each get their turn: every increment counts."""

    def add(state: Count | None) -> Count:
        return Count((state.value if state else 0) + 1)

    def work() -> None:
        log = Log(store, "log", Count)
        for _ in range(5):
            log.update(add)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded = Log(store, "log", Count).load()
    assert loaded is not None
    assert loaded.state == Count(20)


def test_a_change_that_changes_nothing_commits_nothing(log: Log[Count]) -> None:
    """`None`, or an equal state, adds no version."""
    log.update(lambda _: Count(1))
    log.update(lambda _: None)
    log.update(lambda _: Count(1))
    loaded = log.load()
    assert loaded is not None
    assert loaded.number == 0


def test_our_own_commit_whose_reply_was_lost_is_recognised(
    store: Store, log: Log[Count], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's client may repeat a put that had succeeded: "already exists" with our nonce in it is our success."""
    put = Store.create

    def put_twice(self: Store, path: str, data: bytes) -> bool:
        put(self, path, data)
        return put(self, path, data)

    monkeypatch.setattr(Store, "create", put_twice)
    assert log.commit(None, Count(1)) is not None


def grown(log: Log[Count], versions: int) -> Version[Count]:
    """The log's newest version, after so many more commits."""
    version = log.load()
    for _ in range(versions):
        version = log.commit(version, Count(version.state.value + 1 if version else 0))
    assert version is not None
    return version


def test_old_versions_are_pruned(store: Store) -> None:
    """The newest hundred stay, the state is the same, and the log goes on."""
    log = Log(store, "log", Count, prunable=True)
    last = grown(log, 150)
    assert log.outdated() == 50
    assert (log.prune(), log.prune(), log.outdated()) == (50, 0, 0)
    assert store.names("log")[:1] == ["00000050.json.gz"]
    assert log.load() == last
    assert log.update(lambda state: Count(state.value + 1 if state else 0)) == Count(last.state.value + 1)
    assert log.prune() == 1


@pytest.mark.parametrize("read", [None, 0, 1, 48, 49])
def test_who_has_slept_since_before_a_pruning_does_not_win(store: Store, read: int | None) -> None:
    """The place behind what it read is free again, and its commit there is none: it starts over from the truth."""
    log = Log(store, "log", Count, prunable=True)
    grown(log, 1)
    slept = None if read is None else Version(read, Count(read))
    last = grown(log, 149)
    log.prune()
    assert log.commit(slept, Count(-1)) is None
    assert log.load() == last
    grown(log, 20)
    assert log.prune() > 0  # what it left behind goes, too
    assert log.commit(slept, Count(-1)) is None
    assert [name for name in store.names("log") if name.startswith("gone")] == ["gone-before-00000070"]


def test_what_is_not_made_for_it_is_not_pruned(store: Store, log: Log[Count]) -> None:
    """A submission's log is read by its numbers."""
    grown(log, 150)
    with pytest.raises(ValueError, match="not to be pruned"):
        log.prune()
    assert len(store.names("log")) == 150


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not gzip",
        gzip.compress(b"{", mtime=0),
        gzip.compress(b"[]", mtime=0),
        gzip.compress(b'{"format":1,"nonce":"x","state":{"value":"text"}}', mtime=0),
        gzip.compress(b'{"format":1,"nonce":"x","state":{"value":1}}', mtime=0)[:-4],
    ],
    ids=["empty", "no gzip", "no JSON", "no object", "another state", "torn"],
)
def test_torn_and_foreign_files_stop_with_an_error(store: Store, log: Log[Count], data: bytes) -> None:
    """A version that cannot be read is an error; it never means that there is none."""
    store.write("log/00000000.json.gz", data)
    with pytest.raises(StoreError, match=r"00000000\.json\.gz"):
        log.load()


def test_newer_formats_are_refused(store: Store, log: Log[Count]) -> None:
    """A log written by a later release says to upgrade."""
    store.write("log/00000000.json.gz", gzip.compress(b'{"format":99,"nonce":"x","state":{}}'))
    with pytest.raises(StoreError, match="Upgrade"):
        log.load()


def test_other_files_in_the_folder_are_passed_over(store: Store, log: Log[Count]) -> None:
    """Only names of versions count."""
    log.commit(None, Count(1))
    store.write("log/00000001.json.gz.part", b"x")
    store.write("log/readme.txt", b"x")
    loaded = log.load()
    assert loaded is not None
    assert loaded.number == 0


@given(st.binary(max_size=60) | json_texts.map(lambda text: gzip.compress(text.encode("latin-1", "replace"))))
@example(gzip.compress(b'{"format":1,"nonce":"\xff","state":{"value":1}}'))
@example(gzip.compress(b'{"format":1,"nonce":"n","state":{"value":1,"\xff":2}}'))
def test_any_bytes_are_a_state_or_an_error(data: bytes) -> None:
    """Whatever lies where a version should be, it is read as a state or refused: nothing else comes up."""
    store = Store("memory:///")
    store.write("log/00000000.json.gz", data)
    log: Log[Count] = Log(store, "log", Count)
    try:
        version = log.load()
    except StoreError:
        return
    assert version is not None
    assert isinstance(version.state, Count)


class Writers(RuleBasedStateMachine):
    """Some writers with views of the log that may be old, and a list of what was committed to compare it with."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store("memory:///")
        self.log: Log[Count] = Log(self.store, "log", Count)
        self.committed: list[int] = []
        self.views: dict[int, Version[Count] | None] = dict.fromkeys(range(3))

    @rule(writer=st.integers(0, 2))
    def look(self, writer: int) -> None:
        """A writer reads the newest version."""
        self.views[writer] = self.log.load()

    @rule(writer=st.integers(0, 2), value=st.integers(0, 5))
    def commit(self, writer: int, value: int) -> None:
        """It succeeds exactly for who has seen the newest version."""
        view = self.views[writer]
        newest = (view is None) if not self.committed else (view is not None and view.number == len(self.committed) - 1)
        after = self.log.commit(view, Count(value))
        assert (after is not None) is newest
        if after is not None:
            self.committed.append(value)
            self.views[writer] = after

    @rule(amount=st.integers(0, 5))
    def add(self, amount: int) -> None:
        """An update starts from the newest state, whoever wrote it."""
        before = self.committed[-1] if self.committed else 0
        state = self.log.update(lambda state: Count((state.value if state else 0) + amount))
        assert state == Count(before + amount)
        if amount or not self.committed:
            self.committed.append(before + amount)

    @invariant()
    def the_newest_is_what_was_committed_last(self) -> None:
        """Nothing that was committed is ever changed or lost."""
        version = self.log.load()
        assert (
            (version.number, version.state.value) == (len(self.committed) - 1, self.committed[-1])
            if (self.committed and version)
            else version is None
        )


TestWriters = Writers.TestCase


def test_a_log_of_the_first_release_is_read(store: Store) -> None:
    """Format 1 as it was first written, without the fields that came later."""
    state = {
        "id": "20261124T200000000-0a1b2c3d",
        "asset": "labels",
        "provider": "openai https://api.openai.com/v1",
        "endpoint": "/v1/chat/completions",
        "model": "gpt-4o-mini",
        "completion_window": "24h",
        "fingerprint": "f",
        "created_at": 1.0,
        "rows": 2,
        "sealed": 2,
        "requests": 2,
        "max_rounds": 1,
        "partitions": [{"key": None, "start": 0, "rows": 2, "digest": "d"}],
        "batches": [
            {"number": 0, "requests": 2, "size": 9, "attempt": 1, "batch_id": "b", "status": "in_progress"},
            {"number": 1, "requests": 2, "size": 9, "attempt": 1, "intent": {"writer": "w", "at": 1.0}},
        ],
    }
    data = {"format": 1, "nonce": "n", "state": state}
    store.write("log/00000000.json.gz", gzip.compress(json.dumps(data).encode()))
    version = Log(store, "log", SubmissionState).load()
    assert version is not None
    assert [batch.stage for batch in version.state.batches] == ["running", "creating"]
    assert version.state.partitions[0].rows == 2
