"""Outputs of all shapes: each is asked for by the rules of strict mode and read back as it was answered, or refused."""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, create_model
from typing_extensions import TypedDict

from ractobatch_dagster import ConfigurationError
from ractobatch_dagster.json_schema import prompt_schema, response_format
from ractobatch_dagster.output import output_type
from ractobatch_dagster.results.answers import Answers
from tests.shapes import (
    ANNOTATIONS,
    CLASS_NAMES,
    NOTHING,
    SCHEMAS,
    SIMPLE,
    TYPES,
    WAYS,
    Shape,
    a_class,
    an_object,
    fields_of,
    landed,
    ordered,
    values_of,
    with_definitions,
)
from tests.test_json_schema import ALLOWED, schemas


def check_sent(model: type[BaseModel], strict: bool) -> None:
    """What the API is sent keeps the rules of strict mode wherever there are no free-form parts."""
    made = response_format(model)
    assert made is not None
    assert json.dumps(prompt_schema(model))
    root = made["json_schema"]["schema"]
    json.dumps(made, allow_nan=False)
    assert made["json_schema"]["strict"] is strict
    assert root["type"] == "object"
    if strict:
        check_strict(root)


def check_strict(root: dict[str, Any]) -> None:
    """By OpenAI's rules."""
    for node in schemas(root):
        assert set(node) <= ALLOWED
        assert "$ref" not in node or (set(node) == {"$ref"} and node["$ref"].rpartition("/")[2] in root["$defs"])
        assert {"type", "anyOf", "$ref"} & set(node)
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])


