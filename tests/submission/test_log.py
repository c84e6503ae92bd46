"""The log: one winner per version, torn and foreign files detected."""

from __future__ import annotations

import gzip
import threading
from pathlib import Path

import msgspec
import pytest

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.log import Log


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
