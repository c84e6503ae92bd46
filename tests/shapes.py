"""What outputs may look like: JSON Schemas and classes, each with what may be answered and what is read then."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, Optional, Union

from hypothesis import strategies as st
from pydantic import Field, create_model
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict

NOTHING = object()
"""A key that is not there."""


@dataclass
class Shape:
    """What may be asked for, what may be answered to it, and what is then read from the table."""

    kind: Any  # a JSON Schema, or an annotation
    values: st.SearchStrategy[Any]
    landed: Callable[[Any], Any] = lambda value: value
    strict: bool = True
    text: bool = False  # kept as JSON text, which says `landed`
    required: bool = True


def values_of(shape: Shape) -> st.SearchStrategy[Any]:
    """What may be answered, nothing included."""
    return shape.values if shape.required else shape.values | st.just(NOTHING)


# what both ways of saying it have in common

WORDS = st.lists(st.text('abcäß"\\ ', min_size=1, max_size=3), min_size=1, max_size=3, unique=True)
WHOLE = st.integers(-(2**63), 2**63 - 1)
# beyond, a JSON number is not the same float for everybody
FLOATS = st.floats(-(2.0**53), 2.0**53, allow_nan=False).map(lambda value: value + 0.0)
DATES = st.dates().map(dt.date.isoformat)
MOMENTS = st.datetimes(timezones=st.sampled_from([dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))])).filter(
    lambda value: 1 < value.year < 9999
)
TIMES = st.times()
SPANS = st.timedeltas(dt.timedelta(0), dt.timedelta(days=99)).map(to_jsonable_python)
NAMES = st.sampled_from(
    ["a", "b", "title", "type", "default", "copy", "json", "schema", "items", "Answer", "Node", "A", "enum", "self"]
)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC)


def items_of(shape: Shape) -> Callable[[Any], list[Any]]:
    return lambda values: [landed(shape, value) for value in values]


def landed(shape: Shape, value: Any) -> Any:
    """What is equal to the value as it is read."""
    if value is NOTHING or value is None:
        return None
    return Text(shape.landed(value)) if shape.text else shape.landed(value)


class Text:
    """Equal to a JSON text that says the same."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and bool(json.loads(other) == self.value)

    __hash__ = None  # type: ignore[assignment]


def struct_of(fields: Mapping[str, Shape]) -> Callable[[Any], Any]:
    return lambda value: {name: landed(shape, value.get(name)) for name, shape in fields.items()}


def an_instance(fields: Mapping[str, Shape]) -> st.SearchStrategy[dict[str, Any]]:
    needed = {name: shape.values for name, shape in fields.items() if shape.required}
    return st.fixed_dictionaries(
        needed, optional={name: shape.values for name, shape in fields.items() if not shape.required}
    )


def fields_of(
    shapes: st.SearchStrategy[Shape], names: st.SearchStrategy[str] = NAMES
) -> st.SearchStrategy[dict[str, Shape]]:
    """Fields, some of which may be missing."""
    required = st.builds(lambda shape, required: dataclasses.replace(shape, required=required), shapes, st.booleans())
    return st.dictionaries(names, required, min_size=1, max_size=4)


# JSON Schemas


def constants(values: Sequence[Any]) -> Shape:
    mixed = len({type(one) for one in values} - {type(None)}) > 1
    return Shape({"enum": list(values)}, st.sampled_from(list(values)), text=mixed)


def several_constants(words: Sequence[str]) -> Shape:
    parts = [{"const": word, "description": word} for word in words]
    return Shape({"oneOf": [*parts, {"type": "null"}]}, st.sampled_from([*words, None]))


def limited(low: int, size: int, whole: bool) -> Shape:
    """Numbers with bounds on both sides."""
    high = low + size
    bounds = {"minimum": low - 0.5, "exclusiveMaximum": high} if whole else {"minimum": low, "maximum": high}
    values: st.SearchStrategy[Any] = st.integers(low, high - 1) if whole else st.floats(low, high)
    return Shape({"type": "integer" if whole else "number", **bounds}, values)


