"""Partitioned batch assets: many partitions packed into few batches, each landed as its own."""

from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from ractobatch_dagster import ParquetIOManager, batch_asset
from ractobatch_dagster.local import Faults, LocalServer
from tests.project import Project, failure

DAYS = dg.StaticPartitionsDefinition(["a/b", "c|d", "e f", "g"])
KEYS = DAYS.get_partition_keys()


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), io_manager_key="frames")
def notes(context: dg.AssetExecutionContext) -> dg.Output[object]:
    """Two notes a day."""
    frames = {key: pd.DataFrame({"user_message": [f"{key} one", f"{key} two"]}) for key in context.partition_keys}
    return dg.Output(frames if len(frames) > 1 else frames[context.partition_key])


@batch_asset(model="gpt-4o-mini", partitions_def=DAYS)
def answers(notes: pd.DataFrame) -> pd.DataFrame:
    """Answers to notes."""
    assert len(notes) == 2
    return notes


def partitioned(server: LocalServer, folder: Path, *assets: object, **resource: object) -> Project:
    """A project with a store for frames."""
    project = Project(server, folder, assets, **resource)
    frames = ParquetIOManager(root=project.resource.root)
    project.defs = dg.Definitions.merge(project.defs, dg.Definitions(resources={"frames": frames}))
    return project


@pytest.fixture
def project(batch_server: LocalServer, tmp_path: Path) -> Project:
    """The two assets above."""
    return partitioned(batch_server, tmp_path, notes, *answers.assets)


def test_many_partitions_share_one_batch_and_land_apart(project: Project) -> None:
    """A backfill in one run makes one batch; one table run lands all its partitions, each with its own rows."""
    span = (KEYS[0], KEYS[-1])
    result = project.run("notes", "answers_submission", span=span)
    assert result.success, failure(result)
    assert len(project.server.batches()) == 1
    (request,) = project.requests()
    assert request.tags["dagster/asset_partition_range_end"] == "g"
    landed = project.launch(request)
    assert landed.success, failure(landed)
    for key in KEYS:
        table = project.load("answers", partition=key, kind=pa.Table)
        assert table["user_message"].to_pylist() == [f"{key} one", f"{key} two"]
        assert project.metadata("answers", key)["rows"] == 2
        assert project.metadata("answers_submission", key)["rows"] == 2
    assert project.tick().skip_message == "No submission is open."
    assert {one.check_name: one.passed for one in landed.get_asset_check_evaluations()}["every_row_is_there"]


def test_tenants_are_kept_apart(batch_server: LocalServer, tmp_path: Path) -> None:
    """With `pack=False` each partition of a backfill has its own batch, and all of them land."""

    @batch_asset(model="gpt-4o-mini", partitions_def=DAYS, pack=False)
    def answers(notes: pd.DataFrame) -> pd.DataFrame:
        return notes

    project = partitioned(batch_server, tmp_path, notes, *answers.assets)
    result = project.run("notes", "answers_submission", span=(KEYS[0], KEYS[-1]))
    assert result.success, failure(result)
    assert len(project.submissions("answers")) == len(batch_server.batches()) == len(KEYS)
    for key in KEYS:
        assert project.metadata("answers_submission", key)["rows_in_submission"] == 2
    again = project.run("answers_submission", span=(KEYS[0], KEYS[-1]))
    assert again.success, failure(again)
    assert len(batch_server.batches()) == len(KEYS)
    project.land()
    for key in KEYS:
        table = project.load("answers", partition=key, kind=pa.Table)
        assert table["user_message"].to_pylist() == [f"{key} one", f"{key} two"]


def test_one_partition_at_a_time(project: Project) -> None:
    """A single partition is a submission of its own, and only it is asked for."""
    project.run("notes", "answers_submission", partition="c|d")
    (request,) = project.requests()
    assert request.partition_key == "c|d"
    assert project.launch(request).success
    assert project.load("answers", partition="c|d")["user_message"].tolist() == ["c|d one", "c|d two"]


def test_a_backfill_over_what_has_landed_asks_only_for_the_rest(project: Project) -> None:
    """What landed before is submitted again with the others, its answers reused, and all land together."""
    project.run("notes", span=(KEYS[0], KEYS[-1]))
    project.run("answers_submission", partition="c|d")
    project.land()
    project.run("answers_submission", span=(KEYS[0], KEYS[-1]))
    everything = project.requests()
    assert len(everything) == 1
    project.launch(everything[0])
    assert len({one.id for one in project.submissions("answers")}) == 2
    assert project.load("answers", partition="c|d", kind=pa.Table)["llm_reused"].to_pylist() == [True, True]


