"""Request lines into input files within the provider's limits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

from ractobatch_dagster.errors import InvalidInputError, StoreError

__all__ = ["CutFile", "Cutter", "Limits"]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one input file may hold.

    Attributes:
        max_requests: Lines; OpenAI takes 50,000.
        max_bytes: Bytes; OpenAI takes 200 MB and does not say which kind, so we stay well below either.
    """

    max_requests: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class CutFile:
    """One finished input file."""

    number: int
    requests: int
    size: int


class Cutter:
    """Writes lines to a file on disk and hands each file over as soon as the next line would not fit.

    Args:
        limits: When to start a new file.
        done: Called with each finished file and its path, which is gone afterwards.
        first: The number of the first file.
    """

    def __init__(self, limits: Limits, done: Callable[[CutFile, Path], None], *, first: int = 0) -> None:
        self._limits = limits
        self._done = done
        self._number = first
        self._requests = 0
        self._size = 0
        self._folder = tempfile.TemporaryDirectory(prefix="ractobatch-")
        self._file: IO[bytes] | None = None
        self.files: list[CutFile] = []

    def __enter__(self) -> Cutter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            elif self._file is not None:
                with suppress(OSError):  # what was in the way is on its way up already
                    self._file.close()
        finally:
            self._folder.cleanup()

    def add(self, line: bytes, *, what: str) -> None:
        """Append one line, its line feed included.

        Raises:
            InvalidInputError: The line alone is over the limit; `what` names it.
        """
        if len(line) > self._limits.max_bytes:
            raise InvalidInputError(
                f"{what} makes a request of {len(line):,} bytes, and one input file takes {self._limits.max_bytes:,}."
            )
        if self._requests >= self._limits.max_requests or self._size + len(line) > self._limits.max_bytes:
            self._finish()
        try:
            if self._file is None:
                self._file = self._path.open("wb", buffering=1 << 18)
            self._file.write(line)
        except OSError as error:
            raise self._full(error) from error
        self._requests += 1
        self._size += len(line)

    def _full(self, error: OSError) -> StoreError:
        return StoreError(
            f"Could not write {self._path}, where input files are made: {error}. Is the disk full? TMPDIR names "
            "another folder. Nothing was sent."
        )

    @property
    def _path(self) -> Path:
        return Path(self._folder.name) / f"{self._number:05d}.jsonl"

    def _finish(self) -> None:
        if self._file is None:
            return
        try:
            self._file.close()
        except OSError as error:
            raise self._full(error) from error
        cut = CutFile(self._number, self._requests, self._size)
        self._done(cut, self._path)
        self._path.unlink()
        self.files.append(cut)
        self._number += 1
        self._requests = self._size = 0
        self._file = None
