"""What an answer may be said to be: dataclasses, TypedDicts and JSON Schemas, beside Pydantic models."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import dagster as dg
import pandas as pd
import pyarrow as pa
import pydantic.dataclasses
import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from ractobatch_dagster import ConfigurationError, OpenAIBatchComponent, RactoPrompt, batch_asset
from ractobatch_dagster.json_schema import response_format
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.output import output_type
from ractobatch_dagster.results.answers import Answers
from ractobatch_dagster.schema_model import model_of_schema
from tests.project import Project
from tests.test_assets import TEXTS
from tests.test_json_schema import Cat, FreeForm, Kinds, Node, Words, Zoo


@dataclasses.dataclass
class Product:
    """Something sold."""

    name: str
    price: Annotated[float, Field(ge=0, description="In euro.")] = 0.0


@dataclasses.dataclass
class Ticket:
    sentiment: Literal["positive", "negative"]
    products: list[Product]
    note: str | None = dataclasses.field(default=None, metadata={"description": "What else there is."})
    tags: list[str] = dataclasses.field(default_factory=list)


class Place(TypedDict):
    """Where."""

    city: str
    zip: NotRequired[str]


class Visit(TypedDict, total=False):
    places: list[Place]
    by: dict[str, Place]


class ProductModel(BaseModel):
    """Something sold."""

    name: str
    price: float = Field(default=0.0, ge=0, description="In euro.")


class TicketModel(BaseModel):
    sentiment: Literal["positive", "negative"]
    products: list[ProductModel]
    note: str | None = Field(default=None, description="What else there is.")
    tags: list[str] = []


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """What the API is sent, whatever the models are called."""
    return json.loads(
        json.dumps(response_format(model)).replace("ProductModel", "Product").replace("TicketModel", "Ticket")
    )


def test_a_dataclass_is_a_model_of_its_fields() -> None:
    """With defaults, descriptions and constraints, those of nested ones as well."""
    made = output_type(Ticket)
    assert schema_of(made) == schema_of(TicketModel)
    assert [field.type for field in Answers(made).fields] == [field.type for field in Answers(TicketModel).fields]
    assert made.model_validate_json('{"sentiment": "positive", "products": [{"name": "a"}]}').products[0].price == 0.0  # type: ignore[attr-defined]
    with pytest.raises(ValidationError, match="price"):
        made.model_validate({"sentiment": "positive", "products": [{"name": "a", "price": -1}]})


def test_a_typed_dict_is_a_model_of_its_keys() -> None:
    """What may be missing may be null, as strict mode leaves nothing out."""
    made = output_type(Visit)
    types = {field.name: field.type for field in Answers(made).fields}
    place = pa.struct([("city", pa.string()), ("zip", pa.string())])
    assert types == {"places": pa.list_(place), "by": pa.map_(pa.string(), place)}
    assert made.model_validate({"places": [{"city": "x"}]}).model_dump() == {
        "places": [{"city": "x", "zip": None}],
        "by": None,
    }
    with pytest.raises(ValidationError, match="city"):
        made.model_validate({"places": [{"zip": "1"}]})


@pytest.mark.parametrize("model", [Node, Cat, Zoo, Words, FreeForm, TicketModel])
def test_a_schema_asks_what_its_model_asks(model: type[BaseModel]) -> None:
    """A Pydantic model's own schema, read back, is sent as the model would be, and has the same columns."""
    made = model_of_schema(model.model_json_schema())
    assert response_format(made) == response_format(model)
    columns, wanted = ([(one.name, one.type) for one in Answers(each).fields] for each in (made, model))
    assert columns == wanted


def test_formats_become_values() -> None:
    """Dates, times, identifiers; constants of an enum; and a set as a list without repeats."""
    types = {field.name: str(field.type) for field in Answers(model_of_schema(Kinds.model_json_schema())).fields}
    assert types["day"] == "date32[day]"
    assert types["at"] == "timestamp[us, tz=UTC]"
    assert types["colour"] == "dictionary<values=string, indices=int32, ordered=0>"
    assert types["level"] == "int64"
    assert types["tags"] == "list<item: string>"


