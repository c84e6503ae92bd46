"""A request as the bytes of one line, and as the hash that is its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from ractobatch_dagster.errors import InvalidInputError

if TYPE_CHECKING:
    from ractobatch_dagster.requests.body import RequestTemplate

__all__ = ["Encoder", "encode_line", "json_line", "request_hash"]

_BREAKS = (("\u2028", b"\\u2028"), ("\u2029", b"\\u2029"), ("\x85", b"\\u0085"))
"""Line breaks to some readers; legal in JSON, but escaped they break nobody's."""

_BREAK_BYTES = tuple((character.encode(), escape) for character, escape in _BREAKS)


def encode_line(custom_id: str, body: Mapping[str, Any], *, endpoint: str) -> bytes:
    """One request as one line of an input file, its line feed included. UTF-8, without escapes where none are needed.

    Raises:
        InvalidInputError: The body holds what JSON has no word for (NaN, infinity, a lone surrogate, an object).
    """
    return json_line({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body}) + b"\n"


def json_line(request: Mapping[str, Any]) -> bytes:
    """A request as the bytes of its line, without the line feed."""
    return _json(request)


def request_hash(provider: str, endpoint: str, body: Mapping[str, Any]) -> str:
    """The identity of a question: SHA-256 over provider, endpoint and body, 32 hexadecimal digits of it.

    Raises:
        InvalidInputError: As `encode_line`.
    """
    return hashlib.sha256(_json([provider, endpoint, body], sort_keys=True)).hexdigest()[:32]


class Encoder:
    """`encode_line` and `request_hash` for many texts of one template, which is rendered once.

    Args:
        provider: Whose requests they are.
        template: What they share.

    Raises:
        InvalidInputError: The template itself cannot be written as JSON.
    """

    def __init__(self, provider: str, template: RequestTemplate) -> None:
        text = _absent_from(_json([provider, template.body("")]))
        place = f'"{text}"'.encode()
        line = encode_line("\x00", template.body(text), endpoint=template.endpoint)
        identity = _json([provider, template.endpoint, template.body(text)], sort_keys=True)
        self._before_id, _, after = line.partition(b"\\u0000")
        self._after_id, _, self._end = after.partition(place)
        before, _, self._identity_end = identity.partition(place)
        self._identity = hashlib.sha256(before)

    @staticmethod
    def escaped(text: str) -> bytes:
        """A text as JSON, which is what the other methods take.

        Raises:
            InvalidInputError: It holds half a character, which no UTF-8 has.
        """
        try:
            return _unbroken(msgspec.json.encode(text))
        except UnicodeEncodeError as error:
            raise _half_a_character(error) from error

    def line(self, custom_id: str, escaped: bytes) -> bytes:
        """The line of a request; the `custom_id` holds nothing that needs an escape."""
        return b"".join((self._before_id, custom_id.encode(), self._after_id, escaped, self._end))

    def hash(self, escaped: bytes) -> str:
        """The request's identity, the same as `request_hash` gives."""
        state = self._identity.copy()
        state.update(escaped)
        state.update(self._identity_end)
        return state.hexdigest()[:32]


def _absent_from(rendered: bytes) -> str:
    """A text that is not in what was rendered, to be put where the prompts go."""
    number = 0
    while (text := f"prompt-{number}").encode() in rendered:
        number += 1
    return text


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
