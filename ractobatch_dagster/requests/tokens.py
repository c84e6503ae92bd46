"""How many tokens a request has, counted without a network by `bpe-openai`, where that is installed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

__all__ = ["counter", "encoding_name"]

# GPT-4 and 3.5, and the embeddings, have the older vocabulary; GPT-4o, 4.1, 4.5, 5 and the o-models the newer one
_OLDER = re.compile(r"^(?:ft:)?(?:gpt-4(?![.o]|-?5)|gpt-3|gpt-35|text-embedding)")

_A_MESSAGE, _ALL = 3, 3
"""What stands around a message, and before the answer (OpenAI's cookbook, "How to count tokens")."""


def encoding_name(model: str) -> str:
    """The vocabulary of a model; one that is not OpenAI's is taken for its newest."""
    return "cl100k_base" if _OLDER.match(model) else "o200k_base"


def counter(model: str) -> Callable[[Mapping[str, Any]], int] | None:
    """Counts the input tokens of a request's body; `None` where no tokenizer is installed.

    Messages and their texts are counted as OpenAI documents it. Of a schema and of tools the JSON is counted, since how
    the provider words them is not known; pictures are not counted.
    """
    count = _tokenizer(encoding_name(model))
    return None if count is None else lambda body: _tokens(body, count)


_AT_ONCE = 500_000
"""The tokenizer takes less than a million characters at a time; to cut a longer text costs a token or none."""


@lru_cache(maxsize=4)
def _tokenizer(name: str) -> Callable[[str], int] | None:
    try:
        import bpe_openai
    except ImportError:
        return None
    encode = bpe_openai.get_encoding(name).encode_ordinary
    return lambda text: sum(len(encode(text[at : at + _AT_ONCE])) for at in range(0, len(text), _AT_ONCE))


def _tokens(body: Mapping[str, Any], count: Callable[[str], int]) -> int:
    turns = body.get("messages", body.get("input", body.get("prompt")))
    if isinstance(turns, str):
        return count(turns)
    total = _ALL
    if instructions := body.get("instructions") or body.get("system"):
        # blocks of text, or items of any kind
        blocks = isinstance(instructions, str) or all("text" in part for part in instructions)
        said = _of(instructions, count) if blocks else count(json.dumps(instructions, ensure_ascii=False))
        total += _A_MESSAGE + count("system") + said
    for message in turns or ():
        total += _A_MESSAGE
        for name, value in message.items():
            total += _of(value, count) + (name == "name")
    schema = _within(body, "response_format", "json_schema", "schema")
    other = _within(body, "text", "format", "schema")
    format_ = _within(body, "output_config", "format", "schema")
    others = [part for part in (schema, other, format_, body.get("tools")) if part]
    return total + sum(count(json.dumps(part, ensure_ascii=False, separators=(",", ":"))) for part in others)


def _within(value: Any, *names: str) -> Any:
    """What stands under these names, one in the other, if there is any."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _of(value: Any, count: Callable[[str], int]) -> int:
    if isinstance(value, str):
        return count(value)
    if isinstance(value, list):
        return sum(_of(part.get("text"), count) if isinstance(part, dict) else _of(part, count) for part in value)
    return count(json.dumps(value, ensure_ascii=False)) if isinstance(value, dict) else 0