def test_schemas_as_people_have_them() -> None:
    """OpenAPI's `nullable`, and one of several constants, which is an enum."""
    made = model_of_schema(
        {
            "type": "object",
            "properties": {
                "a": {"type": "string", "nullable": True},
                "b": {"oneOf": [{"const": "x"}, {"enum": ["y", "z"]}]},
            },
            "required": ["a", "b"],
        }
    )
    assert made.model_validate({"a": None, "b": "z"}).model_dump() == {"a": None, "b": "z"}
    assert str(Answers(made).fields[1].type) == "dictionary<values=string, indices=int32, ordered=0>"
    with pytest.raises(ValidationError):
        made.model_validate({"a": None, "b": "w"})


@pydantic.dataclasses.dataclass
class Bounded:
    """One of Pydantic's own."""

    score: int = Field(ge=0, le=9, description="How much.")


@pydantic.dataclasses.dataclass
class Checked:
    """With a validator."""

    score: int

    @field_validator("score")
    @classmethod
    def _even(cls, score: int) -> int:
        return score


def test_pydantic_s_own_dataclasses_keep_what_they_say() -> None:
    """Bounds and descriptions come along; validators would not, and are refused."""
    made = output_type(Bounded)
    with pytest.raises(ValidationError):
        made.model_validate({"score": 10})
    assert made.model_fields["score"].description == "How much."
    with pytest.raises(ConfigurationError, match="Checked has validators; make it a Pydantic model"):
        output_type(Checked)


def reads(output: Any, text: str) -> tuple[list[Any], str | None]:
    """What an answer becomes, and what is wrong with it."""
    columns, (problem,) = Answers(output_type(output)).read([text])
    return [column.to_pylist()[0] for column in columns], problem


def an_object(**properties: Any) -> dict[str, Any]:
    """A schema that requires nothing."""
    return {"type": "object", "properties": properties}


def test_a_default_is_a_value_like_any_other() -> None:
    """Read as an answer would be; one that is none is its row's problem and stops no table."""
    day = {"type": "string", "format": "date", "default": "2020-01-01"}
    assert reads(an_object(a=day), "{}") == ([dt.date(2020, 1, 1)], None)
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "default": {"city": "x"}}
    assert reads(an_object(a=city), "{}") == ([{"city": "x"}], None)
    values, problem = reads(an_object(a={"type": "number", "default": "n/a"}), "{}")
    assert (values, bool(problem)) == ([None], True)
    assert reads(an_object(a={"type": "string", "default": None}), '{"a": null}') == ([None], None)


@pytest.mark.parametrize("name", ["Node", "Any", "Field", "Mapping"])
def test_names_of_a_schema_are_its_own(name: str) -> None:
    """Whatever our own code calls so."""
    edge = {"type": "object", "properties": {"target": {"$ref": f"#/$defs/{name}"}}, "required": ["target"]}
    node = {"type": "object", "properties": {"edges": {"type": "array", "items": {"$ref": "#/$defs/Edge"}}}}
    made = output_type({**an_object(root={"$ref": f"#/$defs/{name}"}), "$defs": {name: node, "Edge": edge}})
    assert response_format(made)["json_schema"]["strict"]  # type: ignore[index]
    with pytest.raises(ValidationError):
        made.model_validate({"root": {"edges": [{"target": 3}]}})


def test_bounds_of_older_drafts() -> None:
    """There they are booleans."""
    assert reads(an_object(a={"type": "integer", "minimum": 0, "exclusiveMinimum": False}), '{"a": 0}')[1] is None
    assert reads(an_object(a={"type": "integer", "minimum": 0, "exclusiveMinimum": True}), '{"a": 0}')[1]
    assert reads(an_object(a={"type": "integer", "minimum": 0, "exclusiveMinimum": True}), '{"a": 1}')[1] is None


def test_nothing_beside_a_reference_is_dropped() -> None:
    """It is refused, with its path; and so is what contains itself as no object does."""
    base = {"$defs": {"B": an_object(y={"type": "integer"})}}
    for inherits in (
        {"allOf": [{"$ref": "#/$defs/B"}], "properties": {"x": {}}},
        {"$ref": "#/$defs/B", "properties": {"x": {}}},
    ):
        with pytest.raises(ConfigurationError, match=r"output\.a: "):
            output_type({**an_object(a=inherits), **base})
    itself = {"J": {"type": "array", "items": {"$ref": "#/$defs/J"}}}
    with pytest.raises(ConfigurationError, match="contains itself in a way"):
        output_type({**an_object(a={"$ref": "#/$defs/J"}), "$defs": itself})


