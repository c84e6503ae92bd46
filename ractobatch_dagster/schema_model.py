"""A JSON Schema as a Pydantic model, so that its answers are validated and typed as any others."""

from __future__ import annotations

import datetime as dt
import re
import uuid
import warnings
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ForwardRef, Literal, Union

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PydanticUserError, create_model
from pydantic_core import SchemaError

from ractobatch_dagster.errors import ConfigurationError

__all__ = ["model_of_schema"]

Node = Mapping[str, Any]

_SAYS_NOTHING = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples"}
    | {"deprecated", "readOnly", "writeOnly", "discriminator", "contentMediaType"}
)
"""Keywords that no value can break."""

_NOWHERE = "ractobatch_dagster.schemas_of_users"
"""The models' module, which is none, so that what a schema calls `Any` or `Node` is not looked up among our names."""

_FORMATS: Mapping[str, Any] = {
    "date-time": dt.datetime, "date": dt.date, "time": dt.time, "duration": dt.timedelta, "uuid": uuid.UUID,
}  # fmt: skip
_BOUNDS = {
    "minimum": "ge", "maximum": "le", "exclusiveMinimum": "gt", "exclusiveMaximum": "lt", "multipleOf": "multiple_of",
}  # fmt: skip
_LENGTHS = {"minLength": "min_length", "maxLength": "max_length", "pattern": "pattern"}
_COUNTS = {"minItems": "min_length", "maxItems": "max_length"}


def model_of_schema(schema: Node, name: str = "Answer") -> type[BaseModel]:
    """The model of a schema whose root is an object.

    A property that is not required may be null as well. Texts of the formats date-time, date, time, duration and uuid
    become such values; other formats are left to the provider.

    Args:
        schema: The schema, by JSON Schema 2020-12 or an older draft.
        name: What to call the model where the schema has no title.

    Raises:
        ConfigurationError: A keyword cannot be held to (`if`, `not`, `patternProperties`, …); its path is named.
    """
    try:
        return _Models(schema).root(name)
    except RecursionError:
        raise ConfigurationError("output: the schema contains itself in a way that is not understood.") from None


