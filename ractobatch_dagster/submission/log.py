"""A log that only grows: version after version of one state, each complete, the highest the truth.

A commit is one new object, written with an atomic put-if-absent: of two writers one wins, and the
other reads the winner's state and decides again.
"""

from __future__ import annotations

import gzip
import os
import re
import secrets
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.store import Store

__all__ = ["FORMAT", "Log", "Version", "newest"]

FORMAT = 1
"""The format written today. A reader refuses what is newer than itself instead of guessing."""

_NAME = re.compile(r"^(\d{8})\.json\.gz$")
_MAX_LOSSES = 1_000

State = TypeVar("State", bound=msgspec.Struct)


class _Header(msgspec.Struct):
    format: int
    nonce: str
    state: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Version(Generic[State]):
    """One committed state and its number, counted from 0."""

    number: int
    state: State


def newest(names: Iterable[str]) -> int | None:
    """The number of the newest version among the names of a log's objects."""
    return max((int(match[1]) for name in names if (match := _NAME.match(name))), default=None)


class Log(Generic[State]):
    """The log under one prefix of a store, of states of one type."""

    def __init__(self, store: Store, prefix: str, kind: type[State]) -> None:
        self._store = store
        self._prefix = prefix
        self._decoder = msgspec.json.Decoder(kind)
        # a tick reads thousands of logs: on local disk that is ten times as fast without a detour
        self._local = store.local_path and store.local_path / prefix

    def load(self) -> Version[State] | None:
        """The newest version, or `None` if there is none yet.

        Raises:
            StoreError: There is one but it cannot be read. That never means that there is none.
        """
        number = newest(self._names())
        return None if number is None else self.version(number)

    def version(self, number: int) -> Version[State]:
        """A version that is known to be there.

        Raises:
            StoreError: It cannot be read.
        """
        header = self._read(number)
        if header is None:
            raise StoreError(f"{self._where(number)} is listed but not there. Try again; if it stays so, restore it.")
        return Version(number, self._decode(header, number))

    def commit(self, previous: Version[State] | None, state: State) -> Version[State] | None:
        """Append the state after `previous`; `None` if another writer was quicker."""
        number = 0 if previous is None else previous.number + 1
        nonce = secrets.token_hex(8)
        body = msgspec.json.encode({"format": FORMAT, "nonce": nonce, "state": state})
        if not self._store.create(self._path(number), gzip.compress(body, compresslevel=1, mtime=0)):
            # the store's client repeats a put whose reply was lost: the object may be our own
            there = self._read(number)
            if there is None or there.nonce != nonce:
                return None
        return Version(number, state)

    def update(self, change: Callable[[State | None], State | None]) -> State | None:
        """Load, change, commit, and start over for as long as other writers win.

        Args:
            change: A pure function from the newest state to the next one; `None` means nothing to do.

        Returns:
            The state that is now the newest.
        """
        for _ in range(_MAX_LOSSES):
            newest = self.load()
            current = newest.state if newest else None
            changed = change(current)
            if changed is None or changed == current:
                return current
            committed = self.commit(newest, changed)
            if committed is not None:
                return committed.state
        raise StoreError(
            f"{_MAX_LOSSES} other writers in a row committed to {self._store.uri(self._prefix)} before we did. "
            "Nothing was lost; run it again."
        )

    def _path(self, number: int) -> str:
        return f"{self._prefix}/{number:08d}.json.gz"

    def _where(self, number: int) -> str:
        return self._store.uri(self._path(number))

    def _names(self) -> list[str]:
        if self._local is None:
            return self._store.names(self._prefix)
        try:
            with os.scandir(self._local) as entries:
                return [entry.name for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"Could not list {self._store.uri(self._prefix)}: {error}") from error

    def _bytes(self, number: int) -> bytes | None:
        if self._local is None:
            return self._store.read(self._path(number))
        try:
            return (self._local / self._path(number).rpartition("/")[2]).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"Could not read {self._where(number)}: {error}") from error

    def _read(self, number: int) -> _Header | None:
        data = self._bytes(number)
        if data is None:
            return None
        try:
            header = msgspec.json.decode(gzip.decompress(data), type=_Header)
        except (OSError, EOFError, zlib.error, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreError(f"{self._where(number)} is torn or was not written by this package: {error}") from error
        if header.format > FORMAT:
            raise StoreError(
                f"{self._where(number)} has format {header.format}, and this release reads up to {FORMAT}. "
                "Upgrade ractobatch-dagster."
            )
        return header

    def _decode(self, header: _Header, number: int) -> State:
        try:
            return self._decoder.decode(header.state)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreError(f"{self._where(number)} does not hold what it should: {error}") from error
