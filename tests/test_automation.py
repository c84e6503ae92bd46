"""The pair under Dagster's own automation: conditions, schedules, retries, pools."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from ractobatch_dagster import BatchAsset, batch_asset
from ractobatch_dagster.local import Faults, LocalServer
from tests.project import Project

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-01-04")


@dg.asset
def texts() -> pd.DataFrame:
    """Two texts."""
    return pd.DataFrame({"user_message": ["a", "b"]})


def made(**options: Any) -> BatchAsset:
    """Labels of the texts."""

    @batch_asset(model="gpt-4o-mini", **options)
    def labels(texts: pd.DataFrame) -> pd.DataFrame:
        return texts

    return labels


@dg.asset(automation_condition=dg.AutomationCondition.eager())
def report(labels: pd.DataFrame) -> None:
    """What follows the table by itself."""


class Evaluated:
    """Definitions whose conditions are evaluated like a daemon does, one evaluation after the other."""

    def __init__(self, project: Project) -> None:
        self._project, self._cursor = project, None

    def requested(self) -> set[str]:
        """The assets that the next evaluation asks for."""
        found = dg.evaluate_automation_conditions(
            defs=self._project.defs, instance=self._project.instance, cursor=self._cursor
        )
        self._cursor = found.cursor  # type: ignore[assignment]
        keys = self._project.defs.resolve_asset_graph().get_all_asset_keys()
        return {key.to_user_string() for key in keys if found.get_num_requested(key)}


def test_eager_submission_follows_its_upstream_and_eager_downstreams_the_table(
    batch_server: LocalServer, tmp_path: Path
) -> None:
    """The submission is asked for once its rows are new, the table never by a condition, the report once it landed."""
    labels = made(automation_condition=dg.AutomationCondition.eager())
    project = Project(batch_server, tmp_path, [texts, report, *labels.assets])
    evaluated = Evaluated(project)
    evaluated.requested()
    project.run("texts")
    assert evaluated.requested() == {"labels_submission"}
    project.run("labels_submission")
    assert evaluated.requested() == set()
    project.land()
    assert evaluated.requested() == {"report"}
    project.run("report")
    assert evaluated.requested() == set()


def test_a_schedule_submits_and_the_sensor_lands(batch_server: LocalServer, tmp_path: Path) -> None:
    """The job that submits only is what a schedule starts."""
    labels = made()
    (submit,) = [job for job in labels.jobs if job.name == "labels_submit"]
    project = Project(batch_server, tmp_path, [texts, *labels.assets])
    project.defs = dg.Definitions(
        assets=[texts, *labels.assets],
        jobs=labels.jobs,
        schedules=[dg.ScheduleDefinition(job=submit, cron_schedule="0 3 * * *")],
        sensors=project.defs.sensors,
        resources=project.defs.resources,
    )
    project.run("texts")
    schedule = project.defs.resolve_schedule_def("labels_submit_schedule")
    with dg.build_schedule_context(
        instance=project.instance, repository_def=project.defs.get_repository_def()
    ) as context:
        (request,) = schedule.evaluate_tick(context).run_requests or ()
    assert request.job_name in (None, "labels_submit")
    assert project.defs.resolve_job_def("labels_submit").execute_in_process(instance=project.instance).success
    project.land()
    assert project.load("labels")["llm_status"].tolist() == ["ok", "ok"]


def test_retries_of_both_assets_send_nothing_twice(batch_server: LocalServer, tmp_path: Path) -> None:
    """A step that fails is run again by Dagster, after whatever it had done."""
    labels = made(retry_policy=dg.RetryPolicy(max_retries=3), pool="openai")
    project = Project(batch_server, tmp_path, [texts, *labels.assets], max_retries=0)
    project.run("texts")
    batch_server.faults = Faults(outage=2)
    result = project.run("labels_submission")
    assert result.success
    assert result.retry_attempts_for_node("labels_submission") >= 1
    (request,) = project.requests()
    batch_server.faults = Faults(outage=6)
    landed = project.launch(request)
    assert landed.success
    assert landed.retry_attempts_for_node("labels") >= 1
    assert len(batch_server.batches()) == 1
    assert project.load("labels")["llm_status"].tolist() == ["ok", "ok"]


def test_of_many_days_an_eager_downstream_takes_the_latest_only(batch_server: LocalServer, tmp_path: Path) -> None:
    """Dagster's own rule for partitions of time, which `without` takes away."""

    @batch_asset(model="gpt-4o-mini", partitions_def=DAYS)
    def labels(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.DataFrame({"user_message": [context.partition_key]})

    eager = dg.AutomationCondition.eager()
    conditions = {"latest": eager, "every": eager.without(dg.AutomationCondition.in_latest_time_window())}
    reports = [
        dg.asset(lambda: None, name=name, deps=["labels"], partitions_def=DAYS, automation_condition=condition)
        for name, condition in conditions.items()
    ]
    project = Project(batch_server, tmp_path, [*labels.assets, *reports])
    evaluated = Evaluated(project)
    evaluated.requested()
    project.run("labels_submission", partition="2026-01-01")
    project.land()
    assert evaluated.requested() == {"every"}


def test_a_freshness_policy_is_put_on_the_definitions(batch_server: LocalServer, tmp_path: Path) -> None:
    """On the table alone."""
    policy = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=48))
    defs = Project(batch_server, tmp_path, [texts, *made().assets]).defs.map_resolved_asset_specs(
        func=lambda spec: spec.replace_attributes(freshness_policy=policy), selection="labels"
    )
    graph = defs.resolve_asset_graph()
    assert graph.get(dg.AssetKey("labels")).freshness_policy == policy
    assert graph.get(dg.AssetKey("labels_submission")).freshness_policy is None
