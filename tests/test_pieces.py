"""A batch asset in pieces beside the same asset in one: the same table and metadata, and what graphs bring along."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from ractobatch_dagster import (
    ConfigurationError,
    ParquetIOManager,
    batch_asset,
)
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from tests.local.helpers import wait_for
from tests.pieces import PER_BATCH, PIECES, ROWS, in_processes, made, texts
from tests.project import RESOURCE, Project, failure

SPANS = ["b00000_to_b00003", "b00004_to_b00007", "b00008_to_b00011"]


class Settings(dg.Config):
    """Config of an asset."""

    word: str = "hello"


def project_on(server: LocalServer, folder: Path, *assets: Any, **resource: Any) -> Project:
    """A project with small batches."""
    return Project(server, folder, assets, max_requests_per_batch=PER_BATCH, **resource)


def steps(result: Any) -> list[str]:
    """The steps that succeeded, in their order."""
    return [event.step_key for event in result.all_events if event.is_step_success]


# -- the same as the plain pair -----------------------------------------------------------------------


_OWN = {"llm_batch_id", "llm_request_id"}
"""Columns that no two submissions have in common."""


_NAMES_OR_TIMES = {
    "ractobatch/submission", "batch_ids", "batch_table", "path", "dagster/uri", "odd_lines", "seconds_from_submission",
}  # fmt: skip


def described(project: Project, asset: str, partition: str | None = None) -> dict[str, Any]:
    """The metadata of the newest materialisation, without what names the submission or the place."""
    found = project.metadata(asset, partition)
    return {name: str(value) for name, value in found.items() if name not in _NAMES_OR_TIMES}


def definition(asset: dg.AssetsDefinition) -> dict[str, Any]:
    """All that a definition says of its asset."""
    (spec,) = asset.specs
    said = {name: getattr(spec, name) for name in ("key", "group_name", "owners", "tags", "kinds", "description")}
    said |= {
        name: getattr(spec, name) for name in ("code_version", "automation_condition", "partitions_def", "metadata")
    }
    return {**said, "deps": sorted(spec.deps, key=str), "backfill_policy": asset.backfill_policy}


def test_both_ways_give_the_same_table_and_metadata(batch_server: LocalServer, tmp_path: Path) -> None:
    """Cut or not, the table, its schema, the checks and what both runs say are the same."""
    found = []
    for pieces in (1, PIECES):
        project = project_on(batch_server, tmp_path / str(pieces), texts, *made(pieces).assets)
        project.run("texts")
        submitted = project.run("labels_submission")
        assert submitted.success, failure(submitted)
        said = described(project, "labels_submission")
        (request,) = project.requests()
        landed = project.launch(request)
        assert landed.success, failure(landed)
        table = project.load("labels", kind=pa.Table)
        checks = sorted((one.check_name, one.passed, str(one.metadata)) for one in landed.get_asset_check_evaluations())
        found.append((table.drop_columns(list(_OWN)), said, described(project, "labels"), checks))
        assert project.tick().skip_message == "No submission is open."
    (table, *rest), (cut, *others) = found
    assert table.schema.equals(cut.schema, check_metadata=True)
    assert table.equals(cut)
    assert table["llm_status"].to_pylist() == ["ok"] * ROWS
    assert rest == others
    assert len(batch_server.batches()) == 2 * 12
    created = steps(submitted)
    assert created[0] == "labels_submission.seal"
    assert sorted(created[1:-1]) == [f"labels_submission.prepare[{span}]" for span in SPANS]
    assert created[-1] == "labels_submission.create"
    collected = [step for step in steps(landed) if step.startswith("labels.")]
    assert collected == ["labels.look", *(f"labels.collect[{span}]" for span in SPANS), "labels.land"]


def test_both_ways_are_defined_alike() -> None:
    """Whatever an asset is told about itself is told of the graph: groups, owners, tags, conditions, partitions."""
    settings: dict[str, Any] = {
        "key_prefix": ["team"],
        "group_name": "llm",
        "owners": ["team:data"],
        "tags": {"domain": "support"},
        "kinds": {"polars"},
        "metadata": {"source": "crm"},
        "description": "Answers.",
        "deps": ["raw", dg.AssetDep("raw2")],
        "ins": {"texts": dg.AssetIn(key_prefix="other")},
        "partitions_def": dg.DailyPartitionsDefinition("2026-01-01"),
        "automation_condition": dg.AutomationCondition.eager(),
        "code_version": "7",
    }
    plain, cut = made(1, **settings), made(PIECES, **settings)
    assert definition(cut.submission) == definition(plain.submission)
    assert definition(cut.table) == definition(plain.table)
    assert definition(made(2).submission) == definition(made(1).submission)
    assert [job.name for job in cut.jobs] == [job.name for job in plain.jobs]
    assert len(cut.checks) == 1


def test_the_retry_policy_is_every_steps_and_the_pool_the_first_ones() -> None:
    """A pool bounds how many runs call the function at a time; pieces wait for nobody."""
    policy = dg.RetryPolicy(max_retries=2)
    cut = made(2, retry_policy=policy, pool="database")
    first, each, last = (cut.submission.node_def.node_named(step) for step in ("seal", "prepare", "create"))
    assert [one.definition.retry_policy for one in (first, each, last)] == [policy] * 3
    assert [one.definition.pool for one in (first, each, last)] == ["database", None, None]
    assert {node.definition.retry_policy for node in cut.table.node_def.nodes} == {policy}


def test_blocking_is_refused() -> None:
    """What does all in one step cannot be cut."""
    with pytest.raises(ConfigurationError, match="pieces"):
        made(2, blocking=True)


def test_fewer_batches_than_pieces(batch_server: LocalServer, tmp_path: Path) -> None:
    """There is never a piece without a batch."""
    project = project_on(batch_server, tmp_path, texts, *made(50).assets)
    result = project.run("texts", "labels_submission")
    assert len([step for step in steps(result) if "prepare" in step]) == 12
    project.land()
    assert len(project.load("labels")) == ROWS


def test_without_batches_there_are_no_pieces(batch_server: LocalServer, tmp_path: Path) -> None:
    """A frame without rows becomes a table without rows."""
    empty = batch_asset(model="gpt-4o-mini", name="empty", pieces=2)(
        lambda: pd.DataFrame({"user_message": pd.Series(dtype="str")})
    )
    project = project_on(batch_server, tmp_path, *empty.assets)
    result = project.run("empty_submission")
    assert steps(result) == ["empty_submission.seal", "empty_submission.create"]
    project.land()
    assert len(project.load("empty")) == 0


# -- what the function takes --------------------------------------------------------------------------


def test_config_resources_context_and_deps_reach_the_function(batch_server: LocalServer, tmp_path: Path) -> None:
    """The function takes what any asset takes, its config stands where it stands for a plain asset, and it waits."""
    order = []

    @dg.asset
    def upstream() -> None:
        order.append("upstream")

    @dg.multi_asset(specs=[dg.AssetSpec("one"), dg.AssetSpec("two")])
    def several() -> Iterator[dg.MaterializeResult[Any]]:
        order.append("several")
        yield dg.MaterializeResult("one")
        yield dg.MaterializeResult("two")

    @batch_asset(model="gpt-4o-mini", pieces=2, deps=[upstream, several])
    def asked(
        context: dg.AssetExecutionContext, config: Settings, openai_batch: dg.ResourceParam[object]
    ) -> pd.DataFrame:
        assert openai_batch
        order.append("asked")
        return pd.DataFrame({"user_message": [f"{config.word} {context.run.run_id}"]})

    project = project_on(batch_server, tmp_path, upstream, several, *asked.assets)
    job = project.defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=project.instance,
        asset_selection=[dg.AssetKey(name) for name in ("upstream", "one", "two", "asked_submission")],
        run_config={"ops": {"asked_submission": {"config": {"word": "bye"}}}},
    )
    assert order[-1] == "asked"
    assert sorted(order) == ["asked", "several", "upstream"]
    project.land()
    assert project.load("asked")["user_message"][0] == f"bye {result.run_id}"
    default = project.run("asked_submission")
    project.land()
    assert project.load("asked")["user_message"][0] == f"hello {default.run_id}"


def test_upstream_frames_of_a_prefix_and_a_store_of_ones_own(batch_server: LocalServer, tmp_path: Path) -> None:
    """Prefixed assets load prefixed upstreams by the annotation, and another IO manager may store the table."""

    @dg.asset(key_prefix="other", io_manager_key="frames")
    def texts() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a", "b", "c"]})

    @batch_asset(
        model="gpt-4o-mini",
        key_prefix=["team"],
        pieces=2,
        ins={"texts": dg.AssetIn(key_prefix="other", input_manager_key="frames")},
        io_manager_key="frames",
    )
    def answers(texts: pl.LazyFrame) -> pl.LazyFrame:
        assert isinstance(texts, pl.LazyFrame)
        return texts

    project = project_on(batch_server, tmp_path, texts, *answers.assets)
    frames = ParquetIOManager(root=str(tmp_path / "elsewhere"))
    project.defs = dg.Definitions.merge(project.defs, dg.Definitions(resources={"frames": frames}))
    result = project.run("other/texts", "team/answers_submission")
    assert result.success, failure(result)
    project.land()
    assert project.load("team/answers")["user_message"].tolist() == ["a", "b", "c"]
    assert (tmp_path / "elsewhere" / "tables" / "team" / "answers.parquet").is_file()


# -- partitions ---------------------------------------------------------------------------------------

DAYS = dg.StaticPartitionsDefinition(["a/b", "c|d", "e f", "g"])
KEYS = DAYS.get_partition_keys()


@dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run(), io_manager_key="frames")
def notes(context: dg.AssetExecutionContext) -> dg.Output[object]:
    """Two notes a day."""
    frames = {key: pd.DataFrame({"user_message": [f"{key} one", f"{key} two"]}) for key in context.partition_keys}
    return dg.Output(frames if len(frames) > 1 else frames[context.partition_key])


def partitioned(server: LocalServer, folder: Path, *assets: Any) -> Project:
    """A project with a store for frames."""
    project = project_on(server, folder, notes, *assets)
    frames = ParquetIOManager(root=project.resource.root)
    project.defs = dg.Definitions.merge(project.defs, dg.Definitions(resources={"frames": frames}))
    return project


def test_a_range_in_one_run_is_as_the_plain_one(batch_server: LocalServer, tmp_path: Path) -> None:
    """A backfill in one run calls the function for each partition's frame and lands each as its own."""

    def answers(notes: pd.DataFrame) -> pd.DataFrame:
        assert len(notes) == 2
        return notes

    found = []
    for pieces in (1, 3):
        asset = batch_asset(model="gpt-4o-mini", partitions_def=DAYS, pieces=pieces)(answers)
        project = partitioned(batch_server, tmp_path / str(pieces), *asset.assets)
        result = project.run("notes", "answers_submission", span=(KEYS[0], KEYS[-1]))
        assert result.success, failure(result)
        said = [described(project, "answers_submission", key) for key in KEYS]
        (request,) = project.requests()
        landed = project.launch(request)
        assert landed.success, failure(landed)
        tables = [project.load("answers", partition=key, kind=pa.Table).drop_columns(list(_OWN)) for key in KEYS]
        found.append((tables, said, [described(project, "answers", key) for key in KEYS]))
        assert all(one.passed for one in landed.get_asset_check_evaluations())
        assert project.tick().skip_message == "No submission is open."
    assert found[0] == found[1]
    assert [table["user_message"].to_pylist() for table in found[1][0]] == [[f"{k} one", f"{k} two"] for k in KEYS]


