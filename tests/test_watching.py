"""What the sensor does about trouble: it isolates, warns where people look, and leaves a sign of life."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from ractobatch_dagster import batch_asset
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.requesting import _Run, next_attempt
from ractobatch_dagster.submission.alarms import Patience, alarms
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.heartbeat import FRESH, Heartbeat, beat, heartbeats, watched
from ractobatch_dagster.submission.state import BatchState, Intent
from tests.project import Project, failure
from tests.submission.test_plan import submission


@batch_asset(model="gpt-4o-mini")
def one() -> pd.DataFrame:
    """One row."""
    return pd.DataFrame({"user_message": ["a"]})


@batch_asset(model="gpt-4o-mini")
def two() -> pd.DataFrame:
    """Another."""
    return pd.DataFrame({"user_message": ["b"]})


ASSETS = [*one.assets, *two.assets]


def later(project: Project, monkeypatch: pytest.MonkeyPatch, **span: float) -> None:
    """Move the store's clock."""
    now = project.resource.now() + dt.timedelta(**span).total_seconds()
    monkeypatch.setattr(type(project.resource), "now", lambda _: now)


def evaluations(result: Any) -> dict[str, tuple[bool, str]]:
    """The asset checks that a tick reports."""
    return {
        event.asset_key.to_user_string(): (event.passed, event.description)
        for event in result.asset_events
        if isinstance(event, dg.AssetCheckEvaluation)
    }


def test_unreadable_state_of_one_table_stops_no_other(batch_server: LocalServer, tmp_path: Path) -> None:
    """A torn log is told, and the other table's run is asked for all the same."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission", "two_submission")
    batch_server.wait_idle()
    store = project.resource.store
    store.write(f"submissions/one/log/{store.names('submissions/one/log')[-1]}", b"torn")
    ticked = project.tick()
    assert [key.to_user_string() for r in ticked.run_requests for key in r.asset_selection] == ["two"]
    store.write("submissions/two/log/00000007.json.gz", b"torn as well")
    assert project.tick().skip_message.count("torn or was not written by this package") == 2


def test_a_batch_that_the_provider_does_not_know_stops_no_other(batch_server: LocalServer, tmp_path: Path) -> None:
    """One batch id gives 404: the other table goes on, and the check of the first fails."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission", "two_submission")
    batch_server.wait_idle()
    files = TableFiles(project.resource.store, "one").submission(project.submissions("one")[0].id)
    files.replace(
        lambda state: {"batches": tuple(type(b)(**_fields(b) | {"batch_id": "batch_x"}) for b in state.batches)}
    )
    ticked = project.tick()
    assert [key.to_user_string() for r in ticked.run_requests for key in r.asset_selection] == ["two"]
    passed, description = evaluations(ticked)["one"]
    assert not passed
    assert "batch_x" in description
    assert evaluations(project.tick()) == {}  # told once


def _fields(batch: Any) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in batch.__struct_fields__}


def test_a_stuck_batch_fails_the_check_until_it_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without progress for too long, a person is told: in the check, the log and the skip reason."""
    with LocalServer(tmp_path / "server") as server:
        server.faults = Faults(stuck_in="in_progress")
        project = Project(server, tmp_path, ASSETS, stuck_after_hours=2)
        project.run("one_submission")
        assert evaluations(project.tick()) == {}
        later(project, monkeypatch, hours=3)
        ticked = project.tick()
        assert evaluations(ticked)["one"][0] is False
        assert "without progress since" in ticked.skip_message
        server.faults = Faults()
        server.wait_idle()
        assert evaluations(project.tick()) == {"one": (True, "Nothing is late.")}


def test_answers_that_nobody_collects_and_that_will_be_deleted(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some hours uncollected answers are an alarm, a week before their deletion a louder one."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission")
    batch_server.wait_idle()
    assert evaluations(project.tick()) == {}
    later(project, monkeypatch, hours=7)
    assert "not collected" in evaluations(project.tick())["one"][1]
    later(project, monkeypatch, days=24)
    assert "the provider deletes the answers" in evaluations(project.tick())["one"][1]


def test_the_check_tells_the_same_when_a_person_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`batches_are_on_time` reads the store, so it needs no sensor."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, ASSETS)
        project.run("one_submission")
        project.tick()
        later(project, monkeypatch, hours=30)
        job = dg.define_asset_job("checks", selection=dg.AssetSelection.checks_for_assets(dg.AssetKey("one")))
        defs = dg.Definitions.merge(project.defs, dg.Definitions(jobs=[job]))
        result = defs.resolve_job_def("checks").execute_in_process(instance=project.instance)
        assert {one.check_name: one.passed for one in result.get_asset_check_evaluations()}[
            "batches_are_on_time"
        ] is False


def test_a_renamed_asset_is_told_of(batch_server: LocalServer, tmp_path: Path) -> None:
    """Its open submission would lie for ever; the sensor says so, and what to do."""
    old = Project(batch_server, tmp_path / "a", ASSETS, root=str(tmp_path / "store"))
    old.run("one_submission")
    new = Project(batch_server, tmp_path / "b", two.assets, root=str(tmp_path / "store"))
    assert "ractobatch cancel --asset one" in new.tick().skip_message
    old.tick()
    beats = heartbeats(new.resource.store)
    assert beats["openai_batch_sensor"].assets == ("one", "two")


def test_a_submission_without_a_sensor_warns_or_refuses(batch_server: LocalServer, tmp_path: Path) -> None:
    """Where nobody has looked it is said before anything is sent; strictly, nothing is sent at all."""
    strict = Project(batch_server, tmp_path, ASSETS, require_sensor=True)
    assert "no sensor has ever looked" in failure(strict.run("one_submission"))
    assert not batch_server.files()
    strict.tick()
    assert strict.run("one_submission").success


def test_a_sign_of_life_ages(batch_server: LocalServer, tmp_path: Path) -> None:
    """An old one counts as none, and one of another asset's sensor does not count."""
    store = Project(batch_server, tmp_path, ASSETS).resource.store
    beat(store, "s", Heartbeat(at=1000.0, assets=("one",)))
    beats = heartbeats(store).values()
    assert watched("one", beats, 1000 + FRESH) is None
    assert "16 minutes ago" in str(watched("one", beats, 1000 + FRESH + 60))
    assert watched("two", beats, 1000)


