"""Requests as Anthropic's Messages API takes them."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field

from ractobatch_dagster import ConfigurationError, RactoFile
from ractobatch_dagster.json_schema import output_format
from ractobatch_dagster.provider.naming import key_in, tagged, untagged
from ractobatch_dagster.provider.profile import PROFILES
from ractobatch_dagster.requests.body import MESSAGES, RESPONSES, RequestTemplate
from ractobatch_dagster.requests.encode import Encoder, body_hash, body_of, body_part, escape
from ractobatch_dagster.requests.overrides import Own
from ractobatch_dagster.requests.rendering import Requests

CLAUDE = PROFILES["anthropic"]


class Label(BaseModel):
    """A label."""

    word: str
    score: Annotated[int, Field(ge=0, le=10, description="How sure.")]
    tags: list[str] = []


class Tree(BaseModel):
    """Contains itself."""

    children: list[Tree]


class Free(BaseModel):
    """Has a free-form part."""

    more: dict[str, int]


def test_chat_is_called_messages_there() -> None:
    """The system prompt stands apart, and the most tokens are always said."""
    template = RequestTemplate.of("claude-haiku-4-5", "Be brief.", temperature=0).at(CLAUDE)
    assert template.endpoint == MESSAGES
    assert template.body("Hi") == {
        "model": "claude-haiku-4-5",
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Hi"}],
        "temperature": 0,
        "max_tokens": 4096,
    }
    assert template.body("Hi", max_tokens=7)["max_tokens"] == 7
    assert RequestTemplate("gpt-4o-mini").at(PROFILES["openai"]) == RequestTemplate("gpt-4o-mini")


def test_there_are_no_other_endpoints() -> None:
    """Embeddings and responses are OpenAI's."""
    with pytest.raises(ConfigurationError, match="anthropic has nothing like /v1/responses"):
        RequestTemplate("claude-haiku-4-5", endpoint=RESPONSES).at(CLAUDE)


def test_an_output_model_is_a_format() -> None:
    """Objects are closed and complete; limits are told in words, since the format takes none."""
    template = RequestTemplate.of("claude-haiku-4-5", None, output=Label).at(CLAUDE)
    format_ = template.body("x")["output_config"]["format"]
    assert format_["type"] == "json_schema"
    schema = format_["schema"]
    assert (schema["additionalProperties"], schema["required"]) == (False, ["word", "score", "tags"])
    assert schema["properties"]["score"] == {"type": "integer", "description": "How sure. (maximum: 10, minimum: 0)"}
    assert "minimum" not in json.dumps(schema["properties"]["tags"])


@pytest.mark.parametrize("model", [Tree, Free])
def test_what_no_format_can_say_goes_without(model: type[BaseModel]) -> None:
    """The prompt says it, and the answer is validated."""
    assert output_format(model) is None
    assert "output_config" not in RequestTemplate.of("claude-x", None, output=model).at(CLAUDE).body("x")


def test_lines_are_what_the_api_takes() -> None:
    """Quickly made or not, shown an answer again or not; and the hash is that of the body."""
    template = RequestTemplate.of("claude-haiku-4-5", "Be brief.").at(CLAUDE)
    encoder = Encoder.of("anthropic x", template)
    line = encoder.line(b"row-00000001", escape("Hi"))
    assert json.loads(line) == {"custom_id": "row-00000001", "params": template.body("Hi")}
    assert body_of(line) == template.body("Hi")
    assert encoder.lines([1], [escape("Hi")]) == line
    turns = body_of(encoder.repaired(b"row-00000001", escape("Hi"), "no", "wrong"))["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert encoder.hashes([escape("Hi")]) == [body_hash("anthropic x", MESSAGES, template.body("Hi"))]
    bodies = Encoder.of_bodies(MESSAGES)
    part = body_part(MESSAGES, template.body("Hi"))
    assert body_of(bodies.line(b"row-00000001", part)) == template.body("Hi")
    turns = body_of(bodies.repaired(b"row-00000001", part, "no", "wrong"))["messages"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]


def test_files_go_with_the_prompt() -> None:
    """Pictures by their bytes or by an address, and PDFs."""
    requests = Requests("anthropic x", RequestTemplate("claude-haiku-4-5", endpoint=MESSAGES))
    picture = RactoFile.from_bytes(b"\xff\xd8\xff", "image/jpeg", "a.jpg")
    paper = RactoFile.from_bytes(b"%PDF", "application/pdf", "a.pdf")
    body: Any = requests._body(Own(files=(picture, paper, "https://example.com/a.png")), "What is this?")
    kinds = [(part["type"], part.get("source", {}).get("type")) for part in body["messages"][0]["content"]]
    assert kinds == [("image", "base64"), ("document", "base64"), ("image", "url"), ("text", None)]


def test_the_key_in_a_custom_id() -> None:
    """It fits into 64 characters, and comes off again."""
    key = "20261125T213300123-abcd1234/12345/3"
    name = tagged("row-12345678901", key)
    assert len(name) <= 64
    assert (untagged(name), key_in(name)) == ("row-12345678901", key)
    assert (untagged("row-1"), key_in("row-1"), key_in("a_b")) == ("row-1", None, None)
