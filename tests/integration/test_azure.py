"""Everything in Azure Blob Storage: the log, the rows, the tables, and what people store with our IO manager."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import uuid4

import dagster as dg
import msgspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ractobatch_dagster import Budget, ParquetIOManager, batch_asset
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.log import Log
from tests.integration.azure import AZURITE, azurite, create_container, options
from tests.project import Project

pytestmark = [pytest.mark.integration, pytest.mark.skipif(AZURITE is None, reason="there is no azurite-blob")]

DAYS = dg.StaticPartitionsDefinition(["1", "2/3"])


class Count(msgspec.Struct, frozen=True):
    """A state."""

    value: int


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The emulator, with one container."""
    with azurite(tmp_path_factory.mktemp("azurite")) as port:
        create_container(port, "container")
        yield port


@pytest.fixture
def root() -> str:
    """A root that nobody has used."""
    return f"az://container/{uuid4().hex}"


def test_a_commit_is_won_by_one(port: int, root: str) -> None:
    """Put if absent holds, which everything else rests on; a root that keeps it is accepted."""
    Store(root, options(port)).prove()

    def add(_: int) -> None:
        log = Log(Store(root, options(port)), "count/log", Count)
        for _ in range(5):
            log.update(lambda count: Count(count.value + 1 if count else 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(4)))
    version = Log(Store(root, options(port)), "count/log", Count).load()
    assert version is not None
    assert (version.state.value, version.number) == (20, 19)


def test_a_table_lives_there(port: int, root: str, batch_server: LocalServer, tmp_path: Path) -> None:
    """Partitions, directories, a budget, reuse: from the submission to the table and back."""

    @batch_asset(
        model="gpt-4o-mini", prompt="Answer.", max_tokens=20, partitions_def=DAYS, partition_by="day", name="answers"
    )
    def frame() -> pd.DataFrame:
        return pd.DataFrame({"day": ["1", "2/3", "2/3"], "user_message": ["a", "b", "c"]})

    project = Project(
        batch_server,
        tmp_path,
        frame.assets,
        root=root,
        store_options=options(port),
        hive_column="day",
        budgets=[Budget(usd=1, per="day")],
    )
    assert project.run("answers_submission", span=("1", "2/3")).success
    project.land()
    assert project.load("answers", partition="2/3", kind=pl.DataFrame)["user_message"].to_list() == ["b", "c"]
    assert project.run("answers_submission", span=("1", "2/3")).success
    project.land()
    assert len(batch_server.batches()) == 1


def test_our_io_manager_stores_there(port: int, root: str) -> None:
    """Any frame, whole and as a stream; replaced whole."""

    @dg.asset
    def numbers() -> pd.DataFrame:
        return pd.DataFrame({"n": range(20_000)})

    @dg.asset
    def total(numbers: pa.RecordBatchReader) -> pl.DataFrame:
        return pl.DataFrame({"total": [sum(batch.column(0).to_numpy().sum() for batch in numbers)]})

    manager = ParquetIOManager(root=root, options=options(port))
    for _ in range(2):
        made = dg.materialize([numbers, total], resources={"io_manager": manager})
        assert made.success
    assert made.output_for_node("total")["total"].to_list() == [sum(range(20_000))]
