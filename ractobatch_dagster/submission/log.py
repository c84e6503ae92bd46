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

KEPT = 100
"""So many versions stay when a log is pruned."""

_NAME = re.compile(r"^(\d{8})\.json\.gz$")
_GONE = re.compile(r"^gone-before-(\d{8})$")
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
    return max((number for name in names if (number := _number(name)) is not None), default=None)


def _number(name: str) -> int | None:
    match = _NAME.match(name)
    return int(match[1]) if match else None


def _outdated(names: Iterable[str]) -> tuple[int, list[str]]:
    """The number of the first version that stays, and the names of those before it."""
    numbers = {name: number for name in names if (number := _number(name)) is not None}
    first = max(numbers.values(), default=0) + 1 - KEPT
    return first, [name for name, number in numbers.items() if number < first]


def _gone_before(names: Iterable[str]) -> int:
    """The first number that was not pruned."""
    return max((int(match[1]) for name in names if (match := _GONE.match(name))), default=0)


class Log(Generic[State]):
    """The log under one prefix of a store, of states of one type.

    Args:
        store: The store.
        prefix: Where in it.
        kind: The type of the states.
        prunable: Whether old versions may be deleted; then each commit looks once more, at the names.
    """

    def __init__(self, store: Store, prefix: str, kind: type[State], *, prunable: bool = False) -> None:
        self._store = store
        self._prefix = prefix
        self._prunable = prunable
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
        if self._prunable and number < _gone_before(self._names()):
            return None  # its place was free because others are so far ahead that it was pruned
        return Version(number, state)

    def outdated(self) -> int:
        """How many versions are older than the newest `KEPT`."""
        return len(_outdated(self._names())[1])

    def prune(self) -> int:
        """Delete what is outdated; how many versions that was.

        That they are gone is written down first: whoever has slept since it read one of them finds its successor's
        place free, and must not take it for its own.
        """
        if not self._prunable:
            raise ValueError(f"{self._prefix} is not to be pruned")
        names = self._names()
        first, outdated = _outdated(names)
        if outdated:
            self._store.write(f"{self._prefix}/gone-before-{first:08d}", b"")
            marks = [name for name in names if (match := _GONE.match(name)) and int(match[1]) < first]
            self._store.remove([f"{self._prefix}/{name}" for name in (*outdated, *marks)])
        return len(outdated)

    @property
    def uri(self) -> str:
        """Where it is, for a person."""
        return self._store.uri(self._prefix)

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
            f"{_MAX_LOSSES} other writers in a row committed to {self.uri} before we did. "
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
            raise StoreError(f"Could not list {self.uri}: {error}") from error

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
