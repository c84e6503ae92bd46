"""A real daemon that sends prompts by a schedule and lands their table, with nobody's help."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.integration.counting import Bill, submissions
from tests.integration.scheduled import ROWS, every_minute
from tests.integration.world import T, World, wait_for

pytestmark = pytest.mark.integration

TABLE = dg.AssetKey("sums")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world of the project that has a schedule, with nothing running in it."""
    world = World(tmp_path, "tests.integration.scheduled")
    yield world
    world.close()


def test_a_schedule_pays_for_unchanged_rows_once(world: World) -> None:
    """The first tick's table lands by itself; the next tick asks the same rows, and every answer is there already."""
    world.serve()
    world.daemon()
    first = soon(world, lambda: landings(world))
    table = read_table(world)
    assert table["llm_text"].to_pylist() == [str(number + 1000) for number in range(ROWS)]
    assert table["llm_reused"].to_pylist() == [False] * ROWS
    soon(world, lambda: [run for run in ticked(world) if run.end_time and run.start_time > first[0].timestamp])
    soon(world, lambda: len(landings(world)) > len(first))
    assert {run.dagster_run.status for run in ticked(world) if run.end_time} == {dg.DagsterRunStatus.SUCCESS}
    assert [len(one.batches) for one in submissions(world.store, "sums")][:2] == [1, 0]
    again = read_table(world)
    assert again["llm_reused"].to_pylist() == [True] * ROWS
    assert again["llm_text"] == table["llm_text"]
    bill = Bill.read(world.server_folder)
    assert len(bill.batches) == 1
    assert sorted(bill.answered.values()) == [1] * ROWS
    assert (bill.orphans(world.store, "sums"), bill.unused, bill.uploading) == ([], [], [])


def soon(world: World, condition: Callable[[], T]) -> T:
    """What there is within a tick of the schedule and what follows from it."""
    return wait_for(condition, world.explain, 120.0, every=0.1)


def landings(world: World) -> list[dg.EventLogRecord]:
    """The materialisations of the table, newest first."""
    return list(world.instance.fetch_materializations(TABLE, limit=10).records)


def ticked(world: World) -> list[dg.RunRecord]:
    """The runs that the schedule has asked for, newest first."""
    return list(world.instance.get_run_records(dg.RunsFilter(tags={"dagster/schedule_name": every_minute.name})))


def read_table(world: World) -> pa.Table:
    """The table as it is now."""
    return pq.read_table(world.store / "tables" / "sums.parquet")
