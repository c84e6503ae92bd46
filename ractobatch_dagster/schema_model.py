"""A JSON Schema as a Pydantic model, so that its answers are validated and typed as any others."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Annotated, Any, ForwardRef, Literal, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from ractobatch_dagster.answer_model import CANNOT_BE, answer_model
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.schema_words import (
    BOUNDS,
    COUNTS,
    LENGTHS,
    Node,
    bounds,
    checked,
    class_name,
    constants,
    lengths,
    of_type,
    only,
    referred,
    says_nothing,
    text_of,
    types_of,
)

__all__ = ["model_of_schema"]

_NOWHERE = "ractobatch_dagster.schemas_of_users"
"""The models' module, which is none, so that what a schema calls `Any` or `Node` is not looked up among our names."""

_FORMATS: Mapping[str, Any] = {
    "date-time": dt.datetime, "date": dt.date, "time": dt.time, "duration": dt.timedelta, "uuid": uuid.UUID,
}  # fmt: skip

_CHANGES = {"nullable", "$ref", "allOf", "anyOf", "oneOf", "enum", "const"}
"""Keywords because of which an object's schema is not that of a model alone."""

_OPEN: Any = object()
"""Stands for a definition that is being read."""


def model_of_schema(schema: Node, name: str = "Answer") -> type[BaseModel]:
    """The model of a schema whose root is an object.

    A property that is not required may be null as well. Texts of the formats date-time, date, time, duration and uuid
    become such values; other formats are left to the provider. `oneOf` is read as `anyOf`, and where there are
    `properties` and no `type`, an object is meant.

    Args:
        schema: The schema, by JSON Schema 2020-12 or an older draft.
        name: What to call the model where the schema has no title.

    Raises:
        ConfigurationError: A keyword holds what it cannot, or cannot be held to (`if`, `not`, `patternProperties`, …);
            its path is named.
    """
    try:
        return _Models(schema).root(name)
    except RecursionError:
        raise ConfigurationError("output: the schema is nested too deeply.") from None


