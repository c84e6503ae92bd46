"""`response_format`: strict wherever strict mode has words for the schema."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Generic, Literal, TypeVar
from uuid import UUID

import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, SecretStr, create_model

from ractobatch_dagster.json_schema import prompt_schema, response_format
from tests.requests.strict_mode import limits

T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Pair(Enum):
    A = (1, 2)


class Node(BaseModel):
    value: int
    children: list[Node] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]


class Zoo(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    pets: list[Cat | Dog] = []


class Words(BaseModel):
    """Every field has the name of a keyword."""

    title: str
    default: int = 3
    format: str = "x"
    pattern: str | None = None
    properties: str = ""
    required: bool = True
    items: list[int] = []
    enum: str = "a"
    const: str = "b"
    examples: list[str] = []
    description: str = ""
    anyOf: str = ""  # noqa: N815
    type: str = ""


class Kinds(BaseModel):
    model_config = ConfigDict(json_schema_extra={"x-mine": {"type": "object"}, "examples": [{"title": "t"}]})

    colour: Colour | None = Field(default=None, description="The colour.")
    level: Level
    mixed: Literal[1, "one", None]
    only: Literal["x"] = "x"
    amount: Decimal
    day: dt.date
    at: dt.datetime
    id: UUID
    secret: SecretStr
    data: bytes
    tags: set[str]
    number: int = Field(ge=0, le=5, deprecated=True)
    name: str = Field(min_length=1, pattern="^[a-z]+$")
    odd: str = Field(json_schema_extra={"pattern": "^(?!x)", "format": "made-up", "readOnly": True})
    nested: Cat = Field(description="A cat.")


class FreeForm(BaseModel):
    scores: dict[str, int]


class Anything(BaseModel):
    value: Any


class Fixed(BaseModel):
    place: tuple[int, int]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Pairs(BaseModel):
    pair: Pair


class Box(BaseModel, Generic[T]):
    value: T


class Listed(RootModel[list[int]]):
    pass


class OneColour(RootModel[Colour]):
    pass


class Either(RootModel[Cat | Dog]):
    pass


class Wrapped(RootModel[Cat]):
    pass


def schemas(node: Any) -> list[dict[str, Any]]:
    """Every schema inside a schema, names of properties not taken for keywords."""
    found = [node]
    for name in ("properties", "$defs"):
        for one in node.get(name, {}).values():
            found += schemas(one)
    for one in node.get("anyOf", []):
        found += schemas(one)
    if "items" in node:
        found += schemas(node["items"])
    return found


ALLOWED = {
    *("type", "description", "enum", "anyOf", "$ref", "$defs", "properties", "required", "additionalProperties"),
    *("items", "minItems", "maxItems", "pattern", "format", "multipleOf"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}


@pytest.mark.parametrize("model", [Node, Cat, Zoo, Words, Kinds, Box[int], Wrapped, Box[Colour]])
def test_strict_schemas_keep_the_rules_of_strict_mode(model: type[BaseModel]) -> None:
    """Every object is closed and requires all it has, nothing stands beside a $ref, no keyword is unknown."""
    made = response_format(model)
    assert made is not None
    assert made["type"] == "json_schema"
    assert made["json_schema"]["strict"] is True
    root = made["json_schema"]["schema"]
    assert root["type"] == "object"
    for node in schemas(root):
        assert set(node) <= ALLOWED
        assert "$ref" not in node or set(node) == {"$ref"}
        assert {"type", "anyOf", "$ref"} & set(node)
        if node.get("type") == "object":
            assert node["additionalProperties"] is False
            assert node["required"] == list(node["properties"])


def strict(model: type[BaseModel]) -> dict[str, Any]:
    made = response_format(model)
    assert made is not None
    schema: dict[str, Any] = made["json_schema"]["schema"]
    return schema


def test_no_property_is_lost_for_its_name() -> None:
    """A property named like a keyword is a property."""
    assert list(strict(Words)["properties"]) == list(Words.model_fields)
    assert list(prompt_schema(Words)["properties"]) == list(Words.model_fields)
    assert prompt_schema(Words)["required"] == ["title"]
    assert prompt_schema(Words)["properties"]["default"] == {"type": "integer", "default": 3}


def test_each_kind_of_field() -> None:
    """What strict mode knows is kept, the rest is left out of the schema."""
    fields = strict(Kinds)["properties"]
    assert fields["colour"] == {"anyOf": [{"$ref": "#/$defs/Colour"}, {"type": "null"}], "description": "The colour."}
    assert strict(Kinds)["$defs"]["Colour"] == {"enum": ["red", "blue"], "type": "string"}
    assert fields["mixed"] == {"enum": [1, "one", None], "type": ["integer", "string", "null"]}
    assert fields["only"] == {"enum": ["x"], "type": "string"}
    assert fields["day"] == {"type": "string", "format": "date"}
    assert fields["id"] == {"type": "string", "format": "uuid"}
    assert fields["secret"] == fields["data"] == {"type": "string"}
    assert fields["tags"] == {"type": "array", "items": {"type": "string"}}
    assert fields["number"] == {"type": "integer", "minimum": 0, "maximum": 5}
    assert fields["name"] == {"type": "string", "pattern": "^[a-z]+$"}
    assert fields["odd"] == {"type": "string"}  # strict mode refuses lookaround
    assert fields["nested"] == {"$ref": "#/$defs/Cat"}


def test_a_discriminated_union_is_any_of() -> None:
    """`oneOf` with a discriminator becomes `anyOf`, strictly."""
    cat_or_dog = [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
    assert strict(Zoo)["properties"]["pet"] == {"anyOf": cat_or_dog}


def test_a_model_that_contains_itself() -> None:
    """The root of a recursive model is an object, not a reference."""
    assert strict(Node)["properties"]["children"] == {"type": "array", "items": {"$ref": "#/$defs/Node"}}
    assert strict(Wrapped)["properties"]["lives"] == {"type": "integer"}


@pytest.mark.parametrize("model", [FreeForm, Anything, Fixed, Open, Pairs])
def test_free_form_parts_are_not_strict(model: type[BaseModel]) -> None:
    """What strict mode has no words for is sent as it is, without `strict`."""
    made = response_format(model)
    assert made is not None
    assert made["json_schema"]["strict"] is False
    assert made["json_schema"]["schema"] == model.model_json_schema()


@pytest.mark.parametrize("model", [Listed, OneColour, Either])
def test_a_root_that_is_no_object_is_left_to_the_prompt(model: type[BaseModel]) -> None:
    """The API takes no other root than an object, so no `response_format` is sent."""
    assert response_format(model) is None


def test_the_name_is_one_the_api_takes() -> None:
    """The name has letters, digits, `_` and `-` only, 64 at most."""
    made = response_format(Box[int])
    assert made is not None
    assert made["json_schema"]["name"] == "Box_int_"


def nested(levels: int) -> type[BaseModel]:
    """A model of so many objects in one another."""
    made = create_model("Innermost", value=(int, ...))
    for level in range(1, levels):
        made = create_model(f"Level{level}", inner=(made, ...))
    return made


def enum(count: int, length: int = 6) -> type[BaseModel]:
    """A model with an enum of so many values of that length."""
    return create_model("Chosen", value=(Literal[tuple(f"{number:0{length}}" for number in range(count))], ...))


def wide(count: int, name: int = 5) -> type[BaseModel]:
    """A model of so many fields, whose names have that length."""
    return create_model("Wide", **{f"f{number:0{name - 1}}": (int, ...) for number in range(count)})  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize(
    ("model", "largest", "too_large"),
    [
        (nested, (10,), (11,)),
        (wide, (5_000,), (5_001,)),
        (wide, (1_000, 120), (1_000, 121)),
        (enum, (1_000,), (1_001,)),
        (enum, (250, 60), (251, 60)),
    ],
    ids=["levels", "properties", "characters", "values", "one enum"],
)
def test_what_is_too_large_for_strict_mode_goes_without(
    model: Callable[..., type[BaseModel]], largest: tuple[int, ...], too_large: tuple[int, ...]
) -> None:
    """Rather than have every request refused."""
    for size in (largest, too_large):
        made = response_format(model(*size))
        assert made is not None
        assert made["json_schema"]["strict"] == (size is largest)
        assert any(limits(made["json_schema"]["schema"])) == (size is too_large)