def test_pieces_over_several_submissions(batch_server: LocalServer, tmp_path: Path) -> None:
    """A run over partitions of which some are open sends only the others; a piece may span both submissions."""
    cut = batch_asset(model="gpt-4o-mini", partitions_def=DAYS, name="answers", pieces=2)(lambda notes: notes)
    project = partitioned(batch_server, tmp_path, *cut.assets)
    project.run("notes", span=(KEYS[0], KEYS[-1]))
    assert project.run("answers_submission", partition="c|d").success
    result = project.run("answers_submission", span=(KEYS[0], KEYS[-1]))
    assert result.success, failure(result)
    assert [one.requests for one in project.submissions("answers")] == [2, 6]
    prepared = [step for step in steps(result) if "prepare" in step]
    assert [step.partition("[")[2] for step in prepared] == ["s1_b00000_to_s1_b00001]", "s1_b00002_to_s1_b00002]"]
    wait_for(lambda: {one["status"] for one in batch_server.batches()} == {"completed"})
    landed = project.run("answers", span=(KEYS[0], KEYS[-1]))
    assert landed.success, failure(landed)
    collected = [step for step in steps(landed) if "collect" in step]
    assert [step.partition("[")[2] for step in collected] == ["b00000_to_s1_b00000]", "s1_b00001_to_s1_b00002]"]
    assert [len(project.load("answers", partition=key)) for key in KEYS] == [2, 2, 2, 2]
    assert len(batch_server.batches()) == 4


