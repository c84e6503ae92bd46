"""Frames of any kind become a stream, and the stream blocks that do not depend on how it was cut."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests import frame as frame_module
from ractobatch_dagster.requests.frame import BLOCK, blocks, open_frame

ROWS = {"user_message": ["a", "b"], "n": [1, 2]}
TABLE = pa.table(ROWS)
SQL = "select * from (values ('a', 1::bigint), ('b', 2)) t(user_message, n)"


def to_arrow(frame: Any, *, what: str = "the frame") -> pa.Table:
    return open_frame(frame, what=what).read_all()


def _files(folder: Path) -> None:
    pq.write_table(TABLE, folder / "one.parquet")
    pyarrow.csv.write_csv(TABLE, folder / "one.csv")
    (folder / "many").mkdir()
    pq.write_table(TABLE.slice(0, 1), folder / "many" / "0.parquet")
    pq.write_table(TABLE.slice(1), folder / "many" / "1.parquet")
    (folder / "many" / "_SUCCESS").touch()


KINDS: dict[str, Callable[[Path], Any]] = {
    "table": lambda _: TABLE,
    "batch": lambda _: TABLE.to_batches()[0],
    "reader": lambda _: TABLE.to_reader(),
    "dataset": lambda folder: pyarrow.dataset.dataset(folder / "many"),
    "dataset in memory": lambda _: pyarrow.dataset.dataset(TABLE),
    "scanner": lambda folder: pyarrow.dataset.dataset(folder / "one.parquet").scanner(),
    "pandas": lambda _: pd.DataFrame(ROWS),
    "pandas objects": lambda _: pd.DataFrame(ROWS).astype(object),
    "polars": lambda _: pl.DataFrame(ROWS),
    "polars lazy": lambda _: pl.LazyFrame(ROWS),
    "duckdb": lambda _: duckdb.sql(SQL),
    "parquet": lambda folder: folder / "one.parquet",
    "parquet str": lambda folder: str(folder / "one.parquet"),
    "folder": lambda folder: folder / "many",
    "csv": lambda folder: folder / "one.csv",
    "list": lambda _: [TABLE.slice(0, 1), pd.DataFrame(ROWS).iloc[1:]],
    "generator": lambda _: (some for some in (pl.DataFrame(ROWS)[:1], duckdb.sql(SQL + " limit 1 offset 1"))),
    "pandas chunks": lambda folder: pd.read_csv(folder / "one.csv", chunksize=1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_frame(kind: str, tmp_path: Path) -> None:
    """pandas, Polars, lazy or not, PyArrow, DuckDB, files and iterators of them all become the same rows and types."""
    _files(tmp_path)
    table = to_arrow(KINDS[kind](tmp_path))
    assert table.to_pydict() == ROWS
    assert table.schema.equals(pa.schema({"user_message": pa.string(), "n": pa.int64()}), check_metadata=True)


@pytest.mark.parametrize("kind", ["table", "pandas", "pandas objects", "polars", "polars lazy", "duckdb", "parquet"])
def test_many_rows_keep_their_order(kind: str, tmp_path: Path) -> None:
    """Rows beyond a block come in order, and in blocks of one size."""
    rows = {"user_message": [f"text {number}" for number in range(5_000)], "n": list(range(5_000))}
    table = pa.table(rows)
    pq.write_table(table, tmp_path / "x.parquet")
    makers: dict[str, Callable[[], Any]] = {
        "table": lambda: table,
        "pandas": lambda: pd.DataFrame(rows),
        "pandas objects": lambda: pd.DataFrame(rows).astype(object),
        "polars": lambda: pl.DataFrame(rows),
        "polars lazy": lambda: pl.LazyFrame(rows),
        "duckdb": lambda: duckdb.sql(f"select * from '{tmp_path / 'x.parquet'}'"),
        "parquet": lambda: tmp_path / "x.parquet",
    }
    cut = list(blocks(open_frame(makers[kind]())))
    assert [len(block) for block in cut] == [BLOCK] * 9 + [5_000 - 9 * BLOCK]
    assert pa.Table.from_batches(cut).equals(table)


@pytest.mark.parametrize(
    "frame",
    [
        [1, 2],
        [],
        None,
        "text",
        {"a": [1]},
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.Series(["a"]),
    ],
)
def test_what_is_no_frame_is_refused(frame: Any) -> None:
    """No frame, an iterator of none, a path to nothing or two columns of one name is refused with words, at once."""
    with pytest.raises(
        InvalidInputError, match=r"^(The frame|Frame 0 of the frame) is an? |^A column of the frame cannot become Arrow"
    ):
        open_frame(frame, what="the frame")


def test_a_column_of_several_types_is_named() -> None:
    """pandas objects of several types are refused at the value that does not fit, and the column is told."""
    with pytest.raises(InvalidInputError, match=r"Column 'a' of the frame cannot become Arrow: .*'x'"):
        to_arrow(pd.DataFrame({"b": [1, 2], "a": [1, "x"]}))


@pytest.mark.parametrize("text", ["\ud800", "x" * 99 + "\udfff" + "y" * 99])
def test_half_a_character_is_told_with_its_column(text: str) -> None:
    """Not even the error could be printed with it; the text around it says which row it is."""
    frame = pd.DataFrame({"n": range(BLOCK + 1), "user_message": pd.Series([*["a"] * BLOCK, text], dtype=object)})
    with pytest.raises(
        InvalidInputError, match=r"Column 'user_message' of my frame holds half a .*'x*\\ud.*'"
    ) as caught:
        to_arrow(frame, what="my frame")
    assert str(caught.value).isascii()
    to_arrow(frame.assign(user_message=frame["user_message"].str.encode("utf-8", "replace").str.decode("utf-8")))


def test_types_of_pandas_are_those_of_the_whole_frame() -> None:
    """Slices are converted by types that all rows decided, the same as of a conversion of the whole frame."""
    long = 3 * BLOCK
    frame = pd.DataFrame(
        {
            "late text": [None] * (long - 1) + ["x"],
            "late float": pd.Series([1] * (long - 1) + [2.5], dtype=object),
            "nan": ["x", float("nan"), pd.NA] * BLOCK,
            "structs": [{"a": 1}] * (long - 1) + [{"b": "x"}],
            "lists": [[1], None, [2, 3]] * BLOCK,
            "times": pd.date_range("2020", periods=long, tz="UTC"),
            "nullable": pd.array([1, None, 3] * BLOCK, dtype="Int64"),
            "words": pd.Categorical(["x", None, "y"] * BLOCK, categories=["y", "x", "z"], ordered=True),
            "none": [None] * long,
            7: np.arange(long, dtype="int16"),
            "arrow": pd.array(["a", None, "b"] * BLOCK, dtype=pd.ArrowDtype(pa.large_string())),
        },
        index=np.arange(long)[::-1],
    )
    whole = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
    ours = to_arrow(frame)
    assert ours.to_pydict() == whole.to_pydict()
    for mine, theirs in zip(ours.schema, whole.schema, strict=True):
        if pa.types.is_dictionary(theirs.type):
            assert mine.type == pa.dictionary(pa.int32(), pa.string(), ordered=True)
        else:
            assert mine.type == (pa.string() if pa.types.is_large_string(theirs.type) else theirs.type)


def test_an_empty_frame_keeps_its_columns() -> None:
    """Frames without rows are streams without batches."""
    for frame in (pd.DataFrame(ROWS)[:0], pl.DataFrame(ROWS)[:0], pl.LazyFrame(ROWS).head(0), TABLE[:0]):
        table = to_arrow(frame)
        assert (table.column_names, len(table)) == (["user_message", "n"], 0)
        assert list(blocks(table.to_reader())) == []


def test_a_generator_without_end_is_read_block_by_block() -> None:
    """Nothing beyond the frame that a block needs is asked for."""
    asked: list[int] = []

    def endless() -> Iterator[pd.DataFrame]:
        for number in itertools.count():
            asked.append(number)
            yield pd.DataFrame({"user_message": [f"{number}"] * 100})

    some = list(itertools.islice(blocks(open_frame(endless())), 3))
    assert pa.Table.from_batches(some)["user_message"].to_pylist() == [str(row // 100) for row in range(3 * BLOCK)]
    assert len(asked) == -(-3 * BLOCK // 100)


def test_the_frames_of_an_iterator_follow_the_first() -> None:
    """Later frames are put into the order and types of the first; one that cannot be is refused by its number."""
    first, later = pa.table(ROWS), pa.table({"n": pa.array([3], pa.int8()), "user_message": ["c"]})
    assert to_arrow([first, later]).to_pydict() == {"user_message": ["a", "b", "c"], "n": [1, 2, 3]}
    with pytest.raises(InvalidInputError, match=r"Column 'n' of frame 1 of the frame cannot become Arrow.*'x'"):
        to_arrow([first, pa.table({"user_message": ["c"], "n": ["x"]})])
    with pytest.raises(InvalidInputError, match=r"Frame 2 of my frame has the columns \['user_message'\]"):
        to_arrow([first, later, pa.table({"user_message": ["c"]})], what="my frame")
    with pytest.raises(InvalidInputError, match=r"Frame 1 of the frame is a int"):
        to_arrow([first, 5])


def test_errors_in_the_middle_of_a_stream_are_told() -> None:
    """What Arrow finds late is told as what is found early; what the user's own generator raises is left as it is."""
    big = pa.chunked_array([pa.array([1]), pa.array([2**40])])
    stream = open_frame([pa.table({"a": pa.array([1], pa.int32())}), pa.table({"a": big})])
    assert len(stream.read_next_batch()) == len(stream.read_next_batch()) == 1
    with pytest.raises(InvalidInputError, match=r"Column 'a' of frame 1 of the frame .*1099511627776"):
        stream.read_next_batch()

    def broken(error: Exception) -> Iterator[pa.RecordBatch]:
        yield TABLE.to_batches()[0]
        raise error

    def broken_at_once(error: Exception) -> Iterator[pa.RecordBatch]:
        raise error
        yield

    for frame in (
        broken,
        broken_at_once,
        lambda e: pa.RecordBatchReader.from_batches(TABLE.schema, broken(e)),
    ):
        with pytest.raises(ValueError, match=r"^my own$") as caught:
            to_arrow(frame(ValueError("my own")))
        assert type(caught.value) is ValueError
    late = pa.RecordBatchReader.from_batches(TABLE.schema, broken(pa.ArrowInvalid("bad at row 7")))
    with pytest.raises(InvalidInputError, match="A column of the frame cannot become Arrow: bad at row 7"):
        to_arrow(late)


