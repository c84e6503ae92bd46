"""The Parquet IO manager with assets that are no batch assets."""

from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ractobatch_dagster import ParquetIOManager
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


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table])
def test_downstream_gets_what_it_is_annotated_with(tmp_path: Path, kind: type) -> None:
    """pandas, Polars, lazy Polars and PyArrow, from one and the same file."""

    @dg.asset
    def reader(frame: kind) -> None:  # type: ignore[valid-type]
        assert isinstance(frame, kind)

    assert materialise(tmp_path, frame, reader).success


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
