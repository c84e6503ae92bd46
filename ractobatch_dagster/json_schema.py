"""A Pydantic model as JSON Schema: as text in a prompt, and as what a request says of its answer."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, PydanticUserError, TypeAdapter

from ractobatch_dagster.errors import ConfigurationError

__all__ = ["output_format", "prompt_schema", "response_format"]

Schema = dict[str, Any]

# where schemas are found inside a schema; every other keyword holds plain values
_BY_NAME = ("properties", "patternProperties", "$defs")
_LISTED = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")

_STRICT = (
    {"type", "description", "enum", "anyOf", "$ref", "$defs", "properties", "required", "additionalProperties"}
    | {"items", "minItems", "maxItems", "pattern", "format", "multipleOf"}
    | {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
)
"""What strict mode takes. The rest is left out: the answer is validated against the Pydantic model all the same."""

_LIMITS = (
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "multipleOf",
    "minItems",
    "maxItems",
    "pattern",
)
_KNOWN_LIMITS = (("minItems", 0), ("minItems", 1))
"""What Claude's format does not take, and what of it, it does."""

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
"""The string formats that strict mode knows."""

_LOOKAROUND = re.compile(r"\(\?<?[=!]")
"""What strict mode refuses in a pattern."""

_MOST_PROPERTIES, _MOST_LEVELS, _MOST_VALUES, _MOST_CHARACTERS = 5_000, 10, 1_000, 120_000
_LARGE_ENUM, _LARGE_ENUM_CHARACTERS = 250, 15_000
"""What strict mode takes at most: properties, objects in one another, and values of enums; characters of all names and
values together, and of the values of one enum that has many."""

_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


_NO_SCHEMA = (PydanticUserError, LookupError, NameError)
"""What Pydantic raises for a model that has no schema: it holds a function, say, or names what is not defined."""


class _NotStrict(Exception):  # noqa: N818  (control flow, not a failure)
    """The schema says something that strict mode has no words for."""


def prompt_schema(model: type[BaseModel]) -> Schema:
    """The model's schema for people and language models to read: without the titles that Pydantic makes up.

    Raises:
        ConfigurationError: A field has no JSON Schema; its path is named.
    """
    return _walk(_schema(model), lambda node: {key: value for key, value in node.items() if key != "title"})