def test_csv_is_text_where_it_must_be(tmp_path: Path) -> None:
    """Prompts are text even where they look like numbers, and an empty column is text, which may follow later."""
    path = tmp_path / "x.csv"
    path.write_text("user_message,n,note\n42,1,\n43,2,\n")
    assert to_arrow(path).schema.types == [pa.string(), pa.int64(), pa.string()]
    assert to_arrow(path)["user_message"].to_pylist() == ["42", "43"]


def test_csv_prompts_have_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line's end within quotes ends no row, wherever the file is cut as it is read."""
    monkeypatch.setattr(frame_module, "_CSV_BYTES", 1 << 10)
    prompts = ["\n".join(["line"] * number) for number in range(1, 100)]
    pyarrow.csv.write_csv(pa.table({"user_message": prompts}), tmp_path / "x.csv")
    assert to_arrow(tmp_path / "x.csv")["user_message"].to_pylist() == prompts


def test_csv_that_turns_out_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that does not fit the type which the first rows gave its column is told with column and row."""
    monkeypatch.setattr(frame_module, "_CSV_BYTES", 1 << 10)
    path = tmp_path / "x.csv"
    path.write_text("user_message,n\n" + "hello,1\n" * 1_000 + "hello,x\n")
    stream = open_frame(path)
    assert len(stream.read_next_batch()) < 1_000
    with pytest.raises(InvalidInputError, match=r"cannot become Arrow: In CSV column #1.*invalid value 'x'"):
        stream.read_all()


def test_a_folder_that_would_lose_columns_is_refused(tmp_path: Path) -> None:
    """Files in folders named by a column's value are a dataset's to read."""
    (tmp_path / "day=1").mkdir()
    pq.write_table(TABLE, tmp_path / "day=1" / "0.parquet")
    with pytest.raises(InvalidInputError, match="partitioning='hive'"):
        open_frame(tmp_path)
    assert to_arrow(pyarrow.dataset.dataset(tmp_path, partitioning="hive")).column_names == [*ROWS, "day"]


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
    many = {name: value * BLOCK for name, value in values.items()}  # more than one slice
    kinds = {"user_message": pl.Categorical(), "words": pl.List(pl.Categorical()), "array": pl.Array(pl.String, 2)}
    for frame in (pl.DataFrame(many, schema_overrides=kinds), pl.LazyFrame(many, schema_overrides=kinds)):
        table = to_arrow(frame)
        assert table.schema.types == [
            words,
            pa.list_(pa.string()),
            pa.struct([("a", pa.string())]),
            pa.binary(),
            pa.list_(pa.list_(pa.string())),
            pa.list_(words),
            pa.list_(pa.string()),
        ]
        assert table.to_pydict() == many
        assert pa.Table.from_batches(blocks(open_frame(frame))).to_pydict() == many


def test_fields_carry_no_metadata(tmp_path: Path) -> None:
    """Neither the schema's metadata nor its fields', such as Parquet's field ids, are part of a frame."""
    fields = [field.with_metadata({"c": "d"}) for field in TABLE.schema]
    table = TABLE.cast(pa.schema(fields, {"a": "b"}))
    pq.write_table(table, tmp_path / "x.parquet")
    for frame in (table, tmp_path / "x.parquet"):
        schema = open_frame(frame).schema
        assert (schema.metadata, [field.metadata for field in schema]) == (None, [None, None])


