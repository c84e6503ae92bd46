"""The lines of an output or error file. A line that is no JSON object is handed on as such; it ends nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

__all__ = ["BadLine", "raw_lines", "read_line", "read_lines"]

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be read: its number, counted from 1, its bytes, and why."""

    number: int
    data: bytes
    reason: str


def raw_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut a stream of bytes at line feeds and nowhere else: U+2028 and its like are text. The feeds are left out."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n") if b"\n" in chunk else (rest + chunk,)
        yield from lines
    if rest:
        yield rest


def read_lines(chunks: Iterable[bytes]) -> Iterator[dict[str, Any] | BadLine]:
    """Each line as the object it holds; empty lines are passed over."""
    for number, data in enumerate(raw_lines(chunks), start=1):
        line = read_line(number, data)
        if line is not None:
            yield line


def read_line(number: int, data: bytes) -> dict[str, Any] | BadLine | None:
    """What one line holds; `None` where it is empty."""
    data = data.removeprefix(_BOM).strip() if number == 1 else data.strip()
    return _read(number, data) if data else None


def _read(number: int, data: bytes) -> dict[str, Any] | BadLine:
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        try:
            # slower, and takes what msgspec does not: lone surrogates, NaN; a byte that is no UTF-8 costs one character
            value = json.loads(data.removeprefix(_BOM).decode("utf-8", "replace"))
        except (ValueError, RecursionError) as error:
            return BadLine(number, data, str(error))
    except RecursionError as error:
        return BadLine(number, data, str(error))
    return value if isinstance(value, dict) else BadLine(number, data, f"a {type(value).__name__}, not an object")