def response_format(model: type[BaseModel]) -> Schema | None:
    """The `response_format` that makes a chat model answer with an instance of `model`.

    Strict wherever the schema allows it: every object closed, every property required. A schema with free-form parts
    (`dict[str, X]`, `Any`, a tuple of fixed places), or one that is larger than strict mode takes, goes without
    `strict`, as it would be refused. `None` where the root is no object, which the API takes in no mode.

    Source: OpenAI, structured outputs guide, "Supported schemas".

    Raises:
        ConfigurationError: A field has no JSON Schema; its path is named.
    """
    schema = _schema(model)
    if schema.get("type") != "object":
        return None
    try:
        strict, made = True, _small_enough(_walk(schema, _strict_node))
    except _NotStrict:
        strict, made = False, schema
    name = re.sub(r"[^A-Za-z0-9_-]", "_", model.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": strict, "schema": made}}


def output_format(model: type[BaseModel]) -> Schema | None:
    """The `output_config.format` that makes Claude answer with an instance of `model`.

    Limits of numbers, lengths and patterns are not known there; they are told in the description, and the answer is
    validated against the Pydantic model all the same. `None` where the schema has free-form parts or contains itself,
    which no such format may.

    Source: Anthropic, structured outputs guide, "JSON Schema limitations".
    """
    try:
        made = _walk(_walk(_schema(model), _strict_node), _plain_node)
    except _NotStrict:
        return None
    if made.get("type") != "object" or _contains_itself(made):
        return None
    return {"type": "json_schema", "schema": made}


def _plain_node(node: Schema) -> Schema:
    limits = {key: value for key, value in node.items() if key in _LIMITS and (key, value) not in _KNOWN_LIMITS}
    made = {key: value for key, value in node.items() if key not in limits}
    told = ", ".join(f"{key}: {value}" for key, value in limits.items())
    return made | ({"description": f"{node.get('description', '')} ({told})".lstrip()} if told else {})


def _contains_itself(schema: Schema) -> bool:
    """Whether a definition leads back to itself."""
    uses: dict[str, set[str]] = {name: _references(node) for name, node in schema.get("$defs", {}).items()}
    for _ in uses:
        uses = {name: some.union(*(uses.get(one, ()) for one in some)) for name, some in uses.items()}
    return any(name in some for name, some in uses.items())


def _references(node: Schema) -> set[str]:
    found: set[str] = set()

    def note(one: Schema) -> Schema:
        if "$ref" in one:
            found.add(one["$ref"].rsplit("/", 1)[-1])
        return one

    _walk(node, note)
    return found


def _schema(model: type[BaseModel]) -> Schema:
    """Pydantic's own schema, of which the root is no reference.

    Raises:
        ConfigurationError: A field has none; its path is named.
    """
    try:
        schema = model.model_json_schema()
    except _NO_SCHEMA as error:
        why = getattr(error, "message", error)
        raise ConfigurationError(f"output{_without_schema(model)}: there is no JSON Schema for it: {why}") from error
    seen = []
    while "$ref" in schema:  # a model that contains itself, or a root model
        if schema["$ref"] in seen:
            raise ConfigurationError(f"output: {model.__name__} is only a reference to itself.")
        seen.append(schema["$ref"])
        named = schema["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        schema = {**named, "$defs": schema["$defs"]}
    return schema


def _without_schema(model: type[BaseModel]) -> str:
    """The path of the first field that has no schema."""
    for name, info in model.model_fields.items():
        kind: Any = info.annotation
        try:
            TypeAdapter(kind).json_schema()
        except _NO_SCHEMA:
            inner = isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not model
            return f".{name}{_without_schema(kind) if inner else ''}"
    return ""


def _walk(node: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """Apply `change` to every schema in `node`, innermost first; names of properties are never taken for keywords."""
    walked = dict(node)
    for key, value in node.items():
        if key in _BY_NAME:
            walked[key] = {name: _walk(one, change) for name, one in value.items()}
        elif key in _LISTED:
            walked[key] = [_walk(one, change) for one in value]
        elif key in _SINGLE and isinstance(value, dict):
            walked[key] = _walk(value, change)
    return change(walked)


def _strict_node(node: Schema) -> Schema:
    if len(node.get("allOf", ())) == 1:
        node = {**node["allOf"][0], **node}
    elif {"allOf", "prefixItems", "patternProperties"} & node.keys():
        raise _NotStrict
    if "$ref" in node:
        return {"$ref": node["$ref"]}  # strict mode allows nothing beside it
    made = {key: value for key, value in node.items() if key in _STRICT}
    if "oneOf" in node:
        made["anyOf"] = node["oneOf"]
    if "const" in node:
        made["enum"] = [node["const"]]
    if "enum" in made and "type" not in made:
        made["type"] = _types(made["enum"])
    if made.get("type") == "object":
        made = _closed(made)
    if not {"type", "anyOf"} & made.keys() or (made.get("type") == "array" and "items" not in made):
        raise _NotStrict
    return {key: value for key, value in made.items() if _is_known(key, value)}


def _types(values: list[Any]) -> list[str] | str:
    """The types of constants, which Pydantic leaves out where they differ."""
    types = list(dict.fromkeys(_TYPES.get(type(value)) for value in values))
    names = [name for name in types if name is not None]
    if len(names) < len(types):
        raise _NotStrict
    return names[0] if len(names) == 1 else names


def _closed(node: Schema) -> Schema:
    """An object that has all of its properties and no others."""
    if node.get("additionalProperties"):
        raise _NotStrict
    properties = node.get("properties", {})
    return {**node, "properties": properties, "required": list(properties), "additionalProperties": False}


def _is_known(key: str, value: Any) -> bool:
    if key == "format":
        return value in _FORMATS
    return not (key == "pattern" and _LOOKAROUND.search(value))


def _small_enough(root: Schema) -> Schema:
    """The schema, if it keeps within the limits of strict mode.

    Raises:
        _NotStrict: It does not.
    """
    nodes: list[Schema] = []
    _walk(root, lambda node: nodes.append(node) or node)  # type: ignore[func-returns-value]
    properties = [name for node in nodes for name in node.get("properties", ())]
    enums = [node["enum"] for node in nodes if "enum" in node]
    values = [value for enum in enums for value in enum]
    if (
        len(properties) > _MOST_PROPERTIES
        or len(values) > _MOST_VALUES
        or _characters([*properties, *root.get("$defs", ()), *values]) > _MOST_CHARACTERS
        or any(len(enum) > _LARGE_ENUM and _characters(enum) > _LARGE_ENUM_CHARACTERS for enum in enums)
        or _levels(root, root.get("$defs", {}), {}) > _MOST_LEVELS
    ):
        raise _NotStrict
    return root


def _characters(texts: list[Any]) -> int:
    return sum(len(text) for text in texts if isinstance(text, str))


def _levels(node: Schema, named: Schema, known: dict[str, int]) -> int:
    """How many objects lie in one another; one that contains itself counts once."""
    if "$ref" in node:
        name = node["$ref"].rsplit("/", 1)[-1]
        if name not in known:
            known[name] = 0
            known[name] = _levels(named[name], named, known)
        return known[name]
    inner = [
        *node.get("properties", {}).values(),
        *node.get("anyOf", ()),
        *([node["items"]] if "items" in node else ()),
    ]
    return (node.get("type") == "object") + max((_levels(one, named, known) for one in inner), default=0)
