"""What is sent, held against OpenAI's own description of it; and not a byte of it changes by accident."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from jsonschema import Draft202012Validator, ValidationError

from ractobatch_dagster import BatchItem
from ractobatch_dagster.json_schema import response_format
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.output import output_type
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.items import input_file
from tests.project import Project
from tests.requests.golden_cases import CASES, GOLDEN, HASHES, PNG, SCHEMA, Person, Product, Review, case, rendered
from tests.requests.openai_schema import BODIES, CREATE, LINE, validator
from tests.requests.strict_mode import faults
from tests.test_json_schema import Box, Cat, Colour, Kinds, Node, Words, Wrapped, Zoo
from tests.test_output import Ticket

ACCEPT = "If it is meant, and worth paying all answers anew: python -m tests.requests.golden_cases"


def check(line: bytes) -> dict[str, Any]:
    """Hold a line of an input file against OpenAI's schemas and the rules of strict mode; what it asks."""
    told = json.loads(line)
    body = told.pop("body")
    validator(LINE).validate(told)
    validator(CREATE).validate({"input_file_id": "file-1", "completion_window": "24h", "endpoint": told["url"]})
    assert set(told) == {"custom_id", "method", "url"}
    validator(BODIES[told["url"]]).validate(body)
    wanted = body.get("response_format", {}).get("json_schema") or body.get("text", {}).get("format")
    if wanted is not None:
        Draft202012Validator.check_schema(wanted["schema"])
        assert not wanted["strict"] or faults(wanted["name"], wanted["schema"]) == []
    return body


@pytest.mark.parametrize("name", CASES)
def test_every_way_of_asking_is_openai_s(name: str, tmp_path: Path) -> None:
    """Each line, each body, and each schema that an answer is to keep to; and the bytes are those of before."""
    made = rendered(name, tmp_path)
    lines = made.splitlines(keepends=True)
    assert [check(line) for line in lines]
    assert lines == (GOLDEN / f"{name}.jsonl").read_bytes().splitlines(keepends=True), ACCEPT


@pytest.mark.parametrize("name", CASES)
def test_a_question_keeps_its_hash(name: str, tmp_path: Path) -> None:
    """By which its answer is found again: with another one, everything would be paid for once more."""
    assert CASES[name].hashes(tmp_path) == json.loads(HASHES.read_bytes())[name], ACCEPT


def test_there_is_a_golden_file_for_each_case() -> None:
    """And none that nobody compares."""
    assert {path.stem for path in GOLDEN.glob("*.jsonl")} == set(CASES) == set(json.loads(HASHES.read_bytes()))


class Fussy(Product):
    """Nothing is good enough for it."""

    @classmethod
    def model_validate_json(cls, *_: Any, **__: Any) -> Any:
        """As a validator of the user's may."""
        raise ValueError('not "good"\nenough')


BODIES_OF_ROWS = {
    "chat": '{"messages": [{"role": "user", "content": "Hi"}], "temperature": 0}',
    "responses": '{"input": "Hi", "temperature": 0}',
}


@pytest.mark.parametrize("own", [False, True], ids=["as all", "as rows say"])
@pytest.mark.parametrize("endpoint", BODIES_OF_ROWS)
def test_repairs_are_openai_s(endpoint: str, own: bool, batch_server: LocalServer, tmp_path: Path) -> None:
    """What a second round really sends, in each way that a row may say something of its own."""
    said: dict[str, list[Any]] = {
        "files": [[PNG], None, None, None],
        "system": [None, "Be kind.", None, None],
        "body": [None, None, BODIES_OF_ROWS[endpoint], None],
    }
    rows = {"user_message": ["a", "b", "c", "d"], **(said if own else {})}
    overrides = {name: name for name in said} if own else None
    made = case(rows, output=Fussy, repairs=1, max_rounds=0, endpoint=endpoint, overrides=overrides)
    project = Project(batch_server, tmp_path, [upstream(made.rows), *made.asset.assets])
    assert project.run("rows", "asked_submission").success
    project.land()
    first, second = (batch_server.read(batch["input_file_id"]).splitlines() for batch in batch_server.batches())
    assert len(first) == len(second) == len(made.rows)
    for asked, again in zip(first, second, strict=True):
        before, after = check(asked), check(again)
        turns = "messages" if endpoint == "chat" else "input"
        *kept, answer, problem = after[turns]
        assert {**after, turns: kept} == before
        assert answer["role"] == "assistant"
        assert 'not "good"\nenough' in problem["content"]


def upstream(frame: pd.DataFrame) -> dg.AssetsDefinition:
    """The asset of these rows."""

    @dg.asset
    def rows() -> pd.DataFrame:
        return frame

    return rows


def test_items_of_the_processor_are_openai_s() -> None:
    """Each with settings of its own."""
    items = [
        BatchItem(custom_id="a", user_message="x"),
        BatchItem(custom_id="b", user_message="y", temperature=1.5, max_tokens=9, extra={"seed": 1, "stop": ["."]}),
    ]
    for model in ("gpt-4o-mini", "o3"):
        made = input_file(items, RequestTemplate.of(model, "Be brief.", output=Product), Limits(10, 10_000))
        assert [check(line)["model"] for line in made.splitlines()] == [model, model]


