"""A request as the bytes of one line, and as the hash that is its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any

import msgspec

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.body import MESSAGES, TURNS, RequestTemplate, prompt_name

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = [
    "Encoder",
    "body_hash",
    "body_of",
    "body_part",
    "custom_id",
    "custom_id_bytes",
    "custom_ids",
    "encode_line",
    "escape",
    "escape_all",
    "request_hash",
]

_BREAKS = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085"))
"""Line breaks to some readers; legal in JSON, but escaped they break nobody's."""

_HEAD, _DIGITS = "row-", 8
_CUSTOM_ID = f"{_HEAD}%0{_DIGITS}d".encode()

_BREAK_BYTES = tuple((character.encode(), escape) for character, escape in _BREAKS)


def encode_line(custom_id: str, body: Mapping[str, Any], *, endpoint: str) -> bytes:
    """One request as one line of an input file, its line feed included. UTF-8, without escapes where none are needed.

    Raises:
        InvalidInputError: The body holds what JSON has no word for (NaN, infinity, a lone surrogate, an object).
    """
    if endpoint == MESSAGES:
        return _json({"custom_id": custom_id, "params": body}) + b"\n"
    return _json({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}) + b"\n"


def body_of(line: bytes) -> dict[str, Any]:
    """The body of the request that a line is."""
    request: dict[str, Any] = json.loads(line)
    body: dict[str, Any] = request["body"] if "body" in request else request["params"]
    return body


def request_hash(provider: str, endpoint: str, body: Mapping[str, Any]) -> str:
    """The identity of a question: SHA-256 over provider, endpoint and body, 32 hexadecimal digits of it.

    Raises:
        InvalidInputError: As `encode_line`.
    """
    return hashlib.sha256(_json([provider, endpoint, body], sort_keys=True)).hexdigest()[:32]


class Encoder(msgspec.Struct, frozen=True):
    """The requests of one template, which is rendered once: what stands around the prompts, as bytes.

    Attributes:
        shared: Stands for all that the requests share, in their hashes.
        head: A line up to its `custom_id`.
        middle: What is between `custom_id` and prompt.
        tail: What comes behind the prompt.
        repair: The same where an answer is shown to the model again: up to the answer, up to what is wrong with it,
            and the end.
        bodies: What a row adds is not its escaped prompt, but its own part of the body, as `body_part` gives it.
    """

    shared: bytes
    head: bytes
    middle: bytes
    tail: bytes
    repair: tuple[bytes, bytes, bytes]
    bodies: bool = False

    @classmethod
    def of(cls, provider: str, template: RequestTemplate) -> Encoder:
        """The encoder of a template and of the provider that it is sent to.

        Raises:
            InvalidInputError: The template cannot be written as JSON, or has no place for a prompt.
        """
        prompt, answer, problem = _absent_from(_json([provider, template.body("")]), 3)
        body = template.body(prompt)
        line, holes = encode_line("\x00", body, endpoint=template.endpoint), [f'"{prompt}"', f'"{answer}"', problem]
        if line.count(holes[0].encode()) != 1:
            where = TURNS.get(template.endpoint) or prompt_name(template.endpoint)
            raise InvalidInputError(f"the request has no place for the prompt: `extra` must not replace `{where}`")
        shared = _shared(provider, template.endpoint, body, holes[0])
        head, _, rest = line.partition(b"\\u0000")
        middle, _, tail = rest.partition(holes[0].encode())
        turns = TURNS.get(template.endpoint)
        if turns is None:  # nobody can be shown an answer again
            return cls(shared, head, middle, tail, (b"", b"", tail))
        shown = [*body[turns], *_shown(answer, problem)]
        rest = encode_line("", {**body, turns: shown}, endpoint=template.endpoint)
        _, before, between, end = _split(rest, holes)
        return cls(shared, head, middle, tail, (before, between, end))

    @classmethod
    def of_bodies(cls, endpoint: str) -> Encoder:
        """The encoder of rows that share nothing but the endpoint: each brings its own part of the body."""
        body, answer, problem = "place-0", "place-1", "place-2"
        if TURNS.get(endpoint) is None:
            head, middle, tail = _split(encode_line("\x00", {body: 0}, endpoint=endpoint), ["\\u0000", f'{{"{body}":0'])
            return cls(b"", head, middle, tail, (b"", b"", tail), bodies=True)
        line = encode_line("\x00", {body: [{}, *_shown(answer, problem)]}, endpoint=endpoint)
        head, _, rest = line.partition(b"\\u0000")
        middle, before, between, end = _split(rest, [f'{{"{body}":[{{}}', f'"{answer}"', problem])
        return cls(b"", head, middle, b"]}}\n", (before, between, end), bodies=True)

    def hashes(self, escaped: Iterable[bytes]) -> list[bytes]:
        """Each request's identity: 16 bytes of SHA-256 over what all share and the prompt, as `escape` gives it."""
        shared, sha256 = self.shared, hashlib.sha256
        return [sha256(shared + one).digest()[:16] for one in escaped]

    def lines(self, rows: Sequence[int], escaped: Sequence[bytes]) -> bytes:
        """The lines of many rows at once, as `line` with the `custom_id` of each."""
        if len(rows) != len(escaped):
            raise ValueError(f"{len(rows)} rows and {len(escaped)} prompts")
        if not rows:
            return b""
        ids = [_CUSTOM_ID % row for row in rows]
        between = chain([self.head], repeat(self.tail + self.head))
        pieces = zip(between, ids, repeat(self.middle), escaped)
        return b"".join([*chain.from_iterable(pieces), self.tail])

    def line(self, id_: bytes, escaped: bytes) -> bytes:
        """The line of a request, its line feed included; the `custom_id` holds nothing that needs an escape."""
        return b"".join((self.head, id_, self.middle, escaped, self.tail))

    def repaired(self, id_: bytes, escaped: bytes, answer: str, problem: str) -> bytes:
        """The line that shows the model an answer of its own, and what is wrong with it."""
        before, between, end = self.repair
        said = escape(problem)[1:-1]
        return b"".join((self.head, id_, self.middle, escaped, before, escape(answer), between, said, end))

    @property
    def overhead(self) -> int:
        """How many bytes of a line are neither prompt nor `custom_id`."""
        return len(self.head) + len(self.middle) + len(self.tail)


