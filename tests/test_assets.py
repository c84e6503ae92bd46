"""`batch_asset` as its user meets it: runs, ticks, tables."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Literal

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel, Field, create_model

from ractobatch_dagster import (
    BatchAsset,
    BatchAssetTranslator,
    ConfigurationError,
    RactoPrompt,
    batch_asset,
    build_batch_assets,
)
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.translator import BatchAssetData
from tests.project import Project, failure


class Label(BaseModel):
    """The answer."""

    sentiment: Literal["positive", "neutral", "negative"]
    tags: list[str]
    score: int | None


class Settings(dg.Config):
    """Config of an asset."""

    word: str = "hello"


PROMPT = RactoPrompt(role="You label texts.", aim="Label one.", constraints="", tone="", output_format=Label)
TEXTS = ["I love this, it is wonderful", "It is terrible and it hurts", "It is a text"]


@dg.asset
def texts() -> pd.DataFrame:
    """Three texts."""
    return pd.DataFrame({"id": [30, 10, 20], "text": TEXTS, "weight": [0.5, None, 2.0]})


@batch_asset(model="gpt-4o-mini", prompt=PROMPT, key="id")
def labels(texts: pd.DataFrame) -> pd.DataFrame:
    """Labels of texts."""
    return texts.assign(user_message=texts["text"])


ASSETS = [texts, *labels.assets]


@pytest.fixture
def project(batch_server: LocalServer, tmp_path: Path) -> Project:
    """The three assets above."""
    return Project(batch_server, tmp_path, ASSETS)


def test_frame_becomes_table(project: Project) -> None:
    """Rows come back once each, in order, with the user's columns, typed answers and the fixed block."""
    assert project.run("texts", "labels_submission").success
    (request,) = project.requests()
    assert project.launch(request).success
    table = project.load("labels", kind=pa.Table)
    assert table["id"].to_pylist() == [30, 10, 20]
    assert table["weight"].to_pylist() == [0.5, None, 2.0]
    assert table.schema.field("sentiment").type == pa.dictionary(pa.int32(), pa.string())
    assert table.schema.field("tags").type == pa.list_(pa.string())
    assert table.schema.field("score").type == pa.int64()
    assert table["sentiment"].to_pylist()[:2] == ["positive", "negative"]
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert all(cost > 0 for cost in table["llm_cost_usd"].to_pylist())
    assert project.tick().skip_message == "No submission is open."


def test_table_loads_as_annotated(project: Project) -> None:
    """A downstream gets pandas, Polars (lazy too) or PyArrow, as its annotation says."""
    project.run("texts", "labels_submission")
    project.land()
    assert list(project.load("labels", kind=pd.DataFrame)["id"]) == [30, 10, 20]
    assert project.load("labels", kind=pl.DataFrame)["id"].to_list() == [30, 10, 20]
    assert project.load("labels", kind=pl.LazyFrame).select("id").collect().height == 3
    assert isinstance(project.load("labels"), pd.DataFrame)


def test_table_asked_for_alone_before_its_batches_are_done_fails_with_the_progress(tmp_path: Path) -> None:
    """It costs nothing and says how far the batches are; with its submission in the same run it is skipped."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, ASSETS)
        together = project.run("texts", "labels_submission", "labels")
        assert together.success
        assert not together.asset_materializations_for_node("labels")
        alone = project.run("labels")
        assert not alone.success
        assert "0 of 1 batches ended" in failure(alone)
        assert len(server.batches()) == 1


def test_table_before_any_submission_says_what_to_materialise(project: Project) -> None:
    """Nothing was submitted: a failure that names the asset to start with."""
    result = project.run("labels")
    assert not result.success
    assert "'labels_submission'" in failure(result)


def test_submitting_again_sends_nothing_twice(project: Project) -> None:
    """An open submission of the same rows is attached to; after it has landed its answers are reused."""
    project.run("texts", "labels_submission")
    project.run("texts", "labels_submission")
    assert len(project.submissions("labels")) == 1
    project.land()
    project.run("labels_submission")
    project.land()
    table = project.load("labels", kind=pa.Table)
    assert table["llm_reused"].to_pylist() == [True] * 3
    assert table["llm_cost_usd"].to_pylist() == [0.0] * 3
    assert len(project.server.batches()) == 1


def test_identical_requests_are_asked_once(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows with the same question share one answer, paid for once; `dedupe=False` asks for each."""

    def frame() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["same", "other", "same"]})

    once = batch_asset(model="gpt-4o-mini", name="once")(frame)
    each = batch_asset(model="gpt-4o-mini", name="each", dedupe=False)(frame)
    project = Project(batch_server, tmp_path, [*once.assets, *each.assets])
    project.run("once_submission", "each_submission")
    project.land()
    assert [one.requests for name in ("once", "each") for one in project.submissions(name)] == [2, 3]
    table = project.load("once", kind=pa.Table)
    assert table["llm_text"][0] == table["llm_text"][2]
    assert [cost > 0 for cost in table["llm_cost_usd"].to_pylist()] == [True, True, False]


