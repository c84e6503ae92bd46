"""A Pydantic model as Arrow columns: one type per field, whatever the data."""

from __future__ import annotations

import datetime as dt
import enum
import json
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from decimal import Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import pydantic
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from ractobatch_dagster.records import asked_fields, bare, field_hints, is_record

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "model_columns"]

Convert = Callable[[Any], Any]

# Pydantic's own names for what comes out as a plain date or time
_ALIASES: dict[Any, type] = {
    pydantic.AwareDatetime: dt.datetime,
    pydantic.NaiveDatetime: dt.datetime,
    pydantic.PastDatetime: dt.datetime,
    pydantic.FutureDatetime: dt.datetime,
    pydantic.PastDate: dt.date,
    pydantic.FutureDate: dt.date,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One Arrow column: its name and type, and how a validated Python value becomes what Arrow takes.

    `convert` raises `ValueError` where the type cannot hold the value.
    """

    name: str
    type: pa.DataType
    convert: Convert
    description: str | None = None

    def field(self) -> pa.Field:
        """The Arrow field; always nullable, since only a row whose status is `ok` has answers."""
        import pyarrow as pa

        metadata = {b"description": self.description.encode()} if self.description else None
        return pa.field(self.name, self.type, nullable=True, metadata=metadata)


def model_columns(model: type[BaseModel]) -> list[Column]:
    """One column per field of the model, in order.

    Numbers, text, booleans, bytes, dates and times keep their kind; `Literal` and `Enum` of text become
    dictionary columns; lists become lists, and nested models, dataclasses and TypedDicts structs; `Decimal` keeps its
    declared digits, or 29 before and 9 after the point; other scalars (`UUID`, a URL, a duration) are text. What has no
    fixed shape (an open union, `Any`, a model that contains itself) is kept as JSON text.
    """
    columns = []
    for name, info in model.model_fields.items():
        arrow, convert = _arrow(info.annotation, tuple(info.metadata), (model,))
        columns.append(Column(name, arrow, _nullable(convert), info.description))
    return columns


def _nullable(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)


def _same(value: Any) -> Any:
    return value


def _json_text(value: Any) -> str:
    return json.dumps(to_jsonable_python(value, inf_nan_mode="null", fallback=str), ensure_ascii=False)


def _plain_text(value: Any) -> str:
    plain = to_jsonable_python(value, fallback=str)
    return plain if isinstance(plain, str) else _json_text(value)


def _member_value(member: Any) -> Any:
    """An enum's member as its value, which it is already under `use_enum_values`."""
    return member.value if isinstance(member, enum.Enum) else member


def _arrow(annotation: Any, constraints: tuple[Any, ...], inside: tuple[Any, ...]) -> tuple[pa.DataType, Convert]:
    import pyarrow as pa

    annotation = _ALIASES.get(annotation, annotation) if isinstance(annotation, type) else annotation
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        own = [part for one in args[1:] for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
        return _arrow(args[0], (*constraints, *own), inside)
    if origin in (Union, types.UnionType):
        some = [arg for arg in args if arg is not type(None)]
        if len(some) == 1:
            return _arrow(some[0], constraints, inside)
        return pa.string(), _json_text
    if origin is Literal:
        return _constants(args)
    if origin in (list, set, frozenset, tuple, Sequence) or annotation in (list, set, frozenset, tuple):
        return _sequence(origin or annotation, args, inside)
    if origin in (dict, Mapping) and len(args) == 2 and args[0] is str:
        value, convert = _arrow(args[1], (), inside)
        convert = _nullable(convert)
        return pa.map_(pa.string(), value), lambda items: [(k, convert(v)) for k, v in items.items()]
    if annotation in (Any, object):  # both are classes, of which anything may be an instance
        return pa.string(), _json_text
    if is_record(annotation):
        return _struct(annotation, inside)
    if isinstance(annotation, type):
        return _plain(annotation, constraints, inside)
    return pa.string(), _json_text


def _sequence(origin: Any, args: tuple[Any, ...], inside: tuple[Any, ...]) -> tuple[pa.DataType, Convert]:
    import pyarrow as pa

    if origin is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return pa.string(), _json_text  # a tuple of fixed places has no single item type
    item, convert = _arrow(args[0], (), inside) if args else (pa.string(), _json_text)
    convert = _nullable(convert)
    if origin in (set, frozenset):  # in an order of their own, which differs from process to process
        return pa.list_(item), lambda values: [convert(value) for value in sorted(values, key=repr)]
    return pa.list_(item), lambda values: [convert(value) for value in values]


def _plain(kind: type, constraints: tuple[Any, ...], inside: tuple[Any, ...]) -> tuple[pa.DataType, Convert]:
    import pyarrow as pa

    if issubclass(kind, BaseModel):
        return _struct(kind, inside)
    if issubclass(kind, enum.Enum):
        return _constants(tuple(kind))
    if issubclass(kind, Decimal):
        return _decimal(constraints)
    # bool before int, datetime before date: each is a subclass of the other
    simple: list[tuple[type, pa.DataType, Convert]] = [
        (bool, pa.bool_(), _same),
        (int, pa.int64(), _int64),
        (float, pa.float64(), _same),
        (str, pa.string(), str),
        (bytes, pa.binary(), _same),
        (dt.datetime, pa.timestamp("us", tz="UTC"), _utc),
        (dt.date, pa.date32(), _same),
        (dt.time, pa.time64("us"), lambda time: time.replace(tzinfo=None)),
    ]
    for base, arrow, convert in simple:
        if issubclass(kind, base):
            return arrow, convert
    return pa.string(), _plain_text


def _struct(kind: Any, inside: tuple[Any, ...]) -> tuple[pa.DataType, Convert]:
    import pyarrow as pa

    fields = {} if kind in inside else _fields(kind)
    if not fields:
        return pa.string(), _json_text
    parts = {
        name: _arrow(annotation, constraints, (*inside, kind)) for name, (annotation, constraints) in fields.items()
    }
    arrow = pa.struct([pa.field(name, part[0]) for name, part in parts.items()])
    converters = {name: _nullable(part[1]) for name, part in parts.items()}
    if is_record(kind) and not is_dataclass(get_origin(kind) or kind):  # a TypedDict may be without a key
        return arrow, lambda value: {name: convert(value.get(name)) for name, convert in converters.items()}
    return arrow, lambda value: {name: convert(getattr(value, name)) for name, convert in converters.items()}


def _fields(kind: Any) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Annotation and constraints of each field, as Pydantic sees them; none where it alone can find the names."""
    if not is_record(kind):
        return {name: (info.annotation, tuple(info.metadata)) for name, info in kind.model_fields.items()}
    try:
        hints = {name: bare(hint) for name, hint in field_hints(kind, bases=False).items()}
    except (NameError, TypeError):
        return {}
    if not is_dataclass(get_origin(kind) or kind):
        return {name: (hint, ()) for name, hint in hints.items()}
    return {name: (hints[name], tuple(said.metadata) if said else ()) for name, (_, said) in asked_fields(kind).items()}


def _constants(values: tuple[Any, ...]) -> tuple[pa.DataType, Convert]:
    import pyarrow as pa

    kinds = {type(_member_value(value)) for value in values} - {type(None)}
    if kinds == {bool}:
        return pa.bool_(), _member_value
    if kinds == {int}:
        return pa.int64(), _member_value
    if kinds and kinds <= {int, float}:
        return pa.float64(), lambda value: float(_member_value(value))
    if kinds <= {str}:
        return pa.dictionary(pa.int32(), pa.string()), _member_value
    return pa.string(), lambda value: _json_text(_member_value(value))


def _decimal(constraints: tuple[Any, ...]) -> tuple[pa.DataType, Convert]:
    import pyarrow as pa

    digits, places = 38, 9
    if (given := _declared(constraints, "decimal_places")) is not None:
        digits, places = min(_declared(constraints, "max_digits") or 38, 38), given
    unit, context = Decimal(1).scaleb(-places), Context(prec=digits)

    def convert(value: Decimal) -> Decimal:
        try:
            number = value.quantize(unit, context=context)
        except InvalidOperation as error:
            raise ValueError(f"{value} has more than {digits - places} digits before the point") from error
        if not number.is_finite():
            raise ValueError(f"{value} is not a finite number")
        return number

    return pa.decimal128(digits, places), convert


def _declared(constraints: tuple[Any, ...], name: str) -> int | None:
    return next((given for one in constraints if (given := getattr(one, name, None)) is not None), None)


def _int64(value: int) -> int:
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{value} does not fit into 64 bits")
    return value


def _utc(value: dt.datetime) -> dt.datetime:
    try:
        return value.astimezone(dt.UTC) if value.tzinfo else value.replace(tzinfo=dt.UTC)
    except OverflowError as error:  # Arrow would hold it, and whoever reads the column would fail on it
        raise ValueError(f"{value} is outside the years 1 to 9999 in UTC") from error