SIMPLE = st.one_of(
    st.just(Shape({"type": "string", "example": "x"}, st.text())),
    st.just(Shape({"type": "string", "pattern": "b(?!x)", "minLength": 2.0}, st.just("abc"))),
    st.just(Shape({"type": "boolean"}, st.booleans())),
    st.just(Shape({"type": "integer"}, WHOLE)),
    st.just(Shape({"type": "number"}, FLOATS | st.integers(-9, 9))),
    st.just(Shape({"type": "null"}, st.none())),
    st.just(Shape({"type": ["integer", "null"], "minimum": 0}, st.none() | st.integers(0, 9))),
    st.just(Shape({"type": "string", "nullable": True, "title": "Maybe"}, st.none() | st.text())),
    st.just(Shape({"type": "string", "format": "date", "pattern": "-"}, DATES, dt.date.fromisoformat)),
    st.just(Shape({"type": "string", "format": "date-time"}, MOMENTS.map(dt.datetime.isoformat), utc)),
    st.just(Shape({"type": "string", "format": "time"}, TIMES.map(dt.time.isoformat), dt.time.fromisoformat)),
    st.just(Shape({"type": "string", "format": "duration"}, SPANS)),
    st.just(Shape({"type": "string", "format": "uuid"}, st.uuids().map(str))),
    st.just(Shape({"type": "string", "format": "email"}, st.just("a@b.example"))),
    st.just(Shape({}, st.none() | st.integers(0, 9) | st.text(), text=True, strict=False)),
    st.builds(limited, st.integers(-9, 9), st.integers(1, 3), st.booleans()),
    st.lists(st.none() | st.sampled_from([1, 2, -3]), min_size=1, unique=True).map(constants),
    st.lists(st.sampled_from([0.5, 1.25]), min_size=1, unique=True).map(constants),
    st.sampled_from([["a", 1, None], [True, "true"], [1.5, "x"]]).map(constants),
    WORDS.map(constants),
    WORDS.map(several_constants),
)  # fmt: skip


def an_array(item: Shape, least: int) -> Shape:
    kind = {"type": "array", "items": item.kind, "minItems": least, "maxItems": least + 2}
    values = st.lists(item.values, min_size=least, max_size=least + 2)
    return Shape(kind, values, items_of(item), item.strict)


def an_object(fields: Mapping[str, Shape], closed: bool, typed: bool) -> Shape:
    kind: dict[str, Any] = {
        "properties": {name: shape.kind for name, shape in fields.items()},
        "required": [name for name, shape in fields.items() if shape.required],
        **({"type": "object"} if typed else {}),
        **({"additionalProperties": False} if closed else {}),
    }
    strict = all(shape.strict for shape in fields.values())
    return Shape(kind, an_instance(fields), struct_of(fields), strict)


def a_map(value: Shape) -> Shape:
    def pairs(values: Any) -> Any:
        return [(key, landed(value, one)) for key, one in values.items()]

    kind = {"type": "object", "additionalProperties": value.kind}
    return Shape(kind, st.dictionaries(st.text(max_size=3), value.values, max_size=2), pairs, strict=False)


def wrapped(inner: Shape, way: str) -> Shape:
    """The same said otherwise."""
    if way == "allOf":
        return dataclasses.replace(inner, kind={"allOf": [inner.kind], "description": "One part."})
    if inner.kind.get("type") not in ("string", "array") or "nullable" in inner.kind:
        way = "anyOf"  # it might be null itself, and `oneOf` is not of two
    kind = {way: [inner.kind, {"type": "null"}]}
    return dataclasses.replace(inner, kind=kind, values=st.none() | inner.values)


SCHEMAS = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        st.builds(an_array, inner, st.integers(0, 1)),
        st.builds(an_object, fields_of(inner), st.booleans(), st.booleans()),
        st.builds(a_map, inner),
        st.builds(wrapped, inner.filter(lambda one: one.kind != {}), st.sampled_from(["allOf", "anyOf", "oneOf"])),
    ),
    max_leaves=6,
)


