"""The sensor: what it asks for, when, and that one trouble does not stop the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from ractobatch_dagster import batch_asset, build_batch_sensor
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.requesting import _Run, contiguous, next_attempt
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import TableFiles
from tests.project import Project, failure

FAILING = {"fail": True}


@batch_asset(model="gpt-4o-mini")
def one() -> pd.DataFrame:
    """One row."""
    return pd.DataFrame({"user_message": ["a"]})


@batch_asset(model="gpt-4o-mini")
def two() -> pd.DataFrame:
    """Another."""
    return pd.DataFrame({"user_message": ["b"]})


ASSETS = [*one.assets, *two.assets]


def test_one_sensor_serves_every_asset(batch_server: LocalServer, tmp_path: Path) -> None:
    """Two batch assets, one sensor, a request for each."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission", "two_submission")
    batch_server.wait_idle()
    asked = [key.to_user_string() for request in project.tick().run_requests for key in request.asset_selection]
    assert sorted(asked) == ["one", "two"]


def test_sensor_is_on_by_default_and_needs_no_cursor(batch_server: LocalServer, tmp_path: Path) -> None:
    """Whoever defines it does not have to switch it on; a tick leaves no cursor to lose."""
    assert build_batch_sensor().default_status == dg.DefaultSensorStatus.RUNNING
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission")
    assert project.tick().cursor is None


def test_a_tick_says_how_far_the_batches_are(tmp_path: Path) -> None:
    """While batches run the skip reason is progress a person can read."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, ASSETS)
        project.run("one_submission")
        assert project.tick().skip_message == "1 batch running (0 % of 1 requests answered), next look in 30 s"


def test_a_table_run_under_way_is_not_asked_for_again(batch_server: LocalServer, tmp_path: Path) -> None:
    """Until the requested run has finished the same run key is the only one."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission")
    (first,) = project.requests()
    (again,) = project.requests()
    assert first.run_key == again.run_key
    job = project.defs.resolve_implicit_global_asset_job_def()
    project.instance.create_run_for_job(
        job, tags=dict(first.tags), status=dg.DagsterRunStatus.STARTED, asset_selection=frozenset([dg.AssetKey("one")])
    )
    assert "under way" in project.tick().skip_message


def test_a_failed_table_run_is_asked_for_again_under_a_new_key(batch_server: LocalServer, tmp_path: Path) -> None:
    """Dagster never launches a used run key, so the next attempt has another one, after a pause."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission")
    (first,) = project.requests()
    batch_server.faults = Faults(outage=100)
    assert not project.launch(first).success
    batch_server.faults = Faults()
    assert "1 table run failed, the next is asked for in" in project.tick().skip_message


def test_unreachable_provider_fails_no_tick(batch_server: LocalServer, tmp_path: Path) -> None:
    """A tick during an outage is a tick with a note, not a failure."""
    project = Project(batch_server, tmp_path, ASSETS, max_retries=0)
    project.run("one_submission")
    batch_server.faults = Faults(outage=100)
    assert "503" in project.tick().skip_message or "looking" in project.tick().skip_message


def test_full_queue_waits_without_losing_a_row(batch_server: LocalServer, tmp_path: Path) -> None:
    """A batch that the quota turned away stays planned, and its submission run succeeds."""
    batch_server.faults = Faults(queue_full="429", queue_full_times=1)
    project = Project(batch_server, tmp_path, ASSETS)
    result = project.run("one_submission")
    assert result.success, failure(result)
    assert not batch_server.batches()
    assert "1 waiting for the quota" in project.tick().skip_message


def test_another_deployments_submissions_are_left_alone(batch_server: LocalServer, tmp_path: Path) -> None:
    """Staging and production may share a root: each sensor sees only its own."""
    staging = Project(batch_server, tmp_path / "a", ASSETS, deployment="staging", root=str(tmp_path / "store"))
    production = Project(batch_server, tmp_path / "b", ASSETS, root=str(tmp_path / "store"))
    staging.run("one_submission")
    batch_server.wait_idle()
    assert production.tick().skip_message == "No submission is open."
    assert staging.tick().run_requests


def test_neighbours_share_a_run() -> None:
    """Partitions next to each other are one range; a gap starts another."""
    order = {key: place for place, key in enumerate("abcdef")}
    assert contiguous(["f", "a", "b", "d"], order, together=True) == [("a", "b"), ("d", "d"), ("f", "f")]
    assert contiguous(["b", "a"], order, together=False) == [("a", "a"), ("b", "b")]


def test_first_attempt_is_number_one() -> None:
    """Nothing ran yet: nothing to wait for."""
    assert next_attempt((None, None), [], {None: 0}, 0.0) == (1, None, None)


def test_a_table_run_that_never_ends_is_told_of() -> None:
    """Its machine may be gone, and Dagster may never notice: after some hours a person is asked to look."""
    order = {None: 0}
    run = _Run((None, None), finished=False, failed=False, ended_at=0.0, began_at=1000.0)
    assert next_attempt((None, None), [run], order, 1000.0 + 3600)[1:] == ("its table run is under way", None)
    _, _, given_up = next_attempt((None, None), [run], order, 1000.0 + 4 * 3600)
    assert "terminate it" in str(given_up)


def test_a_large_input_file_is_uploaded_by_a_run(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick has no time for it; it asks for a run of the table, which uploads and creates and ends without a table."""
    monkeypatch.setattr("ractobatch_dagster.ticking._LARGEST_UPLOAD", 10.0)
    project = Project(batch_server, tmp_path, ASSETS, max_retries=0)
    batch_server.faults = Faults(outage=100)
    project.run("one_submission")
    batch_server.faults = Faults()
    (request,) = project.requests()
    assert not batch_server.files()
    assert project.launch(request).success
    assert len(batch_server.batches()) == 1
    project.land()


