"""Pydantic models as Arrow columns."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Sequence
from decimal import Decimal
from enum import Enum, IntEnum
from ipaddress import IPv4Address
from typing import Annotated, Any, Literal
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, HttpUrl, PastDate, SecretStr, create_model

from ractobatch_dagster.results.schema import model_columns


class Colour(str, Enum):  # noqa: UP042 - its str() is not its value
    """Texts."""

    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    """Numbers."""

    LOW = 1
    HIGH = 2


class Mixed(Enum):
    """Either."""

    ONE = 1
    TWO = "two"


class Part(BaseModel):
    """A nested model."""

    name: str
    colour: Colour | None = None


class Node(BaseModel):
    """A model that contains itself."""

    name: str
    children: list[Node] = []


words = pa.dictionary(pa.int32(), pa.string())
part = pa.struct([("name", pa.string()), ("colour", words)])
Money = Annotated[Decimal, Field(max_digits=8, decimal_places=2)]

TYPES: list[tuple[Any, Any, Any, pa.DataType, Any]] = [
    # annotation, default, JSON, Arrow type, as read back
    (int, ..., 3, pa.int64(), 3),
    (float, ..., 3, pa.float64(), 3.0),
    (bool, ..., True, pa.bool_(), True),
    (str, ..., "é", pa.string(), "é"),
    (bytes, ..., "ab", pa.binary(), b"ab"),
    (str | None, None, None, pa.string(), None),
    (Annotated[int, Field(gt=0)], ..., 3, pa.int64(), 3),
    (Annotated[int, Field(gt=0)] | None, ..., 3, pa.int64(), 3),
    (dt.date, ..., "2024-02-29", pa.date32(), dt.date(2024, 2, 29)),
    (PastDate, ..., "2024-02-29", pa.date32(), dt.date(2024, 2, 29)),
    (dt.time, ..., "12:30:01", pa.time64("us"), dt.time(12, 30, 1)),
    (
        dt.datetime,
        ...,
        "2024-02-29T12:00:00",
        pa.timestamp("us", tz="UTC"),
        dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
    ),
    (
        AwareDatetime,
        ...,
        "2024-02-29T12:00:00+02:00",
        pa.timestamp("us", tz="UTC"),
        dt.datetime(2024, 2, 29, 10, tzinfo=dt.UTC),
    ),
    (dt.timedelta, ..., "PT1H", pa.string(), "PT1H"),
    (UUID, ..., "12345678-1234-5678-1234-567812345678", pa.string(), "12345678-1234-5678-1234-567812345678"),
    (HttpUrl, ..., "https://example.com/a", pa.string(), "https://example.com/a"),
    (IPv4Address, ..., "10.0.0.1", pa.string(), "10.0.0.1"),
    (SecretStr, ..., "x", pa.string(), "**********"),
    (Decimal, ..., "1.5", pa.decimal128(38, 9), Decimal("1.500000000")),
    (Money, ..., "123456.78", pa.decimal128(8, 2), Decimal("123456.78")),
    (Money | None, ..., "1.5", pa.decimal128(8, 2), Decimal("1.50")),
    (list[Money], ..., ["1.5"], pa.list_(pa.decimal128(8, 2)), [Decimal("1.50")]),
    (
        Annotated[Decimal, Field(max_digits=8, decimal_places=2), Field(gt=0)],
        ...,
        "1.5",
        pa.decimal128(8, 2),
        Decimal("1.50"),
    ),
    (Colour, ..., "red", words, "red"),
    (Level, ..., 2, pa.int64(), 2),
    (Mixed, ..., "two", pa.string(), '"two"'),
    (Literal["a", "b"], ..., "a", words, "a"),
    (Literal["a", None], ..., None, words, None),
    (Literal[1, 2], ..., 2, pa.int64(), 2),
    (Literal[True], ..., True, pa.bool_(), True),
    (Literal[Colour.RED], ..., "red", words, "red"),
    (list[str], ..., ["a"], pa.list_(pa.string()), ["a"]),
    (list[int | None], ..., [1, None], pa.list_(pa.int64()), [1, None]),
    (tuple[int, ...], ..., [1, 2], pa.list_(pa.int64()), [1, 2]),
    (Sequence[int], ..., [1, 2], pa.list_(pa.int64()), [1, 2]),
    (set[str], ..., ["c", "b", "a"], pa.list_(pa.string()), ["a", "b", "c"]),
    (tuple[int, str], ..., [1, "a"], pa.string(), '[1, "a"]'),
    (list[Colour], ..., ["red"], pa.list_(words), ["red"]),
    (dict[str, int], ..., {"a": 1}, pa.map_(pa.string(), pa.int64()), [("a", 1)]),
    (dict[int, int], ..., {"1": 2}, pa.string(), '{"1": 2}'),
    (Part, ..., {"name": "n", "colour": "red"}, part, {"name": "n", "colour": "red"}),
    (Part | None, ..., None, part, None),
    (list[Part], ..., [{"name": "n"}], pa.list_(part), [{"name": "n", "colour": None}]),
    (Part | int, ..., 3, pa.string(), "3"),
    (Any, ..., {"a": "é"}, pa.string(), '{"a": "é"}'),
    (Any, ..., "3", pa.string(), '"3"'),
    (Any | None, ..., 3, pa.string(), "3"),
    (dict[str, Any], ..., {"a": "é"}, pa.map_(pa.string(), pa.string()), [("a", '"é"')]),
    (
        Node,
        ...,
        {"name": "n", "children": [{"name": "m", "children": []}]},
        pa.struct([("name", pa.string()), ("children", pa.list_(pa.string()))]),
        {"name": "n", "children": ['{"name": "m", "children": []}']},
    ),
]


def landed(model: type[BaseModel], *answers: Any) -> pa.Table:
    """Answers as a table that went through a Parquet file; `None` is a row without an answer."""
    values = [None if answer is None else model.model_validate(answer) for answer in answers]
    columns = {
        column.name: pa.array(
            [None if value is None else column.convert(getattr(value, column.name)) for value in values], column.type
        )
        for column in model_columns(model)
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return pq.read_table(io.BytesIO(file.getvalue()))


@pytest.mark.parametrize(("annotation", "default", "given", "kind", "expected"), TYPES)
def test_each_kind_of_field_has_its_column(
    annotation: Any, default: Any, given: Any, kind: pa.DataType, expected: Any
) -> None:
    """The Arrow type follows from the annotation alone, and the value survives Parquet."""
    model = create_model("Answer", x=(annotation, default))
    (column,) = model_columns(model)
    assert column.type == kind
    table = landed(model, {"x": given}, None)
    assert table["x"].to_pylist() == [expected, None]


class Everything(BaseModel):
    """Some of each."""

    model_config = ConfigDict(use_enum_values=True)

    number: int = Field(description="How many.")
    colour: Colour
    level: Level | None
    part: Part | None
    tags: list[str]
    price: Money | None


answers = st.none() | st.fixed_dictionaries(
    {
        "number": st.integers(-(2**63), 2**63 - 1),
        "colour": st.sampled_from(["red", "blue"]),
        "level": st.none() | st.sampled_from([1, 2]),
        "part": st.none() | st.fixed_dictionaries({"name": st.text(), "colour": st.sampled_from([None, "red"])}),
        "tags": st.lists(st.text(), max_size=3),
        "price": st.none() | st.decimals(-999_999, 999_999, places=2),
    }
)


@given(st.lists(answers, max_size=4))
def test_the_schema_is_the_same_whatever_the_data(rows: list[dict[str, Any] | None]) -> None:
    """No rows, rows without answers and rows with nulls give the same columns."""
    table = landed(Everything, *rows)
    assert table.schema.equals(landed(Everything).schema)
    assert table["number"].to_pylist() == [row and row["number"] for row in rows]
    assert table["colour"].to_pylist() == [row and row["colour"] for row in rows]


def test_a_description_goes_along() -> None:
    """A field's description is the column's."""
    assert model_columns(Everything)[0].field().metadata == {b"description": b"How many."}


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, 2**63),
        (list[int], [-(2**70)]),
        (Decimal, Decimal("1e30")),
        (Decimal, Decimal("NaN")),
        (Annotated[Decimal, Field(decimal_places=2)], Decimal("1e37")),
        (dt.datetime, dt.datetime(1, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))),
        (dt.datetime, dt.datetime(9999, 12, 31, 23, tzinfo=dt.timezone(-dt.timedelta(hours=5)))),
    ],
)
def test_what_a_column_cannot_hold_is_refused(annotation: Any, value: Any) -> None:
    """A value that Python takes and Arrow does not is a `ValueError`, not a landing that fails."""
    (column,) = model_columns(create_model("Answer", x=(annotation, ...)))
    with pytest.raises(ValueError, match=r"."):
        column.convert(value)


@pytest.mark.parametrize("text", ["12345678901234567890123456789", "-0.123456789", "99999999999999999999999999999.9"])
def test_a_decimal_without_bounds_keeps_29_digits_before_the_point(text: str) -> None:
    """More digits than Python's default context has are kept."""
    (column,) = model_columns(create_model("Answer", x=(Decimal, ...)))
    assert pa.array([column.convert(Decimal(text))], column.type).to_pylist() == [Decimal(text)]


@pytest.mark.parametrize("text", ["12345", "0.12345", "1.5"])
def test_a_decimal_with_digits_alone_keeps_every_value_that_is_valid(text: str) -> None:
    """`max_digits` without `decimal_places` leaves the point anywhere."""
    model = create_model("Answer", x=(Annotated[Decimal, Field(max_digits=5)], ...))
    assert landed(model, {"x": text})["x"].to_pylist() == [Decimal(text)]