TEXTS = st.lists(st.integers(0, 40).map("x".__mul__) | st.none(), max_size=40)


def cut(table: pa.Table, lengths: list[int]) -> pa.RecordBatchReader:
    """The table as a stream of batches that have these lengths, with buffers of their own in every other."""
    batches, start = [], 0
    for number, length in enumerate([*lengths, len(table)]):
        part = table.slice(start, length).combine_chunks()
        start += length
        if number % 2:
            part = pa.table({name: pa.array(part[name].to_pylist(), part[name].type) for name in part.column_names})
        batches += part.to_batches()
    return pa.RecordBatchReader.from_batches(table.schema, batches)


@given(texts=TEXTS, one=st.lists(st.integers(0, 9)), two=st.lists(st.integers(0, 9)), limit=st.integers(1, 200))
@settings(deadline=None)
def test_blocks_do_not_depend_on_the_cut(texts: list[str | None], one: list[int], two: list[int], limit: int) -> None:
    """The same rows make the same blocks; each is a run of rows, halved while it is too large, and none is lost."""
    table = pa.table(
        {
            "a": pa.array(texts, pa.string()),
            "b": pa.array([bool(text) for text in texts], pa.bool_()),
            "c": pa.array(texts, pa.string()).dictionary_encode(),
            "d": pa.array([text and [text] for text in texts], pa.list_(pa.string())),
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_module, "BLOCK", 16)
        patch.setattr(frame_module, "BLOCK_BYTES", limit)
        first, second = (list(blocks(cut(table, lengths))) for lengths in (one, two))
        assert [block.to_pydict() for block in first] == [block.to_pydict() for block in second]
        assert [row for block in first for row in block.to_pylist()] == table.to_pylist()
        start = 0
        for block in first:
            assert 0 < len(block) <= 16
            assert len(block) == 1 or frame_module.size(block) <= limit
            step = 16  # the largest half of a run that begins here, is let through and was to be halved before
            while step > 1 and (
                start % step or (frame_module.size(table.slice(start, step).combine_chunks().to_batches()[0]) > limit)
            ):
                step //= 2
            assert len(block) == min(step, len(table) - start)
            start += len(block)


def test_large_rows_leave_in_small_blocks_early() -> None:
    """What exceeds the limit is not gathered up to a whole block."""
    made: list[int] = []

    def rows() -> Iterator[pa.RecordBatch]:
        for number in range(200):
            made.append(number)
            yield pa.record_batch({"user_message": ["x" * (1 << 20)]})

    stream = pa.RecordBatchReader.from_batches(pa.schema({"user_message": pa.string()}), rows())
    assert len(next(iter(blocks(stream)))) == 16  # 32 rows have more than 32 MiB with their offsets
    assert len(made) == 32


def test_large_batches_are_not_copied() -> None:
    """Blocks of a large batch are slices of it."""
    batch = pa.record_batch({"user_message": ["x"] * 10_000})
    addresses = {block.column(0).buffers()[2].address for block in blocks(open_frame(batch))}
    assert addresses == {batch.column(0).buffers()[2].address}
    twice = pa.RecordBatchReader.from_batches(batch.schema, [batch, batch])
    copied = [block for block in blocks(twice) if block.column(0).buffers()[2].address not in addresses]
    assert [len(block) for block in copied] == [BLOCK]  # only the one in which both have rows


def test_dictionaries_that_differ_are_joined() -> None:
    """Batches with other dictionaries go into one block, flat or nested."""

    def batch(words: list[str]) -> pa.RecordBatch:
        flat = pa.array(words).dictionary_encode()
        nested = pa.ListArray.from_arrays(pa.array(range(len(words) + 1), pa.int32()), flat)
        return pa.record_batch({"a": flat, "b": nested})

    batches = [batch(["x", "y"]), batch(["z", "x", "z"])]
    (block,) = blocks(pa.RecordBatchReader.from_batches(batches[0].schema, batches))
    assert block.to_pydict() == {"a": ["x", "y", "z", "x", "z"], "b": [["x"], ["y"], ["z"], ["x"], ["z"]]}


def test_streams_are_read_by_another_thread() -> None:
    """A DuckDB relation and a Polars lazy frame may be read elsewhere than they were opened."""
    tables: list[pa.Table] = []
    for frame in (duckdb.sql(SQL), pl.LazyFrame(ROWS)):
        stream = open_frame(frame)
        thread = threading.Thread(target=lambda stream=stream: tables.append(stream.read_all()))
        thread.start()
        thread.join()
    assert [table.to_pydict() for table in tables] == [ROWS, ROWS]


@pytest.mark.parametrize("wrong", [0, 200_000])
def test_a_query_that_fails_says_so(wrong: int) -> None:
    """Whether it does at once, or when most of its rows have been read."""
    relation = duckdb.sql(f"select cast(if(range = {wrong}, 'a', '1') as int) as n from range(300000)")
    with pytest.raises(InvalidInputError, match=r"The query of the frame fails: .*Could not convert string 'a'"):
        for _ in open_frame(relation):
            pass
