"""JSON Schemas as people have them: each is held to, or refused with the path of what cannot be."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from pydantic import BaseModel

from ractobatch_dagster import ConfigurationError
from ractobatch_dagster.json_schema import response_format
from ractobatch_dagster.output import output_type
from ractobatch_dagster.results.answers import Answers


def an_object(**properties: Any) -> dict[str, Any]:
    """A schema that requires all it has."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def sent(model: type[BaseModel]) -> dict[str, Any]:
    """The schema that the API is sent."""
    made = response_format(model)
    assert made is not None
    assert made["json_schema"]["strict"]
    schema: dict[str, Any] = made["json_schema"]["schema"]
    return schema


def columns(schema: dict[str, Any]) -> dict[str, str]:
    """The Arrow type of each column."""
    return {field.name: str(field.type) for field in Answers(output_type(schema)).fields}


def reads(schema: dict[str, Any], text: str) -> list[Any] | str:
    """What an answer becomes, or what is wrong with it."""
    arrays, (problem,) = Answers(output_type(schema)).read([text])
    return problem or [array.to_pylist()[0] for array in arrays]


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "#"}, "output: the schema is only a reference to itself"),
        (
            {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
            "output: the schema is only a reference to itself",
        ),
        (
            {**an_object(a={"$ref": "#/$defs/A"}), "$defs": {"A": {"anyOf": [{"$ref": "#/$defs/A"}]}}},
            r"output\.a\.anyOf\[0\]: '#/\$defs/A' contains itself",
        ),
        (
            {"$ref": "#/$defs/A", "required": ["b"], "$defs": {"A": an_object(b={"type": "string"})}},
            "output: `required` is not understood here",
        ),
    ],
)
def test_a_schema_that_is_only_a_reference_to_itself_is_refused(schema: dict[str, Any], why: str) -> None:
    """At once; and nothing beside a reference is dropped at the root either."""
    with pytest.raises(ConfigurationError, match=why):
        output_type(schema)


def test_a_root_that_is_a_reference() -> None:
    """To a definition that may contain itself, by both names of it."""
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}, "first": {"$ref": "#"}}}
    assert columns({"$ref": "#/$defs/N", "$defs": {"N": node}}) == {"next": "string", "first": "string"}


def test_a_definition_that_many_refer_to_is_read_once() -> None:
    """However often it is referred to: each of these doubles the one below."""
    named = {f"D{level}": {"anyOf": [{"$ref": f"#/$defs/D{level + 1}"}] * 2} for level in range(60)}
    assert columns({**an_object(a={"$ref": "#/$defs/D0"}), "$defs": {**named, "D60": {"type": "string"}}}) == {
        "a": "string"
    }


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"type": []}, "`type` must be the name of a type"),
        ({"type": None}, "YAML wants quotes"),
        ({"type": ["string", None]}, "YAML wants quotes"),
        ({"type": ["string", "text"]}, "a schema needs a `type`"),
        ({"type": "object", "required": None}, "`required` must be a list of properties' names"),
        ({"type": "string", "required": True}, "`required` must be"),
        ({"type": "object", "required": ["b"]}, "`required` names 'b', which is none of its properties"),
        ({"type": "object", "properties": ["b"]}, "`properties` must be a mapping by name"),
        ({"type": "object", "properties": {1: {}}}, "`properties` must be a mapping by name"),
        ({"type": "object", "additionalProperties": "no"}, "`additionalProperties` must be true"),
        ({"type": "array", "items": [{"type": "string"}]}, r"\[\]: .* is no schema"),
        ({"anyOf": []}, "`anyOf` must be a list of at least one"),
        ({"allOf": []}, "`allOf` must be a list of at least one"),
        ({"allOf": [3]}, r"allOf\[0\]: 3 is no schema"),
        ({"enum": "ab"}, "`enum` must be a list of at least one"),
        ({"enum": [float("nan")]}, "constants are"),
        ({"enum": [1, 2**63]}, "constants are"),
        ({"$ref": 3}, "`\\$ref` must be a text"),
        ({"$ref": "#/$defs/loose/0"}, "the schema has no"),
        ({"type": "string", "format": ["date"]}, "`format` must be a text"),
        ({"type": "string", "pattern": 3}, "`pattern` must be a text"),
        ({"type": "string", "minLength": -1}, "`minLength` must be a whole number"),
        ({"type": "string", "maxLength": 1e30}, "`maxLength` must be a whole number"),
        ({"type": "array", "minItems": "1"}, "`minItems` must be a whole number"),
        ({"type": "number", "minimum": "3"}, "`minimum` must be a finite number"),
        ({"type": "number", "maximum": 10**400}, "`maximum` must be a finite number"),
        ({"type": "number", "multipleOf": 0}, "`multipleOf` must be a finite number above 0"),
        ({"type": "integer", "multipleOf": 0.5}, "`multipleOf` must be a whole number"),
        ({"type": "integer", "minimum": 1e30}, "no whole number"),
        ({"type": "integer", "minimum": 0.2, "maximum": 0.8}, "no whole number"),
        ({"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2}, "no whole number"),
        ({"type": "string", "nullable": "yes"}, "`nullable` must be true or false"),
    ],
)
def test_a_keyword_that_holds_what_it_cannot_is_refused(wrong: Any, why: str) -> None:
    """With its path, and no other exception."""
    with pytest.raises(ConfigurationError, match=rf"output\.a.*{why}"):
        output_type({**an_object(a=wrong), "$defs": {"loose": []}})


