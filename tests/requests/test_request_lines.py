"""Request lines and their hashes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.encode import (
    Encoder,
    custom_id,
    custom_id_bytes,
    custom_ids,
    encode_line,
    escape,
    request_hash,
)

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
SYSTEM = st.none() | TEXT | st.sampled_from(["place-0-0", "\x00", 'say "place-0-1"', "place-0-2 place-1-0"])
EXTRA = st.dictionaries(TEXT, JSON, max_size=2).map(lambda extra: {k: v for k, v in extra.items() if k != "messages"})


@given(text=ODD, system=SYSTEM, extra=EXTRA)
def test_a_template_rendered_once_gives_the_same_bytes(text: str, system: str | None, extra: dict[str, Any]) -> None:
    """The quick way and the plain way write the same line, whatever is in text and template; its length is known."""
    template = RequestTemplate("m", system, extra=extra)
    encoder, escaped = Encoder.of("p", template), escape(text)
    line = encoder.line(b"row-00000001", escaped)
    assert line == encode_line("row-00000001", template.body(text), endpoint=template.endpoint)
    assert len(line) == encoder.overhead + len("row-00000001") + len(escaped)


@given(st.lists(st.integers(0, 2**63 - 1) | st.integers(-2, 2).map(lambda near: 10**8 + near), min_size=1))
def test_the_length_of_an_id_is_known_without_it(rows: list[int]) -> None:
    """Up to the largest number that a row can have."""
    assert custom_id_bytes(np.array(rows)).tolist() == [len(custom_id(row)) for row in rows]


@given(st.lists(st.none() | st.integers(0, 2**63 - 1) | st.integers(10**8 - 2, 10**8 + 2)))
def test_many_ids_are_made_at_once_as_one_by_one(rows: list[int | None]) -> None:
    """Up to the largest number that a row can have; what has none stays without."""
    expected = [None if row is None else custom_id(row) for row in rows]
    assert custom_ids(pa.array(rows, pa.int64())).to_pylist() == expected


@given(text=ODD, answer=ODD, problem=ODD, system=SYSTEM, extra=EXTRA)
def test_a_repair_shows_the_answer_and_what_is_wrong(
    text: str, answer: str, problem: str, system: str | None, extra: dict[str, Any]
) -> None:
    """The request of a repair is the first one with two more messages, byte for byte what JSON of it all gives."""
    template = RequestTemplate("m", system, extra=extra)
    line = Encoder.of("p", template).repaired(b"row-00000001", escape(text), answer, problem)
    body = template.body(text)
    told = f"This answer is not valid: {problem}\nGive the corrected answer, and only that."
    body["messages"] = [
        *body["messages"],
        {"role": "assistant", "content": answer},
        {"role": "user", "content": told},
    ]
    assert line == encode_line("row-00000001", body, endpoint=template.endpoint)


@given(system=SYSTEM, extra=EXTRA, text=ODD)
def test_an_encoder_survives_being_stored(system: str | None, extra: dict[str, Any], text: str) -> None:
    """What is read back from JSON writes the same lines, repairs and hashes."""
    encoder = Encoder.of("p", RequestTemplate("m", system, extra=extra))
    stored = msgspec.json.decode(msgspec.json.encode(encoder), type=Encoder)
    assert stored == encoder
    escaped = escape(text)
    assert stored.line(b"a", escaped) == encoder.line(b"a", escaped)
    assert stored.repaired(b"a", escaped, text, text) == encoder.repaired(b"a", escaped, text, text)
    assert stored.hashes([escaped])[0] == encoder.hashes([escaped])[0]


@given(text=ODD, other=ODD, system=SYSTEM, extra=EXTRA)
def test_the_hash_of_a_request_is_that_of_its_template_and_its_prompt(
    text: str, other: str, system: str | None, extra: dict[str, Any]
) -> None:
    """16 bytes; the same for the same question, in whatever order `extra` came; another one for any other question."""
    encoder = Encoder.of("p", RequestTemplate("m", system, extra=extra))
    mine = encoder.hashes([escape(text)])[0]
    assert len(mine) == 16
    turned = RequestTemplate("m", system, extra=dict(reversed(extra.items())))
    assert mine == Encoder.of("p", turned).hashes([escape(text)])[0]
    assert (mine == encoder.hashes([escape(other)])[0]) == (text == other)
    others = [
        Encoder.of("q", RequestTemplate("m", system, extra=extra)),
        Encoder.of("p", RequestTemplate("m", system, extra=extra, endpoint="/v1/other")),
        Encoder.of("p", RequestTemplate("m", f"{system} more", extra=extra)),
        Encoder.of("p", RequestTemplate("m", system, extra={**extra, "seed": "another"})),
    ]
    assert mine not in {one.hashes([escape(text)])[0] for one in others}


def test_where_the_prompt_stands_is_part_of_the_hash() -> None:
    """The text around the prompt cannot be moved into it: a longer system prompt is no longer question."""
    one = Encoder.of("p", RequestTemplate("m", "a")).hashes([escape("b")])[0]
    assert one != Encoder.of("p", RequestTemplate("m", "b")).hashes([escape("a")])[0]
    assert one != Encoder.of("p", RequestTemplate("m", "ab")).hashes([escape("")])[0]


@pytest.mark.parametrize("messages", [[], None, [{"role": "user", "content": "always the same"}]])
def test_a_template_without_a_place_for_the_prompt_is_refused(messages: Any) -> None:
    """`extra` that replaces the messages would ask every row the same."""
    with pytest.raises(InvalidInputError, match="no place for the prompt"):
        Encoder.of("p", RequestTemplate("m", extra={"messages": messages}))


@pytest.mark.parametrize("text", ["\ud800", "before \udfff after"])
def test_half_a_character_is_refused(text: str) -> None:
    """In a prompt, and in the template."""
    with pytest.raises(InvalidInputError, match="half a character"):
        escape(text)
    with pytest.raises(InvalidInputError, match="half a character"):
        Encoder.of("p", RequestTemplate("m", text))


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


def test_rows_and_prompts_are_as_many() -> None:
    """A row without a line would be a row that is never asked."""
    encoder = Encoder.of("p", RequestTemplate("m", "x"))
    assert encoder.lines([], []) == b""
    with pytest.raises(ValueError, match="2 rows and 1 prompts"):
        encoder.lines([0, 1], [escape("a")])
