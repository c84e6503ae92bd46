"""Budgets as the user of a resource meets them: in the run, in the sensor, after raising one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pandas as pd
import pytest
from pydantic import ValidationError

from ractobatch_dagster import Budget, ConfigurationError, OpenAIBatchResource, batch_asset
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.submission.files import TableFiles
from tests.project import Project, failure


@batch_asset(model="gpt-4o-mini", prompt="Answer.", max_tokens=1_000)
def answers() -> pd.DataFrame:
    """Six rows, each a batch; one may cost 0.0003 USD."""
    return pd.DataFrame({"user_message": [f"text {number}" for number in range(6)]})


def project(server: LocalServer, folder: Path, *budgets: Budget, assets: Any = None) -> Project:
    """A project whose resource has these budgets."""
    return Project(server, folder, assets or answers.assets, max_requests_per_batch=1, budgets=list(budgets))


def test_the_sensor_says_what_waits_and_goes_on_once_it_may(tmp_path: Path) -> None:
    """The submission ends well; what fits is sent; once the budget is raised, so is the rest."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        small = project(server, tmp_path, Budget(usd=0.001, per="month"))
        assert small.run("answers_submission").success
        told = small.metadata("answers_submission")
        assert told["batches_created"] == 3
        assert "3 waiting for the budget" in told["progress"]
        assert "of the budget of 0.001 USD a month for all tables" in told["held_by_budget"]
        ticked = small.tick()
        assert "3 waiting for the budget" in str(ticked.skip_message)
        (observed,) = [event for event in ticked.asset_events if isinstance(event, dg.AssetObservation)]
        assert observed.metadata["batches_held_by_budget"].value == 3
        raised = project(server, tmp_path, Budget(usd=1.0, per="month"))
        raised.instance = small.instance
        raised.tick()
        assert len(server.batches()) == 6


def test_what_answers_did_cost_leaves_room_for_more(batch_server: LocalServer, tmp_path: Path) -> None:
    """They are collected though others wait, and are cheaper than they might have been, so all go in the end."""
    small = project(batch_server, tmp_path, Budget(usd=0.001, per="total"))
    small.run("answers_submission")
    assert len(batch_server.batches()) == 3
    small.land()
    assert small.load("answers")["llm_status"].tolist() == ["ok"] * 6
    assert len(batch_server.batches()) == 6


def test_what_was_answered_lands_if_the_rest_is_cancelled(batch_server: LocalServer, tmp_path: Path) -> None:
    """For those who will not raise it: the job that cancels, and the table has what there is."""
    batch_server.wait_idle()
    small = project(batch_server, tmp_path, Budget(usd=0.001, per="total", asset="answers"))
    small.run("answers_submission")
    small.defs = dg.Definitions.merge(small.defs, dg.Definitions(jobs=answers.jobs))
    cancelled = small.defs.resolve_job_def("answers_cancel").execute_in_process(instance=small.instance)
    assert cancelled.success
    small.land()
    statuses = small.load("answers")["llm_status"].tolist()
    assert statuses.count("cancelled") >= 3
    assert len(batch_server.batches()) == 3


def test_a_budget_without_a_limit_on_answers_is_told(batch_server: LocalServer, tmp_path: Path) -> None:
    """Nothing is sent, and the sentence says what to do."""

    @batch_asset(model="gpt-4o-mini")
    def open_ended() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a"]})

    made = project(batch_server, tmp_path, Budget(usd=1, per="day"), assets=open_ended.assets)
    result = made.run("open_ended_submission")
    assert result.success, failure(result)
    assert batch_server.batches() == []
    assert "a budget needs `max_tokens`" in made.metadata("open_ended_submission")["held_by_budget"]


def test_rows_with_limits_of_their_own(batch_server: LocalServer, tmp_path: Path) -> None:
    """The largest that any row may take counts; a row without one leaves it unknown."""
    frame = pd.DataFrame({"user_message": ["a", "b"], "most": [100, 2_000]})

    def made(frame: pd.DataFrame, name: str) -> Any:
        return batch_asset(model="gpt-4o-mini", name=name, overrides={"max_tokens": "most"})(lambda: frame)

    known, unknown = made(frame, "known"), made(frame.assign(most=[100, None]), "unknown")
    both = project(batch_server, tmp_path, Budget(usd=1, per="day"), assets=[*known.assets, *unknown.assets])
    both.run("known_submission")
    both.run("unknown_submission")
    assert both.submissions("known")[0].most_tokens == 2_000
    assert both.submissions("unknown")[0].most_tokens is None
    assert len(batch_server.batches()) == 2


def test_a_budget_that_never_admits_ends_the_run_that_waits(batch_server: LocalServer, tmp_path: Path) -> None:
    """Where one asset submits, waits and lands, waiting would never end."""
    waiting = batch_asset(model="gpt-4o-mini", name="waiting", max_tokens=1_000, blocking=True)(
        lambda: pd.DataFrame({"user_message": ["a"]})
    )
    made = project(batch_server, tmp_path, Budget(usd=0.0001, per="day"), assets=waiting.assets)
    result = made.run("waiting")
    assert not result.success
    assert "BudgetError" in failure(result)
    assert "more than the whole budget" in failure(result)


def test_a_budget_of_no_table_is_told(batch_server: LocalServer, tmp_path: Path) -> None:
    """It limits nothing, and whoever wrote it should know."""
    made = project(batch_server, tmp_path, Budget(usd=1, per="day", asset="answer"))
    assert "a budget is for 'answer', and there is no table of that key" in str(made.tick().skip_message)


def test_answers_do_not_lie_at_the_provider_for_long(batch_server: LocalServer, tmp_path: Path) -> None:
    """A submission of which one batch will wait for days is collected meanwhile."""
    made = project(batch_server, tmp_path)
    made.run("answers_submission")
    batch_server.wait_idle()
    made.tick()
    (state,) = made.submissions("answers")
    files = TableFiles(made.resource.store, "answers").submission(state.id)
    waiting = msgspec.structs.replace(state.batches[5], batch_id=None, status=None, not_before=2e10)
    files.change(lambda _: {5: waiting})
    assert not made.tick().run_requests
    long_ago = {b.number: msgspec.structs.replace(b, seen_at=b.seen_at - 90_000) for b in files.state().batches[:5]}
    files.change(lambda _: long_ago)
    (request,) = made.tick().run_requests
    assert made.launch(request).success
    assert [batch.stage for batch in files.state().batches] == ["collected"] * 5 + ["uploaded"]


def test_a_model_is_not_hidden_among_parameters() -> None:
    """It would be asked, and another one's price reserved."""
    with pytest.raises(ConfigurationError, match="extra: the model is given as `model`"):
        batch_asset(model="gpt-4o-mini", name="a", extra={"model": "gpt-4o"})(pd.DataFrame)


def test_budgets_are_config(tmp_path: Path) -> None:
    """As plain data they come from YAML or a launchpad; a period that is none is refused."""
    resource = OpenAIBatchResource(root=str(tmp_path), budgets=[{"usd": 5, "per": "week"}])  # type: ignore[list-item]
    assert resource.budgets[0].usd == 5
    with pytest.raises(ValidationError, match="'year' is none of submission, day, week, month, total"):
        Budget(usd=5, per="year")
    with pytest.raises(ValidationError):
        Budget(usd=-1, per="day")