@pytest.mark.parametrize("name", ["Config", "model_dump", "model_fields", "_a"])
def test_a_name_that_no_column_can_have_is_refused(name: str) -> None:
    """Pydantic wants it for itself."""
    with pytest.raises(ConfigurationError, match=rf"output\.a\.{name}: a column cannot have this name"):
        output_type(an_object(a=an_object(**{name: {"type": "string"}})))


def test_a_property_may_be_called_as_its_class() -> None:
    """Two definitions that contain each other, each under the name of the other."""
    person = {"type": "object", "properties": {"Home": {"$ref": "#/$defs/Home"}}}
    home = {"type": "object", "properties": {"Person": {"$ref": "#/$defs/Person"}, "street": {"type": "string"}}}
    schema = {**an_object(Person={"$ref": "#/$defs/Person"}), "$defs": {"Person": person, "Home": home}}
    assert columns(schema) == {"Person": "struct<Home: struct<Person: string, street: string>>"}
    assert reads(schema, '{"Person": {"Home": {"street": "x"}}}') == [{"Home": {"Person": None, "street": "x"}}]
    assert "street" in str(reads(schema, '{"Person": {"Home": {"Person": {"Home": {"street": 3}}}}}'))


@pytest.mark.parametrize("low", [0.5, 1, 1.0])
def test_bounds_of_whole_numbers_are_whole(low: float) -> None:
    """However they are written; those beyond 64 bits say nothing."""
    schema = an_object(a={"type": "integer", "minimum": low, "exclusiveMaximum": 2.5, "maximum": 1e30})
    assert sent(output_type(schema))["properties"]["a"] == {"type": "integer", "minimum": 1, "exclusiveMaximum": 3}
    assert reads(schema, '{"a": 2}') == [2]
    assert isinstance(reads(schema, '{"a": 0}'), str)
    assert isinstance(reads(schema, '{"a": 3}'), str)


def test_lengths_may_be_written_as_floats() -> None:
    """As whole numbers they are the same."""
    schema = an_object(a={"type": "string", "minLength": 1.0}, b={"type": "array", "items": {}, "maxItems": 1.0})
    assert reads(schema, '{"a": "x", "b": []}') == ["x", []]
    assert isinstance(reads(schema, '{"a": "", "b": []}'), str)
    assert isinstance(reads(schema, '{"a": "x", "b": [1, 2]}'), str)


