"""The answer texts of one output model as Arrow columns, quickly where the model is plain."""

from __future__ import annotations

import enum
import inspect
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel

from ractobatch_dagster.embedding import Embedding
from ractobatch_dagster.results.classify import parse_text
from ractobatch_dagster.results.schema import model_columns
from ractobatch_dagster.results.vectors import read_vectors, vector_type

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Answers"]


class Answers:
    """The answer texts of one output model as Arrow columns.

    The general way validates with Pydantic and converts field by field. Where the model is plain (texts, numbers,
    booleans, literals and enums, optional ones, lists, models of these; no validators, aliases or settings that
    change a value), a text that is exactly as the model says is decoded by msgspec instead, to the same values;
    anything else (a number for a text, a key that is missing or too much, a Markdown fence) goes the general way.

    Attributes:
        fields: The columns' Arrow fields, in the model's order; empty where there is no output model.
        plain: Whether the model is plain.
    """

    fields: list[pa.Field]
    plain: bool

    def __init__(self, output_type: type[BaseModel] | None) -> None:
        self._output_type = output_type
        self._vectors = output_type if output_type is not None and issubclass(output_type, Embedding) else None
        self._columns = model_columns(output_type) if output_type else []
        if self._vectors:
            self._columns = [replace(self._columns[0], type=vector_type())]
        self.fields = [column.field() for column in self._columns]
        kind = _plain_type(output_type) if output_type else None
        self.plain = kind is not None
        self._decode = msgspec.json.Decoder(kind).decode if kind is not None else None

    def read(self, texts: Sequence[str | None]) -> tuple[list[pa.Array], list[str | None]]:
        """One array per field, and for each text what is wrong with it, or `None`.

        A text of `None` gives nulls and no problem; where there is a problem, the row's values are null. About 1,000
        texts at a time are quickest. A dictionary holds the words that occur, in the order in which they first do;
        Arrow unifies the dictionaries of blocks in their order, so that the joined column does not tell the blocks.
        """
        if self._output_type is None:
            return [], [None] * len(texts)
        if self._vectors:
            vectors, wrong = read_vectors(texts, self._vectors.dimensions)
            return [vectors], wrong
        decode, nothing = self._decode, (None,) * len(self._columns)
        rows: list[Sequence[Any]] = []
        problems: list[str | None] = [None] * len(texts)
        for number, text in enumerate(texts):
            if text is None:
                rows.append(nothing)
                continue
            if decode is not None:
                try:
                    rows.append(msgspec.structs.astuple(decode(text)))
                    continue
                except (msgspec.MsgspecError, UnicodeEncodeError):
                    pass  # Pydantic may take it all the same, and says what is wrong where it does not
            values, problems[number] = self._values(text, self._output_type)
            rows.append(nothing if values is None else values)
        try:
            return self._arrays(rows), problems
        except _UNFIT:  # one row must not stop all
            for number, row in enumerate(rows):
                try:
                    self._arrays([row])
                except _UNFIT as error:
                    rows[number], problems[number] = nothing, str(error)
        return self._arrays(rows), problems

    def _arrays(self, rows: Sequence[Sequence[Any]]) -> list[pa.Array]:
        arrays = []
        for place, field in enumerate(self.fields):
            column = [row[place] for row in rows]
            if self.plain and _holds_struct(field.type):
                column = msgspec.to_builtins(column)  # structs become the dicts that the general way makes
            arrays.append(_array(column, field.type))
        return arrays

    def _values(self, text: str, output_type: type[BaseModel]) -> tuple[list[Any] | None, str | None]:
        """The general way: the values, or what is wrong: the text fits not the model, or the model not the columns."""
        value, problem = parse_text(text, output_type)
        try:
            if value is not None:
                return [column.convert(getattr(value, column.name)) for column in self._columns], None
        except Exception as error:  # noqa: BLE001 (a default of the user's may be anything, and one row must not stop all)
            problem = f"{type(error).__name__}: {error}" if isinstance(error, AttributeError) else str(error)
        return None, problem or "it does not fit"


_UNFIT = (ValueError, TypeError, ArithmeticError, NotImplementedError)
"""What a value that fits no column raises; Arrow's own errors are among them."""


