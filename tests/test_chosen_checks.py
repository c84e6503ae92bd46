"""Checks on wish: rates, drift, cost, as they are defined and as they are evaluated when a table lands."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pandas as pd
import pytest
from pydantic import BaseModel

from ractobatch_dagster import (
    BatchAsset,
    ConfigurationError,
    CostCheck,
    DriftCheck,
    RactoPrompt,
    RateCheck,
    batch_asset,
)
from ractobatch_dagster.chosen_checks import BatchCheck
from ractobatch_dagster.local import Faults, LocalServer
from tests.project import Project
from tests.test_assets import PROMPT

ERROR = dg.AssetCheckSeverity.ERROR
GOOD, BAD = "I love this, it is wonderful", "It is terrible and it hurts"


class Words(dg.Config):
    """What the texts of a run are."""

    texts: list[str]


def made(*checks: BatchCheck, **options: Any) -> BatchAsset:
    """A batch asset with checks, of texts from its config."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT, checks=checks, **options)
    def labels(config: Words) -> pd.DataFrame:
        return pd.DataFrame({"user_message": config.texts})

    return labels


def landed(project: Project, *texts: str, partition: str | None = None) -> dict[str, dg.AssetCheckEvaluation]:
    """The evaluations of a run that lands these texts."""
    done = project.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=project.instance,
        asset_selection=[dg.AssetKey("labels_submission")],
        partition_key=partition,
        run_config={"ops": {"labels_submission": {"config": {"texts": list(texts)}}}},
    )
    assert done.success
    (request,) = project.requests()
    result = project.launch(request)
    assert result.success
    return {one.check_name: one for one in result.get_asset_check_evaluations()}


def test_a_rate_counts_rows_of_a_status(batch_server: LocalServer, tmp_path: Path) -> None:
    """Each has its own bound and severity, beside the checks that are always there."""
    batch_server.faults = Faults(fail_ids={"row-00000000": 400})
    strict, lenient = RateCheck("error", 0.1, severity=ERROR), RateCheck(("error", "refusal"), 0.5)
    project = Project(batch_server, tmp_path, made(strict, lenient, RateCheck("truncated", 0)).assets)
    found = landed(project, GOOD, BAD)
    assert {name: one.passed for name, one in found.items()} == {
        "every_row_is_there": True,
        "answers_are_usable": False,
        "batches_are_on_time": True,
        "error_rate": False,
        "error_or_refusal_rate": True,
        "truncated_rate": True,
    }
    assert found["error_rate"].severity == ERROR
    assert found["error_rate"].metadata["rate"].value == 0.5
    assert found["error_or_refusal_rate"].severity == dg.AssetCheckSeverity.WARN


def test_drift_is_held_against_the_landing_before(batch_server: LocalServer, tmp_path: Path) -> None:
    """The first passes; the same shares pass; others do not, and are shown."""
    project = Project(batch_server, tmp_path, made(DriftCheck("sentiment", 0.3)).assets)
    first = landed(project, GOOD, BAD)["sentiment_drift"]
    assert (first.passed, first.description) == (True, "There is nothing to compare with.")
    same = landed(project, f"{GOOD}!", f"{BAD}!", f"{GOOD}.", f"{BAD}.")["sentiment_drift"]
    assert (same.passed, same.metadata["distance"].value) == (True, 0.0)
    other = landed(project, GOOD, f"{GOOD}?", f"{GOOD}!!", f"{GOOD}..")["sentiment_drift"]
    assert (other.passed, other.metadata["distance"].value) == (False, 0.5)
    assert "| negative | 0.0% | 50.0% |" in str(other.metadata["shares"].value)


def test_drift_of_partitions_is_held_against_the_run_before(batch_server: LocalServer, tmp_path: Path) -> None:
    """Such as yesterday's."""
    days = dg.StaticPartitionsDefinition(["a", "b"])
    project = Project(batch_server, tmp_path, made(DriftCheck("sentiment"), partitions_def=days).assets)
    assert landed(project, GOOD, partition="a")["sentiment_drift"].passed
    second = landed(project, BAD, partition="b")["sentiment_drift"]
    assert (second.passed, second.metadata["distance"].value) == (False, 1.0)


def test_cost_is_bounded(batch_server: LocalServer, tmp_path: Path) -> None:
    """What the run's answers cost; reused ones nothing."""
    project = Project(batch_server, tmp_path, made(CostCheck(1e-9)).assets)
    first = landed(project, GOOD)["cost"]
    assert not first.passed
    assert float(first.metadata["cost_usd"].value) > 1e-9  # type: ignore[arg-type]
    assert landed(project, GOOD)["cost"].passed


def test_a_cost_that_is_not_known_is_said(batch_server: LocalServer, tmp_path: Path) -> None:
    """Instead of passing as nothing."""

    @batch_asset(model="a-model-of-our-own", checks=[CostCheck(1.0)])
    def labels(config: Words) -> pd.DataFrame:
        return pd.DataFrame({"user_message": config.texts})

    project = Project(batch_server, tmp_path, labels.assets)
    assert landed(project, GOOD, BAD)["cost"].description == (
        "The price of 2 rows is not known; they are not in the sum."
    )


@pytest.mark.parametrize(
    ("checks", "message"),
    [
        ([RateCheck("refused", 0.1)], "'refused'"),  # type: ignore[arg-type]
        ([RateCheck("refusal", 10)], "no share"),
        ([RateCheck((), 0.1)], "nothing"),
        ([RateCheck("refusal", 0.1), RateCheck("refusal", 0.2)], "two checks of the name 'refusal_rate'"),
        ([DriftCheck("tags")], "those are sentiment"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_defined(checks: list[BatchCheck], message: str) -> None:
    """Not when the table lands."""
    with pytest.raises(ConfigurationError, match=message):
        made(*checks)


def test_a_column_with_many_different_answers_has_no_drift(batch_server: LocalServer, tmp_path: Path) -> None:
    """Its counts are not kept, so that there is nothing to compare."""

    class Coded(BaseModel):
        code: Literal[tuple(f"c{number}" for number in range(40))]  # type: ignore[valid-type]

    prompt = RactoPrompt(role="r", aim="a", constraints="", tone="", output_format=Coded)

    @batch_asset(model="gpt-4o-mini", prompt=prompt, checks=[DriftCheck("code")])
    def labels(config: Words) -> pd.DataFrame:
        return pd.DataFrame({"user_message": config.texts})

    project = Project(batch_server, tmp_path, labels.assets)
    assert landed(project, GOOD)["code_drift"].passed