def test_another_provider_is_not_asked_about_foreign_batches(batch_server: LocalServer, tmp_path: Path) -> None:
    """After the resource was led elsewhere the open submission is told of, not looked for there."""
    with LocalServer(tmp_path / "other") as other:
        first = Project(batch_server, tmp_path / "a", ASSETS, root=str(tmp_path / "store"))
        first.run("one_submission")
        second = Project(other, tmp_path / "b", ASSETS, root=str(tmp_path / "store"))
        ticked = second.tick()
        assert "the resource now talks to" in ticked.skip_message
        assert not ticked.run_requests


def test_a_partition_that_is_gone_is_closed_once_collected(batch_server: LocalServer, tmp_path: Path) -> None:
    """It is told of, and does not stay open for ever."""
    days = dg.DynamicPartitionsDefinition(name="days")

    @batch_asset(model="gpt-4o-mini", partitions_def=days, partition_by="day")
    def dynamic() -> pd.DataFrame:
        return pd.DataFrame({"day": ["x", "y"], "user_message": ["1", "2"]})

    project = Project(batch_server, tmp_path, dynamic.assets)
    project.instance.add_dynamic_partitions("days", ["x", "y"])
    project.run("dynamic_submission", span=("x", "y"))
    project.instance.delete_dynamic_partition("days", "x")
    project.land()
    assert project.tick().skip_message == "No submission is open."


def test_a_failing_partitions_definition_stops_no_other(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the user's own code raises is noted for its asset alone."""

    class Broken(dg.DynamicPartitionsDefinition):
        """Cannot list its partitions."""

        def get_partition_keys(self, *args: Any, **kwargs: Any) -> Any:
            if broken:
                raise RuntimeError("my database is away")
            return super().get_partition_keys(*args, **kwargs)

    broken = False

    @batch_asset(model="gpt-4o-mini", partitions_def=Broken(name="days"))
    def fragile() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["1"]})

    project = Project(batch_server, tmp_path, [*fragile.assets, *one.assets])
    project.instance.add_dynamic_partitions("days", ["x"])
    assert project.run("fragile_submission", partition="x").success
    project.run("one_submission")
    batch_server.wait_idle()
    broken = True
    ticked = project.tick()
    assert [key.to_user_string() for r in ticked.run_requests for key in r.asset_selection] == ["one"]


def test_two_sensors_at_once_change_nothing(batch_server: LocalServer, tmp_path: Path) -> None:
    """Two daemons on one root ask for the same run under the same key, and nothing is created twice."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("one_submission")
    batch_server.wait_idle()
    (first,), (second,) = project.tick().run_requests, project.tick().run_requests
    assert first.run_key == second.run_key
    assert project.launch(first).success
    assert project.launch(second).success
    assert len(batch_server.batches()) == 1


def test_alarms_are_for_what_is_wrong_and_for_nothing_else() -> None:
    """One batch that ended long ago beside one that runs is no alarm; a create in doubt and endless refusals are."""
    hour = 3600.0
    ended = BatchState(
        number=0, requests=1, size=1, batch_id="a", status=BatchStatus.COMPLETED, output_file_id="o", seen_at=1.0
    )
    running = BatchState(number=1, requests=1, size=1, batch_id="b", status=BatchStatus.IN_PROGRESS, seen_at=7 * hour)
    assert alarms(submission(ended, running), 8 * hour, Patience()) == []
    assert "not collected" in alarms(submission(ended), 8 * hour, Patience())[0]
    unsure = BatchState(number=0, requests=1, size=1, file_id="f", intent=Intent(writer="w", at=1.0, given_up=True))
    assert "unknown since" in alarms(submission(unsure), 2 * hour, Patience())[0]
    refused = BatchState(number=0, requests=1, size=1, file_id="f", refusals=100)
    assert "turned batch 0 away" in alarms(submission(refused), 2 * hour, Patience())[0]


def test_an_unreadable_sign_of_life_is_none(batch_server: LocalServer, tmp_path: Path) -> None:
    """It stops neither a tick nor a submission, and the next tick writes over it."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.resource.store.write("sensors/openai_batch_sensor", b"")
    assert project.run("one_submission").success
    project.tick()
    assert heartbeats(project.resource.store)["openai_batch_sensor"].assets == ("one", "two")


def test_no_run_key_comes_twice_when_a_partition_is_deleted() -> None:
    """Each attempt has a higher number than any before it in the submission."""
    order = {"b": 0, "c": 1}
    runs = [_Run((first, "c"), finished=True, failed=True, ended_at=0.0, began_at=0.0) for first in ("a", "b")]
    assert next_attempt(("b", "c"), runs, order, 1e6)[0] == 3