def _holds_struct(kind: pa.DataType) -> bool:
    import pyarrow as pa

    while pa.types.is_list(kind) or pa.types.is_map(kind):
        kind = kind.value_type if pa.types.is_list(kind) else kind.item_type
    return bool(pa.types.is_struct(kind))


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """The values as Arrow has them; field by field where there are structs.

    PyArrow by itself leaves an index that points to no word under a null struct, on which other libraries fail.
    """
    import pyarrow as pa

    if not _holds_struct(kind):
        return pa.array(values, kind)
    absent = pa.array([value is None for value in values], pa.bool_())
    if pa.types.is_struct(kind):
        parts = [_array([value and value[part.name] for value in values], part.type) for part in kind]
        return pa.StructArray.from_arrays(parts, fields=list(kind), mask=absent)
    lists = [value or () for value in values]
    inside = list(chain.from_iterable(lists))
    ends = pa.array([0, *accumulate(map(len, lists))], pa.int32())
    if pa.types.is_list(kind):
        return pa.ListArray.from_arrays(ends, _array(inside, kind.value_type), type=kind, mask=absent)
    keys = pa.array([key for key, _ in inside], kind.key_type)
    items = _array([value for _, value in inside], kind.item_type)
    return pa.MapArray.from_arrays(ends, keys, items, type=kind, mask=absent)


class _NotPlain(Exception):  # noqa: N818 (it tells no failure: the model goes the general way)
    """A part of the model for which it is not certain that msgspec would give the same values."""


def _plain_type(model: type[BaseModel]) -> Any:
    """A msgspec type of which every value is what the general way makes of the same text; `None` if there is none."""
    if not model.__pydantic_complete__:
        return None
    schema: Mapping[str, Any] = model.__pydantic_core_schema__
    definitions: Mapping[str, Any] = {}
    if schema["type"] == "definitions":
        definitions = {one["ref"]: one for one in schema["definitions"]}
        schema = schema["schema"]
    try:
        return _Plain(definitions).kind(model, schema, ())
    except _NotPlain:
        return None


_BOUNDS = {"ge", "gt", "le", "lt"}
# All that a part of Pydantic's core schema may say. What is not listed here (a validator, a setting, what a later
# version brings) makes the model not plain.
_SAYS: dict[str, set[str]] = {
    "bool": set(),
    "int": _BOUNDS,
    "float": _BOUNDS,
    "str": {"min_length", "max_length"},
    "list": {"items_schema", "min_length", "max_length"},
    "literal": {"expected"},
    "enum": {"cls", "members", "sub_type"},
    "nullable": {"schema"},
    # what a missing key means; such a text goes the general way, unless it means None
    "default": {"schema", "default", "default_factory", "default_factory_takes_data", "copy_default"},
    "model": {"cls", "schema", "config", "custom_init", "root_model", "frozen"},
    "model-fields": {"fields", "model_name", "computed_fields"},  # computed ones are no columns
    "model-field": {"schema", "frozen"},
    "definition-ref": {"schema_ref"},
}
_ALWAYS = {"type", "ref", "metadata"}  # metadata is for the JSON schema only
# a text with a key too much goes the general way, whatever is to become of it
_HARMLESS_CONFIG = {"title", "extra_fields_behavior", "frozen"}
_OWN = ("__new__", "__getattribute__", "model_validate_json")
_SCALARS = {"bool": bool, "int": int, "float": float, "str": str}


