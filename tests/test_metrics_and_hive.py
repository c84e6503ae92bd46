"""What users measure of a table, and partitions as the directories that other engines read."""

from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ractobatch_dagster import ParquetIOManager, batch_asset
from ractobatch_dagster.local import LocalServer
from tests.project import Project, failure
from tests.test_assets import PROMPT, TEXTS

YEARS = dg.StaticPartitionsDefinition(["2015", "2016/7"])
GRID = dg.MultiPartitionsDefinition({"year": YEARS, "kind": dg.StaticPartitionsDefinition(["a", "b"])})


def measured(metrics: Any) -> Any:
    """An asset of three texts."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT, name="labels", metrics=metrics)
    def frame() -> pd.DataFrame:
        return pd.DataFrame({"user_message": TEXTS, "expected": ["positive", "positive", "neutral"]})

    return frame


def agreement(table: pl.DataFrame) -> dict[str, Any]:
    """How often an answer is as expected."""
    agrees = table["sentiment"].cast(pl.String) == table["expected"]
    return {"agreement": float(agrees.mean() or 0.0), "note": dg.MetadataValue.md("**by hand**")}


def counted(table: pa.RecordBatchReader) -> dict[str, Any]:
    """A table that need not fit into memory."""
    return {"counted": sum(len(batch) for batch in table)}


def plain(table):  # type: ignore[no-untyped-def]
    """Without an annotation."""
    return {"kind": type(table).__name__}


@pytest.mark.parametrize(
    ("metrics", "name", "value"),
    [(agreement, "agreement", None), (counted, "counted", 3), (plain, "kind", "DataFrame")],
)
def test_a_function_of_the_table_is_told(
    batch_server: LocalServer, tmp_path: Path, metrics: Any, name: str, value: Any
) -> None:
    """Beside what is told of every table, and as it was annotated."""
    project = Project(batch_server, tmp_path, measured(metrics).assets)
    project.run("labels_submission")
    project.land()
    told = project.metadata("labels")
    table = project.load("labels")
    wanted = (table["sentiment"].astype(str) == table["expected"]).mean() if value is None else value
    assert told[name] == wanted
    assert told["dagster/row_count"] == 3


@pytest.mark.parametrize(
    ("metrics", "why"),
    [
        (lambda table: 3, "returned 3; it must give a dict"),
        (lambda table: {"rows": 3}, "'rows' is told of every table already"),
        (lambda table: 1 / 0, "division by zero"),
    ],
)
def test_a_function_that_fails_is_said(batch_server: LocalServer, tmp_path: Path, metrics: Any, why: str) -> None:
    """The run fails; the answers are in the store, and a mended function lands them without asking again."""
    project = Project(batch_server, tmp_path, measured(metrics).assets)
    project.run("labels_submission")
    (request,) = project.requests()
    assert why in failure(project.launch(request))
    mended = Project(batch_server, tmp_path, measured(counted).assets)
    mended.instance = project.instance
    assert mended.run("labels").success
    assert len(batch_server.batches()) == 1


def test_partitions_as_directories_of_one_column(batch_server: LocalServer, tmp_path: Path) -> None:
    """A table of two partitions that one run lands; DuckDB and Polars see the partition as a column."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT, partitions_def=YEARS, partition_by="of", name="labels")
    def frame() -> pd.DataFrame:
        return pd.DataFrame({"user_message": TEXTS, "of": ["2015", "2016/7", "2016/7"]})

    project = Project(batch_server, tmp_path, frame.assets, hive_column="year")
    project.run("labels_submission", span=("2015", "2016/7"))
    project.land()
    folder = tmp_path / "store" / "tables" / "labels"
    assert {path.name for path in folder.iterdir()} == {"year=2015", "year=2016%2F7"}
    files = f"{folder}/*/*.parquet"
    found = duckdb.sql(
        f"select year, count(*) from read_parquet('{files}', hive_partitioning=true) group by 1 order by 1"
    )
    assert found.fetchall() == [("2015", 1), ("2016/7", 2)]
    assert set(pl.read_parquet(files, hive_partitioning=True)["year"]) == {"2015", "2016/7"}
    assert project.load("labels", partition="2016/7")["of"].tolist() == ["2016/7"] * 2
    told = project.metadata("labels", "2016/7")
    assert Path(told["path"]).exists()


def test_each_dimension_is_a_directory(tmp_path: Path) -> None:
    """Of a multi-dimensional key, by its own name; whoever loads finds it again, and what is missing is left out."""

    @dg.asset(partitions_def=GRID)
    def cells(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.DataFrame({"cell": [str(context.partition_key)]})

    @dg.asset(ins={"cells": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def all_of_them(cells: pd.DataFrame) -> None:
        assert sorted(cells["cell"]) == ["a|2015", "b|2015"]

    manager = ParquetIOManager(root=str(tmp_path), hive_column="unused")
    instance = dg.DagsterInstance.ephemeral()
    for kind in ("a", "b"):
        key = dg.MultiPartitionKey({"year": "2015", "kind": kind})
        resources = {"io_manager": manager}
        assert dg.materialize([cells], instance=instance, partition_key=key, resources=resources).success
    assert (tmp_path / "tables" / "cells" / "kind=a" / "year=2015" / "data.parquet").exists()
    made = dg.materialize(
        [cells, all_of_them], selection=[all_of_them], instance=instance, resources={"io_manager": manager}
    )
    assert made.success
