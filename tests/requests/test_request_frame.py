"""Frames of any kind become Arrow, and what would lose rows or money later is refused."""

from __future__ import annotations

from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.frame import check_frame, digest, to_arrow

ROWS = {"user_message": ["a", "b"], "n": [1, 2]}
TABLE = pa.table(ROWS)


@pytest.mark.parametrize(
    "make",
    [
        lambda: TABLE,
        lambda: TABLE.to_batches()[0],
        TABLE.to_reader,
        lambda: pd.DataFrame(ROWS),
        lambda: pl.DataFrame(ROWS),
        lambda: pl.LazyFrame(ROWS),
        lambda: duckdb.sql("select * from (values ('a', 1), ('b', 2)) t(user_message, n)"),
    ],
)
def test_every_kind_of_frame(make: Any) -> None:
    """pandas, Polars, lazy or not, PyArrow and DuckDB all become the same rows."""
    assert to_arrow(make()).to_pydict() == ROWS


@pytest.mark.parametrize(
    "frame",
    [
        [1, 2],
        None,
        "text",
        pd.DataFrame({"a": [1, "x"]}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.Series(["a"]),
    ],
)
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    """No frame, a column of several types, or two columns of one name is refused with words."""
    with pytest.raises(InvalidInputError, match=r"The frame is a|cannot become Arrow"):
        to_arrow(frame, what="the frame")


def check(table: pa.Table, **options: Any) -> None:
    check_frame(table, **{"key": None, "reserved": [], "where": "frame", **options})


def test_a_good_frame_passes() -> None:
    """Text in the prompt column and unique keys are all it takes; an empty frame is fine."""
    check(TABLE, key="n")
    check(TABLE.slice(0, 0))
    check(pa.table({"user_message": pa.array(["a"]).dictionary_encode()}))


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (pa.table({"n": [1]}), {}, "no column 'user_message'"),
        (pa.table({"user_message": [1]}), {}, "holds int64, not text"),
        (pa.table([["a"], [1], [2]], names=["user_message", "n", "n"]), {}, "several columns named 'n'"),
        (TABLE, {"reserved": ["llm_status", "n"]}, "a column 'n'"),
        (TABLE, {"key": "id"}, "no column 'id'"),
        (pa.table({"user_message": ["a", "b"], "n": [1, None]}), {"key": "n"}, "row 1 has no 'n'"),
        (pa.table({"user_message": ["a", "b"], "n": [7, 7]}), {"key": "n"}, "1 values of the key 'n' .*: 7"),
        (pa.table({"user_message": ["a"], "n": [{"x": 1}]}), {"key": "n"}, "cannot identify rows"),
    ],
)
def test_a_bad_frame_is_refused(table: pa.Table, options: dict[str, Any], said: str) -> None:
    """What is wrong is said, with the column."""
    with pytest.raises(InvalidInputError, match=said):
        check(table, **options)


@pytest.mark.parametrize("prompt", [None, "", " \n\t"])
def test_a_row_without_a_prompt_is_named(prompt: str | None) -> None:
    """The row is told with its key, and can be let through."""
    table = pa.table({"user_message": ["a", prompt], "n": [8, 9]})
    with pytest.raises(InvalidInputError, match=r"row 1 \(n=9\) has no text") as caught:
        check(table, key="n")
    assert caught.value.row == 1
    check(table, on_null="skip")


def test_nan_in_pandas_is_no_prompt() -> None:
    """The NaN that pandas has for a missing text is not sent as `nan`."""
    table = to_arrow(pd.DataFrame({"user_message": ["a", float("nan")]}))
    with pytest.raises(InvalidInputError, match="row 1 has no text"):
        check(table)


def test_the_digest_is_the_rows() -> None:
    """The same rows have the same digest however they are chunked; other rows, order or names do not."""
    chunked = pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)])
    assert digest(chunked) == digest(TABLE)
    others = [TABLE.slice(0, 1), TABLE.take([1, 0]), TABLE.rename_columns(["user_message", "m"])]
    assert digest(TABLE) not in {digest(other) for other in others}


def test_polars_types_become_plain_ones() -> None:
    """String views and their like are plain types that every Parquet reader takes, however deep; values stay."""
    words = pa.dictionary(pa.int32(), pa.string())
    values: dict[str, list[Any]] = {
        "user_message": ["a", "b"],
        "list": [["x"], None],
        "struct": [{"a": "q"}, {"a": None}],
        "bytes": [b"1", b"2"],
        "nested": [[["u"]], [["v"]]],
        "words": [["x"], ["y"]],
        "array": [["x", "y"], ["z", "w"]],
    }
    kinds = {"user_message": pl.Categorical(), "words": pl.List(pl.Categorical()), "array": pl.Array(pl.String, 2)}
    table = to_arrow(pl.DataFrame(values, schema_overrides=kinds))
    check_frame(table, key="user_message", reserved=[], where="f")
    assert table.schema.types == [
        words,
        pa.list_(pa.string()),
        pa.struct([("a", pa.string())]),
        pa.binary(),
        pa.list_(pa.list_(pa.string())),
        pa.list_(words),
        pa.list_(pa.string()),
    ]
    assert table.to_pydict() == values