class _Models:
    """The models of one schema, which may name each other."""

    def __init__(self, schema: Node) -> None:
        self._schema = schema
        self._made: dict[str, type[BaseModel]] = {}  # by class name
        self._named: dict[str, str] = {}  # by reference, the class name of what it stands for
        self._kinds: Mapping[str, Callable[[Node, str, str], Any]] = {
            "string": self._string,
            "integer": lambda node, path, _: self._number(int, node, path),
            "number": lambda node, path, _: self._number(float, node, path),
            "boolean": lambda node, path, _: _only(bool, node, path, {"type"}),
            "null": lambda node, path, _: _only(type(None), node, path, {"type"}),
            "array": self._array,
            "object": self._object,
        }

    def root(self, name: str) -> type[BaseModel]:
        node, path = self._schema, "output"
        reference = ""
        while "$ref" in node:
            reference = node["$ref"]
            node = self._defined(reference, path)
        if node.get("type") != "object" or not node.get("properties"):
            raise ConfigurationError(f"{path}: the root of a schema must be an object with properties.")
        title = str(node.get("title") or reference.rpartition("/")[2] or name)
        self._named[reference] = self._named["#"] = self._name(title)
        model = self._model(node, path, self._named["#"])
        for one in self._made.values():
            one.model_rebuild(_types_namespace=dict(self._made))
        return model

    def _kind(self, node: Any, path: str, name: str) -> Any:
        """The annotation of a schema."""
        if not isinstance(node, Mapping) and node is not True:
            raise ConfigurationError(f"{path}: {node!r} is no schema.")
        if node is True or all(map(_says_nothing, node)):
            return Any
        if "$ref" in node and "nullable" not in node:
            _only(None, node, path, {"$ref"})
            return self._reference(node["$ref"], path)
        if "nullable" in node:  # as OpenAPI 3.0 says it
            kind = self._kind({word: value for word, value in node.items() if word != "nullable"}, path, name)
            return Union[kind, None] if node["nullable"] else kind  # noqa: UP007
        if {"anyOf", "oneOf", "allOf"} & node.keys():
            return self._combined(node, path, name)
        if "enum" in node or "const" in node:
            return _constants(node, path)
        kinds = node.get("type")
        if isinstance(kinds, list):
            return Union[tuple(self._kind(_of_type(node, kind), path, name) for kind in kinds)]  # noqa: UP007
        read = self._kinds.get(str(kinds))
        if read is None:
            raise ConfigurationError(f"{path}: a schema needs a `type` that is one of {', '.join(self._kinds)}.")
        return read(node, path, name)

    def _combined(self, node: Node, path: str, name: str) -> Any:
        if "allOf" in node:
            if len(node["allOf"]) > 1:
                raise ConfigurationError(f"{path}: `allOf` of several schemas is not understood; write them as one.")
            others = {word: value for word, value in node.items() if word != "allOf"}
            speaks = [word for word in others if not _says_nothing(word) and word != "type"]
            if speaks:
                raise ConfigurationError(f"{path}: `allOf` beside `{speaks[0]}` is not understood; write them as one.")
            return self._kind({**node["allOf"][0], **({} if "$ref" in node["allOf"][0] else others)}, path, name)
        several = "anyOf" if "anyOf" in node else "oneOf"
        _only(None, node, path, {several, "type"})
        if all(isinstance(one, Mapping) and ({"enum", "const"} & one.keys()) for one in node[several]):
            return _constants({"enum": [value for one in node[several] for value in _values(one)]}, path)
        parts = [
            self._kind(one, f"{path}.{several}[{place}]", f"{name}{place + 1}")
            for place, one in enumerate(node[several])
        ]
        return Union[tuple(parts)]  # noqa: UP007 (a type made at run time)

    def _reference(self, reference: str, path: str) -> Any:
        if reference in self._named:
            made = self._made.get(self._named[reference])
            return made if made is not None else ForwardRef(self._named[reference])
        node = self._defined(reference, path)
        name = self._name(str(node.get("title") or reference.rpartition("/")[2]))
        if node.get("type") == "object" and node.get("properties"):
            self._named[reference] = name  # it may contain itself
            return self._model(node, path, name)
        return self._kind(node, path, name)

    def _defined(self, reference: str, path: str) -> Node:
        node: Any = self._schema
        for part in reference.removeprefix("#").strip("/").split("/"):
            node = node.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(node, Mapping) else None
        if not reference.startswith("#/") or not isinstance(node, Mapping):
            raise ConfigurationError(f"{path}: the schema has no {reference!r}; what it refers to must be in itself.")
        return node

    def _string(self, node: Node, path: str, _name: str) -> Any:
        kind = _FORMATS.get(node.get("format", ""), str)
        _only(None, node, path, {"type", "format", *_LENGTHS})
        pattern = node.get("pattern")
        if pattern is not None:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigurationError(f"{path}: the pattern {pattern!r} is none: {error}") from error
        return _within(kind, {} if kind is not str else _said(node, _LENGTHS))

    def _number(self, kind: type, node: Node, path: str) -> Any:
        _only(None, node, path, {"type", "format", *_BOUNDS})
        bounds = _said({word: value for word, value in node.items() if not isinstance(value, bool)}, _BOUNDS)
        for word, closed, opened in (("exclusiveMinimum", "ge", "gt"), ("exclusiveMaximum", "le", "lt")):
            if node.get(word) is True and closed in bounds:  # as older drafts say it
                bounds[opened] = bounds.pop(closed)
        return _within(kind, bounds)

    def _array(self, node: Node, path: str, name: str) -> Any:
        _only(None, node, path, {"type", "items", "uniqueItems", *_COUNTS})
        item = self._kind(node["items"], f"{path}[]", f"{name}Item") if "items" in node else Any
        made = _within(list[item], _said(node, _COUNTS))  # type: ignore[valid-type]
        return Annotated[made, AfterValidator(_unique)] if node.get("uniqueItems") else made

    def _object(self, node: Node, path: str, name: str) -> Any:
        if node.get("properties"):
            return self._model(node, path, self._name(str(node.get("title") or name)))
        _only(None, node, path, {"type", "properties", "additionalProperties", "required"})
        value = node.get("additionalProperties", True)
        return dict[str, self._kind(value or True, f"{path}.*", f"{name}Value")]  # type: ignore[misc]

    def _model(self, node: Node, path: str, name: str) -> type[BaseModel]:
        _only(None, node, path, {"type", "properties", "required", "additionalProperties"})
        if isinstance(node.get("additionalProperties"), Mapping):
            raise ConfigurationError(f"{path}: properties and a schema for others beside them is not understood.")
        fields: dict[str, Any] = {}
        for key, said in node["properties"].items():
            fields[key] = self._field(key, said, key in node.get("required", ()), path, name)
        patterns = any(isinstance(one, Mapping) and "pattern" in str(one) for one in node["properties"].values())
        config = ConfigDict(
            extra="forbid" if node.get("additionalProperties") is False else "ignore",
            protected_namespaces=(),
            # the other one does not know `(?=`, which JSON Schema has
            **({"regex_engine": "python-re"} if patterns else {}),
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # a property may be called `json` or `copy`
                made: type[BaseModel] = create_model(
                    name, __config__=config, __doc__=node.get("description"), __module__=_NOWHERE, **fields
                )
        except (NameError, TypeError, ValueError, SchemaError, PydanticUserError) as error:
            raise ConfigurationError(f"{path}: {error}") from error
        self._made[name] = made
        return made

    def _field(self, key: str, said: Any, required: bool, path: str, name: str) -> tuple[Any, Any]:
        here = f"{path}.{key}"
        if key.startswith("_") or (key.startswith("model_") and hasattr(BaseModel, key)):
            raise ConfigurationError(f"{here}: a column cannot have this name. Call the property otherwise.")
        kind = self._kind(said, here, f"{name}{_class_name(key)}")
        about: dict[str, Any] = {}
        if isinstance(said, Mapping):
            about = {word: said[word] for word in ("description", "title") if word in said}
        if not required:
            given = isinstance(said, Mapping) and said.get("default") is not None
            about["default"] = said["default"] if given else None
            about |= {"validate_default": True} if given else {}  # it stands in the answer as text, say, of a date
            kind = kind if given else kind | None if not isinstance(kind, ForwardRef) else Union[kind, None]  # noqa: UP007
        return kind, Field(**about)

    def _name(self, wanted: str) -> str:
        """A class name that no other model of the schema has."""
        name = base = _class_name(wanted)
        number = 1
        while name in self._made or name in self._named.values():
            number += 1
            name = f"{base}{number}"
        return name


def _says_nothing(word: str) -> bool:
    return word in _SAYS_NOTHING or word.startswith("x-")


def _only(kind: Any, node: Node, path: str, known: set[str]) -> Any:
    """Refuse keywords that would not be held to."""
    unknown = sorted(word for word in node.keys() - known if not _says_nothing(word))
    if unknown:
        raise ConfigurationError(f"{path}: `{unknown[0]}` is not understood here, so that answers could break it.")
    return kind


def _of_type(node: Node, kind: str) -> Node:
    """Of a schema of several types that of one of them, with the keywords that speak of it."""
    speaks = {
        "string": {"format", *_LENGTHS},
        "integer": {*_BOUNDS},
        "number": {*_BOUNDS},
        "array": {"items", "uniqueItems", *_COUNTS},
        "object": {"properties", "required", "additionalProperties"},
    }
    others = set().union(*speaks.values()) - speaks.get(kind, set())
    return {word: value for word, value in node.items() if word not in others} | {"type": kind}


def _constants(node: Node, path: str) -> Any:
    _only(None, node, path, {"type", "enum", "const"})
    values = tuple(_values(node))
    if not values or not all(value is None or isinstance(value, str | int | bool) for value in values):
        raise ConfigurationError(f"{path}: constants are texts, whole numbers, booleans and null, not {values!r}.")
    return Literal[values]


def _unique(values: list[Any]) -> list[Any]:
    if any(value in values[:place] for place, value in enumerate(values)):
        raise ValueError("a value stands in the list twice")
    return values


def _values(node: Node) -> list[Any]:
    return list(node["enum"]) if "enum" in node else [node["const"]]


def _said(node: Node, words: Mapping[str, str]) -> dict[str, Any]:
    return {ours: node[theirs] for theirs, ours in words.items() if node.get(theirs) is not None}


def _within(kind: Any, limits: dict[str, Any]) -> Any:
    return Annotated[kind, Field(**limits)] if limits else kind


def _class_name(name: str) -> str:
    found = "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z_]+", name) if part)
    return found if found.isidentifier() else f"Answer{found}"
