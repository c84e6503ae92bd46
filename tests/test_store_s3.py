"""The store and the log on S3: what the submission log rests on holds there as it does on disk."""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import msgspec
import pandas as pd
import pyarrow as pa
import pytest

from ractobatch_dagster import batch_asset
from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.log import Log
from tests.integration.s3 import BUCKET, Proxy, moto, options
from tests.project import Project


class Count(msgspec.Struct, frozen=True):
    """A state."""

    value: int


@pytest.fixture(scope="session")
def s3() -> Iterator[int]:
    """The port of an S3."""
    with moto() as port:
        yield port


@pytest.fixture
def proxy(s3: int) -> Iterator[Proxy]:
    """The way to it."""
    with Proxy(s3) as proxy:
        yield proxy


@pytest.fixture
def root() -> str:
    """A root that nobody has used."""
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture
def store(proxy: Proxy, root: str) -> Store:
    """An empty store."""
    return Store(root, options(proxy.port))


@pytest.fixture
def log(store: Store) -> Log[Count]:
    """An empty log."""
    return Log(store, "log", Count)


def test_create_is_put_if_absent(store: Store) -> None:
    """Of two creates of one object the second fails and changes nothing."""
    assert store.create("log/0", b"one")
    assert not store.create("log/0", b"two")
    assert store.read("log/0") == b"one"


def test_what_is_written_is_read(store: Store, tmp_path: Path) -> None:
    """Bytes and files go in, larger than one part too, and come out as bytes, chunks or a reader."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 12_000_000 + b"y")
    store.write("a/b", b"old")
    store.write("a/b", source)
    assert store.read("a/b") == source.read_bytes()
    assert b"".join(store.chunks("a/b")) == source.read_bytes()
    with store.open("a/b") as reader:
        assert reader.seek(12_000_000) == 12_000_000
        assert reader.read() == b"y"


def test_nothing_there_is_none_and_listing_tells_files_from_folders(store: Store) -> None:
    """A missing object is `None`, a missing folder is empty; names and folders are those directly below."""
    assert store.read("nothing") is None
    assert store.names("t") == []
    for path in ("t/b", "t/a b%2F", "t/sub/c", "tt/d"):
        store.write(path, b"")
    assert store.names("t") == ["a b%2F", "b"]
    assert store.folders("t") == ["sub"]


def test_of_writers_that_race_one_wins(store: Store) -> None:
    """Eight creates of one object at the same moment: one succeeds, and what it wrote is what is there."""
    start = threading.Barrier(8)

    def create(path: str, data: bytes) -> bool:
        start.wait()
        return store.create(path, data)

    with ThreadPoolExecutor(8) as pool:
        for path in ("log/0", "log/1", "log/2"):
            datas = [f"writer {number}".encode() for number in range(8)]
            won = list(pool.map(create, [path] * 8, datas))
            assert won.count(True) == 1
            assert store.read(path) == datas[won.index(True)]


def test_no_update_of_the_log_is_lost(root: str, proxy: Proxy) -> None:
    """Writers in parallel, each with a store of its own, get their turn: every increment counts."""

    def work(_: int) -> None:
        log = Log(Store(root, options(proxy.port)), "log", Count)
        for _ in range(5):
            log.update(lambda state: Count((state.value if state else 0) + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    newest = Log(Store(root, options(proxy.port)), "log", Count).load()
    assert newest is not None
    assert newest.state == Count(20)


def test_our_own_commit_whose_reply_was_lost_is_recognised(log: Log[Count], proxy: Proxy) -> None:
    """The put arrived, its reply did not, the client puts again and is refused: it is our success all the same."""
    first = log.commit(None, Count(1))
    proxy.lose_replies(1)
    second = log.commit(first, Count(2))
    assert second is not None
    assert len(proxy.lost) == 1
    assert log.load() == second


def test_a_lost_race_whose_reply_was_lost_stays_lost(log: Log[Count], proxy: Proxy) -> None:
    """A put that was refused because another writer was quicker is no success, however the refusal got lost."""
    first = log.commit(None, Count(1))
    theirs = log.commit(first, Count(2))
    proxy.lose_replies(1)
    assert log.commit(first, Count(3)) is None
    assert len(proxy.lost) == 1
    assert log.load() == theirs


@pytest.mark.parametrize("length", [0, 10, -1])
def test_a_torn_object_stops_with_an_error(store: Store, log: Log[Count], length: int) -> None:
    """A version that cannot be read is an error that names it; it never means that there is none."""
    whole = gzip.compress(b'{"format":1,"nonce":"x","state":{"value":1}}', mtime=0)
    store.write("log/00000000.json.gz", whole[:length])
    with pytest.raises(StoreError, match=rf"s3://{BUCKET}/.*/00000000\.json\.gz is torn"):
        log.load()


def test_a_log_may_be_longer_than_a_page_of_the_listing(store: Store, log: Log[Count]) -> None:
    """S3 lists a thousand names at a time; the newest version is found behind them."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: store.write(f"log/{number:08d}.json.gz", b""), range(1_002)))
    store.write("log/00001002.json.gz", gzip.compress(b'{"format":1,"nonce":"x","state":{"value":7}}'))
    newest = log.load()
    assert newest is not None
    assert (newest.number, newest.state) == (1_002, Count(7))