def test_a_pattern_behind_a_reference() -> None:
    """Is held to like any other, whatever Rust's regular expressions know."""
    schema = {**an_object(a={"$ref": "#/$defs/P"}), "$defs": {"P": {"type": "string", "pattern": "b(?!x)"}}}
    assert reads(schema, '{"a": "abc"}') == ["abc"]
    assert isinstance(reads(schema, '{"a": "abx"}'), str)


@pytest.mark.parametrize("limit", [{"pattern": "^2020"}, {"minLength": 11}, {"maxLength": 9}])
def test_limits_beside_a_known_format_hold(limit: dict[str, Any]) -> None:
    """Of the text as it came; the pattern is sent as well."""
    schema = an_object(a={"type": "string", "format": "date", **limit})
    assert columns(schema) == {"a": "date32[day]"}
    assert isinstance(reads(schema, '{"a": "2021-01-01"}'), str)
    assert isinstance(reads(schema, '{"a": 0}'), str)
    fits = an_object(a={"type": "string", "format": "date", "pattern": "^2021", "minLength": 10, "maxLength": 10})
    assert reads(fits, '{"a": "2021-01-01"}') == [dt.date(2021, 1, 1)]
    assert sent(output_type(fits))["properties"]["a"] == {"type": "string", "format": "date", "pattern": "^2021"}


def test_formats_that_are_texts_are_left_to_the_provider() -> None:
    """They are sent where strict mode knows them."""
    schema = an_object(a={"type": "string", "format": "email"}, b={"type": "string", "format": "colour"})
    assert columns(schema) == {"a": "string", "b": "string"}
    assert sent(output_type(schema))["properties"] == {
        "a": {"type": "string", "format": "email"},
        "b": {"type": "string"},
    }


def test_a_type_beside_constants_holds() -> None:
    """Constants of other types are none; a whole number is one however it is written."""
    assert sent(output_type(an_object(a={"type": "integer", "enum": ["x", 3]})))["properties"]["a"]["enum"] == [3]
    assert columns(an_object(a={"type": "string", "oneOf": [{"const": "x"}, {"const": "y"}]}))["a"].startswith("dict")
    assert reads(an_object(a={"enum": ["x", "y"], "const": "y"}), '{"a": "x"}') == "a: Input should be 'y'"
    assert reads(an_object(a={"type": "integer", "const": 1.0}), '{"a": 1}') == [1]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"type": "integer", "enum": ["x"]}, "none of its constants is of its type"),
        ({"type": "integer", "oneOf": [{"const": "x"}]}, r"oneOf\[0\]: none of its constants"),
        ({"enum": ["x"], "const": "y"}, "none of its constants"),
        ({"oneOf": [{"const": "x", "pattern": "z"}]}, r"oneOf\[0\]: `pattern` is not understood"),
        ({"oneOf": [{"enum": ["x"]}, {"enum": ["x"]}]}, "no constant is in one schema of `oneOf` only"),
        ({"type": "integer", "anyOf": [{"type": "string"}]}, r"anyOf\[0\]: the `type` beside it says otherwise"),
        ({"type": "integer", "allOf": [{"$ref": "#/$defs/S"}]}, r"allOf\[0\]: the `type` beside it says otherwise"),
    ],
)
def test_what_contradicts_itself_is_refused(wrong: Any, why: str) -> None:
    """A keyword beside constants, or a type beside several schemas, is not dropped."""
    with pytest.raises(ConfigurationError, match=rf"output\.a.*{why}"):
        output_type({**an_object(a=wrong), "$defs": {"S": {"type": "string"}}})


def test_a_type_beside_several_schemas_is_that_of_each() -> None:
    """Where they have none, or the same."""
    part = an_object(b={"type": "string"})
    several = {"type": "object", "anyOf": [{"$ref": "#/$defs/P"}, an_object(c={"type": "string"})]}
    assert columns({**an_object(a=several), "$defs": {"P": part}}) == {"a": "string"}
    dates = {"type": "string", "anyOf": [{"format": "date"}, {"maxLength": 0}]}
    assert reads(an_object(a=dates), '{"a": ""}') == ['""']
    assert isinstance(reads(an_object(a=dates), '{"a": "x"}'), str)


