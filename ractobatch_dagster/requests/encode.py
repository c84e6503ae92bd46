"""A request as the bytes of one line, and as the hash that is its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ractobatch_dagster.errors import InvalidInputError

__all__ = ["encode_line", "json_line", "request_hash"]

_BREAKS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\x85": "\\u0085"})
"""Line breaks to some readers; legal in JSON, but escaped they break nobody's."""


def encode_line(custom_id: str, body: Mapping[str, Any], *, endpoint: str) -> bytes:
    """One request as one line of an input file, its line feed included. UTF-8, without escapes where none are needed.

    Raises:
        InvalidInputError: The body holds what JSON has no word for (NaN, infinity, a lone surrogate, an object).
    """
    line = _json({"custom_id": custom_id, "method": "POST", "url": endpoint, "body": body})
    return line + b"\n"


def json_line(request: Mapping[str, Any]) -> bytes:
    """A request as the bytes of its line, without the line feed."""
    return _json(request)


def request_hash(provider: str, endpoint: str, body: Mapping[str, Any]) -> str:
    """The identity of a question: SHA-256 over provider, endpoint and body, 32 hexadecimal digits of it.

    Raises:
        InvalidInputError: As `encode_line`.
    """
    return hashlib.sha256(_json([provider, endpoint, body], sort_keys=True)).hexdigest()[:32]


def _json(value: Any, *, sort_keys: bool = False) -> bytes:
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"), sort_keys=sort_keys)
        return text.translate(_BREAKS).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError(
            f"the text holds half a character ({error.object[error.start]!r}) that no UTF-8 has"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInputError(f"the request cannot be written as JSON: {error}") from error