def test_a_log_on_s3_is_pruned(store: Store) -> None:
    """All but the newest hundred versions go, who has slept does not win, and what is not there may be removed."""
    log = Log(store, "pruned", Count, prunable=True)
    version = None
    for number in range(104):
        version = log.commit(version, Count(number))
    assert log.prune() == 4
    assert log.commit(None, Count(-1)) is None
    assert log.load() == version
    store.remove(["pruned/nothing-of-the-kind"])


def test_an_s3_that_is_away_is_an_error_within_seconds(store: Store, log: Log[Count], proxy: Proxy) -> None:
    """What cannot be reached is never "not there"; the error says what could not be done, and where."""
    first = log.commit(None, Count(1))
    verbs: list[Callable[[], object]] = [
        lambda: store.read("log/00000000.json.gz"),
        log.load,
        lambda: log.commit(first, Count(2)),
    ]

    def error_of(verb: Callable[[], object]) -> str:
        with pytest.raises(StoreError) as raised:
            verb()
        return str(raised.value)

    proxy.go_away()
    started = time.monotonic()
    with ThreadPoolExecutor(len(verbs)) as pool:
        said = list(pool.map(error_of, verbs))
    assert time.monotonic() - started < 60  # the client tries ten times; 2.6 s in the middle, 12 s at most, of 60
    for words, message in zip(("Could not read", "Could not list", "Could not write"), said, strict=True):
        assert message.startswith(f"{words} {store.url}/log")
    proxy.come_back()
    assert log.load() == first


def test_a_submission_lands_on_s3(proxy: Proxy, root: str, batch_server: LocalServer, tmp_path: Path) -> None:
    """Logs, request files, answers and the table all go through the one root, and lost replies cost nothing."""

    @batch_asset(model="gpt-4o-mini", key="id")
    def many() -> pd.DataFrame:
        return pd.DataFrame({"id": range(25), "user_message": [f"text {number}" for number in range(25)]})

    project = Project(
        batch_server,
        tmp_path,
        many.assets,
        root=root,
        store_options=options(proxy.port),
        max_requests_per_batch=10,
    )
    assert project.run("many_submission").success
    proxy.lose_replies(3)
    project.land()
    assert len(proxy.lost) == 3
    table = project.load("many", kind=pa.Table)
    assert table["id"].to_pylist() == list(range(25))
    assert set(table["llm_status"].to_pylist()) == {"ok"}
    assert sum(one["request_counts"]["total"] for one in batch_server.batches()) == 25
    assert not (tmp_path / "store").exists()


def test_a_bucket_that_does_not_exist_is_an_error(proxy: Proxy) -> None:
    """It is not an object that is not there."""
    elsewhere = Store("s3://no-such-bucket/root", options(proxy.port))
    with pytest.raises(StoreError, match="no such bucket"):
        elsewhere.read("a")
    with pytest.raises(StoreError):
        elsewhere.names("a")
