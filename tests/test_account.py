"""The asset of an account, and the sentence that says what is under way there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from ractobatch_dagster import batch_asset
from ractobatch_dagster.account import UnderWay, account_asset, account_key, under_way
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.heartbeat import Heartbeat, beat
from tests.project import Project

KEY = account_key("openai_batch")


@batch_asset(model="gpt-4o-mini")
def one() -> pd.DataFrame:
    """Two prompts."""
    return pd.DataFrame({"user_message": ["Say one.", "Say two."]})


@batch_asset(model="gpt-4o-mini")
def other() -> pd.DataFrame:
    """Another prompt."""
    return pd.DataFrame({"user_message": ["Say three."]})


def observations(ticked: dg.SensorResult) -> list[dict[str, Any]]:
    """What a tick says of the account."""
    return [
        {name: value.value for name, value in event.metadata.items()}
        for event in ticked.asset_events
        if isinstance(event, dg.AssetObservation) and event.asset_key == KEY
    ]


def test_the_account_is_an_asset_of_every_project(batch_server: LocalServer, tmp_path: Path) -> None:
    """One, however many batch assets share it, and whichever way they are put together."""
    project = Project(batch_server, tmp_path, [*one.assets, *other.assets])
    assert dg.AssetKey("openai_batches") == KEY
    assert project.defs.resolve_asset_graph().has(KEY)
    resources = dg.Definitions(resources={"openai_batch": project.resource})
    merged = dg.Definitions.merge(one.definitions, other.definitions, resources)
    assert merged.resolve_asset_graph().has(KEY)
    assert not merged.resolve_asset_graph().get(KEY).is_materializable
    assert account_key("azure") == dg.AssetKey("azure_batches")
    assert account_asset("azure").key == dg.AssetKey("azure_batches")


def test_it_is_observed_when_something_has_changed(tmp_path: Path) -> None:
    """Once for each change, from the first batch to when nothing is open any more, and never for nothing."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, [*one.assets, *other.assets])
        assert observations(project.tick()) == []
        project.run("one_submission")
        (first,) = observations(project.tick())
        assert observations(project.tick()) == []
        project.run("other_submission")
        (second,) = observations(project.tick())
        assert (first["submissions"], first["batches_running"], first["requests"]) == (1, 1, 2)
        assert (second["submissions"], second["batches_running"], second["requests"]) == (2, 2, 3)
        assert second["prompt_tokens_enqueued_estimated"] > first["prompt_tokens_enqueued_estimated"] > 0
        assert second["prompt_cost_usd_enqueued_estimated"] > 0
        assert 0 <= second["oldest_running_hours"] < 0.1


def test_its_plots_return_to_nothing(batch_server: LocalServer, tmp_path: Path) -> None:
    """When all has landed it says so, once."""
    project = Project(batch_server, tmp_path, one.assets)
    project.run("one_submission")
    for request in project.requests():
        project.launch(request)
    (last,) = observations(project.tick())
    assert {
        last[name] for name in ("submissions", "batches_running", "requests", "prompt_tokens_enqueued_estimated")
    } == {0}
    assert observations(project.tick()) == []


def test_a_look_that_was_cut_short_says_nothing_of_the_account(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has not seen is not gone."""
    project = Project(batch_server, tmp_path, one.assets)
    project.run("one_submission")
    (first,) = observations(project.tick())
    assert first["submissions"] == 1
    with monkeypatch.context() as patch:
        patch.setattr("ractobatch_dagster.ticking._TICK_SECONDS", 0.0)
        assert observations(project.tick()) == []
    assert observations(project.tick()) == []  # nothing has changed since the first


def test_code_locations_share_an_account(tmp_path: Path) -> None:
    """Two sensors of one name observe one asset: each tells what the other saw last as well."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, one.assets)
        theirs = UnderWay(submissions=2, batches_running=3, requests=30)
        at = project.resource.now()
        beat(project.resource.store, "openai_batch_sensor of elsewhere", Heartbeat(at=at, told=theirs.as_json()))
        beat(project.resource.store, "azure_sensor of elsewhere", Heartbeat(at=at, told=theirs.as_json()))
        beat(project.resource.store, "openai_batch_sensor of a ruin", Heartbeat(at=at - 9_999, told=theirs.as_json()))
        project.run("one_submission")
        (told,) = observations(project.tick())
        assert (told["submissions"], told["batches_running"], told["requests"]) == (3, 4, 32)
        assert observations(project.tick()) == []


def test_what_the_quota_turned_away_is_told(batch_server: LocalServer, tmp_path: Path) -> None:
    """In the sentence and in the plots."""
    batch_server.faults = Faults(queue_full="429", queue_full_times=1)
    project = Project(batch_server, tmp_path, one.assets)
    project.run("one_submission")
    ticked = project.tick()
    assert observations(ticked)[0]["batches_waiting_for_quota"] == 1
    assert ticked.skip_message == (
        "0 batches running (0 % of 2 requests answered), 1 waiting for the quota, next look in 30 s"
    )


def test_the_sentence() -> None:
    """As a person would say it."""
    now = UnderWay(
        submissions=2,
        batches_waiting=3,
        batches_waiting_for_quota=1,
        batches_running=3,
        requests=120_000,
        requests_answered=73_200,
    )
    assert now.sentence(30) == (
        "3 batches running (61 % of 120,000 requests answered), 2 waiting to be created, 1 waiting for the quota, "
        "next look in 30 s"
    )
    assert UnderWay().sentence(30) == "No submission is open."


def test_what_was_spent_is_summed_up(batch_server: LocalServer, tmp_path: Path) -> None:
    """Of what is open and collected, as the rows will say once they land."""
    project = Project(batch_server, tmp_path, one.assets)
    project.run("one_submission")
    batch_server.wait_idle()
    files = TableFiles(project.resource.store, "one").submission(project.submissions("one")[0].id)
    state = project.resource.engine(log=lambda _: None).advance(files)
    spent = under_way([state]).spent_usd
    project.land()
    assert spent == pytest.approx(project.load("one")["llm_cost_usd"].sum(), abs=1e-6)
    assert spent > 0
