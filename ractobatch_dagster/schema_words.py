"""The keywords of a JSON Schema: what each of them may hold, and what it says of an answer."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import unquote

from ractobatch_dagster.errors import ConfigurationError

__all__ = [
    "BOUNDS", "COUNTS", "LENGTHS", "Node", "bounds", "checked", "class_name", "constants", "lengths", "of_type", "only",
    "referred", "says_nothing", "text_of", "types_of",
]  # fmt: skip

Node = Mapping[str, Any]

_SAYS_NOTHING = frozenset(
    {"$schema", "$id", "id", "$anchor", "$comment", "$defs", "definitions", "title", "description", "default"}
    | {"example", "examples", "externalDocs", "xml", "deprecated", "readOnly", "writeOnly", "discriminator"}
    | {"contentMediaType", "contentEncoding"}
)
"""Keywords that no value can break."""

BOUNDS = {
    "minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt", "multipleOf": "multiple_of",
}  # fmt: skip
LENGTHS = {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
COUNTS = {"minItems": "min_length", "maxItems": "max_length"}
"""Limits as Pydantic calls them."""

_SMALLEST, _LARGEST = -(1 << 63), (1 << 63) - 1
"""The whole numbers that a column holds."""

_NEXT: Mapping[str, Callable[[float], int]] = {"ge": math.ceil, "gt": math.floor, "le": math.floor, "lt": math.ceil}
"""A bound of whole numbers as a whole number."""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_count(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _LARGEST and value == int(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


_SHAPES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("$ref", "format", "pattern"), (_is_text, "a text")),
    **dict.fromkeys(
        ("anyOf", "oneOf", "allOf", "enum"),
        (lambda value: isinstance(value, list | tuple) and len(value) > 0, "a list of at least one"),
    ),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), (_is_count, "a whole number of 0 or more")),
    **dict.fromkeys(("minimum", "maximum"), (_is_number, "a finite number")),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"),
        (lambda value: isinstance(value, bool) or _is_number(value), "a finite number"),
    ),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a finite number above 0"),
    **dict.fromkeys(("nullable", "uniqueItems"), (lambda value: isinstance(value, bool), "true or false")),
    "type": (
        lambda value: _is_text(value) or (_are_texts(value) and len(value) > 0),
        'the name of a type, or a list of at least one (YAML wants quotes around "null")',
    ),
    "required": (_are_texts, "a list of properties' names"),
    "properties": (lambda value: isinstance(value, Mapping) and all(map(_is_text, value)), "a mapping by name"),
    "additionalProperties": (lambda value: isinstance(value, bool | Mapping), "true, false or a schema"),
}


def checked(node: Any, path: str) -> Node:
    """The schema itself, of which each keyword holds what it may.

    Raises:
        ConfigurationError: It is no schema, or a keyword holds something else.
    """
    if not isinstance(node, Mapping):
        raise ConfigurationError(f"{path}: {node!r} is no schema.")
    for word, (fits, wanted) in _SHAPES.items():
        if word in node and not fits(node[word]):
            raise ConfigurationError(f"{path}: `{word}` must be {wanted}, not {node[word]!r}.")
    return node


def says_nothing(word: Any) -> bool:
    """Whether no value can break the keyword."""
    return word in _SAYS_NOTHING or str(word).startswith("x-")


def only(node: Node, path: str, known: set[str]) -> None:
    """Refuse keywords that would not be held to."""
    unknown = sorted(str(word) for word in node.keys() - known if not says_nothing(word))
    if unknown:
        raise ConfigurationError(f"{path}: `{unknown[0]}` is not understood here, so that answers could break it.")


def text_of(node: Any, word: str) -> str | None:
    """What an annotation says, if it is a text."""
    said = node.get(word) if isinstance(node, Mapping) else None
    return said if isinstance(said, str) else None


def types_of(node: Node) -> list[str]:
    """The names of the types that a value may have; none where anything may come."""
    said = node.get("type", "object" if "properties" in node else [])
    return [said] if isinstance(said, str) else list(said)


def of_type(node: Node, kind: str) -> Node:
    """Of a schema of several types that of one of them, with the keywords that speak of it."""
    speaks = {
        "string": {"format", *LENGTHS},
        "integer": {*BOUNDS},
        "number": {*BOUNDS},
        "array": {"items", "uniqueItems", *COUNTS},
        "object": {"properties", "required", "additionalProperties"},
    }
    others = set().union(*speaks.values()) - speaks.get(kind, set())
    return {word: value for word, value in node.items() if word not in others} | {"type": kind}


def referred(schema: Node, reference: str, path: str) -> Node:
    """What a reference stands for: a JSON pointer into the schema itself, escaped as in a URI.

    Raises:
        ConfigurationError: There is nothing, or no schema.
    """
    node: Any = schema
    for part in unquote(reference.removeprefix("#")).split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            node = node.get(key) if isinstance(node, Mapping) else None
    if not reference.startswith("#/") or not isinstance(node, Mapping):
        raise ConfigurationError(f"{path}: the schema has no {reference!r}; what it refers to must be in itself.")
    return checked(node, path)


def constants(node: Node, path: str) -> list[Any]:
    """The values that `enum` and `const` allow, of the types that are allowed beside them.

    Raises:
        ConfigurationError: One is no text, number, boolean or null; or none is left.
    """
    only(node, path, {"type", "enum", "const"})
    values = list(node["enum"]) if "enum" in node else [node["const"]]
    if "enum" in node and "const" in node:
        values = [value for value in values if value == node["const"]]
    wrong = [one for one in values if not _is_constant(one)]
    if wrong:
        raise ConfigurationError(
            f"{path}: constants are texts, numbers (whole ones of 64 bits), booleans and null, not {wrong[0]!r}."
        )
    types = types_of(node)
    left = [value for value in values if not types or any(_is_of(value, kind) for kind in types)]
    if not left:
        raise ConfigurationError(f"{path}: none of its constants is of its type.")
    return left


def _is_constant(value: Any) -> bool:
    if isinstance(value, int):
        return _SMALLEST <= value <= _LARGEST
    return value is None or isinstance(value, str) or _is_number(value)


def _is_of(value: Any, kind: str) -> bool:
    """Whether a constant has a type; a whole number has two."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and value == int(value))
    return kind == ("null" if value is None else "string")