def test_failed_requests_are_sent_again_and_only_they(batch_server: LocalServer, tmp_path: Path) -> None:
    """A request that failed for no fault of its own goes into a further round; the others stay answered."""
    batch_server.faults = Faults(fail_ids={"row-00000001": 503}, first_attempts=1)
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("texts", "labels_submission")
    project.land()
    table = project.load("labels", kind=pa.Table)
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert table["llm_round"].to_pylist() == [0, 1, 0]
    assert [one["request_counts"]["total"] for one in batch_server.batches()] == [3, 1]


def test_permanent_errors_land_as_rows_with_the_providers_words(batch_server: LocalServer, tmp_path: Path) -> None:
    """A refused request is not sent again: it is a row with status `error`, and the check warns."""
    batch_server.faults = Faults(fail_ids={"row-00000000": 400})
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("texts", "labels_submission")
    (request,) = project.requests()
    result = project.launch(request)
    table = project.load("labels", kind=pa.Table)
    assert table["llm_status"].to_pylist() == ["error", "ok", "ok"]
    assert table["sentiment"][0].as_py() is None
    assert table["llm_error"][0].as_py()
    assert len(batch_server.batches()) == 1
    checks = {one.check_name: one.passed for one in result.get_asset_check_evaluations()}
    assert checks == {"every_row_is_there": True, "answers_are_usable": False, "batches_are_on_time": True}


def test_large_frames_are_cut_into_batches(batch_server: LocalServer, tmp_path: Path) -> None:
    """A frame over the provider's limits becomes several batches and one table in input order."""

    @batch_asset(model="gpt-4o-mini", key="id")
    def many() -> pl.DataFrame:
        return pl.DataFrame({"id": range(25), "user_message": [f"text {n}" for n in range(25)]})

    project = Project(batch_server, tmp_path, many.assets, max_requests_per_batch=10)
    project.run("many_submission")
    assert sorted(one["request_counts"]["total"] for one in batch_server.batches()) == [5, 10, 10]
    project.land()
    assert project.load("many", kind=pa.Table)["id"].to_pylist() == list(range(25))


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"text": ["a"]}, "no column 'user_message'"),
        ({"user_message": ["a", None]}, "row 1"),
        ({"user_message": ["a", " "]}, "row 1"),
        ({"user_message": [1]}, "int64"),
        ({"user_message": ["a", "b"], "id": [7, 7]}, "7"),
        ({"user_message": ["a"], "llm_status": ["x"]}, "'llm_status'"),
        ({"user_message": ["a"], "sentiment": ["x"]}, "'sentiment'"),
        ({"user_message": ["a", "b"], "mixed": [1, "b"]}, "mixed"),
    ],
)
def test_bad_frames_are_refused_before_anything_is_sent(
    batch_server: LocalServer, tmp_path: Path, column: dict[str, list[object]], says: str
) -> None:
    """What would lose rows or money is an error that names the column or the row; nothing was uploaded."""
    bad = batch_asset(model="gpt-4o-mini", prompt=PROMPT, key="id", name="bad")(
        lambda: pd.DataFrame({"id": range(len(next(iter(column.values())))), **column})
    )
    project = Project(batch_server, tmp_path, bad.assets)
    result = project.run("bad_submission")
    assert not result.success
    assert says in failure(result)
    assert not batch_server.files()


def test_rows_without_a_prompt_can_land_unasked(batch_server: LocalServer, tmp_path: Path) -> None:
    """With `on_null='skip'` such a row is in the table with status `skipped`, and is not sent."""

    @batch_asset(model="gpt-4o-mini", on_null="skip")
    def some() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a", None, "", "b"]})

    project = Project(batch_server, tmp_path, some.assets)
    project.run("some_submission")
    project.land()
    assert project.load("some", kind=pa.Table)["llm_status"].to_pylist() == ["ok", "skipped", "skipped", "ok"]
    assert batch_server.batches()[0]["request_counts"]["total"] == 2