def body_part(endpoint: str, body: Mapping[str, Any]) -> bytes:
    """A body as JSON up to the end of its last turn: what a row adds where each brings its own body.

    Raises:
        InvalidInputError: As `encode_line`.
    """
    turns = TURNS.get(endpoint)
    if turns is None:
        return _json(body)[: -len("}")]
    others = {name: value for name, value in body.items() if name != turns}
    return _json({**others, turns: body[turns]})[: -len("]}")]


def body_hash(provider: str, endpoint: str, body: Mapping[str, Any]) -> bytes:
    """The hash of a request, however it was put together: for equal bodies what `Encoder.hashes` gives.

    Raises:
        InvalidInputError: As `encode_line`.
    """
    turns = TURNS.get(endpoint)
    (place,) = _absent_from(_json([provider, body]), 1)
    if turns is None:
        name = prompt_name(endpoint)
        text, asked = body.get(name), {**body, name: place}
    else:
        *others, last = body[turns]
        text = last.get("content") if last.get("role") == "user" else None
        asked = {**body, turns: [*others, {**last, "content": place}]}
    if not isinstance(text, str):
        return hashlib.sha256(_shared(provider, endpoint, body, "\x00")).digest()[:16]
    return hashlib.sha256(_shared(provider, endpoint, asked, f'"{place}"') + escape(text)).digest()[:16]


def _shared(provider: str, endpoint: str, body: Mapping[str, Any], hole: str) -> bytes:
    """Stands for all of a request but what belongs into the hole."""
    before, _, after = _json([provider, endpoint, body], sort_keys=True).partition(hole.encode())
    return hashlib.sha256(b"%d " % len(before) + before + after).digest()


def _shown(answer: str, problem: str) -> list[dict[str, str]]:
    """The messages that show the model an answer of its own, and what is wrong with it."""
    said = f"This answer is not valid: {problem}\nGive the corrected answer, and only that."
    return [{"role": "assistant", "content": answer}, {"role": "user", "content": said}]


def _split(line: bytes, holes: Sequence[str]) -> list[bytes]:
    """What is before, between and behind the holes."""
    pieces = []
    for hole in holes:
        piece, _, line = line.partition(hole.encode())
        pieces.append(piece)
    return [*pieces, line]


def custom_id(row: int) -> str:
    """The `custom_id` of a row's request, by the row's number in its submission."""
    return (_CUSTOM_ID % row).decode()


def custom_ids(rows: pa.Array) -> pa.Array:
    """The `custom_id` of each of these rows, as strings; null stays null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(_HEAD, pc.utf8_lpad(rows.cast(pa.string()), _DIGITS, "0"), "")


def custom_id_bytes(rows: np.ndarray) -> np.ndarray:
    """How many bytes the `custom_id` of each of these rows takes: one more for each digit beyond the eighth."""
    import numpy as np

    return len(_CUSTOM_ID % 0) + np.searchsorted(10 ** np.arange(8, 19), rows, side="right")


def escape(text: str) -> bytes:
    """A text as JSON, which is what the encoder takes.

    Raises:
        InvalidInputError: It holds half a character, which no UTF-8 has.
    """
    try:
        escaped = _encode(text)
    except UnicodeEncodeError as error:
        raise _half_a_character(error) from error
    return _unbroken(escaped) if _has_breaks(text) else escaped


def escape_all(texts: Sequence[str]) -> list[bytes]:
    """`escape` for some hundred texts at once, which is quicker.

    Raises:
        InvalidInputError: As `escape`, without saying which.
    """
    try:
        escaped = list(map(_encode, texts))
    except UnicodeEncodeError as error:
        raise _half_a_character(error) from error
    for place, text in enumerate(texts):
        if not text.isascii() and _has_breaks(text):
            escaped[place] = _unbroken(escaped[place])
    return escaped


def _has_breaks(text: str) -> bool:
    # looked for in the text, where one character is found many times faster than its bytes are
    return "\u2028" in text or "\u2029" in text or "\x85" in text


_encode = msgspec.json.Encoder().encode


def _absent_from(rendered: bytes, count: int) -> list[str]:
    """Texts that are not in what was rendered, to be put where something is to go."""
    start = 0
    while any(f"place-{start}-{number}".encode() in rendered for number in range(count)):
        start += 1
    return [f"place-{start}-{number}" for number in range(count)]


def _json(value: Any, *, sort_keys: bool = False) -> bytes:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
        return _unbroken(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise _half_a_character(error) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"the request cannot be written as JSON: {error}") from error


def _unbroken(data: bytes) -> bytes:
    for character, escape in _BREAK_BYTES:
        if character in data:
            data = data.replace(character, escape)
    return data


def _half_a_character(error: UnicodeEncodeError) -> InvalidInputError:
    return InvalidInputError(f"the text holds half a character ({error.object[error.start]!r}) that no UTF-8 has")
