"""Templates over columns."""

from __future__ import annotations

import datetime as dt
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import ConfigurationError, InvalidInputError
from ractobatch_dagster.requests.template import PromptTemplate

TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=5)


def prompts(template: str, frame: Any) -> list[str | None]:
    found: list[str | None] = PromptTemplate(template).prompts(frame).read_all()["user_message"].to_pylist()
    return found


@given(
    rows=st.lists(st.tuples(TEXTS, st.none() | st.integers(-(2**63), 2**63 - 1)), max_size=20),
    template=st.sampled_from(
        ["{{ a }}\n\n{{ n }}\n", "{{n}}{{a}}{{n}}", "{% raw %}{{ a }}{% endraw %}{{ a }} {{ n }}"]
    ),
    dictionary=st.booleans(),
)
def test_joined_is_what_jinja_renders(
    rows: list[tuple[str | None, int | None]], template: str, dictionary: bool
) -> None:
    """Columns that are joined in Arrow give the text that Jinja gives, row by row."""
    text = pa.array([text for text, _ in rows], pa.string())
    table = pa.table(
        {"a": text.dictionary_encode() if dictionary else text, "n": pa.array([n for _, n in rows], pa.int64())}
    )
    plain = jinja2.Environment(finalize=lambda value: "" if value is None else value, keep_trailing_newline=True)
    expected = [
        None if text is None and number is None else plain.from_string(template).render(a=text, n=number)
        for text, number in rows
    ]
    assert prompts(template, table) == expected
    called = template + "{% if false %}{{ a }}{% endif %}"  # which is more than joining
    assert PromptTemplate(called)._pieces is None
    assert prompts(called, table) == expected


def test_values_are_pythons_own() -> None:
    """Conditions, loops, filters and methods see what the row holds."""
    frame = pd.DataFrame(
        {
            "name": ["a", None],
            "score": [0.5, 2.0],
            "tags": [["x", "y"], []],
            "day": [dt.datetime(2026, 1, 2), None],
            "range": [3, 4],
        }
    )
    template = (
        "{{ name|upper if name else '?' }} {{ score }} {% for tag in tags %}<{{ tag }}>{% endfor %} "
        "{{ day.year if day }} {{ range }}"
    )
    assert prompts(template, frame) == ["A 0.5 <x><y> 2026 3", "? 2.0   4"]


def test_a_row_without_values_has_no_prompt() -> None:
    """The words around the columns ask nothing by themselves."""
    frame = pd.DataFrame({"a": ["x", None], "b": pd.array([None, None], "string")})
    assert prompts("About {{ a }}{{ b }}:", frame) == ["About x:", None]
    assert prompts("About {{ a or b }}:", frame) == ["About x:", None]


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()])
def test_what_is_no_number_is_no_text(kind: pa.DataType) -> None:
    """Whoever made the frame: pandas has NaN where others have nulls, and Polars has both."""
    numbers = pa.array(np.array([1.5, float("nan")], kind.to_pandas_dtype()))
    assert prompts("{{ a }}{{ b }}", pa.table({"a": numbers, "b": ["x", "y"]})) == ["1.5x", "y"]
    assert prompts("v={{ a }}", pa.table({"a": numbers})) == ["v=1.5", None]
    assert prompts("v={{ a[0] }}", pa.table({"a": pa.array([[float("nan")]], pa.list_(kind))})) == ["v="]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ subject", "does not understand"),
        ("{{ subject | nothing }}", "No filter named 'nothing'"),
        ("Label this.", "names no column"),
        ("", "names no column"),
    ],
)
def test_a_template_that_cannot_work_is_refused(template: str, message: str) -> None:
    """When the code is loaded, not when money could be spent."""
    with pytest.raises(ConfigurationError, match=message):
        PromptTemplate(template)


def test_frames_that_do_not_fit_are_refused() -> None:
    """By name, before anything is read."""
    template = PromptTemplate("{{ a }}")
    with pytest.raises(InvalidInputError, match=r"my frame has no column 'a', which its template names.*\['b'\]"):
        template.prompts(pd.DataFrame({"b": [1]}), what="my frame")
    with pytest.raises(InvalidInputError, match="my frame has a column 'user_message'"):
        template.prompts(pd.DataFrame({"a": [1], "user_message": ["x"]}), what="my frame")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ a.nothing }}", "has no attribute 'nothing'"),
        ("{{ a.__class__.__mro__ }}", "unsafe"),
        ("{{ 1 // (a - 1500) }}", "ZeroDivisionError"),
    ],
)
def test_a_row_that_cannot_be_rendered_is_named(template: str, message: str) -> None:
    """By its number in the frame."""
    frame = pd.DataFrame({"a": range(2_000)})
    with pytest.raises(InvalidInputError, match=message) as caught:
        PromptTemplate(template).prompts(frame).read_all()
    assert caught.value.row == (1_500 if "//" in template else 0)
    assert f"row {caught.value.row} cannot be put into the template" in str(caught.value)


def test_text_that_is_not_utf8_is_named() -> None:
    """Arrow takes files at their word; Python does not."""
    array = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    with pytest.raises(InvalidInputError, match="row 0 cannot be put into the template: UnicodeDecodeError"):
        PromptTemplate("{{ a|upper }}").prompts(pa.table({"a": array})).read_all()