@pytest.mark.parametrize(
    "output", [Node, Cat, Zoo, Words, Kinds, Box[int], Box[Colour], Wrapped, Ticket, Person, Review, SCHEMA]
)
def test_what_is_called_strict_keeps_the_rules(output: Any) -> None:
    """Of whatever an answer may be said to be."""
    made = response_format(output_type(output))
    assert made is not None
    assert made["json_schema"]["strict"]
    assert faults(made["json_schema"]["name"], made["json_schema"]["schema"]) == []


FUNCTION = {"type": "function", "name": "add", "parameters": {"type": "object"}, "strict": False}
BODY = {"model": "m", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]}


@pytest.mark.parametrize(
    ("url", "body", "where"),
    [
        ("chat/completions", {**BODY, "colour": 1}, "colour"),
        ("chat/completions", {"messages": BODY["messages"]}, "'model' is a required property"),
        ("chat/completions", {**BODY, "temperature": 3}, "temperature"),
        ("chat/completions", {**BODY, "messages": []}, "should be non-empty"),
        ("chat/completions", {**BODY, "messages": [{"role": "nobody", "content": "x"}]}, "nobody"),
        ("chat/completions", {**BODY, "messages": [{"role": "user", "content": "x", "colour": 1}]}, "colour"),
        ("chat/completions", json.loads(json.dumps(BODY).replace('url": "u', 'uri": "u')), "uri"),
        ("chat/completions", {**BODY, "response_format": {"type": "json_schema", "json_schema": {}}}, "json_schema"),
        ("responses", {"model": "m", "messages": BODY["messages"]}, "messages"),
        ("responses", {"model": "m", "input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, "input"),
        ("responses", {"model": "m", "input": "x", "text": {"format": {"type": "json_schema"}}}, "json_schema"),
        ("responses", {"model": "m", "input": "x", "text": {"colour": 1}}, "colour"),
        ("embeddings", {"model": "m", "input": "x", "temperature": 0}, "temperature"),
        ("embeddings", {"model": "m", "input": "x", "encoding_format": "packed"}, "packed"),
        ("completions", {"model": "m", "prompt": "x", "messages": []}, "messages"),
        ("moderations", {"model": "m"}, "'input' is a required property"),
    ],
)
def test_what_is_not_openai_s_is_told(url: str, body: dict[str, Any], where: str) -> None:
    """Else nothing above would mean anything."""
    with pytest.raises(ValidationError, match=where):
        validator(BODIES[f"/v1/{url}"]).validate(body)


@pytest.mark.parametrize(
    ("url", "body"),
    [
        ("chat/completions", BODY),
        ("responses", {"model": "m", "input": "x", "reasoning": {"effort": "low"}, "tools": [FUNCTION]}),
        ("embeddings", {"model": "m", "input": ["x", "y"]}),
        ("completions", {"model": "m", "prompt": "x"}),
        ("moderations", {"input": [{"type": "text", "text": "x"}]}),
    ],
)
def test_what_is_openai_s_is_not(url: str, body: dict[str, Any]) -> None:
    """Of every endpoint that the file describes."""
    validator(BODIES[f"/v1/{url}"]).validate(body)


STRICT = {
    "type": "object",
    "properties": {"a": {"$ref": "#/$defs/A"}, "b": {"type": ["string", "null"], "format": "date"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"A": {"type": "array", "items": {"anyOf": [{"type": "integer"}, {"$ref": "#"}]}, "maxItems": 3}},
}


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("object", "array", "the root is no object"),
        ('"additionalProperties": false', '"title": "x"', "#: additionalProperties is not false"),
        ('["a", "b"]', '["a"]', "#: not every property is required"),
        ('["a", "b"]', '["a", "b", "c"]', "#: not every property is required"),
        ("maxItems", "uniqueItems", "#/$defs/A: uniqueItems of array"),
        ("maxItems", "minimum", "#/$defs/A: minimum of array"),
        ("anyOf", "oneOf", "#/$defs/A/items: oneOf of no type"),
        ('"format": "date"', '"format": "url"', "#/properties/b: format url"),
        ('"format": "date"', '"pattern": "^(?!x)"', "#/properties/b: pattern ^(?!x)"),
        ('"format": "date"', '"maxLength": 9', "#/properties/b: maxLength of string or null"),
        ("integer", "date", "#/$defs/A/items/anyOf/0: type date"),
        ("#/$defs/A", "#/$defs/B", "#/properties/a: a reference to #/$defs/B"),
        ('{"$ref": "#"}', '{"$ref": "#", "description": "x"}', "beside a reference"),
        ('{"$ref": "#"}', "{}", "#/$defs/A/items/anyOf/1: nothing says what it is"),
        ('"items"', '"minItems"', "#/$defs/A: an array without items"),
    ],
)
def test_what_strict_mode_refuses_is_told(old: str, new: str, fault: str) -> None:
    """One change of a schema that is right."""
    assert faults("a-b_1", STRICT) == []
    text = json.dumps(STRICT)
    assert old in text
    assert any(fault in one for one in faults("a", json.loads(text.replace(old, new))))
    assert faults("a b", STRICT) == ["the name 'a b'"]
