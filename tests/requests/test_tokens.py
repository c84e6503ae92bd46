"""Tokens, counted without a network."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
from pydantic import BaseModel

from ractobatch_dagster.requests import tokens
from ractobatch_dagster.requests.body import RequestTemplate


class Label(BaseModel):
    """An answer."""

    good: bool


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gpt-4o-mini", "o200k_base"), ("gpt-4.1", "o200k_base"), ("gpt-4.5-preview", "o200k_base"),
        ("o3", "o200k_base"), ("gpt-5.4", "o200k_base"), ("ft:gpt-4o:x", "o200k_base"), ("my-deployment", "o200k_base"),
        ("gpt-4", "cl100k_base"), ("gpt-4-turbo", "cl100k_base"), ("gpt-3.5-turbo", "cl100k_base"),
        ("gpt-35-turbo", "cl100k_base"), ("ft:gpt-3.5-turbo:x", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
    ],
)  # fmt: skip
def test_each_model_has_its_vocabulary(model: str, name: str) -> None:
    """As OpenAI's own tokenizer maps them."""
    assert tokens.encoding_name(model) == name


def test_a_chat_is_counted_as_documented() -> None:
    """Three tokens around each message, three before the answer, roles and texts; what looks special is plain text."""
    count = tokens.counter("gpt-4o-mini")
    assert count is not None
    one = RequestTemplate("gpt-4o-mini").body("hello")
    assert count(one) == 3 + 3 + 1 + 1
    assert count(RequestTemplate("gpt-4o-mini", "hello").body("hello")) == count(one) + 3 + 1 + 1
    assert count(RequestTemplate("gpt-4o-mini").body("<|endoftext|>")) > count(one)
    parts = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}, {"type": "image_url"}]}]}
    assert count(parts) == count(one)
    assert count({"messages": [{"role": "user", "content": "hello", "name": "bob"}]}) == count(one) + 2
    assert count(RequestTemplate("gpt-4o-mini", output_type=Label).body("hello")) > count(one) + 10
    assert count({**one, "tools": [{"type": "function"}]}) > count(one)
    assert count({"messages": [{"role": "assistant", "content": None}]}) == 3 + 3 + 1

    said = {"input": [{"role": "user", "content": "hello"}], "instructions": [{"role": "user", "content": "Be brief."}]}
    assert count(said) > count({**said, "instructions": "Be brief."}) > count({**said, "instructions": None})


def test_a_very_long_text_is_counted_in_parts() -> None:
    """The tokenizer itself refuses a million characters."""
    count = tokens.counter("gpt-4o-mini")
    assert count is not None
    text = "word " * 300_000
    assert count({"input": text}) == pytest.approx(300_000, abs=5)


def test_without_the_tokenizer_nothing_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra, of forty megabytes."""
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "bpe_openai":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    tokens._tokenizer.cache_clear()
    assert tokens.counter("gpt-4o-mini") is None
    tokens._tokenizer.cache_clear()