class _Models:
    """The models of one schema, which may name each other."""

    def __init__(self, schema: Node) -> None:
        self._schema = checked(schema, "output")
        self._made: dict[str, type[BaseModel]] = {}  # by class name
        self._taken: set[str] = set()  # class names
        self._named: dict[str, str] = {}  # by reference, the class name of the object that it stands for
        self._others: dict[str, Any] = {}  # by reference, what stands for no object
        self._kinds: Mapping[str, Callable[[Node, str, str], Any]] = {
            "string": self._string,
            "integer": lambda node, path, _: self._number(int, node, path),
            "number": lambda node, path, _: self._number(float, node, path),
            "boolean": lambda node, path, _: self._bare(bool, node, path),
            "null": lambda node, path, _: self._bare(type(None), node, path),
            "array": self._array,
            "object": self._object,
        }

    def root(self, name: str) -> type[BaseModel]:
        node, path, references = self._schema, "output", ["#"]
        while "$ref" in node:
            only(node, path, {"$ref"})
            if node["$ref"] in references:
                raise ConfigurationError(f"{path}: the schema is only a reference to itself.")
            references.append(node["$ref"])
            node = referred(self._schema, node["$ref"], path)
        if types_of(node) != ["object"] or not node.get("properties"):
            raise ConfigurationError(f"{path}: the root of a schema must be an object with properties.")
        wanted = self._name(text_of(node, "title") or references[-1].rpartition("/")[2].strip("#") or name)
        self._named |= dict.fromkeys(references, wanted)
        model = self._model(node, path, wanted)
        try:
            for one in self._made.values():
                one.model_rebuild(_types_namespace={_hidden(known): made for known, made in self._made.items()})
        except CANNOT_BE as error:
            raise ConfigurationError(f"{path}: {error}") from error
        return model

    def _kind(self, said: Any, path: str, name: str) -> Any:
        """The annotation of a schema."""
        node = checked({} if said is True else said, path)
        if all(map(says_nothing, node)):
            return Any
        if "nullable" in node:  # as OpenAPI 3.0 says it
            kind = self._kind({word: value for word, value in node.items() if word != "nullable"}, path, name)
            return Union[kind, None] if node["nullable"] else kind  # noqa: UP007 (a type made at run time)
        if "$ref" in node:
            only(node, path, {"$ref"})
            return self._reference(node["$ref"], path)
        if "allOf" in node:
            return self._one_part(node, path, name)
        if "anyOf" in node or "oneOf" in node:
            return self._one_of_several(node, path, name)
        if "enum" in node or "const" in node:
            return Literal[tuple(constants(node, path))]
        return self._typed(node, path, name)

    def _typed(self, node: Node, path: str, name: str) -> Any:
        types = types_of(node)
        if not types or not set(types) <= self._kinds.keys():
            raise ConfigurationError(f"{path}: a schema needs a `type` that is one of {', '.join(self._kinds)}.")
        if len(types) == 1:
            return self._kinds[types[0]](node, path, name)
        return Union[tuple(self._kinds[kind](of_type(node, kind), path, name) for kind in types)]  # noqa: UP007

    def _one_part(self, node: Node, path: str, name: str) -> Any:
        """`allOf` of a single schema, as generators write it to say something beside a reference."""
        if len(node["allOf"]) > 1:
            raise ConfigurationError(f"{path}: `allOf` of several schemas is not understood; write them as one.")
        speaks = sorted(str(word) for word in node if not says_nothing(word) and word not in ("allOf", "type"))
        if speaks:
            raise ConfigurationError(f"{path}: `allOf` beside `{speaks[0]}` is not understood; write them as one.")
        (part,) = self._parts(node, "allOf", path)
        about = {word: node[word] for word in ("title", "description") if word in node}
        return self._kind({**part, **about} if isinstance(part, Mapping) else part, path, name)

    def _one_of_several(self, node: Node, path: str, name: str) -> Any:
        several = "anyOf" if "anyOf" in node else "oneOf"
        only(node, path, {several, "type"})
        parts = self._parts(node, several, path)
        if any(map(_is_constant, parts)) and all(_is_constant(part) or part.get("type") == "null" for part in parts):
            lists = [_values(part, f"{path}.{several}[{place}]") for place, part in enumerate(parts)]
            return Literal[tuple(_said_once(lists, path) if several == "oneOf" else chain.from_iterable(lists))]
        kinds = [
            self._kind(part, f"{path}.{several}[{place}]", f"{name}{place + 1}") for place, part in enumerate(parts)
        ]
        return Union[tuple(kinds)]  # noqa: UP007 (a type made at run time)

    def _parts(self, node: Node, several: str, path: str) -> list[Node]:
        """The schemas of `allOf`, `anyOf` or `oneOf`, each of a type that is allowed beside them."""
        parts = []
        for place, said in enumerate(node[several]):
            here = f"{path}.{several}[{place}]"
            part = checked({} if said is True else said, here)
            parts.append(self._of_allowed(part, node, here) if "type" in node else part)
        return parts

    def _of_allowed(self, part: Node, beside: Node, path: str) -> Node:
        own = types_of(referred(self._schema, part["$ref"], path) if "$ref" in part else part)
        if not own and not {"$ref", "anyOf", "oneOf", "allOf"} & part.keys():
            return {**part, "type": beside["type"]}
        allowed = types_of(beside)
        if not own or not all(kind in allowed or (kind == "integer" and "number" in allowed) for kind in own):
            raise ConfigurationError(f"{path}: the `type` beside it says otherwise; write it here alone.")
        return part

    def _reference(self, reference: str, path: str) -> Any:
        if reference in self._named:
            name = self._named[reference]
            return self._made.get(name, ForwardRef(_hidden(name)))
        if self._others.get(reference) is _OPEN:
            raise ConfigurationError(f"{path}: {reference!r} contains itself in a way that is not understood.")
        if reference in self._others:
            return self._others[reference]
        node = referred(self._schema, reference, path)
        name = text_of(node, "title") or reference.rpartition("/")[2]
        if types_of(node) == ["object"] and node.get("properties") and not node.keys() & _CHANGES:
            self._named[reference] = name = self._name(name)  # it may contain itself
            return self._model(node, path, name)
        self._others[reference] = _OPEN
        self._others[reference] = self._kind(node, path, name)
        return self._others[reference]

    def _bare(self, kind: Any, node: Node, path: str) -> Any:
        only(node, path, {"type"})
        return kind

    def _string(self, node: Node, path: str, _name: str) -> Any:
        only(node, path, {"type", "format", *LENGTHS})
        limits, wanted = lengths(node, LENGTHS, path), node.get("format", "")
        if wanted not in _FORMATS:
            sent = {"json_schema_extra": {"format": wanted}} if wanted else {}
            return _within(str, {**limits, **sent})
        if not limits:
            return _FORMATS[wanted]
        # of the text, before it is a date or whatever it is
        said = {word: node[word] for word in LENGTHS if word in node}
        return Annotated[_FORMATS[wanted], BeforeValidator(_held_to(**limits)), Field(json_schema_extra=said)]

    def _number(self, kind: type, node: Node, path: str) -> Any:
        only(node, path, {"type", "format", *BOUNDS})
        return _within(kind, bounds(kind, node, path))

    def _array(self, node: Node, path: str, name: str) -> Any:
        only(node, path, {"type", "items", "uniqueItems", *COUNTS})
        item = self._kind(node.get("items", True), f"{path}[]", f"{name}Item")
        made = _within(list[item], lengths(node, COUNTS, path))  # type: ignore[valid-type]
        return Annotated[made, AfterValidator(_unique)] if node.get("uniqueItems") else made

    def _object(self, node: Node, path: str, name: str) -> Any:
        if node.get("properties") or node.get("additionalProperties") is False:
            return self._model(node, path, self._name(text_of(node, "title") or name))
        only(node, path, {"type", "properties", "additionalProperties", "required"})
        _require(node, path)
        return dict[str, self._kind(node.get("additionalProperties", True), f"{path}.*", f"{name}Value")]  # type: ignore[misc]

    def _model(self, node: Node, path: str, name: str) -> type[BaseModel]:
        only(node, path, {"type", "properties", "required", "additionalProperties"})
        if isinstance(node.get("additionalProperties"), Mapping) and node["additionalProperties"]:
            raise ConfigurationError(f"{path}: properties and a schema for others beside them is not understood.")
        _require(node, path)
        fields = {
            key: self._field(key, said, key in node.get("required", ()), path, name)
            for key, said in node.get("properties", {}).items()
        }
        config = ConfigDict(
            extra="forbid" if node.get("additionalProperties") is False else "ignore", protected_namespaces=()
        )
        doc = text_of(node, "description")
        made = answer_model(name, fields, path, __config__=config, __doc__=doc, __module__=_NOWHERE)
        self._made[name] = made
        return made

    def _field(self, key: str, said: Any, required: bool, path: str, name: str) -> tuple[Any, Any]:
        kind = self._kind(said, f"{path}.{key}", f"{name}{class_name(key)}")
        about: dict[str, Any] = {word: text_of(said, word) for word in ("description", "title")}
        if required:
            return kind, Field(**about)
        default = said.get("default") if isinstance(said, Mapping) else None
        if default is None:
            return Union[kind, None], Field(default=None, **about)  # noqa: UP007
        return kind, Field(default=default, validate_default=True, **about)  # it stands there as an answer would

    def _name(self, wanted: str) -> str:
        """A class name that no other model of the schema has."""
        name = base = class_name(wanted)
        number = 1
        while name in self._taken:
            number += 1
            name = f"{base}{number}"
        self._taken.add(name)
        return name