def through_parquet(model: type[BaseModel], texts: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table of these answers, read back from its file."""
    answers = Answers(model)
    arrays, problems = answers.read([*texts, None])
    assert problems == [None] * (len(texts) + 1)
    table = pa.table(arrays, schema=pa.schema(answers.fields))
    table.validate(full=True)
    file = io.BytesIO()
    pq.write_table(table, file)
    back = pq.read_table(io.BytesIO(file.getvalue()))
    # PyArrow 18 reads the words of a dictionary inside a map as strings
    assert back.schema.equals(table.schema) or any("map<" in str(kind) for kind in table.schema.types)
    assert table.schema.types == [field.type for field in Answers(model).fields]
    *rows, last = back.to_pylist()
    assert set(last.values()) <= {None}
    return rows


def a_round_trip(kind: Any, fields: Mapping[str, Shape], draw: st.DataObject) -> None:
    """One output type, sent, answered and read."""
    model = output_type(kind)
    check_sent(model, all(shape.strict for shape in fields.values()))
    answer = st.fixed_dictionaries({name: values_of(shape) for name, shape in fields.items()})
    given_ = draw.draw(st.lists(answer, max_size=3))
    texts = [json.dumps({key: one for key, one in row.items() if one is not NOTHING}) for row in given_]
    for row, read in zip(given_, through_parquet(model, texts), strict=True):
        assert list(read) == list(fields)
        for name, shape in fields.items():
            assert read[name] == landed(shape, row[name])


@given(
    fields=fields_of(SCHEMAS), closed=st.booleans(), typed=st.booleans(), data=st.data(),
    names=st.lists(st.sampled_from(["A", "Answer", "a b", "c/d", "e~f", "g%h", "Node"]), unique=True, max_size=3),
)  # fmt: skip
def test_schemas_round_trip(
    fields: dict[str, Shape], closed: bool, typed: bool, names: list[str], data: st.DataObject
) -> None:
    """Any that we understand."""
    a_round_trip(with_definitions(an_object(fields, closed, typed).kind, names), fields, data)


@given(fields=fields_of(ANNOTATIONS, CLASS_NAMES), way=WAYS, data=st.data())
def test_classes_round_trip(fields: dict[str, Shape], way: str, data: st.DataObject) -> None:
    """Any that is made of known types."""
    fields = ordered(fields, way)
    a_round_trip(a_class(fields, way, "Answer"), fields, data)


# what nobody should say


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from([2**64, 1e300, "", "a", "string",
        "object", "array", "integer", "null", "#", "#/", "#/$defs/A", "#/properties/a", "date", "(", "^a$"]),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["a", "type", "$ref"]), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip
KEYWORDS = st.sampled_from(
    ["type", "properties", "required", "additionalProperties", "items", "enum", "const", "anyOf", "oneOf", "allOf",
     "$ref", "nullable", "format", "pattern", "minLength", "maxLength", "minimum", "exclusiveMaximum", "multipleOf",
     "minItems", "uniqueItems", "title", "description", "default", "not", "$id", "example"]
)  # fmt: skip
ODD_NAMES = st.sampled_from(
    ["a", "", " ", "A", "Answer", "Config", "model_dump", "model_fields", "_a", "__init__", "mro", "copy", "self",
     "a.b", "ä", "None", "class"]
)  # fmt: skip


def odd_schemas(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Schemas of which most say something, with keywords in places where they may not be."""
    named = st.dictionaries(ODD_NAMES, inner, min_size=1, max_size=3)
    real = st.one_of(
        st.builds(lambda fields, required: {"type": "object", "properties": fields, "required": required},
                  named, st.lists(ODD_NAMES, max_size=1)),
        st.builds(lambda item: {"type": "array", "items": item}, inner),
        st.builds(lambda way, parts: {way: parts}, st.sampled_from(["anyOf", "oneOf", "allOf"]),
                  st.lists(inner, max_size=2)),
        st.builds(lambda name: {"$ref": f"#/$defs/{name}"}, st.sampled_from("ABC")),
        inner,
    )  # fmt: skip
    return st.builds(
        lambda node, more: {**node, **more} if isinstance(node, dict) else node,
        real,
        st.just({}) | st.dictionaries(KEYWORDS, VALUES, max_size=2),
    )


ODD = st.recursive(SIMPLE.map(lambda shape: shape.kind) | VALUES, odd_schemas, max_leaves=8)


@given(
    schema=ODD.filter(lambda node: isinstance(node, dict)) | st.builds(
        lambda fields: {"type": "object", "properties": fields}, st.dictionaries(ODD_NAMES, ODD, min_size=1, max_size=3)
    ),
    definitions=st.dictionaries(st.sampled_from("ABC"), ODD, max_size=3),
)  # fmt: skip
def test_odd_schemas_are_refused_or_understood(schema: dict[str, Any], definitions: dict[str, Any]) -> None:
    """Nothing else is raised, and what is sent keeps the rules."""
    try:
        model = output_type({**schema, "$defs": definitions})
    except ConfigurationError as error:
        assert str(error).startswith("output")  # noqa: PT017 (most are refused, not all)
        return
    made = response_format(model)
    assert made is not None
    json.dumps(made)
    if made["json_schema"]["strict"]:
        check_strict(made["json_schema"]["schema"])
    Answers(model).read(["{}", "[]", '{"a": 1}', '{"a": null}', None])


class Strange:
    """Known to nobody."""


T = TypeVar("T")

ODD_TYPES = st.sampled_from(
    [Callable, Callable[[int], str], object, type, type[int], complex, T, Strange, range, None, list, dict, tuple, set,
     tuple[()], Literal[()], "int", "Nowhere", "list[", 3, ..., Annotated[str, Field(pattern="(")],
     Annotated[int, Field(max_length=2)], frozenset[int], enum.Flag, enum.Enum, BaseModel, list["Nowhere"], Decimal]  # noqa: F821
)  # fmt: skip


# a dataclass takes the class's own method `mro` for a default
ODD_FIELDS = st.dictionaries(
    ODD_NAMES.filter(lambda name: name != "mro"),
    ODD_TYPES | TYPES.map(lambda shape: shape.kind),
    min_size=1,
    max_size=3,
)


def an_odd_class(fields: dict[str, Any], way: str) -> Any:
    """As Python and Pydantic make it."""
    if way == "dataclass":
        return dataclasses.make_dataclass("Odd", list(fields.items()))
    if way == "typed dict":
        return TypedDict("Odd", fields)  # type: ignore[operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = ConfigDict(arbitrary_types_allowed=True)
        return create_model("Odd", __config__=config, **{name: (kind, ...) for name, kind in fields.items()})  # type: ignore[call-overload]


@given(fields=ODD_FIELDS, way=WAYS, depth=st.integers(0, 1))
def test_odd_classes_are_refused_or_understood(fields: dict[str, Any], way: str, depth: int) -> None:
    """Nothing else is raised when they are asked for."""
    try:
        kind = an_odd_class(fields, way)
    except Exception:  # noqa: BLE001 (whatever it is, it is raised before we are asked)
        return
    kind = dataclasses.make_dataclass("Around", [("odd", list[kind])]) if depth else kind
    try:
        model = output_type(kind)
        made = response_format(model)
    except ConfigurationError as error:
        assert str(error).startswith("output")  # noqa: PT017 (most are refused, not all)
        return
    assert made is not None
    if made["json_schema"]["strict"]:
        check_strict(made["json_schema"]["schema"])
    Answers(model).read(["{}", "[]", '{"a": 1}', '{"a": null}', None])