def test_partitions_of_a_column(batch_server: LocalServer, tmp_path: Path) -> None:
    """With `partition_by` one frame is cut by a column."""

    @batch_asset(model="gpt-4o-mini", partitions_def=DAYS, partition_by="day", pieces=2)
    def days() -> pd.DataFrame:
        return pd.DataFrame({"day": ["g", "a/b", "g", "elsewhere"], "user_message": ["1", "2", "3", "4"]})

    project = partitioned(batch_server, tmp_path, *days.assets)
    assert project.run("days_submission", span=(KEYS[0], KEYS[-1])).success
    project.land()
    assert [len(project.load("days", partition=key)) for key in KEYS] == [1, 0, 0, 2]


# -- runs that are early, fail, or are stopped --------------------------------------------------------


def test_a_table_that_is_not_ready(tmp_path: Path) -> None:
    """With its submission, or asked for by the sensor, it is left out; asked for alone it fails with the progress."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = project_on(server, tmp_path, texts, *made(2).assets)
        together = project.run("texts", "labels_submission", "labels")
        assert together.success, failure(together)
        assert not together.asset_materializations_for_node("labels")
        asked = project.run("labels", **{"ractobatch/submission": "any"})
        assert asked.success, failure(asked)
        assert not asked.asset_materializations_for_node("labels")
        assert steps(asked)[:2] == ["labels.look", "labels.land"]
        alone = project.run("labels")
        assert not alone.success
        assert "0 of 12 batches ended" in failure(alone)
        assert len(server.batches()) == 12


def test_a_table_before_any_submission_says_what_to_materialise(batch_server: LocalServer, tmp_path: Path) -> None:
    """Nothing was submitted: a failure that names the asset to start with."""
    result = project_on(batch_server, tmp_path, texts, *made(2).assets).run("labels")
    assert "'labels_submission'" in failure(result)


def test_a_further_round(batch_server: LocalServer, tmp_path: Path) -> None:
    """A request that failed for no fault of its own goes out again from the last step, and the table lands later."""
    batch_server.faults = Faults(fail_ids={"row-00000001": 503}, first_attempts=1)
    project = project_on(batch_server, tmp_path, texts, *made(PIECES).assets)
    project.run("texts", "labels_submission")
    project.land()
    rounds = project.load("labels", kind=pa.Table)["llm_round"].to_pylist()
    assert rounds == [0, 1, *[0] * (ROWS - 2)]


def test_a_failed_step_is_tried_again(batch_server: LocalServer, tmp_path: Path) -> None:
    """The retry policy is each step's: what broke is done again, within the run, and nothing is sent twice."""
    calls: list[int] = []

    @batch_asset(model="gpt-4o-mini", pieces=2, retry_policy=dg.RetryPolicy(max_retries=1))
    def shaky() -> pd.DataFrame:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the database is away")
        return pd.DataFrame({"user_message": [str(number) for number in range(8)]})

    project = project_on(batch_server, tmp_path, *shaky.assets)
    result = project.run("shaky_submission")
    assert result.success, failure(result)
    assert [event.step_key for event in result.all_events if event.is_step_up_for_retry] == ["shaky_submission.seal"]
    project.land()
    assert len(project.load("shaky")) == 8
    assert len(batch_server.batches()) == 4


