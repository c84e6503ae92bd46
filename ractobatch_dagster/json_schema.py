"""A Pydantic model as JSON Schema: as text in a prompt, and as the `response_format` of a request."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

__all__ = ["prompt_schema", "response_format"]

_NAMED = ("properties", "$defs", "definitions", "patternProperties")
"""Keywords whose keys are names that the user chose, not keywords."""

_DROPPED = frozenset({"title", "default", "examples", "discriminator", "minLength", "maxLength", "uniqueItems"})
"""What strict mode does not take. The answer is validated against the Pydantic model all the same."""

_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
"""The string formats that strict mode knows (OpenAI, structured outputs guide)."""


class _NotStrict(Exception):  # noqa: N818  (control flow, not a failure)
    """The schema says something that strict mode has no words for."""


def prompt_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema for people and language models to read: without the titles that Pydantic makes up."""
    read: dict[str, Any] = _walk(_schema(model), lambda node: {k: v for k, v in node.items() if k != "title"})
    return read


def response_format(model: type[BaseModel]) -> dict[str, Any]:
    """The `response_format` that makes a chat model answer with an instance of `model`.

    Strict wherever the schema allows it: every object closed, every property required. A schema with free-form parts
    (`dict[str, X]`, `Any`, a tuple of fixed places) goes without `strict`, as strict mode would refuse it.

    Source: OpenAI, structured outputs guide, "Supported schemas".
    """
    schema = _schema(model)
    try:
        strict, made = True, _walk(schema, _strict_node)
        if made.get("type") != "object":
            raise _NotStrict
    except _NotStrict:
        strict, made = False, schema
    name = re.sub(r"[^A-Za-z0-9_-]", "_", model.__name__)[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "strict": strict, "schema": made}}


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(mode="validation", schema_generator=GenerateJsonSchema)
    if set(schema) <= {"$ref", "$defs"} and "$ref" in schema:  # a model that contains itself
        root = schema["$defs"][schema["$ref"].rsplit("/", 1)[-1]]
        schema = {**root, "$defs": schema["$defs"]}
    return schema


def _walk(node: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Apply `change` to every schema in `node`, innermost first; names of properties are never taken for keywords."""
    if isinstance(node, list):
        return [_walk(one, change) for one in node]
    if not isinstance(node, dict):
        return node
    walked = {
        key: {name: _walk(one, change) for name, one in value.items()}
        if key in _NAMED
        else value
        if key in ("enum", "const", "default", "examples", "required")
        else _walk(value, change)
        for key, value in node.items()
    }
    return change(walked)


def _strict_node(node: dict[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in node.items() if key not in _DROPPED}
    if "allOf" in made and len(made["allOf"]) == 1:
        made = {**made.pop("allOf")[0], **made}
    if "oneOf" in made:
        made["anyOf"] = made.pop("oneOf")
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if made.get("format") not in _FORMATS:
        made.pop("format", None)
    if "$ref" in made:
        return {"$ref": made["$ref"]}  # strict mode allows nothing beside it
    if made.get("type") == "object":
        if made.get("additionalProperties") not in (None, False) or "patternProperties" in made:
            raise _NotStrict
        made.setdefault("properties", {})
        made["additionalProperties"] = False
        made["required"] = list(made["properties"])
    if "prefixItems" in made or "allOf" in made or "not" in made or not {"type", "anyOf", "enum"} & made.keys():
        raise _NotStrict
    return made
