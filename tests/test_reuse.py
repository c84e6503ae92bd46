"""Answers that were paid for: across partitions and tables, up to an age, and asked anew on wish."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import dagster as dg
import msgspec
import pandas as pd
import pytest
from pydantic import BaseModel

from ractobatch_dagster import BatchAsset, ConfigurationError, EstimateCheck, Reuse, TokenPrice, batch_asset
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.submission.files import TableFiles
from tests.project import Project
from tests.scripted import Scripted

DAYS = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])
TEXTS = ["I love this", "It hurts", "It is a table"]


class Label(BaseModel):
    """One word."""

    label: str


class Words(dg.Config):
    """What the texts of a run are."""

    texts: list[str] = TEXTS


def made(name: str = "labels", **options: Any) -> BatchAsset:
    """A batch asset of texts from its config."""

    def texts(config: Words) -> pd.DataFrame:
        return pd.DataFrame({"user_message": config.texts})

    return batch_asset(**{"model": "gpt-4o-mini", "prompt": "Answer.", "name": name, **options})(texts)


def asked(project: Project, name: str = "labels", partition: str | None = None, **config: Any) -> int:
    """How many requests a landing takes."""
    before = project.server.billed.total()
    done = project.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=project.instance,
        asset_selection=[dg.AssetKey(f"{name}_submission")],
        partition_key=partition,
        run_config={"ops": {f"{name}_submission": {"config": config}}} if config else None,
    )
    assert done.success
    project.land()
    return project.server.billed.total() - before


@pytest.fixture
def both(batch_server: LocalServer, tmp_path: Path) -> Project:
    """Two tables that ask the same, of which the second looks at the first."""
    second = made("second", reuse=Reuse(tables=["labels"]))
    return Project(batch_server, tmp_path, [*made().assets, *second.assets])


def test_another_partition_has_answered_already(batch_server: LocalServer, tmp_path: Path) -> None:
    """One question, one answer, whichever day asks it; only what is new is asked."""
    project = Project(batch_server, tmp_path, made(partitions_def=DAYS).assets)
    assert asked(project, partition="mon") == 3
    assert asked(project, partition="tue", texts=[*TEXTS, "new"]) == 1
    assert asked(project, partition="wed", texts=["new", "newer"]) == 1
    table = project.load("labels", partition="wed")
    assert table["llm_reused"].tolist() == [True, False]
    assert table["llm_text"].tolist()[0] == project.load("labels", partition="tue")["llm_text"].tolist()[3]


@pytest.mark.parametrize("options", [{"reuse": Reuse(partitions=False)}, {"dedupe": False}, {"reuse": False}])
def test_partitions_stay_apart_on_wish(batch_server: LocalServer, tmp_path: Path, options: dict[str, Any]) -> None:
    """Of samples in any case; the partition's own last table counts all the same, unless nothing is reused."""
    project = Project(batch_server, tmp_path, made(partitions_def=DAYS, **options).assets)
    assert asked(project, partition="mon") == 3
    assert asked(project, partition="tue") == 3
    assert asked(project, partition="tue", texts=[*TEXTS, "new"]) == (4 if options.get("reuse") is False else 1)


def test_another_table_has_answered_already(both: Project) -> None:
    """On wish; and what was taken over is taken over again."""
    assert asked(both) == 3
    assert asked(both, "second", texts=[*TEXTS, "new"]) == 1
    assert asked(both, "second", texts=[*TEXTS, "newer"]) == 1
    assert asked(both, texts=["new"]) == 1  # the other way round nobody asked for it
    assert both.load("second")["llm_reused"].tolist() == [True, True, True, False]
    assert both.load("second")["llm_cost_usd"].tolist()[:3] == [0.0] * 3


def test_a_run_may_ask_everything_anew(batch_server: LocalServer, tmp_path: Path) -> None:
    """Once, by a field of its config."""
    project = Project(batch_server, tmp_path, made().assets)
    assert asked(project) == 3
    assert asked(project, texts=[*TEXTS, "new"], refresh=True) == 4
    assert asked(project, texts=TEXTS) == 0


def test_old_answers_are_asked_again(batch_server: LocalServer, tmp_path: Path) -> None:
    """By the age of their batch, however often they were taken over since."""
    project = Project(batch_server, tmp_path, made(reuse=Reuse(max_age_days=30)).assets)
    assert asked(project) == 3
    age(project, 20)
    assert asked(project, texts=[*TEXTS, "new"]) == 1
    age(project, 20)
    assert asked(project, texts=["new", *TEXTS]) == 3
    assert project.load("labels")["llm_reused"].tolist() == [True, False, False, False]


def age(project: Project, days: float) -> None:
    """Let the submissions be so many days older."""
    table = TableFiles(project.resource.store, "labels")
    seconds = dt.timedelta(days=days).total_seconds()
    for state in project.submissions("labels"):
        batches = tuple(
            msgspec.structs.replace(batch, created_at=(batch.created_at or 0.0) - seconds) for batch in state.batches
        )
        reused = {id_: at - seconds for id_, at in state.reused.items()}
        table.submission(state.id).replace(lambda _, b=batches, r=reused: {"batches": b, "reused": r})  # type: ignore[misc]