def test_part_of_an_open_submission_is_attached_to(tmp_path: Path) -> None:
    """A run over partitions of which some are open submits only the others."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = partitioned(server, tmp_path, notes, *answers.assets)
        project.run("notes", span=(KEYS[0], KEYS[-1]))
        project.run("answers_submission", partition="c|d")
        project.run("answers_submission", span=(KEYS[0], KEYS[-1]))
        first, second = project.submissions("answers")
        assert [one.key for one in first.partitions] == ["c|d"]
        assert [one.key for one in second.partitions] == ["a/b", "e f", "g"]
        assert sum(batch["request_counts"]["total"] for batch in server.batches()) <= 8


def test_partitions_of_a_column(batch_server: LocalServer, tmp_path: Path) -> None:
    """With `partition_by` one frame is cut by a column, and rows of other partitions are left alone."""

    @batch_asset(model="gpt-4o-mini", partitions_def=DAYS, partition_by="day")
    def cut() -> pd.DataFrame:
        return pd.DataFrame({"day": ["g", "a/b", "g", "elsewhere"], "user_message": ["1", "2", "3", "4"]})

    project = partitioned(batch_server, tmp_path, *cut.assets)
    project.run("cut_submission", span=(KEYS[0], KEYS[-1]))
    project.land()
    assert [len(project.load("cut", partition=key)) for key in KEYS] == [1, 0, 0, 2]
    project.run("cut_submission", partition="g")
    project.land()
    assert project.load("cut", partition="g")["user_message"].tolist() == ["1", "3"]


def test_one_frame_for_many_partitions_is_refused(batch_server: LocalServer, tmp_path: Path) -> None:
    """Without a way to tell rows apart each partition would pay for the whole frame: an error before spending."""

    @dg.asset(io_manager_key="frames")
    def everything() -> pd.DataFrame:
        """One frame."""
        return pd.DataFrame({"user_message": ["x"]})

    @batch_asset(model="gpt-4o-mini", partitions_def=DAYS)
    def wrong(everything: pd.DataFrame) -> pd.DataFrame:
        return everything

    project = partitioned(batch_server, tmp_path, everything, *wrong.assets)
    project.run("everything")
    result = project.run("wrong_submission", span=(KEYS[0], KEYS[-1]))
    assert "partition_by" in failure(result)
    assert not batch_server.files()


def test_one_slow_row_goes_on_in_a_further_round_without_a_failed_run(
    batch_server: LocalServer, tmp_path: Path
) -> None:
    """A table run that has to send a further round succeeds without a table, and is asked for again later."""
    batch_server.faults = Faults(fail_ids={"row-00000003": 500}, first_attempts=1)
    project = partitioned(batch_server, tmp_path, notes, *answers.assets)
    project.run("notes", "answers_submission", span=(KEYS[0], KEYS[-1]))
    (first,) = project.requests()
    result = project.launch(first)
    assert result.success
    assert not result.asset_materializations_for_node("answers")
    (second,) = project.requests()
    assert second.run_key != first.run_key
    assert project.launch(second).success
    assert project.load("answers", partition="c|d", kind=pa.Table)["llm_round"].to_pylist() == [0, 1]


def test_multi_dimensional_partitions(batch_server: LocalServer, tmp_path: Path) -> None:
    """Multi-dimensional partitions land one a run."""
    grid = dg.MultiPartitionsDefinition(
        {"day": dg.StaticPartitionsDefinition(["1", "2"]), "land": dg.StaticPartitionsDefinition(["de", "fr"])}
    )

    @batch_asset(model="gpt-4o-mini", partitions_def=grid, backfill_policy=dg.BackfillPolicy.multi_run())
    def cells(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.DataFrame({"user_message": [str(context.partition_key)]})

    project = partitioned(batch_server, tmp_path, *cells.assets)
    for key in ("1|de", "2|fr"):
        result = project.run("cells_submission", partition=key)
        assert result.success, failure(result)
    project.land()
    assert project.load("cells", partition="2|fr")["user_message"].tolist() == ["2|fr"]


def test_a_partition_that_is_gone_stops_nobody_else(batch_server: LocalServer, tmp_path: Path) -> None:
    """A dynamic partition that was deleted meanwhile is reported, and the others land."""
    days = dg.DynamicPartitionsDefinition(name="days")

    @batch_asset(model="gpt-4o-mini", partitions_def=days, partition_by="day")
    def dynamic() -> pd.DataFrame:
        return pd.DataFrame({"day": ["x", "y"], "user_message": ["1", "2"]})

    project = partitioned(batch_server, tmp_path, *dynamic.assets)
    project.instance.add_dynamic_partitions("days", ["x", "y"])
    project.run("dynamic_submission", span=("x", "y"))
    project.instance.delete_dynamic_partition("days", "x")
    (request,) = project.requests()
    assert request.partition_key == "y"
    assert project.launch(request).success
    assert "'x'" in str(project.tick().skip_message)


def test_dynamic_keys_may_be_anything(batch_server: LocalServer, tmp_path: Path) -> None:
    """Slashes, bars, spaces, dots and the empty key are partitions like any other."""
    days = dg.DynamicPartitionsDefinition(name="days")
    keys = ["a/b", "a|b", " x", "..", "%empty", "ü"]

    @batch_asset(model="gpt-4o-mini", partitions_def=days, partition_by="day")
    def odd() -> pd.DataFrame:
        return pd.DataFrame({"day": keys, "user_message": keys})

    project = partitioned(batch_server, tmp_path, *odd.assets)
    project.instance.add_dynamic_partitions("days", keys)
    for key in keys:
        result = project.run("odd_submission", partition=key)
        assert result.success, failure(result)
    project.land()
    assert [project.load("odd", partition=key)["user_message"].tolist() for key in keys] == [[key] for key in keys]