def _hidden(name: str) -> str:
    """What annotations call a class that is not made yet: as no property can be called, which would be found first."""
    return f"_{name}"


def _require(node: Node, path: str) -> None:
    for key in node.get("required", ()):
        if key not in node.get("properties", {}):
            raise ConfigurationError(f"{path}: `required` names {key!r}, which is none of its properties.")


def _is_constant(node: Node) -> bool:
    return "enum" in node or "const" in node


def _values(node: Node, path: str) -> list[Any]:
    if _is_constant(node):
        return constants(node, path)
    only(node, path, {"type"})
    return [None]


def _said_once(lists: list[list[Any]], path: str) -> list[Any]:
    """The values that are in one of the lists only, as `oneOf` wants it."""

    def is_in(value: Any, values: list[Any]) -> bool:
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in values)

    once = [value for values in lists for value in values if sum(is_in(value, others) for others in lists) == 1]
    if not once:
        raise ConfigurationError(f"{path}: no constant is in one schema of `oneOf` only.")
    return once


def _unique(values: list[Any]) -> list[Any]:
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("a value stands in the list twice")
    return values


def _held_to(min_length: int = 0, max_length: int | None = None, pattern: re.Pattern[str] | None = None) -> Any:
    def held(text: Any) -> Any:
        if not isinstance(text, str):
            raise ValueError("it is no text")
        if len(text) < min_length or (max_length is not None and len(text) > max_length):
            raise ValueError("the text is too short or too long")
        if pattern is not None and not pattern.search(text):
            raise ValueError(f"the text does not match {pattern.pattern!r}")
        return text

    return held


def _within(kind: Any, limits: dict[str, Any]) -> Any:
    return Annotated[kind, Field(**limits)] if limits else kind