def test_an_enum_of_numbers_may_have_a_null() -> None:
    """Like one of texts."""
    assert reads(an_object(a={"type": ["integer", "null"], "enum": [1, 2, None]}), '{"a": 2}') == ([2], None)


@dataclasses.dataclass
class Scored:
    """With Pydantic's own fields."""

    score: int = Field(ge=0, le=9, description="How much.")


@dataclasses.dataclass
class Derived:
    """With code of its own."""

    score: int

    def __post_init__(self) -> None:
        self.score = 2


def test_fields_of_a_dataclass_may_be_pydantic_s() -> None:
    """Bounds hold; code that would not run is refused."""
    assert reads(Scored, '{"score": 50}')[1]
    with pytest.raises(ConfigurationError, match="__post_init__"):
        output_type(Derived)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"if": {}, "type": "string"}, "output.a: `if` is not understood"),
        ({"not": {}}, "output.a: a schema needs a `type`"),
        ({"type": "text"}, "output.a: a schema needs a `type`"),
        ({"$ref": "#/$defs/B"}, "output.a: the schema has no '#/"),
        ({"items": {"enum": [[1]]}, "type": "array"}, r"output.a\[\]: constants are"),
        ({"type": "string", "pattern": "("}, "the pattern '\\(' is none"),
        ({"allOf": [{}, {}]}, "output.a: `allOf` of several"),
        ({"type": "object", "properties": {"_b": {}}}, "output.a._b: a column cannot have this name"),
        (3, "output.a: 3 is no schema"),
    ],
)
def test_what_no_answer_can_be_held_to_is_refused(wrong: Any, why: str) -> None:
    """When the asset is defined, with the path."""
    with pytest.raises(ConfigurationError, match=why):
        output_type({"type": "object", "properties": {"a": wrong}})


@pytest.mark.parametrize("wrong", [{"type": "array", "items": {}}, {"type": "object"}, {}])
def test_a_root_is_an_object(wrong: Any) -> None:
    """As the API wants it."""
    with pytest.raises(ConfigurationError, match="the root of a schema must be an object"):
        output_type(wrong)


def test_anything_else_is_no_output() -> None:
    """A type of another kind."""
    with pytest.raises(ConfigurationError, match="is no Pydantic model, dataclass, TypedDict or JSON Schema"):
        output_type(int)


def test_a_prompt_and_an_output_must_not_differ() -> None:
    """Two answers to one question; the very same is none too many."""
    prompt = RactoPrompt(instructions="Label.", output_format=TicketModel)
    with pytest.raises(ConfigurationError, match="`output` says otherwise"):
        batch_asset(model="m", prompt=prompt, output=Cat, name="a")(lambda: None)
    assert batch_asset(model="m", prompt=prompt, output=TicketModel, name="a")(lambda: None).spec.template.output_type


SCHEMA = {
    "title": "Label",
    "type": "object",
    "properties": {
        "sentiment": {"enum": ["positive", "neutral", "negative"], "description": "How it sounds."},
        "score": {"type": "integer", "minimum": 0, "maximum": 9},
    },
    "required": ["sentiment"],
}


def test_a_schema_gives_typed_columns(batch_server: LocalServer, tmp_path: Path) -> None:
    """From the decorator with a plain prompt, and from YAML."""

    @batch_asset(model="gpt-4o-mini", prompt="Label the text.", output=SCHEMA, name="labels")
    def frame() -> pd.DataFrame:
        return pd.DataFrame({"user_message": TEXTS})

    project = Project(batch_server, tmp_path, frame.assets)
    assert project.run("labels_submission").success
    project.land()
    table = project.load("labels", kind=pa.Table)
    assert table["sentiment"].to_pylist()[:2] == ["positive", "negative"]
    assert table.schema.field("sentiment").metadata == {b"description": b"How it sounds."}
    assert str(table.schema.field("score").type) == "int64"
    component = OpenAIBatchComponent.from_attributes_dict(
        attributes={
            "name": "labels",
            "model": "gpt-4o-mini",
            "source": {"asset": "x"},
            "prompt": "Label the text.",
            "output": SCHEMA,
        }
    )
    made = component.build_batch_asset(tmp_path)
    assert made.spec.template.body("x") == frame.spec.template.body("x")
    assert isinstance(made.table, dg.AssetsDefinition)
