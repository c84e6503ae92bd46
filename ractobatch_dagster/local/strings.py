"""Strings that a schema asks for: of a format, of a length, or of a pattern."""

from __future__ import annotations

import datetime as dt
import random
import re
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from re import _parser as sre  # type: ignore[attr-defined]
from typing import Any

__all__ = ["fit_length", "formatted", "matches", "of_pattern"]

_IN_TEXT = {
    "date": re.compile(r"\b\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])\b"),
    "email": re.compile(r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}\b"),
    "uri": re.compile(r"\bhttps?://[\w.-]+(?:/[\w./%-]*)?"),
}
_FIXED = {
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uri-reference": "/",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "ipvanyaddress": "192.0.2.1",
    "ipv4network": "192.0.2.0/24",
    "ipv6network": "2001:db8::/32",
    "ipvanynetwork": "192.0.2.0/24",
    "ipv4interface": "192.0.2.1/24",
    "ipv6interface": "2001:db8::1/32",
    "ipvanyinterface": "192.0.2.1/24",
    "duration": "P1D",
    "base64": "dGV4dA==",
    "base64url": "dGV4dA==",
    "json-string": "{}",
    "regex": ".*",
    "time-zone": "UTC",
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_CLASSES = {
    "CATEGORY_DIGIT": "0123456789",
    "CATEGORY_WORD": _LETTERS,
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_DIGIT": _LETTERS,
    "CATEGORY_NOT_SPACE": _LETTERS,
    "CATEGORY_NOT_WORD": "-",
}


def formatted(kind: str, draw: int, text: str) -> str | None:
    """A string of a format, out of the text where it holds one; `None` for a format that is not known."""
    if kind in _IN_TEXT and (found := _IN_TEXT[kind].search(text)):
        return found.group()
    moment = dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=draw % 157_000_000)
    if kind == "date":
        return moment.date().isoformat()
    if kind == "date-time":
        return moment.isoformat().replace("+00:00", "Z")
    if kind == "time":
        return moment.time().isoformat() + "Z"
    if re.fullmatch(r"uuid[1-8]?", kind):
        version = int(kind[4:] or 4)
        return str(uuid.UUID(int=random.Random(draw).getrandbits(128), version=min(version, 5)))
    return _FIXED.get(kind)


def matches(text: str, schema: Mapping[str, Any]) -> bool:
    """Whether a string has the length and the pattern that a schema asks for."""
    if not schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text)):
        return False
    pattern = _compiled(schema["pattern"]) if "pattern" in schema else None
    return pattern is None or pattern.search(text) is not None


def fit_length(text: str, schema: Mapping[str, Any]) -> str:
    """The string cut or repeated to the length that a schema asks for."""
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    if len(text) < least:
        text = ((text or "text") + " ") * (least // max(len(text), 1) + 1)
        text = text[:least].rstrip().ljust(least, "x")
    if most is not None and len(text) > most:
        cut = text[:most]
        text = cut.rstrip() if len(cut.rstrip()) >= least else cut
    return text


def of_pattern(pattern: str, seed: int) -> list[str]:
    """Strings that match a pattern, of growing length; none for a pattern that is too difficult."""
    made: list[str] = []
    if _compiled(pattern) is None:
        return made
    draw = random.Random(seed)
    for spare in (0, 1, 2, 4, 8, 16, 32):
        with suppress(_TooDifficultError, RecursionError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.append("".join(_generate(sre.parse(pattern), draw, spare)))
    return made


class _TooDifficultError(Exception):
    """The pattern uses what is not generated."""


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        return re.compile(pattern)
    except re.error:  # another dialect's
        return None


def _generate(parsed: Any, draw: random.Random, spare: int) -> list[str]:
    """The pieces of a string that matches; each repetition takes up to `spare` more than it must."""
    made: list[str] = []
    for operation, value in parsed:
        name = str(operation)
        if name in ("LITERAL", "NOT_LITERAL", "ANY", "IN"):
            made.append(draw.choice(_characters(name, value)))
        elif name == "BRANCH":
            made += _generate(draw.choice(value[1]), draw, spare)
        elif name == "SUBPATTERN":
            made += _generate(value[-1], draw, spare)
        elif name in ("MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"):
            least, most, inner = value
            for _ in range(min(int(most), int(least) + spare)):
                made += _generate(inner, draw, spare)
        elif name not in ("AT", "ASSERT", "ASSERT_NOT"):  # the finished string is tried on the pattern
            raise _TooDifficultError(name)
    return made


def _characters(name: str, value: Any) -> str:
    """What one character of the pattern may be."""
    if name == "LITERAL":
        return chr(value)
    if name == "NOT_LITERAL":
        return "a" if value != ord("a") else "b"
    return _LETTERS if name == "ANY" else _members(value)


def _members(parts: Any) -> str:
    """Characters of a class such as `[a-z_]`."""
    negated, members = False, ""
    for operation, value in parts:
        name = str(operation)
        if name == "NEGATE":
            negated = True
        elif name == "LITERAL":
            members += chr(value)
        elif name == "RANGE":
            members += "".join(map(chr, range(value[0], min(value[1], value[0] + 63) + 1)))
        elif name == "CATEGORY":
            members += _CLASSES[str(value)]
    if negated:
        members = "".join(c for c in _LETTERS + _LETTERS.upper() + "0123456789 -_" if c not in members)
    if not members:
        raise _TooDifficultError("an empty class")
    return members
