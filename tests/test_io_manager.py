"""The Parquet IO manager with assets that are no batch assets."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ractobatch_dagster import ParquetIOManager
from ractobatch_dagster.table_file import write_table_file
from tests.project import failure

DAYS = dg.StaticPartitionsDefinition(["1", "2", "3"])


def materialise(folder: Path, *assets: Any, partition: str | None = None, **options: Any) -> dg.ExecuteInProcessResult:
    """One run with the IO manager below `folder`."""
    return dg.materialize(
        list(assets),
        resources={"io_manager": ParquetIOManager(root=str(folder))},
        partition_key=partition,
        raise_on_error=False,
        **options,
    )


@dg.asset
def frame() -> pd.DataFrame:
    """A frame with whole numbers and nulls."""
    return pd.DataFrame({"n": pd.array([1, None, 3], dtype="Int64"), "text": ["a", None, "c"]})


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table, pa.RecordBatchReader])
def test_downstream_gets_what_it_is_annotated_with(tmp_path: Path, kind: type) -> None:
    """pandas, Polars, lazy Polars, PyArrow and a stream of it, from one and the same file."""

    @dg.asset
    def reader(frame: kind) -> None:  # type: ignore[valid-type]
        assert isinstance(frame, kind)

    assert materialise(tmp_path, frame, reader).success


def test_a_downstream_may_ask_for_a_relation(tmp_path: Path) -> None:
    """Which DuckDB queries as its own."""

    @dg.asset
    def numbers() -> pa.Table:
        return pa.table({"n": [1, 2, 3]})

    @dg.asset
    def total(numbers: duckdb.DuckDBPyRelation) -> pa.Table:
        return pa.table(numbers.sum("n").to_arrow_table())

    manager = ParquetIOManager(root=str(tmp_path))
    result = dg.materialize([numbers, total], resources={"io_manager": manager})
    assert result.output_for_node("total").to_pydict() == {"sum(n)": [6]}


def test_whole_numbers_with_nulls_stay_whole(tmp_path: Path) -> None:
    """A null does not turn a column of whole numbers into floats."""

    @dg.asset
    def reader(frame: pd.DataFrame) -> None:
        assert str(frame["n"].dtype) == "Int64"

    assert materialise(tmp_path, frame, reader).success


def test_the_file_reads_with_pandas_polars_and_duckdb(tmp_path: Path) -> None:
    """It is a plain Parquet file at a plain path, which the run's metadata names."""
    result = materialise(tmp_path, frame)
    (event,) = result.asset_materializations_for_node("frame")
    path = str(event.metadata["path"].value)
    assert event.metadata["dagster/row_count"].value == 3
    assert pd.read_parquet(path)["text"].tolist()[0] == "a"
    assert pl.read_parquet(path)["n"].to_list() == [1, None, 3]
    assert duckdb.sql(f"select sum(n) from '{path}'").fetchall() == [(4,)]


def test_unsupported_annotations_are_refused_by_name(tmp_path: Path) -> None:
    """An annotation that names no kind of table says which there are."""

    @dg.asset
    def reader(frame: int) -> None: ...

    assert "polars.DataFrame" in failure(materialise(tmp_path, frame, reader))


@dg.asset(partitions_def=DAYS)
def daily(context: dg.AssetExecutionContext) -> pl.DataFrame:
    """A row a day."""
    return pl.DataFrame({"day": [int(context.partition_key)]})


def test_partitions_load_as_one_frame_or_as_a_dict(tmp_path: Path) -> None:
    """All partitions together, in order; each by its key where the annotation says dict."""

    @dg.asset
    def together(daily: pd.DataFrame) -> None:
        assert daily["day"].tolist() == [1, 2, 3]

    @dg.asset
    def apart(daily: dict[str, pl.DataFrame]) -> None:
        assert {key: frame["day"].to_list() for key, frame in daily.items()} == {"1": [1], "2": [2], "3": [3]}

    for key in DAYS.get_partition_keys():
        assert materialise(tmp_path, daily, partition=key).success
    assert materialise(tmp_path, daily, together, apart, selection=[together, apart]).success


def test_a_missing_partition_is_an_error_unless_allowed(tmp_path: Path) -> None:
    """What is not there is not silently left out."""

    @dg.asset
    def strict(daily: pd.DataFrame) -> None: ...

    @dg.asset(ins={"daily": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def lenient(daily: pd.DataFrame) -> None:
        assert daily["day"].tolist() == [2]

    assert materialise(tmp_path, daily, partition="2").success
    assert not materialise(tmp_path, daily, strict, selection=[strict]).success
    assert materialise(tmp_path, daily, lenient, selection=[lenient]).success


def streamed(rows: int = 20_000) -> pa.RecordBatchReader:
    """More rows than are held at a time, each batch with words of its own."""
    schema = pa.schema({"n": pa.int64(), "word": pa.dictionary(pa.int32(), pa.string())})

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, 1_000):
            words = pa.array([f"word {start}"] * 1_000).dictionary_encode()
            yield pa.record_batch([pa.array(range(start, start + 1_000)), words], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def test_a_stream_is_stored_and_loaded_as_a_stream(tmp_path: Path) -> None:
    """What goes out block by block comes in block by block, with the same rows; the row count is told."""

    @dg.asset
    def many() -> pa.RecordBatchReader:
        return streamed()

    @dg.asset
    def reader(many: pa.RecordBatchReader) -> None:
        lengths, total = [], 0
        for batch in many:
            assert batch["n"].to_pylist() == list(range(total, total + len(batch)))
            assert batch["word"][0].as_py() == f"word {total // 1_000 * 1_000}"
            lengths.append(len(batch))
            total += len(batch)
        assert total == 20_000
        assert len(lengths) > 1

    result = materialise(tmp_path, many, reader)
    assert result.success, failure(result)
    (event,) = result.asset_materializations_for_node("many")
    assert event.metadata["dagster/row_count"].value == 20_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: (pl.DataFrame({"n": [number]}) for number in range(3)),
        lambda: [pd.DataFrame({"n": [0, 1]}), pa.table({"n": [2]})],
        lambda: pl.LazyFrame({"n": [0, 1, 2]}),
        lambda: duckdb.sql("select unnest([0, 1, 2]) as n"),
    ],
)
def test_an_output_may_be_anything_that_becomes_a_stream(tmp_path: Path, make: Callable[[], Any]) -> None:
    """Several frames in a row, lazy frames and relations are one table."""

    @dg.asset
    def made() -> dg.Output[object]:
        return dg.Output(make())

    @dg.asset
    def reader(made: pa.Table) -> None:
        assert made["n"].to_pylist() == [0, 1, 2]

    result = materialise(tmp_path, made, reader)
    assert result.success, failure(result)