def test_an_empty_frame_lands_as_an_empty_table(batch_server: LocalServer, tmp_path: Path) -> None:
    """No rows are no error: the table has its columns, and nothing was sent."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT)
    def none() -> pd.DataFrame:
        return pd.DataFrame({"user_message": pd.Series([], dtype="str")})

    project = Project(batch_server, tmp_path, none.assets)
    project.run("none_submission")
    project.land()
    table = project.load("none", kind=pa.Table)
    assert len(table) == 0
    assert "sentiment" in table.column_names
    assert not batch_server.batches()


def test_blocking_asset_submits_waits_and_lands_in_one_run(batch_server: LocalServer, tmp_path: Path) -> None:
    """`blocking=True` gives one asset; running it again with the same rows sends nothing."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT, blocking=True, poll_seconds=0.01)
    def quick(texts: pd.DataFrame) -> pd.DataFrame:
        return texts.assign(user_message=texts["text"])

    project = Project(batch_server, tmp_path, [texts, *quick.assets])
    result = project.run("texts", "quick")
    assert result.success
    assert [key.to_user_string() for asset in quick.assets for key in asset.keys] == ["quick"]
    assert {one.check_name for one in result.get_asset_check_evaluations()} == {
        "every_row_is_there",
        "answers_are_usable",
        "batches_are_on_time",
    }
    assert project.run("quick").success
    assert project.load("quick", kind=pa.Table)["llm_status"].to_pylist() == ["ok"] * 3
    assert len(batch_server.batches()) == 1


def test_everything_an_asset_takes_can_be_given() -> None:
    """Key, group, owners, tags, kinds, description, metadata, deps, retry policy, automation condition, versions."""
    policy, condition = dg.RetryPolicy(max_retries=2), dg.AutomationCondition.on_cron("@daily")

    @batch_asset(
        model="gpt-4o-mini",
        asset_key=["team", "answers"],
        group_name="llm",
        owners=["team:data"],
        tags={"domain": "support"},
        kinds={"polars"},
        description="Answers.",
        metadata={"source": "crm"},
        deps=["raw"],
        retry_policy=policy,
        automation_condition=condition,
        code_version="7",
        partitions_def=dg.DailyPartitionsDefinition("2024-01-01"),
    )
    def answers() -> pd.DataFrame:
        raise NotImplementedError

    assert answers.submission is not None
    submission, table = (asset.get_asset_spec(asset.key) for asset in (answers.submission, answers.table))
    assert submission.key == dg.AssetKey(["team", "answers_submission"])
    assert table.key == dg.AssetKey(["team", "answers"])
    for spec in (submission, table):
        assert spec.group_name == "llm"
        assert list(spec.owners) == ["team:data"]
        assert spec.tags["domain"] == "support"
        assert {"openai", "polars"} <= spec.kinds
        assert spec.code_version == "7"
        assert isinstance(spec.partitions_def, dg.DailyPartitionsDefinition)
    assert table.description == "Answers."
    assert table.metadata["source"] == "crm"
    assert [dep.asset_key for dep in submission.deps] == [dg.AssetKey("raw")]
    assert [dep.asset_key for dep in table.deps] == [submission.key]
    assert submission.automation_condition == condition
    assert table.automation_condition is None
    assert answers.submission.op.retry_policy == answers.table.op.retry_policy == policy
    assert [job.name for job in answers.jobs] == ["team__answers_submit", "team__answers_cancel"]


def test_name_and_prefix_make_the_key() -> None:
    """`name` and `key_prefix` make the key as `dg.asset` does; mixed with `asset_key` they are an error."""
    made = batch_asset(model="m", name="b", key_prefix=["a"])(lambda: None)
    assert made.table.key == dg.AssetKey(["a", "b"])
    with pytest.raises(ConfigurationError, match="not both"):
        batch_asset(model="m", asset_key="b", key_prefix="a")(lambda: None)
    with pytest.raises(ConfigurationError, match="asset_key"):
        batch_asset(model="m", key=["a", "b"], name="b")(lambda: None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["custom_id", "llm_status", "llm_error", "llm_request_hash", "user_message"])