def with_definitions(schema: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The same schema, of which some properties are references to definitions with names that have to be escaped."""
    said = dict(schema["properties"])
    named = {}
    for key, name in zip(sorted(said), names, strict=False):
        named[name], said[key] = said[key], {"$ref": f"#/$defs/{escaped(name)}", "description": "Elsewhere."}
    return {**schema, "properties": said, "$defs": named}


def escaped(name: str) -> str:
    return name.replace("%", "%25").replace("~", "~0").replace("/", "~1").replace(" ", "%20")


# Pydantic models, dataclasses and TypedDicts


def a_literal(values: Sequence[Any]) -> Shape:
    return dataclasses.replace(constants(values), kind=Literal[tuple(values)])


def an_enum(values: Sequence[Any]) -> Shape:
    kind = enum.Enum("Chosen", {f"M{place}": value for place, value in enumerate(values)})  # type: ignore[misc]
    return dataclasses.replace(constants(values), kind=kind)


def money(text: str) -> Decimal:
    return Decimal(text).quantize(Decimal("0.01"))


TYPES = st.one_of(
    st.just(Shape(str, st.text())),
    st.just(Shape(Annotated[str, Field(min_length=1, description="x")], st.text("ab", min_size=1))),
    st.just(Shape(bool, st.booleans())),
    st.just(Shape(int, WHOLE)),
    st.just(Shape(Annotated[int, Field(ge=0)], st.integers(0, 9))),
    st.just(Shape(float, FLOATS)),
    st.just(Shape(bytes, st.text(), str.encode)),
    st.just(Shape(dt.date, DATES, dt.date.fromisoformat)),
    st.just(Shape(dt.datetime, MOMENTS.map(dt.datetime.isoformat), utc)),
    st.just(Shape(dt.time, TIMES.map(dt.time.isoformat), dt.time.fromisoformat)),
    st.just(Shape(dt.timedelta, SPANS)),
    st.just(Shape(uuid.UUID, st.uuids().map(str))),
    st.just(Shape(Annotated[Decimal, Field(max_digits=8, decimal_places=2)],
                  st.decimals(-9999, 9999, places=2).map(str), money)),
    st.just(Shape(Any, st.none() | st.text() | st.lists(st.integers(0, 9)), text=True, strict=False)),
    st.just(Shape(int | str, st.integers(0, 9) | st.text("ab"), text=True)),
    st.just(Shape(tuple[int, str], st.just([1, "a"]), text=True, strict=False)),
    WORDS.map(a_literal),
    WORDS.map(an_enum),
    st.just(an_enum([1, 2])),
    st.just(a_literal([1, "a", None])),
)  # fmt: skip


def a_list(item: Shape, kind: Any) -> Shape:
    annotation = tuple[item.kind, ...] if kind is tuple else kind[item.kind]
    return Shape(annotation, st.lists(item.values, max_size=2), items_of(item), item.strict)


def a_mapping(value: Shape) -> Shape:
    return dataclasses.replace(a_map(value), kind=dict[str, value.kind])  # type: ignore[name-defined]


def maybe(inner: Shape) -> Shape:
    return dataclasses.replace(inner, kind=Optional[inner.kind], values=st.none() | inner.values)  # noqa: UP045


def without_default(fields: Mapping[str, Shape]) -> list[str]:
    return sorted(fields, key=lambda name: not fields[name].required)


def a_class(fields: Mapping[str, Shape], way: str, name: str = "Made") -> Any:
    """A Pydantic model, a dataclass or a TypedDict of these fields."""
    types = {name: shape.kind if shape.required else Union[shape.kind, None] for name, shape in fields.items()}  # noqa: UP007
    if way == "model":
        return create_model(
            name, **{key: (types[key], ... if shape.required else None) for key, shape in fields.items()}
        )
    if way == "dataclass":
        in_order = without_default(fields)
        made = [(key, types[key], *(() if fields[key].required else (None,))) for key in in_order]
        return dataclasses.make_dataclass(name, made)
    keys = {key: types[key] if shape.required else NotRequired[types[key]] for key, shape in fields.items()}
    return TypedDict(name, keys)  # type: ignore[operator]


WAYS = st.sampled_from(["model", "dataclass", "typed dict"])


def ordered(fields: Mapping[str, Shape], way: str) -> dict[str, Shape]:
    return {name: fields[name] for name in (without_default(fields) if way == "dataclass" else fields)}


def nested(fields: Mapping[str, Shape], way: str) -> Shape:
    strict = all(shape.strict for shape in fields.values())
    return Shape(a_class(fields, way), an_instance(fields), struct_of(fields), strict)


CLASS_NAMES = st.sampled_from(["a", "b", "title", "type", "items", "Answer", "Made"])
"""No methods of a Pydantic model, of which it warns."""

ANNOTATIONS = st.recursive(
    TYPES,
    lambda inner: st.one_of(
        st.builds(a_list, inner, st.sampled_from([list, tuple, Sequence])),
        st.builds(a_mapping, inner),
        st.builds(maybe, inner),
        st.builds(nested, fields_of(inner, CLASS_NAMES), WAYS),
    ),
    max_leaves=6,
)