def bounds(kind: type, node: Node, path: str) -> dict[str, Any]:
    """The limits of a number, as Pydantic calls them; those of whole numbers are whole.

    Raises:
        ConfigurationError: No whole number that a column holds is within.
    """
    said = {
        ours: node[theirs] for theirs, ours in BOUNDS.items() if theirs in node and not isinstance(node[theirs], bool)
    }
    for word, closed, opened in (("exclusiveMinimum", "ge", "gt"), ("exclusiveMaximum", "le", "lt")):
        if node.get(word) is True and closed in said:  # as older drafts say it
            said[opened] = said.pop(closed)
    return _whole(said, path) if kind is int else said


def _whole(said: Mapping[str, Any], path: str) -> dict[str, int]:
    step = said.get("multiple_of", 1)
    if step != int(step):
        raise ConfigurationError(f"{path}: `multipleOf` must be a whole number where whole numbers are, not {step!r}.")
    limits = {word: _NEXT[word](bound) for word, bound in said.items() if word != "multiple_of"}
    least = max(_SMALLEST, limits.get("ge", _SMALLEST), limits.get("gt", _SMALLEST - 1) + 1)
    most = min(_LARGEST, limits.get("le", _LARGEST), limits.get("lt", _LARGEST + 1) - 1)
    if least > most:
        raise ConfigurationError(f"{path}: no whole number (of 64 bits) is within its bounds.")
    # a bound beyond what the column holds says nothing
    limits = {word: bound for word, bound in limits.items() if _SMALLEST <= bound <= _LARGEST}
    return limits if "multiple_of" not in said else {**limits, "multiple_of": int(step)}


def lengths(node: Node, words: Mapping[str, str], path: str) -> dict[str, Any]:
    """The limits of a text or a list, as Pydantic calls them; a pattern is searched for by Python's rules.

    Raises:
        ConfigurationError: The pattern is none.
    """
    said = {theirs: ours for theirs, ours in words.items() if theirs in node}
    pattern = said.pop("pattern", None)
    limits: dict[str, Any] = {ours: int(node[theirs]) for theirs, ours in said.items()}
    if pattern is None:
        return limits
    try:
        return {**limits, "pattern": re.compile(node["pattern"])}
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigurationError(f"{path}: the pattern {node['pattern']!r} is none: {error}") from error


def class_name(name: str) -> str:
    """The name of a class that is made of any text."""
    found = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z_]+", name) if part)
    return found if found.isidentifier() else f"Answer{found}"
