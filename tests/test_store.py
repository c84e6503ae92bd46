"""The store: put-if-absent, whole writes, and "cannot read" that is never "is not there"."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import ConfigurationError, RactobatchError, StoreError
from ractobatch_dagster.store import Store, partition_name


@pytest.fixture(params=["local", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind that needs no service."""
    return Store(tmp_path / "a root" if request.param == "local" else "memory:///")


def test_create_is_put_if_absent(store: Store) -> None:
    """Of two creates of one object the second fails and changes nothing."""
    assert store.create("log/0", b"one")
    assert not store.create("log/0", b"two")
    assert store.read("log/0") == b"one"


def test_what_is_written_is_read(store: Store, tmp_path: Path) -> None:
    """Bytes and files go in, and come out as bytes, chunks or a reader; writing again replaces."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100_000)
    store.write("a/b", b"old")
    store.write("a/b", source)
    assert store.read("a/b") == source.read_bytes()
    assert b"".join(store.chunks("a/b")) == source.read_bytes()
    with store.open("a/b") as reader:
        assert reader.read(3) == b"xxx"
        assert len(reader.read()) == 99_997
        assert reader.seek(-1, os.SEEK_END) == 99_999
        assert reader.read() == b"x"


def test_nothing_there_is_none_and_no_error(store: Store) -> None:
    """A missing object reads as `None`, a missing folder lists as empty."""
    assert store.read("nothing") is None
    assert store.names("nothing") == []
    assert store.folders("nothing") == []
    with pytest.raises(StoreError):
        list(store.chunks("nothing"))


def test_listing_tells_files_from_folders(store: Store) -> None:
    """Names and folders directly below a prefix, sorted; nothing deeper, nothing of a neighbour with a longer name."""
    for path in ("t/b", "t/a", "t/sub/c", "tt/d"):
        store.write(path, b"")
    assert store.names("t") == ["a", "b"]
    assert store.folders("t") == ["sub"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_is_an_error(tmp_path: Path) -> None:
    """An object that cannot be read is an error, never taken for missing."""
    store = Store(tmp_path)
    store.write("secret", b"x")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(StoreError):
        store.read("secret")


@pytest.mark.parametrize("root", ["", "nothing://x", "s3://"])
def test_unusable_roots_are_refused(root: str) -> None:
    """A root that cannot work is refused when it is named, and the message shows it."""
    with pytest.raises(ConfigurationError, match="root"):
        Store(root)


@given(st.none() | st.text())
def test_any_partition_key_is_one_path_segment(key: str | None) -> None:
    """Any key becomes a name without a slash that no other key has: the key can be read back from it."""
    try:
        (key or "").encode()
    except UnicodeEncodeError:
        return  # half a character is no key that Dagster could store
    name = partition_name(key)
    assert "/" not in name
    assert name not in ("", ".", "..")
    assert {"%unpartitioned": None, "%empty": ""}.get(name, unquote(name)) == key


@pytest.mark.parametrize(
    ("root", "options"),
    [
        ("s3://name:word-recognisable@bucket/prefix", {}),
        ("ftp://name:word-recognisable@host/prefix", {}),
        ("s3://bucket", {"aws_endpoint": "http://name:word-recognisable@127.0.0.1:9", "allow_http": "true"}),
    ],
)
def test_no_login_is_told(root: str, options: dict[str, str]) -> None:
    """Neither a message nor a traceback nor an address shows a password of the store's."""
    quick = {"timeout": "1s", "connect_timeout": "1s"} if options else {}
    told = ""
    try:
        store = Store(root, {**options, **quick, **({"aws_skip_signature": "true"} if options else {})})
        told = store.url + repr(store) + store.uri("x")
        if options:
            store.read("x")
    except RactobatchError as error:
        told += "".join(traceback.format_exception(error))
    assert told
    assert "recognisable" not in told


def test_a_store_that_overwrites_is_refused(store: Store) -> None:
    """The log rests on a put that fails where something is; a store without it is refused before anything is spent."""
    store.prove()
    store.prove()

    class Careless(Store):
        """Puts whatever it is asked to."""

        def create(self, path: str, data: bytes) -> bool:
            self.write(path, data)
            return True

    with pytest.raises(ConfigurationError, match="overwrites"):
        Careless("memory:///").prove()
