"""Reading result files: bytes in, objects out, and no line that ends the others."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.results.lines import BadLine, raw_lines, read_lines

json_objects = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def in_chunks(data: bytes, size: int) -> list[bytes]:
    """The data as it comes over a network."""
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(st.binary(max_size=300), st.integers(1, 50))
def test_any_bytes_can_be_read_in_any_chunks(data: bytes, size: int) -> None:
    """The reader never raises, and where the chunks are cut changes nothing."""
    whole = list(read_lines([data]))
    assert repr(list(read_lines(in_chunks(data, size)))) == repr(whole)
    assert len(whole) == sum(bool(line.removeprefix(b"\xef\xbb\xbf").strip()) for line in data.split(b"\n"))


@given(st.lists(json_objects, max_size=5), st.booleans(), st.integers(1, 40))
def test_what_was_written_is_read_back(objects: list[dict[str, Any]], escaped: bool, size: int) -> None:
    """Each object comes back as it was, whatever characters are in it and however they were written."""
    data = b"".join(json.dumps(one, ensure_ascii=escaped).encode("utf-8", "surrogatepass") + b"\n" for one in objects)
    assert list(read_lines(in_chunks(data, size))) == objects


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1e"])
def test_only_a_line_feed_ends_a_line(separator: str) -> None:
    """Characters that Python takes for line breaks are text."""
    data = f'{{"text":"a{separator}b"}}\n'.encode()
    assert list(raw_lines([data])) == [data[:-1]]
    if separator in "\u2028\u2029\x85":
        assert list(read_lines([data])) == [{"text": f"a{separator}b"}]


def test_a_bad_line_keeps_its_number_and_its_bytes() -> None:
    """A line that is no JSON object is handed on between its neighbours."""
    first, bad, other, last = read_lines([b'{"a":1}\n{"b":\n[1]\n\n{"c":3}'])
    assert (first, last) == ({"a": 1}, {"c": 3})
    assert isinstance(bad, BadLine)
    assert (bad.number, bad.data) == (2, b'{"b":')
    assert isinstance(other, BadLine)
    assert other.reason == "a list, not an object"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'\xef\xbb\xbf{"a":1}\n', [{"a": 1}]),
        (b'{"a":1}\n\n\xef\xbb\xbf{"b":2}\n', [{"a": 1}, {"b": 2}]),  # the second of two files
        (b'{"a":1}\r\n{"b":2}\r\n', [{"a": 1}, {"b": 2}]),
        (b'{"a":"\\ud800"}', [{"a": "\ud800"}]),
        (b'{"a":123456789012345678901234567890}', [{"a": 123456789012345678901234567890}]),
        (b'{"a":"x\xff"}', [{"a": "x\ufffd"}]),
        (b'{"\xed":1}', [{"\ufffd": 1}]),
        (b"", []),
        (b"\n \n", []),
    ],
)
def test_what_providers_write_is_taken(data: bytes, expected: list[Any]) -> None:
    """Byte order marks, carriage returns, lone surrogates and huge numbers are no reason to lose a line."""
    assert list(read_lines([data])) == expected


def test_lines_nested_too_deep_are_bad_lines() -> None:
    """A line that would exhaust the stack is a line that cannot be read."""
    (line,) = read_lines([b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"])
    assert isinstance(line, BadLine)