def test_a_stream_that_breaks_leaves_the_old_table(tmp_path: Path) -> None:
    """An output is stored whole or not at all."""
    broken = False

    @dg.asset
    def some() -> dg.Output[object]:
        def frames() -> Iterator[pa.Table]:
            yield pa.table({"n": [int(broken)]})
            if broken:
                raise LookupError("gone")

        return dg.Output(frames())

    assert materialise(tmp_path, some).success
    broken = True
    result = materialise(tmp_path, some)
    assert "gone" in failure(result)
    assert pl.read_parquet(tmp_path / "tables" / "some.parquet")["n"].to_list() == [0]
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["some.parquet"]


def test_partitions_load_as_one_stream_or_as_a_dict_of_them(tmp_path: Path) -> None:
    """In order, one after the other; a partition whose column was all null has the type that it has elsewhere."""

    @dg.asset(partitions_def=DAYS)
    def notes(context: dg.AssetExecutionContext) -> pa.Table:
        day = int(context.partition_key)
        return pa.table({"day": [day] * day, "note": [None] * day if day == 1 else [f"note {day}"] * day})

    @dg.asset
    def together(notes: pa.RecordBatchReader) -> None:
        table = notes.read_all()
        assert table["day"].to_pylist() == [1, 2, 2, 3, 3, 3]
        assert table["note"].to_pylist() == [None, *["note 2"] * 2, *["note 3"] * 3]

    @dg.asset
    def apart(notes: dict[str, pa.RecordBatchReader]) -> None:
        assert {key: len(stream.read_all()) for key, stream in notes.items()} == {"1": 1, "2": 2, "3": 3}

    for key in DAYS.get_partition_keys():
        assert materialise(tmp_path, notes, partition=key).success
    result = materialise(tmp_path, notes, together, apart, selection=[together, apart])
    assert result.success, failure(result)


def test_a_missing_partition_of_a_stream_is_told_at_once(tmp_path: Path) -> None:
    """Not in the middle of the rows; and where it is allowed, the others come."""
    begun = []

    @dg.asset
    def strict(daily: pa.RecordBatchReader) -> None:
        begun.append("strict")

    @dg.asset(ins={"daily": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def lenient(daily: pa.RecordBatchReader) -> None:
        assert daily.read_all()["day"].to_pylist() == [1, 3]

    for key in ("1", "3"):
        assert materialise(tmp_path, daily, partition=key).success
    assert "There is no table at" in failure(materialise(tmp_path, daily, strict, selection=[strict]))
    assert begun == []
    result = materialise(tmp_path, daily, lenient, selection=[lenient])
    assert result.success, failure(result)


def test_a_table_file_is_moved_into_the_store(tmp_path: Path) -> None:
    """What is a finished Parquet file already is stored as it is, row groups and all, and its rows are told."""
    made = []

    @dg.asset
    def filed() -> dg.Output[object]:
        stream = streamed(3_000)
        made.append(write_table_file(tmp_path / "made.parquet", stream.schema, stream))
        return dg.Output(made[0])

    result = materialise(tmp_path / "root", filed)
    assert result.success, failure(result)
    (event,) = result.asset_materializations_for_node("filed")
    assert event.metadata["dagster/row_count"].value == made[0].rows == 3_000
    assert not made[0].path.exists()
    assert pl.read_parquet(tmp_path / "root" / "tables" / "filed.parquet")["n"].to_list() == list(range(3_000))


def test_blocks_with_words_of_their_own_share_a_dictionary(tmp_path: Path) -> None:
    """A row group of many blocks takes no more room than if it had come as one."""
    words = [[f"word {(number * step) % 40}" for number in range(1_000)] for step in range(1, 20)]
    blocks = [pa.table({"word": pa.array(some).dictionary_encode()}) for some in words]
    sizes = []
    for given in (blocks, [pa.concat_tables(blocks).unify_dictionaries().combine_chunks()]):
        made = write_table_file(tmp_path / f"{len(given)}.parquet", blocks[0].schema, given)
        assert made.read()["word"].to_pylist() == [word for some in words for word in some]
        sizes.append(pq.ParquetFile(made.path).metadata.row_group(0).column(0).total_uncompressed_size)
    assert sizes[0] <= sizes[1] * 1.01


def test_a_table_file_reads_as_the_whole_table(tmp_path: Path) -> None:
    """For those who store it otherwise; also where it has no rows."""
    made = write_table_file(tmp_path / "made.parquet", streamed().schema, streamed(2_000))
    assert made.read()["n"].to_pylist() == list(range(2_000))
    none = write_table_file(tmp_path / "none.parquet", streamed().schema, [])
    assert (none.rows, none.read().num_rows, none.read().column_names) == (0, 0, ["n", "word"])
