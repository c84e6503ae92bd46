"""Dataclasses and TypedDicts of all kinds: generic ones, those of `typing_extensions`, those inside Pydantic models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, NotRequired, Required, TypeVar

import pyarrow as pa
import pydantic.dataclasses
import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, with_config
from typing_extensions import ReadOnly, TypedDict

from ractobatch_dagster import ConfigurationError, RactoPrompt
from ractobatch_dagster.json_schema import prompt_schema, response_format
from ractobatch_dagster.output import output_type
from ractobatch_dagster.results.answers import Answers

T = TypeVar("T")
S = TypeVar("S")


@dataclasses.dataclass
class Box(Generic[T]):
    value: T
    more: list[T] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class Numbers(Box[int]):
    """A box of one kind."""

    name: str = ""


@dataclasses.dataclass
class Two(Box[T], Generic[S, T]):
    other: S | None = None


class Crate(TypedDict, Generic[T]):
    value: T


class Letters(Crate[str]):
    count: int


@dataclasses.dataclass
class Boxes:
    numbers: Box[int]
    text: Box[str] | None
    again: list[Box[int]]
    crate: Crate[float]


def types(output: Any) -> dict[str, pa.DataType]:
    """The Arrow type of each column."""
    return {field.name: field.type for field in Answers(output_type(output)).fields}


def reads(output: Any, text: str) -> list[Any] | str:
    """What an answer becomes, or what is wrong with it."""
    arrays, (problem,) = Answers(output_type(output)).read([text])
    return problem or [array.to_pylist()[0] for array in arrays]


def box(kind: pa.DataType) -> pa.DataType:
    """A box as a struct."""
    return pa.struct([("value", kind), ("more", pa.list_(kind))])


def test_generic_ones_are_of_what_they_say() -> None:
    """As fields, as the output itself, and in what derives from them."""
    assert types(Boxes) == {
        "numbers": box(pa.int64()),
        "text": box(pa.string()),
        "again": pa.list_(box(pa.int64())),
        "crate": pa.struct([("value", pa.float64())]),
    }
    assert types(Box[int]) == {"value": pa.int64(), "more": pa.list_(pa.int64())}
    assert types(Numbers) == {**types(Box[int]), "name": pa.string()}
    assert types(Two[str, int]) == {**types(Box[int]), "other": pa.string()}
    assert types(Letters) == {"value": pa.string(), "count": pa.int64()}
    assert isinstance(reads(Numbers, '{"value": "x"}'), str)
    assert reads(Numbers, '{"value": 1, "more": [2]}') == [1, [2], ""]


def test_one_that_is_met_twice_is_one_model() -> None:
    """And sent once."""
    made = response_format(output_type(Boxes))
    assert made is not None
    assert list(made["json_schema"]["schema"]["$defs"]) == ["Box_int_", "Box_str_", "Crate_float_"]


class Place(TypedDict, total=False):
    city: Required[Annotated[str, Field(min_length=1)]]
    zip: str
    land: ReadOnly[Required[str]]


class Trip(TypedDict):
    to: ReadOnly[Place]
    back: NotRequired[ReadOnly[Annotated[int, Field(ge=0)]]]
    days: Annotated[NotRequired[int], Field(ge=1)]


def test_typed_dicts_of_typing_extensions() -> None:
    """The only ones that Pydantic takes before Python 3.12, with what may be missing and what may not be changed."""
    place = pa.struct([("city", pa.string()), ("zip", pa.string()), ("land", pa.string())])
    assert types(Trip) == {"to": place, "back": pa.int64(), "days": pa.int64()}
    to = {"city": "x", "zip": None, "land": "y"}
    assert reads(Trip, '{"to": {"city": "x", "land": "y"}, "back": 0}') == [to, 0, None]
    for wrong in ('{"to": {"city": "x"}}', '{"to": {"city": "", "land": "y"}}', '{"days": 1}'):
        assert isinstance(reads(Trip, wrong), str)
    assert isinstance(reads(Trip, '{"to": {"city": "x", "land": "y"}, "days": 0}'), str)


@dataclasses.dataclass
class Part:
    price: Decimal = Field(max_digits=8, decimal_places=2)  # noqa: RUF009
    spare: Part | None = None
    code: int = dataclasses.field(init=False, default=7)


@pydantic.dataclasses.dataclass
class Own(Generic[T]):
    value: Annotated[T, Field(description="What it is.")]


class Whole(BaseModel):
    part: Part
    place: Place
    boxes: list[Box[int]]
    own: Own[str] | None = None
    numbers: Numbers | None = None


def test_those_inside_a_pydantic_model_are_structs() -> None:
    """As Pydantic validates them: what only the base of a generic one says is not known."""
    part = pa.struct([("price", pa.decimal128(8, 2)), ("spare", pa.string())])
    assert types(Whole) == {
        "part": part,
        "place": pa.struct([("city", pa.string()), ("zip", pa.string()), ("land", pa.string())]),
        "boxes": pa.list_(box(pa.int64())),
        "own": pa.struct([("value", pa.string())]),
        "numbers": pa.struct([("value", pa.string()), ("more", pa.list_(pa.string())), ("name", pa.string())]),
    }
    text = '{"part": {"price": 1.5}, "place": {"city": "x", "land": "y"}, "boxes": [{"value": 1}], "numbers": '
    assert reads(Whole, text + '{"value": "x"}, "own": {"value": "z"}}') == [
        {"price": Decimal("1.50"), "spare": None},
        {"city": "x", "zip": None, "land": "y"},
        [{"value": 1, "more": []}],
        {"value": "z"},
        {"value": '"x"', "more": [], "name": ""},
    ]


def test_one_whose_names_only_pydantic_finds_is_json_text() -> None:
    """Those of a function."""

    class Local(BaseModel):
        value: int

    @dataclasses.dataclass
    class Near:
        local: Local

    class Around(BaseModel):
        near: Near

    assert types(Around) == {"near": pa.string()}
    assert reads(Around, '{"near": {"local": {"value": 1}}}') == ['{"local": {"value": 1}}']
    with pytest.raises(ConfigurationError, match="output: Near cannot be an answer: name 'Local' is not defined"):
        output_type(Near)


@dataclasses.dataclass
class Counted:
    name: Final[str]
    number: int = dataclasses.field(init=False)
    fixed: int = dataclasses.field(init=False, default=3)


@pydantic.dataclasses.dataclass
class CountedToo:
    name: str
    fixed: int = Field(default=3, init=False)


@pytest.mark.parametrize("counted", [Counted, CountedToo])
def test_what_is_not_given_is_not_asked_for(counted: Any) -> None:
    """A field of a dataclass with `init=False`."""
    assert types(counted) == {"name": pa.string()}


@with_config(ConfigDict(extra="forbid"))
class Closed(TypedDict):
    name: str


@pydantic.dataclasses.dataclass(config=ConfigDict(str_max_length=2))
class Short:
    name: str


@pydantic.dataclasses.dataclass
class Derived:
    name: str

    def __post_init__(self) -> None:
        self.name = "x"


def test_settings_of_pydantic_hold() -> None:
    """They are those of the model; code is refused."""
    assert isinstance(reads(Closed, '{"name": "x", "other": 1}'), str)
    assert isinstance(reads(Short, '{"name": "long"}'), str)
    with pytest.raises(ConfigurationError, match="Derived has a `__post_init__`"):
        output_type(Derived)


@dataclasses.dataclass
class Shadow:
    model_dump: str


@dataclasses.dataclass
class Hidden:
    _name: str


@dataclasses.dataclass
class Unknown:
    name: Nowhere  # type: ignore[name-defined]  # noqa: F821


@dataclasses.dataclass
class Itself:
    parts: list[Itself]


@dataclasses.dataclass
class Contrary:
    good: int
    number: Annotated[str, Field(pattern="(")]


@dataclasses.dataclass
class Deep:
    inside: list[Shadow]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Shadow, r"output\.model_dump: a column cannot have this name"),
        (Hidden, r"output\._name: a column cannot have this name"),
        (Deep, r"output\.inside\.model_dump: a column cannot have this name"),
        (Unknown, "output: Unknown cannot be an answer: name 'Nowhere' is not defined"),
        (Itself, r"output\.parts: Itself contains itself"),
        (Contrary, r"(?s)output\.number: .*regex parse error"),
        (list[int], "is no Pydantic model, dataclass, TypedDict or JSON Schema"),
    ],
)
def test_what_cannot_be_an_answer_is_refused(kind: Any, why: str) -> None:
    """With the path of the field."""
    with pytest.raises(ConfigurationError, match=why):
        output_type(kind)


class Function(BaseModel):
    name: str
    call: Callable[[int], str]


@dataclasses.dataclass
class Functions:
    name: str
    calls: Callable[[int], str]


class Outer(BaseModel):
    inner: Function


class Undefined(BaseModel):
    name: NotThere  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("kind", "where"),
    [
        (Function, r"output\.call: "),
        (Functions, r"output\.calls: "),
        (Outer, r"output\.inner\.call: "),
        (Undefined, r"output.*: .*`Undefined` is not fully defined"),
    ],
)
def test_what_has_no_schema_is_refused(kind: Any, where: str) -> None:
    """Of whatever kind it is, when it is asked for."""
    for asked in (response_format, prompt_schema):
        with pytest.raises(ConfigurationError, match=where):
            asked(output_type(kind))
    with pytest.raises(ConfigurationError, match=where):
        RactoPrompt(role="r", aim="a", constraints=["c"], tone="t", output_format=output_type(kind)).compile()


class Here(RootModel["There"]):
    pass


class There(RootModel["Here"]):
    pass


def test_a_model_that_is_only_a_reference_to_itself_is_refused() -> None:
    """At once."""
    Here.model_rebuild()
    with pytest.raises(ConfigurationError, match="Here is only a reference to itself"):
        response_format(Here)
