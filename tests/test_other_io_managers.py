"""The table asset with other people's IO managers: what they store is the table, and running again replaces it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel

from ractobatch_dagster import BatchAsset, RactoPrompt, batch_asset
from ractobatch_dagster.local import LocalServer
from tests.project import Project, failure

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")
ROWS = pd.DataFrame(
    {
        "id": range(6),
        "day": [dt.date(2026, 1, 1 + number // 2) for number in range(6)],
        "text": ["I love it", "It hurts", "A text", "It is great", "It is terrible", "Hm"],
    }
)


class Label(BaseModel):
    """An answer with a word, a list and something that may be missing."""

    sentiment: Literal["positive", "neutral", "negative"]
    tags: list[str]
    score: int | None


PROMPT = RactoPrompt(role="You label texts.", aim="Label one.", constraints="", tone="", output_format=Label)


def made(table_type: Literal["pyarrow", "pandas", "polars"], **options: Any) -> BatchAsset:
    """Labels of the rows of a day, or of all."""

    @batch_asset(
        model="gpt-4o-mini", prompt=PROMPT, key="id", io_manager_key="tables", table_type=table_type, **options
    )
    def labels(context: dg.AssetExecutionContext) -> pd.DataFrame:
        rows = ROWS if not context.has_partition_key else ROWS[ROWS["day"].astype(str) == context.partition_key]
        return rows.assign(user_message=rows["text"])

    return labels


class WithTables(Project):
    """A project with somebody else's IO manager."""

    def __init__(self, server: LocalServer, folder: Path, assets: Sequence[Any], tables: Any) -> None:
        super().__init__(server, folder, assets)
        resources = {**(self.defs.resources or {}), "tables": tables}
        self.defs = dg.Definitions(assets=assets, sensors=self.defs.sensors, resources=resources)


def lands(project: Project, read: Callable[[], pa.Table], partitions: Sequence[str] | None = None) -> None:
    """Everything lands twice, and is there once."""
    for _ in range(2):
        for key in partitions or [None]:  # type: ignore[list-item]
            result = project.run("labels_submission", partition=key)
            assert result.success, failure(result)
        for request in project.requests():
            result = project.launch(request)
            assert result.success, failure(result)
        project.land()
        table = read().sort_by("id")
        assert table["id"].to_pylist() == list(range(6))
        assert table["sentiment"].cast(pa.string()).to_pylist() == [
            "positive", "negative", "neutral", "positive", "negative", "neutral",
        ]  # fmt: skip
        assert table["llm_status"].cast(pa.string()).to_pylist() == ["ok"] * 6
        assert all(isinstance(tags, list) for tags in table["tags"].to_pylist())
        assert table["text"].to_pylist() == ROWS["text"].tolist()
    assert len(project.server.batches()) == len(partitions or [None])


KEYS = ["2026-01-01", "2026-01-02", "2026-01-03"]


@pytest.mark.parametrize("parted", [False, True])
def test_duckdb(batch_server: LocalServer, tmp_path: Path, parted: bool) -> None:
    """As a table of a database; a partition replaces its own rows."""
    duckdb = pytest.importorskip("duckdb")
    manager = pytest.importorskip("dagster_duckdb_pandas").DuckDBPandasIOManager
    options = {"partitions_def": DAYS, "metadata": {"partition_expr": "day"}} if parted else {}
    asset = made("pandas", **options)
    path = str(tmp_path / "tables.duckdb")
    project = WithTables(batch_server, tmp_path, asset.assets, manager(database=path, schema="main"))

    def read() -> pa.Table:
        with duckdb.connect(path, read_only=True) as connection:
            return cast("pa.Table", connection.sql("select * from main.labels").to_arrow_table())

    lands(project, read, KEYS if parted else None)


@pytest.mark.parametrize("parted", [False, True])
@pytest.mark.parametrize("table_type", ["pyarrow", "pandas"])
def test_delta_lake(
    batch_server: LocalServer, tmp_path: Path, parted: bool, table_type: Literal["pyarrow", "pandas"]
) -> None:
    """As a Delta table."""
    deltalake = pytest.importorskip("deltalake")
    library = pytest.importorskip("dagster_deltalake_pandas" if table_type == "pandas" else "dagster_deltalake")
    local = pytest.importorskip("dagster_deltalake").LocalConfig
    name = "DeltaLakePandasIOManager" if table_type == "pandas" else "DeltaLakePyarrowIOManager"
    options = {"partitions_def": DAYS, "metadata": {"partition_expr": "day"}} if parted else {}
    asset = made(table_type, **options)
    tables = getattr(library, name)(root_uri=str(tmp_path / "delta"), storage_options=local(), schema="main")
    project = WithTables(batch_server, tmp_path, asset.assets, tables)

    def read() -> pa.Table:
        return pa.table(deltalake.DeltaTable(str(tmp_path / "delta" / "main" / "labels")).to_pyarrow_table())

    lands(project, read, KEYS if parted else None)


@pytest.mark.parametrize("parted", [False, True])
def test_iceberg(batch_server: LocalServer, tmp_path: Path, parted: bool) -> None:
    """As an Iceberg table in a SQL catalog."""
    catalogs = pytest.importorskip("pyiceberg.catalog")
    pytest.importorskip("dagster_iceberg")
    from dagster_iceberg.config import IcebergCatalogConfig
    from dagster_iceberg.io_manager.arrow import PyArrowIcebergIOManager

    (tmp_path / "warehouse").mkdir()
    properties = {
        "type": "sql", "uri": f"sqlite:///{tmp_path}/catalog.db", "warehouse": f"file://{tmp_path}/warehouse",
    }  # fmt: skip
    catalogs.load_catalog("ours", **properties).create_namespace("main")
    options = {"partitions_def": DAYS, "metadata": {"partition_expr": "day"}} if parted else {}
    tables = PyArrowIcebergIOManager(name="ours", config=IcebergCatalogConfig(properties=properties), namespace="main")
    project = WithTables(batch_server, tmp_path, made("pyarrow", **options).assets, tables)

    def read() -> pa.Table:
        table = catalogs.load_catalog("ours", **properties).load_table("main.labels")
        return cast("pa.Table", table.scan().to_arrow())

    lands(project, read, KEYS if parted else None)
