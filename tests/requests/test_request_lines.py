"""Request lines and their hashes; and cutting them into files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Cutter, Limits
from ractobatch_dagster.requests.encode import Encoder, encode_line, request_hash

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


@given(
    text=TEXT | st.text(st.sampled_from('a"\\\n\x00\x1f\x7f\x85\u2028\u2029\xe9\U0001f642')),
    system=st.none() | TEXT | st.sampled_from(["prompt-0", "\x00", 'say "prompt-0"']),
    extra=st.dictionaries(TEXT, JSON, max_size=2),
)
def test_a_template_rendered_once_gives_the_same_bytes(text: str, system: str | None, extra: dict[str, Any]) -> None:
    """The quick way and the plain way write the same line and the same hash, whatever is in text and template."""
    template = RequestTemplate("m", system, extra={key: value for key, value in extra.items() if key != "messages"})
    encoder, body = Encoder("p", template), template.body(text)
    escaped = encoder.escaped(text)
    assert encoder.line("row-00000001", escaped) == encode_line("row-00000001", body, endpoint=template.endpoint)
    assert encoder.hash(escaped) == request_hash("p", template.endpoint, body)


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


@given(
    lines=st.lists(st.binary(min_size=0, max_size=30).map(lambda raw: raw.replace(b"\n", b"") + b"\n"), max_size=40),
    most=st.integers(1, 6),
    size=st.integers(31, 90),
    first=st.integers(0, 3),
)
def test_files_keep_within_the_limits(lines: list[bytes], most: int, size: int, first: int) -> None:
    """Every line is in exactly one file, in order; no file is over a limit, and none could have held one more."""
    files: list[bytes] = []

    def keep(cut: Any, path: Path) -> None:
        files.append(path.read_bytes())
        assert (cut.size, cut.requests) == (len(files[-1]), files[-1].count(b"\n"))

    with Cutter(Limits(most, size), keep, first=first) as cutter:
        for line in lines:
            cutter.add(line, what="a row")
    assert b"".join(files) == b"".join(lines)
    assert [cut.number for cut in cutter.files] == list(range(first, first + len(files)))
    for index, content in enumerate(files):
        assert 0 < content.count(b"\n") <= most
        assert len(content) <= size
        if index + 1 < len(files):
            following = files[index + 1].partition(b"\n")[0] + b"\n"
            assert content.count(b"\n") == most or len(content) + len(following) > size


def test_a_line_over_the_limit_is_named() -> None:
    """A single request that no file can hold is refused by name."""
    with (
        pytest.raises(InvalidInputError, match="row 7 makes a request of 6 bytes"),
        Cutter(Limits(10, 5), lambda cut, path: None) as cutter,
    ):
        cutter.add(b"12345\n", what="row 7")


def test_nothing_is_handed_over_after_a_failure() -> None:
    """A cut that ends with an exception hands no half file over, and leaves no folder behind."""
    handed: list[Path] = []
    cutter = Cutter(Limits(1, 50), lambda cut, path: handed.append(path))
    folder = Path(cutter._folder.name)
    with suppress(KeyError), cutter:
        for line in (b"1\n", b"2\n"):
            cutter.add(line, what="a row")
        raise KeyError
    assert [path.name for path in handed] == ["00000.jsonl"]
    assert not folder.exists()


def test_what_is_nested_too_deep_is_refused() -> None:
    """A value that cannot be written for its depth is bad input like any other."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidInputError, match="cannot be written as JSON"):
        encode_line("a", {"value": deep}, endpoint="/v1/x")
