"""Cancelling: by job and by command, of one partition, one submission or everything; and runs that are terminated."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from ractobatch_dagster import ParquetIOManager, batch_asset, cli
from ractobatch_dagster.local import Faults, LocalServer
from tests.local.helpers import GatedModel, wait_for
from tests.project import Project, failure

DAYS = dg.StaticPartitionsDefinition(["1", "2"])


@batch_asset(model="gpt-4o-mini")
def plain() -> pd.DataFrame:
    """Two rows."""
    return pd.DataFrame({"user_message": ["a", "b"]})


@batch_asset(model="gpt-4o-mini", partitions_def=DAYS, partition_by="day")
def daily() -> pd.DataFrame:
    """A row a day."""
    return pd.DataFrame({"day": ["1", "2"], "user_message": ["a", "b"]})


ASSETS = [*plain.assets, *daily.assets]
JOBS = [*plain.jobs, *daily.jobs]


def project_on(server: LocalServer, tmp_path: Path) -> Project:
    """A project with the cancelling jobs."""
    project = Project(server, tmp_path, ASSETS)
    project.defs = dg.Definitions.merge(project.defs, dg.Definitions(jobs=JOBS))
    return project


def run_job(project: Project, name: str, **config: object) -> dg.ExecuteInProcessResult:
    """Run a cancelling job as from the launchpad."""
    return project.defs.resolve_job_def(f"{name}_cancel").execute_in_process(
        instance=project.instance,
        run_config={"ops": {f"{name}_cancel_batches": {"config": config}}},
        raise_on_error=False,
    )


def test_the_job_has_nothing_for_an_io_manager(batch_server: LocalServer, tmp_path: Path) -> None:
    """A project's own may only take assets, as ours does."""
    project = project_on(batch_server, tmp_path)
    project.defs = dg.Definitions.merge(
        project.defs, dg.Definitions(resources={"io_manager": ParquetIOManager(root=str(tmp_path / "own"))})
    )
    assert run_job(project, "plain").success


def statuses(project: Project) -> list[str]:
    """What became of the rows of `plain`."""
    return list(project.load("plain", kind=pa.Table)["llm_status"].to_pylist())


def test_what_was_answered_lands_and_the_rest_is_cancelled(tmp_path: Path) -> None:
    """The job cancels at the provider; the sensor then lands the table with both kinds of rows."""
    model = GatedModel(1)
    with LocalServer(tmp_path / "server", model=model) as server:
        project = project_on(server, tmp_path)
        project.run("plain_submission")
        wait_for(lambda: server.billed.total())  # noqa: PLW0108 (`billed` is a copy)
        assert run_job(project, "plain").success
        model.gate.set()
        project.land()
        assert server.batches()[0]["status"] == "cancelled"
        assert set(statuses(project)) <= {"ok", "cancelled"}
        assert "ok" in statuses(project)


def test_submitting_again_after_a_cancel_sends_only_the_rest(tmp_path: Path) -> None:
    """What the cancelled submission had answered is not paid for again."""
    model = GatedModel(0)
    with LocalServer(tmp_path / "server", model=model) as server:
        project = project_on(server, tmp_path)
        project.run("plain_submission")
        run_job(project, "plain")
        model.gate.set()
        project.land()
        answered = statuses(project).count("ok")
        project.run("plain_submission")
        project.land()
        assert statuses(project) == ["ok", "ok"]
        assert server.billed.total() == 2
        assert answered + sum(state.requests for state in project.submissions("plain")[1:]) == 2


def test_a_partition_in_shared_batches_is_cancelled_only_by_its_submission(tmp_path: Path) -> None:
    """Naming one of several partitions of a submission cancels nothing, and says what to name instead."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = project_on(server, tmp_path)
        project.run("daily_submission", span=("1", "2"))
        assert "name the submission itself" in failure(run_job(project, "daily", partition="1"))
        (state,) = project.submissions("daily")
        assert not state.cancelled
        assert run_job(project, "daily", submission=state.id).success
        assert project.submissions("daily")[0].cancelled


def test_a_partition_of_its_own_is_cancelled_alone(tmp_path: Path) -> None:
    """The other partition's submission goes on."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = project_on(server, tmp_path)
        project.run("daily_submission", partition="1")
        project.run("daily_submission", partition="2")
        assert run_job(project, "daily", partition="1").success
        assert [state.cancelled for state in project.submissions("daily")] == [True, False]


def test_a_cancel_that_fails_is_gone_on_with_by_the_sensor(tmp_path: Path) -> None:
    """The provider was away: the job says so, and the next tick cancels."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, ASSETS, max_retries=0)
        project.defs = dg.Definitions.merge(project.defs, dg.Definitions(jobs=JOBS))
        project.run("plain_submission")
        server.faults = Faults(outage=2)
        assert "not cancelled yet" in failure(run_job(project, "plain"))
        server.faults = Faults()
        project.tick()
        assert wait_for(lambda: server.batches()[0]["status"] == "cancelled")


def test_the_command_cancels_without_dagster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`ractobatch status` shows what is open, and `ractobatch cancel` cancels it: by table, or everything."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = project_on(server, tmp_path)
        project.run("plain_submission")
        project.run("daily_submission", span=("1", "2"))
        project.tick()
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        root = ["--root", project.resource.root]
        assert cli.main(["status", *root]) == 0
        assert "of 'plain'" in capsys.readouterr().out
        assert cli.main(["cancel", *root, "--asset", "plain"]) == 0
        assert [state.cancelled for state in project.submissions("plain") + project.submissions("daily")] == [
            True,
            False,
        ]
        assert cli.main(["cancel", *root, "--all"]) == 0
        assert project.submissions("daily")[0].cancelled
        assert cli.main(["cancel", *root]) == 1
        assert "--all" in capsys.readouterr().err


def test_the_command_does_not_cancel_at_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch id means nothing elsewhere."""
    with LocalServer(tmp_path / "server", seconds=600) as server, LocalServer(tmp_path / "other") as other:
        project = project_on(server, tmp_path)
        project.run("plain_submission")
        for name, value in other.environ.items():
            monkeypatch.setenv(name, value)
        assert cli.main(["cancel", "--root", project.resource.root, "--all"]) == 1
        assert "was sent to" in capsys.readouterr().out
        assert not project.submissions("plain")[0].cancelled


def test_status_ends_with_1_where_nobody_looks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that a cron job or a probe can raise the alarm."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = project_on(server, tmp_path)
        project.run("plain_submission")
        assert cli.main(["status", "--root", project.resource.root]) == 1
        assert "no sensor has ever looked after it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("by_somebody", "policy", "cancelled"),
    [(True, "cancel", True), (True, "keep", False), (False, "cancel", False)],
)
def test_a_terminated_run_cancels_only_if_somebody_terminated_it_and_wants_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_somebody: bool, policy: str, cancelled: bool
) -> None:
    """Dagster interrupts a run in the same way when its pod is evicted, and then the batches always go on."""

    @batch_asset(model="gpt-4o-mini", blocking=True, on_terminate=policy)  # type: ignore[arg-type]
    def waiting() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a"]})

    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, waiting.assets)

        def interrupted(_: float) -> None:
            run = project.instance.get_runs(limit=1)[0]
            if by_somebody:
                project.instance.report_run_canceling(run)
            raise dg.DagsterExecutionInterruptedError

        monkeypatch.setattr("ractobatch_dagster.landing.time.sleep", interrupted)
        assert not project.run("waiting").success
        (state,) = project.submissions("waiting")
        assert state.cancelled is cancelled
        assert (server.batches()[0]["status"] in ("cancelling", "cancelled")) is cancelled
