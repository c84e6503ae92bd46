"""The steps that none can leave out, each a loop around the libraries that the package rests on, and nothing else.

No checks, no limits, no joins, nothing kept for a crash. `encode.py`, `decode.py`, `parts.py` and `peers/bare` put them
together: what they take is what Python with these libraries allows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 512
"""Rows at a time: more no longer fit a processor's cache."""

_ESCAPE = msgspec.json.Encoder().encode


class Lines:
    """The lines of requests that differ in `custom_id` and prompt.

    Args:
        body: The body of a request for this prompt.
    """

    def __init__(self, body: Callable[[str], object]) -> None:
        request = {"custom_id": "row-\x00", "method": "POST", "url": "/v1/chat/completions", "body": body("\x00")}
        line = _ESCAPE(request).replace(b'"\\u0000"', b"\\u0000")
        self._head, self._middle, tail = line.split(b"\\u0000")
        self._tail = tail + b"\n"
        self._shared = hashlib.sha256(self._head + self._tail).digest()

    def hashes(self, prompts: Iterable[bytes]) -> list[bytes]:
        """16 bytes for each request."""
        shared, sha256 = self._shared, hashlib.sha256
        return [sha256(shared + one).digest()[:16] for one in prompts]

    def write(self, prompts: pa.ChunkedArray, target: IO[bytes]) -> Iterator[list[bytes]]:
        """Write the line of each prompt, and give the prompts, escaped, block by block."""
        first = 0
        for block in (part.slice(start, BLOCK) for part in prompts.chunks for start in range(0, len(part), BLOCK)):
            escaped = list(map(_ESCAPE, block.to_pylist()))
            target.write(self._joined(escaped, first))
            first += len(escaped)
            yield escaped

    def _joined(self, escaped: Sequence[bytes], first: int) -> bytes:
        head, middle, tail = self._head, self._middle, self._tail
        return b"".join(
            [piece for row, one in enumerate(escaped, first) for piece in (head, b"%08d" % row, middle, one, tail)]
        )


class _Message(msgspec.Struct, gc=False):
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: str


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details
    completion_tokens_details: _Details


class _Body(msgspec.Struct, gc=False):
    model: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Response(msgspec.Struct, gc=False):
    request_id: str
    body: _Body


class Line(msgspec.Struct, gc=False):
    """A line of an output file, no more of it than is wanted."""

    custom_id: str
    response: _Response


class Fields(msgspec.Struct, gc=False):
    """What is asked for, as `driving.Label` has it."""

    sentiment: str
    side_effects: list[str]
    severity: str


_NO_FIELDS = Fields("", [], "")
_LINE, _FIELDS = msgspec.json.Decoder(Line).decode, msgspec.json.Decoder(Fields).decode


def read_answers(lines: Iterable[bytes]) -> pa.Table:
    """The answers of a batch whose every line is well, in the order of its rows."""
    import numpy as np
    import pyarrow as pa

    places, *columns, labels = zip(*map(_answer, lines), strict=True)
    made = {f"answer_{number}": pa.array(column) for number, column in enumerate(columns)}
    made |= {name: pa.array([getattr(one, name) for one in labels]) for name in Fields.__struct_fields__}
    return pa.table(made).take(np.argsort(np.array(places)))


def _answer(data: bytes) -> tuple[Any, ...]:
    read = _LINE(data)
    body, number = read.response.body, int(read.custom_id[4:])
    if body.usage is None:
        return (number, None, None, body.model, read.response.request_id, None, None, None, None, _NO_FIELDS)
    content, usage = body.choices[0].message.content, body.usage
    try:
        fields = _FIELDS(content) if content else _NO_FIELDS
    except msgspec.DecodeError:
        fields = _NO_FIELDS
    return (
        number,
        content,
        body.choices[0].finish_reason,
        body.model,
        read.response.request_id,
        usage.prompt_tokens,
        usage.prompt_tokens_details.cached_tokens,
        usage.completion_tokens,
        usage.completion_tokens_details.reasoning_tokens,
        fields,
    )


def beside(known: pa.Table, found: pa.Table) -> pa.Table:
    """What is known of the rows, and their answers."""
    import pyarrow as pa

    return pa.table([*known.columns, *found.columns], [*known.column_names, *found.column_names])