ABOUT = {
    "example": "x", "examples": ["x"], "externalDocs": {"url": "u"}, "xml": {"name": "x"}, "contentEncoding": "base64",
    "$anchor": "here", "id": "x", "$id": "y", "title": None, "description": None, "$comment": 3, "x-mine": 1,
}  # fmt: skip


def test_annotations_are_ignored() -> None:
    """They are not sent."""
    plain = an_object(a={"type": "string"}, b=an_object(c={"enum": ["x"]}), d={"type": "array", "items": {"const": 1}})

    def annotated(node: Any) -> Any:
        if not isinstance(node, dict) or not {"type", "enum", "const"} & node.keys():
            return node
        properties = {name: annotated(one) for name, one in node.get("properties", {}).items()}
        inner = {"properties": properties} if properties else {}
        return {**node, **inner, **({"items": annotated(node["items"])} if "items" in node else {}), **ABOUT}

    assert sent(output_type(annotated(plain))) == sent(output_type(plain))


@pytest.mark.parametrize(
    ("constants", "column", "text", "value"),
    [
        ({"const": 1.0}, "double", "1", 1.0),
        ({"enum": [1.5, 2]}, "double", "1.5", 1.5),
        ({"oneOf": [{"const": "x"}, {"const": "y"}, {"type": "null"}]}, "dictionary", "null", None),
        ({"anyOf": [{"enum": [1, 2]}, {"type": "null"}]}, "int64", "null", None),
        ({"oneOf": [{"enum": ["x", "y"]}, {"enum": ["y", "z"]}]}, "dictionary", '"z"', "z"),
    ],
)
def test_constants_have_a_column_of_their_kind(constants: Any, column: str, text: str, value: Any) -> None:
    """Numbers that are not whole as well, and null is no kind of its own."""
    schema = an_object(a=constants)
    assert columns(schema)["a"].partition("<")[0] == column
    assert reads(schema, f'{{"a": {text}}}') == [value]


def test_one_of_is_one_of_constants() -> None:
    """What is in two of its schemas breaks it."""
    assert isinstance(reads(an_object(a={"oneOf": [{"enum": ["x", "y"]}, {"enum": ["y"]}]}), '{"a": "y"}'), str)


def test_references_are_escaped_as_in_a_uri() -> None:
    """Blanks, slashes and tildes in names; places in lists."""
    named = {"a b": {"type": "string"}, "c/d": {"type": "integer"}, "e~f": {"type": "boolean"}, "g%": {"const": "x"}}
    schema = {
        **an_object(
            a={"$ref": "#/$defs/a%20b"}, c={"$ref": "#/$defs/c~1d"}, d={"$ref": "#/%24defs/e~0f"},
            g={"$ref": "#/$defs/g%25"}, h={"$ref": "#/properties/i/anyOf/1"},
            i={"anyOf": [{"type": "string"}, {"type": "number"}]},
        ),
        "$defs": named,
    }  # fmt: skip
    assert [kind.partition("<")[0] for kind in columns(schema).values()] == [
        "string", "int64", "bool", "dictionary", "double", "string",
    ]  # fmt: skip


def test_an_object_without_properties_is_closed_where_it_says_so() -> None:
    """And a map otherwise; `properties` make an object of what has no type."""
    schema = an_object(a={"type": "object", "additionalProperties": False}, b={"type": "object"})
    assert [kind.partition("<")[0] for kind in columns(schema).values()] == ["string", "map"]
    assert reads(schema, '{"a": {}, "b": {"x": 1}}') == ["{}", [("x", "1")]]
    assert isinstance(reads(schema, '{"a": {"x": 1}, "b": {}}'), str)
    assert columns({"properties": {"a": {"properties": {"b": {"type": "string"}}}}}) == {"a": "struct<b: string>"}
