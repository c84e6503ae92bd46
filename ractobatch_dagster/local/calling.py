"""Which of the functions that it is offered the built-in model calls, and the tokens that it says it has written."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from ractobatch_dagster.local.disk import Json

__all__ = ["PIECE", "chosen", "likelihoods"]

PIECE = 4
"""So many characters are a token."""

_SHORT = 3
"""Words of so few letters in a function's name say nothing of what it is for."""


def chosen(body: Mapping[str, Any], functions: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """The functions that are called: the one that must be, or those of whose name the text has a word.

    Args:
        body: The request, with its `tool_choice`, and `parallel_tool_calls`.
        functions: What may be called, each with a `name`.
        text: What was said.
    """
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        named = (choice.get("function") or choice).get("name")
        return [one for one in functions if one.get("name") == named][:1]
    if choice == "none":
        return []
    words = set(re.findall(r"[a-z]+", text.lower()))
    meant = [one for one in functions if words & _telling(str(one.get("name")))]
    if choice == "required":
        meant = meant or list(functions[:1])
    return meant[:1] if body.get("parallel_tool_calls") is False else meant


def _telling(name: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", name.lower()) if len(word) > _SHORT}


def likelihoods(content: str) -> list[Json]:
    """The tokens of a text, each with a probability that is made up and always the same."""
    pieces = [content[start : start + PIECE] for start in range(0, len(content), PIECE)]
    return [
        {
            "token": piece,
            "logprob": -(zlib.crc32(piece.encode()) % 1_000) / 1_000,
            "bytes": list(piece.encode()),
            "top_logprobs": [],
        }
        for piece in pieces
    ]