class _Plain:
    """Annotations, each with its core schema, as msgspec types; `_NotPlain` where they differ or might.

    The annotation decides what the column is, the schema what is valid, so that both must say the same.
    """

    def __init__(self, definitions: Mapping[str, Any]) -> None:
        self._definitions = definitions
        self._ways: dict[str, Callable[[Any, Mapping[str, Any], tuple[type, ...]], Any]] = {
            **dict.fromkeys(_SCALARS, _scalar),
            "literal": _literal,
            "enum": _enum,
            "list": self._list,
            "nullable": self._optional,
            "model": self._model,
        }

    def kind(self, annotation: Any, schema: Mapping[str, Any], inside: tuple[type, ...]) -> Any:
        """The msgspec type of one annotation; `inside` are the models around it."""
        schema = self._known(schema)
        while get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        _demand(schema["type"] in self._ways)
        return self._ways[schema["type"]](annotation, schema, inside)

    def _known(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema itself, where a reference stands for it, if it says only what is known."""
        _demand(schema.keys() - _ALWAYS <= _SAYS.get(schema["type"], set()))
        if schema["type"] == "definition-ref":
            _demand(schema["schema_ref"] in self._definitions)
            return self._known(self._definitions[schema["schema_ref"]])
        return schema

    def _list(self, annotation: Any, schema: Mapping[str, Any], inside: tuple[type, ...]) -> Any:
        _demand(get_origin(annotation) is list and "items_schema" in schema)
        item = self.kind(get_args(annotation)[0], schema["items_schema"], inside)
        return _within(list[item], schema, ("min_length", "max_length"))  # type: ignore[valid-type]

    def _optional(self, annotation: Any, schema: Mapping[str, Any], inside: tuple[type, ...]) -> Any:
        some = [arg for arg in get_args(annotation) if arg is not type(None)]
        _demand(get_origin(annotation) in (Union, types.UnionType) and len(some) == 1)
        return Union[self.kind(some[0], schema["schema"], inside), None]  # noqa: UP007 (a type made at run time)

    def _model(self, annotation: Any, schema: Mapping[str, Any], inside: tuple[type, ...]) -> Any:
        model: type[BaseModel] = schema["cls"]
        parts = self._known(schema["schema"])
        _demand(annotation is model and model not in inside and parts["type"] == "model-fields")
        _demand(not any(schema.get(name) for name in ("custom_init", "root_model")))
        _demand(schema.get("config", {}).keys() <= _HARMLESS_CONFIG)
        _demand(all(inspect.getattr_static(model, name) is inspect.getattr_static(BaseModel, name) for name in _OWN))
        # a property, or a method, of the name would stand before or behind the value
        _demand(bool(model.model_fields) and not any(hasattr(model, name) for name in model.model_fields))
        _demand(all(name.isidentifier() for name in model.model_fields))
        fields: list[Any] = []
        for name, info in model.model_fields.items():
            field = self._known(self._known(parts["fields"][name])["schema"])
            default: tuple[Any, ...] = ()
            if field["type"] == "default":
                default = (None,) if field.get("default", ...) is None else ()
                field = field["schema"]
            fields.append((name, self.kind(info.annotation, field, (*inside, model)), *default))
        return msgspec.defstruct(model.__name__, fields, gc=False, kw_only=True, forbid_unknown_fields=True)


def _demand(certain: bool) -> None:
    if not certain:
        raise _NotPlain


def _scalar(annotation: Any, schema: Mapping[str, Any], _inside: tuple[type, ...]) -> Any:
    kind = schema["type"]
    _demand(annotation is _SCALARS[kind])
    if kind == "int":
        return _number(int, schema, -(1 << 63), (1 << 63) - 1)  # what the column holds
    if kind == "float":
        # beyond, versions of Pydantic differ on whether a whole number is a float
        return _number(float, schema, -(1 << 53), 1 << 53)
    return _within(annotation, schema, ("min_length", "max_length"))


def _number(kind: type, schema: Mapping[str, Any], lowest: int, highest: int) -> Any:
    limits: dict[str, Any] = {"ge": lowest, "le": highest, **{name: schema[name] for name in _BOUNDS & schema.keys()}}
    _demand(all(type(bound) in (int, kind) and lowest <= bound <= highest for bound in limits.values()))
    for closed, opened in (("ge", "gt"), ("le", "lt")):
        if opened in limits:  # msgspec takes one of the two, and not the last number of all
            _demand(closed not in schema and lowest < limits[opened] < highest)
            del limits[closed]
    return Annotated[kind, msgspec.Meta(**limits)]


def _within(kind: Any, schema: Mapping[str, Any], names: Sequence[str]) -> Any:
    limits = {name: schema[name] for name in names if schema.get(name) is not None}
    return Annotated[kind, msgspec.Meta(**limits)] if limits else kind


def _literal(annotation: Any, schema: Mapping[str, Any], _inside: tuple[type, ...]) -> Any:
    _demand(get_origin(annotation) is Literal)
    return _one_of(schema["expected"])


def _enum(annotation: Any, schema: Mapping[str, Any], _inside: tuple[type, ...]) -> Any:
    """An enum as the literals that its members' values are, which is what its column holds."""
    _demand(annotation is schema["cls"] and not issubclass(annotation, enum.Flag))
    values = [member.value for member in schema["members"]]
    _demand(schema.get("sub_type") in (None, *{type(value).__name__ for value in values}))
    return _one_of(values)


def _one_of(values: Sequence[Any]) -> Any:
    kinds = {type(value) for value in values} - {type(None)}
    _demand(
        kinds == {str}
        or (kinds == {int} and all(-(1 << 63) <= value < 1 << 63 for value in values if value is not None))
    )
    return Literal[tuple(values)]
