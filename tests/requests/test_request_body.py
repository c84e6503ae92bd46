"""The body of one request."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from ractobatch_dagster.prompt import RactoPrompt
from ractobatch_dagster.requests.body import RequestTemplate, is_reasoning_model


class Label(BaseModel):
    mood: str


def body(model: str = "gpt-4o-mini", /, **options: Any) -> dict[str, Any]:
    return RequestTemplate.of(model, "Be brief.", **options).body("hi")


def test_the_least() -> None:
    """Model and messages, and nothing that was not asked for."""
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    assert body() == {"model": "gpt-4o-mini", "messages": messages}
    assert RequestTemplate.of("m", None).body("hi")["messages"] == messages[1:]
    assert RequestTemplate.of("m", "").body("hi")["messages"] == messages[1:]


def test_what_is_given_goes_before_the_template() -> None:
    """The template's values hold where the call gives none; 0 is a value."""
    template = RequestTemplate("m", temperature=1.0, max_tokens=5, extra={"top_p": 0.5, "seed": 1})
    assert template.body("hi")["temperature"] == 1.0
    made = template.body("hi", temperature=0.0, max_tokens=6, extra={"seed": 2, "top_p": None})
    assert (made["temperature"], made["max_tokens"], made["seed"]) == (0.0, 6, 2)
    assert "top_p" not in made


def test_extra_goes_last_and_removes() -> None:
    """`extra` overrides anything; a value of None removes the key."""
    made = body(temperature=1.0, max_tokens=5, extra={"temperature": None, "messages": [], "seed": 7})
    assert made == {"model": "gpt-4o-mini", "messages": [], "max_tokens": 5, "seed": 7}


def test_an_output_model_is_sent_as_response_format() -> None:
    """A prompt's Pydantic model is sent as a strict schema."""
    prompt = RactoPrompt(role="r", aim="a", constraints="", tone="", output_format=Label)
    made = RequestTemplate.of("gpt-4o-mini", prompt).body("hi")["response_format"]
    assert made["type"] == "json_schema"
    assert made["json_schema"]["strict"] is True


REASONING = ("o1", "o1-mini", "o3", "o4-mini-2025-04-16", "gpt-5", "gpt-5.1", "gpt-5-mini", "gpt-6", "gpt-10", "GPT-5")
REASONING += ("ft:gpt-5-mini:org::id", "openai/o3", "ft:o4-mini-2025-04-16:org::id")
PLAIN = ("gpt-4o", "gpt-4o-mini", "gpt-4.1", "gpt-35-turbo", "gpt-3.5-turbo", "gpt-4", "gpt-5-chat-latest", "llama-3")
PLAIN += ("ft:gpt-4o-mini:org::id", "claude-o1", "gpt-oss-120b", "my-deployment", "gpt-4o-2024-11-20", "gpt-351")


@pytest.mark.parametrize("model", REASONING)
def test_reasoning_models_get_max_completion_tokens(model: str) -> None:
    """A reasoning model, of any generation, by any of its names, gets `max_completion_tokens`."""
    assert is_reasoning_model(model)
    made = body(model, max_tokens=9)
    assert made["max_completion_tokens"] == 9
    assert "max_tokens" not in made


@pytest.mark.parametrize("model", PLAIN)
def test_other_models_get_max_tokens(model: str) -> None:
    """Any other model gets `max_tokens`; Azure's name for 3.5 is no generation 35."""
    assert not is_reasoning_model(model)
    assert body(model, max_tokens=9)["max_tokens"] == 9


def test_a_model_in_extra_decides() -> None:
    """Where `extra` names the model, the limit takes that model's name."""
    assert body("gpt-4o", max_tokens=9, extra={"model": "o3"})["max_completion_tokens"] == 9
    assert body("o3", max_tokens=9, extra={"model": "gpt-4o"})["max_tokens"] == 9


def test_the_schema_of_a_model_is_made_once() -> None:
    """Ten thousand rows share one `response_format`, rather than have Pydantic write the schema for each."""
    template = RequestTemplate("gpt-4o-mini", output_type=Label)
    assert template.body("a")["response_format"] is template.body("b")["response_format"]