def test_answers_that_do_not_fit_are_asked_again_where_repairs_may_help(tmp_path: Path) -> None:
    """They were paid for and are of no use; without repairs they are what there is."""
    model = Scripted({"good": '{"label": "a"}', "odd": "no JSON"})
    with LocalServer(tmp_path / "server", model=model) as server:
        options = {"prompt": "Label it.", "output": Label}
        project = Project(server, tmp_path, made(**options).assets)
        assert asked(project, texts=["good", "odd"]) == 2
        assert asked(project, texts=["odd", "good"]) == 0
        assert project.load("labels")["llm_status"].tolist() == ["invalid_output", "ok"]
        model.answers = {**model.answers, "odd": '{"label": "b"}'}
        repaired = Project(server, tmp_path, made(**options, repairs=1).assets)
        repaired.instance = project.instance
        assert asked(repaired, texts=["good", "odd"]) == 1
        assert repaired.load("labels")["label"].tolist() == ["a", "b"]


def test_partitions_of_a_pack_are_estimated_by_what_they_ask(batch_server: LocalServer, tmp_path: Path) -> None:
    """One that repeats what was answered is expected to cost nothing, and the others what they ask."""

    def texts() -> pd.DataFrame:
        old = [f"text {number}" for number in range(6)]
        new = [*old, *(f"{text}, anew" for text in old)] if again else old
        days = ["mon"] * 6 + ["tue"] * 6
        return pd.DataFrame({"user_message": new, "day": days[: len(new)]})

    again = False
    options = {"model": "gpt-4o-mini", "name": "labels", "partitions_def": DAYS, "partition_by": "day"}
    project = Project(batch_server, tmp_path, batch_asset(**options)(texts).assets)
    assert project.run("labels_submission", span=("mon", "tue")).success
    project.land()
    again = True
    assert project.run("labels_submission", span=("mon", "tue")).success
    mon, tue = (project.metadata("labels_submission", day)["cost_usd_estimated"] for day in ("mon", "tue"))
    assert mon == 0
    assert tue > 0
    project.land()
    assert project.metadata("labels", "tue")["cost_usd_estimated"] == tue


def test_a_price_by_the_name_that_is_asked(tmp_path: Path) -> None:
    """A deployment is served by another name, and costs what is given for it all the same."""
    model = Scripted({"one": "1", "two": "2"})
    model.served = "gpt-4o-mini-2024-07-18"
    with LocalServer(tmp_path / "server", model=model) as server:
        price = {"our-deployment": TokenPrice(input=1_000.0)}
        project = Project(server, tmp_path, made(model="our-deployment").assets, prices=price)
        assert asked(project, texts=["one", "two"]) == 2
        table = project.load("labels")
        assert table["llm_model"].tolist() == [model.served] * 2
        assert table["llm_cost_usd"].tolist() == pytest.approx((table["llm_prompt_tokens"] / 1_000).tolist())
        (state,) = project.submissions("labels")
        assert state.batches[0].usd == pytest.approx(table["llm_cost_usd"].sum())


def test_reuse_is_checked() -> None:
    """What it says has to make sense."""
    with pytest.raises(ConfigurationError, match="`tables` is a list"):
        Reuse(tables="labels")
    with pytest.raises(ConfigurationError, match="is no number of days"):
        Reuse(max_age_days=-1)


def test_the_cost_against_its_estimate(batch_server: LocalServer, tmp_path: Path) -> None:
    """Told from what the last answers took; a first landing has nothing to be held against."""
    checks = [EstimateCheck(1.5, dg.AssetCheckSeverity.ERROR)]
    project = Project(batch_server, tmp_path, made(checks=checks, reuse=False).assets)

    def landed(*texts: str) -> dg.AssetCheckEvaluation:
        project.defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=project.instance,
            asset_selection=[dg.AssetKey("labels_submission")],
            run_config={"ops": {"labels_submission": {"config": {"texts": list(texts)}}}},
        )
        (request,) = project.requests()
        found = project.launch(request).get_asset_check_evaluations()
        return next(one for one in found if one.check_name == "cost_against_estimate")

    first = landed(*TEXTS)
    assert first.passed
    assert "no earlier answers" in str(first.description)
    second = landed(*TEXTS, *(f"{text} again" for text in TEXTS))
    assert second.passed
    assert 0.5 < float(second.metadata["times"].value) < 1.5  # type: ignore[arg-type]
    told, new = project.metadata("labels_submission"), project.load("labels")
    assert told["cost_usd_estimated"] > 0
    billed = new.loc[~new["llm_reused"], "llm_prompt_tokens"].sum()
    assert told["prompt_tokens_estimated"] == pytest.approx(billed, rel=0.1)  # as the first ones were billed


def test_given_prices_go_before_the_list(batch_server: LocalServer, tmp_path: Path) -> None:
    """Of a model that no list has, by the name that it is asked by; cost, budget and metadata use them."""
    price = TokenPrice(input=1.0, output=10.0)
    project = Project(batch_server, tmp_path, made(model="my-own").assets, prices={"my-own": price})
    assert asked(project) == 3
    table = project.load("labels")
    spent = table["llm_prompt_tokens"] * 1e-6 + table["llm_completion_tokens"] * 1e-5
    assert table["llm_cost_usd"].tolist() == pytest.approx(spent.tolist())
    assert project.metadata("labels")["cost_usd"] == pytest.approx(spent.sum(), abs=1e-8)
    assert project.metadata("labels_submission")["prompt_cost_usd_estimated"] > 0


def test_the_providers_own_count_is_held_against_ours(batch_server: LocalServer, tmp_path: Path) -> None:
    """Tokens that it billed for answers that nobody got are told."""
    project = Project(batch_server, tmp_path, made().assets)
    assert asked(project) == 3
    (state,) = project.submissions("labels")
    (batch,) = state.batches
    assert batch.told_tokens == batch.tokens + batch.answer_tokens > 0
    assert "tokens_billed_beyond_answers" not in project.metadata("labels")
    other = state.with_batches({0: msgspec.structs.replace(batch, told_tokens=batch.told_tokens + 7)})
    assert other.unexplained_tokens == 7
