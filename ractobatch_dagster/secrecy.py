"""Keeps keys and passwords out of every text. Servers echo them: OpenAI masks a refused key, others repeat it whole."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from urllib.parse import quote, unquote

__all__ = ["MASK", "holds_secret", "redacted", "secrets_in"]

MASK = "[redacted]"

_SHORTEST = 8
"""A shorter text is no key worth hiding, and to blot it out would hit ordinary words."""

_LOOKS_SECRET = (
    re.compile(r"(?<![\w-])sk-[\w-]{6,}"),
    re.compile(r"(?<=\bbearer )\s*[\w.~+/=-]{6,}", re.IGNORECASE),
    re.compile(r"(?<=\bbasic )\s*[\w+/=-]{12,}", re.IGNORECASE),
    re.compile(r"(?<=://)[^/\s?#]*(?=@)"),
)


def redacted(text: str, secrets: Collection[str] = ()) -> str:
    """The text without these secrets, and without whatever looks like one: `sk-…`, `Bearer …`, a password in a URL."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may be part of another
        for written in {secret, quote(secret, safe=""), repr(secret)[1:-1]}:
            text = text.replace(written, MASK)
    for pattern in _LOOKS_SECRET:
        text = pattern.sub(MASK, text)
    return text


def secrets_in(values: Iterable[object]) -> frozenset[str]:
    """The texts among these values that are to be hidden; of `Bearer abc`, `abc` as well."""
    texts = [value.strip() for value in values if isinstance(value, str)]
    texts += [unquote(text.rpartition(" ")[2]) for text in texts]
    return frozenset(text for text in texts if len(text) >= _SHORTEST)


def holds_secret(error: BaseException, secrets: Collection[str]) -> bool:
    """Whether a traceback of this exception, or a look at the reply it carries, would show a secret."""
    return any(redacted(text, secrets) != text for text in _texts(error))


def _texts(error: BaseException) -> Iterator[str]:
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield str(one)
        yield repr(one)
        yield repr(getattr(one, "body", None))
        waiting += [one.__cause__, one.__context__]