def test_a_tick_without_anything_open_needs_no_key(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A code location that has sent nothing yet, or a laptop without a key, has a sensor that skips."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    project = Project(batch_server, tmp_path, ASSETS, api_key=None)
    assert project.tick().skip_message == "No submission is open."
    assert not batch_server.calls


def crowded(server: LocalServer, folder: Path, count: int) -> Project:
    """A table with so many partitions, each in a submission of its own."""
    days = dg.StaticPartitionsDefinition([f"p{number:02d}" for number in range(count)])

    @batch_asset(model="gpt-4o-mini", partitions_def=days, reuse=False)
    def many(context: dg.AssetExecutionContext) -> pd.DataFrame:
        return pd.DataFrame({"user_message": [context.partition_key]})

    project = Project(server, folder, many.assets)
    for key in days.get_partition_keys():
        result = project.run("many_submission", partition=key)
        assert result.success, failure(result)
    return project


def test_a_tick_over_many_submissions_asks_the_provider_once(tmp_path: Path) -> None:
    """One page of the list and one sentence for all; and what another process commits is seen by the next tick."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = crowded(server, tmp_path, 5)
        before = server.calls
        ticked = project.tick()
        assert server.calls - before == {("GET", "/v1/batches"): 1}
        assert ticked.skip_message == "5 batches running (0 % of 5 requests answered), next look in 30 s"
        other = TableFiles(Store(project.resource.root), "many")
        other.submission(project.submissions("many")[3].id).replace(lambda _: {"collected": True})
        (request,) = project.tick().run_requests
        assert request.partition_key == "p03"


def test_runs_are_asked_for_in_one_query(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many submissions that are ready cost Dagster's storage one query, and each still has its own attempts."""
    project = crowded(batch_server, tmp_path, 5)
    batch_server.wait_idle()
    asked = []
    real = dg.DagsterInstance.get_run_records

    def counting(instance: dg.DagsterInstance, filters: dg.RunsFilter, **options: Any) -> Any:
        asked.append(filters)
        return real(instance, filters, **options)

    monkeypatch.setattr(dg.DagsterInstance, "get_run_records", counting)
    first = project.tick().run_requests
    assert len(first) == 5
    assert len(asked) == 1
    job = project.defs.resolve_implicit_global_asset_job_def()
    project.instance.create_run_for_job(
        job,
        tags=dict(first[3].tags),
        status=dg.DagsterRunStatus.STARTED,
        asset_selection=frozenset([dg.AssetKey("many")]),
    )
    second = project.tick().run_requests
    assert {one.run_key for one in first} - {one.run_key for one in second} == {first[3].run_key}
    assert len(second) == 4
