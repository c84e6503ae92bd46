"""The rules that a schema has to keep for `strict`, written from OpenAI's guide to structured outputs.

They know nothing of the code that makes such schemas. Source: the guide's chapter "Supported schemas" (2026-02).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

_ANYWHERE = {"type", "description", "title", "enum", "const", "anyOf", "$ref", "$defs"}
_OF_TYPE = {
    "object": {"properties", "required", "additionalProperties"},
    "array": {"items", "minItems", "maxItems"},
    "string": {"pattern", "format"},
    "number": {"multipleOf", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set[str](),
    "null": set[str](),
}
_OF_TYPE["integer"] = _OF_TYPE["number"]
_FORMATS = {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

MOST_PROPERTIES, MOST_LEVELS, MOST_VALUES = 5_000, 10, 1_000
MOST_CHARACTERS = 120_000
"""Of the names of properties and definitions, of the values of enums and of constants, together."""

_LARGE_ENUM, _LARGE_ENUM_CHARACTERS = 250, 15_000


def faults(name: str, root: Schema) -> list[str]:
    """What strict mode would refuse in a schema of this name; nothing where it keeps all the rules."""
    found = [] if _NAME.fullmatch(name) else [f"the name {name!r}"]
    if root.get("type") != "object" or "anyOf" in root:
        found.append("the root is no object")
    for path, node in _schemas(root, "#"):
        found += [f"{path}: {fault}" for fault in (*_keywords(node), *_object(node), *_references(node, root))]
    return [*found, *limits(root)]


def _schemas(node: Schema, path: str) -> Iterator[tuple[str, Schema]]:
    """Every schema in a schema, with its path."""
    yield path, node
    for word in ("properties", "$defs"):
        for name, one in node.get(word, {}).items():
            yield from _schemas(one, f"{path}/{word}/{name}")
    for number, one in enumerate(node.get("anyOf", ())):
        yield from _schemas(one, f"{path}/anyOf/{number}")
    if "items" in node:
        yield from _schemas(node["items"], f"{path}/items")


def _keywords(node: Schema) -> Iterator[str]:
    types = [node["type"]] if isinstance(node.get("type"), str) else node.get("type", [])
    known = _ANYWHERE.union(*(_OF_TYPE.get(one, set()) for one in types))
    for word in sorted(node.keys() - known):
        yield f"{word} of {' or '.join(types) or 'no type'}"
    for one in types:
        if one not in _OF_TYPE:
            yield f"type {one}"
    if not node.keys() & {"type", "anyOf", "$ref"}:
        yield "nothing says what it is"
    if "array" in types and "items" not in node:
        yield "an array without items"
    if node.get("format", "date") not in _FORMATS:
        yield f"format {node['format']}"
    if re.search(r"\(\?<?[=!]", node.get("pattern", "")):
        yield f"pattern {node['pattern']}"


def _object(node: Schema) -> Iterator[str]:
    if node.get("type") != "object":
        return
    if node.get("additionalProperties") is not False:
        yield "additionalProperties is not false"
    if set(node.get("required", ())) != set(node.get("properties", ())):
        yield "not every property is required, or one that is there is none"


def _references(node: Schema, root: Schema) -> Iterator[str]:
    if "$ref" not in node:
        return
    if len(node) > 1:
        yield f"{sorted(node.keys() - {'$ref'})} beside a reference"
    if node["$ref"] != "#" and node["$ref"].removeprefix("#/$defs/") not in root.get("$defs", {}):
        yield f"a reference to {node['$ref']}"


def limits(root: Schema) -> Iterator[str]:
    """What of a schema is too much for strict mode, its own keywords aside."""
    nodes = [node for _, node in _schemas(root, "#")]
    names = [name for node in nodes for word in ("properties", "$defs") for name in node.get(word, ())]
    values = [value for node in nodes for value in node.get("enum", ())]
    constants = [node["const"] for node in nodes if "const" in node]
    if (count := sum(len(node.get("properties", ())) for node in nodes)) > MOST_PROPERTIES:
        yield f"{count:,} properties"
    if (levels := _levels(root, root, ())) > MOST_LEVELS:
        yield f"{levels} levels of objects"
    if (count := sum(map(_length, [*names, *values, *constants]))) > MOST_CHARACTERS:
        yield f"{count:,} characters of names and values"
    if len(values) > MOST_VALUES:
        yield f"{len(values):,} values of enums"
    for one in (node["enum"] for node in nodes if len(node.get("enum", ())) > _LARGE_ENUM):
        if (count := sum(map(_length, one))) > _LARGE_ENUM_CHARACTERS:
            yield f"{count:,} characters of one enum of {len(one)} values"


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str) else 0


def _levels(node: Schema, root: Schema, inside: tuple[str, ...]) -> int:
    """How many objects lie in one another at most; one that contains itself counts once."""
    reference = node.get("$ref")
    if reference is not None:
        if reference in (*inside, "#"):
            return 0
        named = root.get("$defs", {}).get(reference.removeprefix("#/$defs/"), {})
        return _levels(named, root, (*inside, reference))
    parts = [
        *node.get("properties", {}).values(),
        *node.get("anyOf", ()),
        *([node["items"]] if "items" in node else ()),
    ]
    return (node.get("type") == "object") + max((_levels(one, root, inside) for one in parts), default=0)