@pytest.mark.parametrize(
    ("by_somebody", "policy", "cancelled"),
    [(True, "cancel", True), (True, "keep", False), (False, "cancel", False)],
)
def test_a_terminated_run_cancels_only_if_somebody_terminated_it_and_wants_that(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by_somebody: bool,
    policy: Literal["cancel", "keep"],
    cancelled: bool,
) -> None:
    """As for an asset in one: the step that is interrupted looks after it."""

    def interrupted(*_: object, **__: object) -> None:
        run = project.instance.get_runs(limit=1)[0]
        if by_somebody:
            project.instance.report_run_canceling(run)
        raise dg.DagsterExecutionInterruptedError

    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = project_on(server, tmp_path, texts, *made(PIECES, on_terminate=policy).assets)
        project.run("texts")
        monkeypatch.setattr("ractobatch_dagster.submission.engine.upload", interrupted)
        assert not project.run("labels_submission").success
        (state,) = project.submissions("labels")
        assert state.cancelled is cancelled
        assert not server.batches()


# -- several processes --------------------------------------------------------------------------------


def test_steps_in_processes_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces run side by side; a run that failed in one goes on from there, and the done ones are not done again."""
    with LocalServer(tmp_path / "server", api_key="local") as server:
        monkeypatch.setenv("RACTOBATCH_TEST_URL", server.base_url)
        monkeypatch.setenv("RACTOBATCH_TEST_ROOT", str(tmp_path / "store"))
        instance = dg.DagsterInstance.local_temp(str(tmp_path))
        job = dg.reconstructable(in_processes)

        def run(*assets: str, **options: Any) -> dg.JobExecutionResult:
            return dg.execute_job(job, instance, asset_selection=[dg.AssetKey(name) for name in assets], **options)

        server.faults = Faults(calls=(CallFault("POST", "/v1/files", times=1, status=401),))
        first = run("texts")
        assert first.success, failure(first)
        failed = run("labels_submission")
        (lost,) = [event.step_key for event in failed.all_events if event.is_step_failure]
        assert lost.startswith("labels_submission.prepare[")
        again = dg.execute_job(
            job, instance, reexecution_options=dg.ReexecutionOptions.from_failure(failed.run_id, instance)
        )
        assert again.success
        assert steps(again) == [lost, "labels_submission.create"]
        assert len(server.batches()) == 12
        wait_for(lambda: {one["status"] for one in server.batches()} == {"completed"})
        landed = run("labels")
        assert landed.success
        assert (tmp_path / "store" / "tables" / "labels.parquet").is_file()


def test_both_kinds_of_assets_in_one_code_location(batch_server: LocalServer, tmp_path: Path) -> None:
    """Assets of any number of pieces stand side by side, their `definitions` merge, and one run does them all."""
    one, two, whole = made(2, "one"), made(PIECES, "two"), made(1, "whole")
    project = project_on(batch_server, tmp_path)
    project.defs = dg.Definitions.merge(
        one.definitions,
        two.definitions,
        whole.definitions,
        dg.Definitions(assets=[texts], resources={RESOURCE: project.resource}),
    )
    repository = project.defs.get_repository_def()
    assert [sensor.name for sensor in repository.sensor_defs] == ["openai_batch_sensor"]
    names = ("one", "two", "whole")
    assert {f"{name}_{what}" for name in names for what in ("submit", "cancel")} <= {
        job.name for job in repository.get_all_jobs()
    }
    result = project.run("texts", *(f"{name}_submission" for name in names))
    assert result.success, failure(result)
    project.land()
    one_, two_, whole_ = (project.load(name, kind=pa.Table).drop_columns(list(_OWN)) for name in names)
    assert one_ == two_ == whole_