def test_answers_have_no_field_called_as_a_column_of_ours(name: str) -> None:
    """Such a table cannot land, which is said before it is paid for, however the answer is described."""
    schema = {"title": "Answer", "type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    for output in (create_model("Answer", **{name: (str, ...)}), schema):  # type: ignore[call-overload]
        with pytest.raises(ConfigurationError, match=f"has a column '{name}' beside the answers; call that field"):
            batch_asset(model="m", name="made", output=output)(lambda: None)


def test_answers_fit_into_parquet() -> None:
    """What no Parquet file holds is refused when the asset is defined, not when its table lands."""
    output = create_model("Answer", fine=(int, ...), share=(Decimal, Field(max_digits=50, decimal_places=40)))
    with pytest.raises(ConfigurationError, match=r"the field 'share', which is decimal128\(38, 40\): Scale"):
        batch_asset(model="m", name="made", output=output)(lambda: None)


def test_definitions_can_be_merged(batch_server: LocalServer, tmp_path: Path) -> None:
    """`definitions` brings assets, checks, jobs and the sensor; the sensor of two of them is one sensor."""
    other = batch_asset(model="m", name="other")(lambda: pd.DataFrame({"user_message": ["x"]}))
    resource = Project(batch_server, tmp_path, ASSETS).resource
    merged = dg.Definitions.merge(
        labels.definitions, other.definitions, dg.Definitions(assets=[texts], resources={"openai_batch": resource})
    )
    repository = merged.get_repository_def()
    assert [sensor.name for sensor in repository.sensor_defs] == ["openai_batch_sensor"]
    assert {"labels_submit", "labels_cancel", "other_submit", "other_cancel"} <= {
        job.name for job in repository.get_all_jobs()
    }


def test_config_resources_and_context_reach_the_function(batch_server: LocalServer, tmp_path: Path) -> None:
    """The user's function takes what any asset takes."""

    @batch_asset(model="gpt-4o-mini")
    def asked(
        context: dg.AssetExecutionContext, config: Settings, openai_batch: dg.ResourceParam[object]
    ) -> pd.DataFrame:
        assert openai_batch
        return pd.DataFrame({"user_message": [f"{config.word} {context.run.run_id}"]})

    project = Project(batch_server, tmp_path, asked.assets)
    result = project.run("asked_submission")
    assert result.success, failure(result)
    project.land()
    assert project.load("asked")["user_message"][0] == f"hello {result.run_id}"


def test_cancel_job_keeps_what_was_answered(tmp_path: Path) -> None:
    """Cancelling ends the batches; the table lands with the answers there are and the rest as `cancelled`."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, ASSETS)
        project.run("texts", "labels_submission")
        cancel = next(job for job in labels.jobs if job.name == "labels_cancel")
        result = cancel.execute_in_process(instance=project.instance, resources={"openai_batch": project.resource})
        assert result.success
        project.land()
        statuses = set(project.load("labels", kind=pa.Table)["llm_status"].to_pylist())
        assert statuses <= {"ok", "cancelled"}
        assert "cancelled" in statuses


def test_changed_rows_of_an_open_submission_are_a_conflict(tmp_path: Path) -> None:
    """While batches run, other rows for the same partition are refused with what to do, and nothing is sent."""
    frames = [pd.DataFrame({"user_message": ["a"]}), pd.DataFrame({"user_message": ["b"]})]
    with LocalServer(tmp_path / "server", seconds=600) as server:
        changing = batch_asset(model="gpt-4o-mini", name="changing")(lambda: frames.pop(0))
        project = Project(server, tmp_path, changing.assets)
        assert project.run("changing_submission").success
        second = project.run("changing_submission")
        assert "changing_cancel" in failure(second)
        assert len(server.batches()) == 1


def test_changed_rows_replace_a_submission_of_which_nothing_was_created(
    batch_server: LocalServer, tmp_path: Path
) -> None:
    """A submission that never got as far as a batch cost nothing, so a corrected frame takes its place."""
    frames = [pd.DataFrame({"user_message": ["a"]}), pd.DataFrame({"user_message": ["b"]})]
    changing = batch_asset(model="gpt-4o-mini", name="changing")(lambda: frames.pop(0))
    refused = Project(batch_server, tmp_path, changing.assets, api_key="wrong")
    first = refused.run("changing_submission")
    assert not first.success
    assert "wrong" not in failure(first)
    project = Project(batch_server, tmp_path, changing.assets)
    assert project.run("changing_submission").success
    project.land()
    assert project.load("changing")["user_message"].tolist() == ["b"]
    assert len(batch_server.batches()) == 1


def test_a_template_makes_the_prompts(batch_server: LocalServer, tmp_path: Path) -> None:
    """Of the frame's own columns, which the table keeps; another template asks anew."""

    def made(template: str) -> BatchAsset:
        @batch_asset(model="gpt-4o-mini", prompt=PROMPT, key="id", template=template)
        def labels(texts: pd.DataFrame) -> pd.DataFrame:
            return texts

        return labels

    one, other = made("Text {{ id }}:\n{{ text }}"), made("Text {{ id }}, {{ weight }}:\n{{ text }}")
    assert one.table.code_versions_by_key != other.table.code_versions_by_key
    project = Project(batch_server, tmp_path, [texts, *one.assets])
    assert project.run("texts", "labels_submission").success
    project.land()
    table = project.load("labels", kind=pa.Table)
    assert table["user_message"].to_pylist() == [
        f"Text {n}:\n{text}" for n, text in zip([30, 10, 20], TEXTS, strict=True)
    ]
    assert table["llm_status"].to_pylist() == ["ok"] * 3


def test_assets_are_generated_in_a_loop(batch_server: LocalServer, tmp_path: Path) -> None:
    """Of an upstream's rows and a template there needs to be no function; with one it is the decorator's way."""
    names = ("labels", "more_labels")
    made = [
        build_batch_assets("texts", name=n, model="gpt-4o-mini", prompt=PROMPT, template="{{ text }}") for n in names
    ]
    own = build_batch_assets(lambda texts: texts.assign(user_message="a"), name="own", model="gpt-4o-mini")
    project = Project(batch_server, tmp_path, [texts, *(one for each in (*made, own) for one in each.assets)])
    assert project.run("texts", *(f"{name}_submission" for name in (*names, "own"))).success
    project.land()
    for name in names:
        assert project.load(name)["user_message"].tolist() == TEXTS
        assert {dep.asset_key.to_user_string() for dep in made[0].submission.specs_by_key[
            dg.AssetKey("labels_submission")].deps} == {"texts"}  # fmt: skip
    assert project.load("own")["llm_status"].tolist() == ["ok"] * 3
    with pytest.raises(ConfigurationError, match="needs a name"):
        build_batch_assets("texts", model="m")
    with pytest.raises(ConfigurationError, match="`ins`"):
        build_batch_assets("texts", name="n", model="m", ins={})


class Ours(BatchAssetTranslator):
    """A rule of a house."""

    def get_asset_spec(self, data: BatchAssetData) -> dg.AssetSpec:
        assert data.model == "gpt-4o-mini"
        if data.role == "submission":
            assert data.table_key == dg.AssetKey(["llm", "labels"])
            return data.default_spec.replace_attributes(description="Sends.", tags={"house": "ours"})
        key = data.default_spec.key.with_prefix("llm")
        return data.default_spec.replace_attributes(key=key, group_name="llm", owners=["team:data"], metadata={"a": 1})


def test_a_translator_says_how_assets_are_called(batch_server: LocalServer, tmp_path: Path) -> None:
    """Key, group, owners, tags, metadata; the submission follows the table's key, and the sensor still finds it."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT, tags={"house": "theirs"}, translator=Ours())
    def labels(texts: pd.DataFrame) -> pd.DataFrame:
        """Labels."""
        return texts.assign(user_message=texts["text"])

    (table,), (submission,) = labels.table.specs, labels.submission.specs if labels.submission else ()
    assert (table.key, submission.key) == (dg.AssetKey(["llm", "labels"]), dg.AssetKey(["llm", "labels_submission"]))
    assert (table.group_name, table.owners, table.description) == ("llm", ["team:data"], "Labels.")
    assert (submission.group_name, submission.description) == ("default", "Sends.")
    assert {name: value for name, value in submission.tags.items() if "/" not in name} == {"house": "ours"}
    assert table.kinds == {"openai", "parquet"}
    project = Project(batch_server, tmp_path, [texts, *labels.assets])
    assert project.run("texts", "llm/labels_submission").success
    project.land()
    assert project.load("llm/labels")["llm_status"].tolist() == ["ok"] * 3
