"""Request lines and their hashes; and cutting them into files."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.encode import Encoder, encode_line, escape, request_hash

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(custom_id=TEXT, body=st.dictionaries(TEXT, JSON, max_size=4))
def test_a_line_says_what_was_asked(custom_id: str, body: dict[str, Any]) -> None:
    """Any JSON survives, on one line whichever line breaks a reader believes in."""
    line = encode_line(custom_id, body, endpoint="/v1/x")
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"custom_id": custom_id, "method": "POST", "url": "/v1/x", "body": body}


ODD = TEXT | st.text(st.sampled_from('a"\\\n\x00\x1f\x7f\x85\u2028\u2029\xe9\U0001f642'))


@given(
    text=ODD,
    system=st.none() | TEXT | st.sampled_from(["place-0-0", "place-0-2", "\x00", 'say "place-0-1"']),
    extra=st.dictionaries(TEXT, JSON, max_size=2),
    answer=ODD,
    problem=ODD,
)
def test_a_template_rendered_once_gives_the_same_bytes(
    text: str, system: str | None, extra: dict[str, Any], answer: str, problem: str
) -> None:
    """The quick way and the plain way write the same lines, whatever is in text and template."""
    template = RequestTemplate("m", system, extra={key: value for key, value in extra.items() if key != "messages"})
    encoder = msgspec.json.decode(msgspec.json.encode(Encoder.of("p", template)), type=Encoder)
    body, escaped, endpoint = template.body(text), escape(text), template.endpoint
    line = encode_line("row-00000001", body, endpoint=endpoint)
    assert encoder.line(b"row-00000001", escaped) == line
    assert encoder.lines([1, 2], [escaped, escaped]) == line + line.replace(b"row-00000001", b"row-00000002", 1)
    assert encoder.overhead == len(line) - len(escaped) - len("row-00000001")
    wrong = f"This answer is not valid: {problem}\nGive the corrected answer, and only that."
    body["messages"] += [{"role": "assistant", "content": answer}, {"role": "user", "content": wrong}]
    repaired = encoder.repaired(b"row-00000001", escaped, answer, problem)
    assert repaired == encode_line("row-00000001", body, endpoint=endpoint)


@given(one=st.tuples(TEXT, TEXT, TEXT), other=st.tuples(TEXT, TEXT, TEXT))
def test_two_questions_have_two_hashes(one: tuple[str, str, str], other: tuple[str, str, str]) -> None:
    """Provider, system prompt and text all count, and nothing runs from one into the other."""

    def hashed(provider: str, system: str, text: str) -> bytes:
        encoder = Encoder.of(provider, RequestTemplate("m", system))
        (first,) = encoder.hashes([escape(text)])
        assert first == encoder.hash(escape(text))
        return first

    asked = [(provider, system or None, text) for provider, system, text in (one, other)]
    assert (hashed(*one) == hashed(*other)) == (asked[0] == asked[1])


def test_a_template_without_a_place_for_the_prompt_is_refused() -> None:
    """`extra` may change anything but the messages: all rows would ask the same."""
    with pytest.raises(InvalidInputError, match="no place for the prompt"):
        Encoder.of("p", RequestTemplate("m", "s", extra={"messages": []}))


def test_other_alphabets_are_not_escaped() -> None:
    """CJK text and emoji take their UTF-8 bytes, not six characters each."""
    assert "質問🙂".encode() in encode_line("a", {"text": "質問🙂"}, endpoint="/v1/x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "\ud800", object(), b"bytes", {1, 2}])
def test_what_is_no_json_is_refused(value: Any) -> None:
    """NaN, infinity, half a character and objects are refused before they spoil a file."""
    with pytest.raises(InvalidInputError):
        encode_line("a", {"value": value}, endpoint="/v1/x")
    with pytest.raises(InvalidInputError):
        request_hash("p", "/v1/x", {"value": value})


def test_the_hash_is_the_question() -> None:
    """The order of keys does not matter; provider, endpoint and every value do."""
    one = request_hash("openai", "/v1/x", {"a": 1, "b": 2})
    assert len(one) == 32
    assert one == request_hash("openai", "/v1/x", {"b": 2, "a": 1})
    others = [("azure", "/v1/x", 1), ("openai", "/v1/y", 1), ("openai", "/v1/x", 3)]
    assert one not in {request_hash(provider, endpoint, {"a": a, "b": 2}) for provider, endpoint, a in others}


def test_what_is_nested_too_deep_is_refused() -> None:
    """A value that cannot be written for its depth is bad input like any other."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        encode_line("a", {"value": deep}, endpoint="/v1/x")
