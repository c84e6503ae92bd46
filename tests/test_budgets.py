"""Budgets as the user of a resource meets them: in the run, in the sensor, after raising one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
from pydantic import ValidationError

from ractobatch_dagster import Budget, OpenAIBatchResource, batch_asset
from ractobatch_dagster.local import LocalServer
from tests.project import Project, failure


@batch_asset(model="gpt-4o-mini", prompt="Answer.", max_tokens=1_000)
def answers() -> pd.DataFrame:
    """Six rows, each a batch; one may cost 0.0003 USD."""
    return pd.DataFrame({"user_message": [f"text {number}" for number in range(6)]})


def project(server: LocalServer, folder: Path, *budgets: Budget, assets: Any = None) -> Project:
    """A project whose resource has these budgets."""
    return Project(server, folder, assets or answers.assets, max_requests_per_batch=1, budgets=list(budgets))


def test_the_sensor_says_what_waits_and_goes_on_once_it_may(batch_server: LocalServer, tmp_path: Path) -> None:
    """The submission ends well; what fits is sent; a raised budget lands the table."""
    small = project(batch_server, tmp_path, Budget(usd=0.001, per="month"))
    assert small.run("answers_submission").success
    told = small.metadata("answers_submission")
    assert told["batches_created"] == 3
    assert "3 waiting for the budget" in told["progress"]
    assert "of the budget of 0.001 USD a month for all tables" in told["held_by_budget"]
    ticked = small.tick()
    assert "3 waiting for the budget" in str(ticked.skip_message)
    (observed,) = [event for event in ticked.asset_events if isinstance(event, dg.AssetObservation)]
    assert observed.metadata["batches_held_by_budget"].value == 3
    raised = project(batch_server, tmp_path, Budget(usd=1.0, per="month"))
    raised.instance = small.instance
    raised.land()
    assert raised.load("answers")["llm_status"].tolist() == ["ok"] * 6
    assert len(batch_server.batches()) == 6


def test_what_was_answered_lands_if_the_rest_is_cancelled(batch_server: LocalServer, tmp_path: Path) -> None:
    """For those who will not raise it: the job that cancels, and the table has what there is."""
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


def test_budgets_are_config(tmp_path: Path) -> None:
    """As plain data they come from YAML or a launchpad; a period that is none is refused."""
    resource = OpenAIBatchResource(root=str(tmp_path), budgets=[{"usd": 5, "per": "week"}])  # type: ignore[list-item]
    assert resource.budgets[0].usd == 5
    with pytest.raises(ValidationError, match="'year' is none of submission, day, week, month, total"):
        Budget(usd=5, per="year")
    with pytest.raises(ValidationError):
        Budget(usd=-1, per="day")
