"""A preview: a few rows answered at once, an estimate for all, and nothing submitted or landed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest

from ractobatch_dagster import ConfigurationError, InvalidInputError, batch_asset
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.provider.client import Account, Provider
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.results.cost import batch_cost
from ractobatch_dagster.submission.previewing import Preview, preview
from ractobatch_dagster.submission.sealing import Rules
from tests.project import Project, failure
from tests.test_assets import ASSETS, PROMPT, TEXTS, Settings, labels, texts

TEMPLATE = RequestTemplate.of("gpt-4o-mini", PROMPT)


def provider(server: LocalServer) -> Provider:
    """The account at the local server."""
    return Provider(Account(api_key=server.api_key, base_url=server.base_url))


def previewed(server: LocalServer, frame: Any, template: RequestTemplate = TEMPLATE, **options: Any) -> Preview:
    """A preview of one frame."""
    return preview({None: frame}, Rules(key="id"), template, provider(server), **options)


def test_the_rows_are_as_they_would_land(batch_server: LocalServer, tmp_path: Path) -> None:
    """Answers, types, tokens and request hashes are those of the batch that is sent later."""
    frame = pd.DataFrame({"id": [30, 10, 20], "user_message": TEXTS, "weight": [0.5, None, 2.0]})
    made = previewed(batch_server, frame, rows=2)
    assert (made.rows, len(made.requests), made.table.num_rows) == (3, 2, 2)
    assert made.requests[0] == TEMPLATE.body(TEXTS[0])
    assert batch_server.batches() == []
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("texts", "labels_submission")
    project.land()
    landed = project.load("labels")
    names = ["id", "weight", "sentiment", "tags", "score", "llm_status", "llm_text", "llm_request_hash", "llm_cost_usd"]
    expected = landed.head(2)[[*names, "llm_prompt_tokens"]].to_dict("list")
    shown = made.table.to_pandas()[[*names, "llm_prompt_tokens"]].to_dict("list")
    assert str(shown) == str(expected)


def test_the_estimate_is_that_of_all_rows(batch_server: LocalServer) -> None:
    """Tokens and cost at the batch rate, if the others are like those that were asked."""
    frame = pd.DataFrame({"id": range(1000), "user_message": [f"It is text number {n:04d}" for n in range(1000)]})
    made = previewed(batch_server, frame, rows=4)
    tokens = made.table["llm_prompt_tokens"].to_pylist()
    assert made.prompt_tokens == sum(tokens) * 250
    assert made.completion_tokens is not None
    assert made.cost_usd == pytest.approx(batch_cost("gpt-4o-mini", made.prompt_tokens, 0, made.completion_tokens))
    assert "1,000 rows to ask: about" in str(made)
    assert f"about {made.cost_usd:.2g} USD at the batch rate" in str(made)


def test_rows_are_the_first_or_drawn_at_random(batch_server: LocalServer) -> None:
    """Those without a prompt are none; each of the others is as likely as any; a seed draws the same again."""
    frame = pd.DataFrame({"id": range(50), "user_message": [None if n % 2 else f"text {n}" for n in range(50)]})
    assert previewed(batch_server, frame, rows=3).table["id"].to_pylist() == [0, 2, 4]
    drawn = [previewed(batch_server, frame, rows=3, seed=seed).table["id"].to_pylist() for seed in range(12)]
    assert previewed(batch_server, frame, rows=3, seed=5).table["id"].to_pylist() == drawn[5]
    assert all(number % 2 == 0 for ids in drawn for number in ids)
    assert max(number for ids in drawn for number in ids) > 30
    assert previewed(batch_server, frame, rows=99).table.num_rows == 25


def test_partitions_have_the_same_columns(batch_server: LocalServer) -> None:
    """As in a submission, whatever rows are drawn."""
    frames = {
        "a": pd.DataFrame({"id": [1], "user_message": ["x"], "size": [1]}),
        "b": pd.DataFrame({"id": [2], "user_message": ["y"], "size": ["large"]}),
    }
    for rows in (1, 2):
        with pytest.raises(InvalidInputError, match="have columns of different types"):
            preview(frames, Rules(key="id"), TEMPLATE, provider(batch_server), rows=rows)


def test_a_refused_request_is_a_row_with_its_error(batch_server: LocalServer) -> None:
    """What is wrong with a parameter is seen here, not a day later."""
    frame = pd.DataFrame({"id": [1], "user_message": ["a"]})
    made = previewed(batch_server, frame, RequestTemplate.of("gpt-4o-mini", PROMPT, extra={"stream": True}))
    (row,) = made.table.to_pylist()
    assert row["llm_status"] == "error"
    assert "Streaming is not supported" in row["llm_error"]
    assert made.cost_usd is None
    assert "no estimate" in str(made)


def test_what_could_not_be_sent_is_refused_as_in_a_submission(batch_server: LocalServer) -> None:
    """All rows are checked, not only those that are asked."""
    frame = pd.DataFrame({"id": [1, 2, None], "user_message": ["a", "b", "c"]})
    with pytest.raises(InvalidInputError, match="row 2 has no 'id'"):
        previewed(batch_server, frame, rows=1)
    with pytest.raises(InvalidInputError, match="no row with a prompt"):
        previewed(batch_server, pd.DataFrame({"id": [1], "user_message": [""]}))


def test_from_python(batch_server: LocalServer, tmp_path: Path) -> None:
    """With what the function takes, by name."""
    project = Project(batch_server, tmp_path, ASSETS)
    frame = pd.DataFrame({"id": [30, 10, 20], "text": TEXTS})
    made = labels.preview(project.resource, {"texts": frame}, rows=1)
    assert made.table["sentiment"].to_pylist() == ["positive"]
    assert str(made).splitlines()[0].split() == ["id", "30"]
    with pytest.raises(ConfigurationError, match="takes texts"):
        labels.preview(project.resource)
    with pytest.raises(ConfigurationError, match="was given"):
        labels.preview(project.resource, {"texts": frame, "more": 1})


def run(project: Project, *assets: str, **config: Any) -> dg.ExecuteInProcessResult:
    """A run of assets with the submission's config, as the launchpad starts it."""
    return project.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=project.instance,
        asset_selection=[dg.AssetKey(name) for name in assets],
        run_config={"ops": {assets[-1]: {"config": config}}},
        raise_on_error=False,
    )


def test_in_a_run(batch_server: LocalServer, tmp_path: Path) -> None:
    """A field of the submission's config: the run shows the answers, and submits and materialises nothing."""
    project = Project(batch_server, tmp_path, ASSETS)
    assert project.run("texts").success
    result = run(project, "labels_submission", preview_rows=2, preview_random=True)
    assert result.success, failure(result)
    assert batch_server.batches() == []
    assert not project.submissions("labels")
    assert not project.instance.fetch_materializations(dg.AssetKey("labels_submission"), limit=1).records
    (record,) = project.instance.fetch_observations(dg.AssetKey("labels_submission"), limit=10).records
    assert record.asset_observation is not None
    shown = {name: value.value for name, value in record.asset_observation.metadata.items()}
    assert len(shown["preview"].records) == 2
    assert shown["preview"].records[0].data["llm_status"] == "ok"
    assert shown["first_request"]["model"] == "gpt-4o-mini"
    assert shown["rows_to_ask"] == 3
    assert shown["cost_usd_estimated"] > 0
    assert run(project, "labels_submission").success
    assert len(batch_server.batches()) == 1


@batch_asset(model="gpt-4o-mini")
def configured(texts: pd.DataFrame, config: Settings) -> pd.DataFrame:
    """Prompts that the config has a part in."""
    assert type(config).__name__ == "Settings"
    return pd.DataFrame({"user_message": [f"{config.word} {text}" for text in texts["text"]]})


def test_beside_the_functions_own_config(batch_server: LocalServer, tmp_path: Path) -> None:
    """Which the function gets as it is, fields of ours or not."""
    project = Project(batch_server, tmp_path, [texts, *configured.assets])
    assert project.run("texts").success
    assert run(project, "configured_submission", word="well", preview_rows=1).success
    assert batch_server.batches() == []
    assert run(project, "configured_submission", word="well").success
    assert len(batch_server.batches()) == 1
    project.land()
    assert project.load("configured")["user_message"].tolist() == [f"well {text}" for text in TEXTS]


def test_a_field_of_the_same_name_is_refused() -> None:
    """When it is defined."""

    class Taken(dg.Config):
        preview_rows: str = ""

    def asked(config: Taken) -> pd.DataFrame:
        return pd.DataFrame()

    asked.__annotations__["config"] = Taken
    with pytest.raises(ConfigurationError, match="'preview_rows'"):
        batch_asset(model="m")(asked)


def test_partitions_are_previewed_together(batch_server: LocalServer, tmp_path: Path) -> None:
    """A run of several partitions counts the rows of all of them."""

    @batch_asset(model="gpt-4o-mini", partitions_def=dg.StaticPartitionsDefinition(["a", "b"]), partition_by="part")
    def parted() -> pd.DataFrame:
        return pd.DataFrame({"part": ["a", "b", "b"], "user_message": ["x", "y", "z"]})

    project = Project(batch_server, tmp_path, parted.assets)
    result = project.defs.resolve_implicit_global_asset_job_def().execute_in_process(
        instance=project.instance,
        asset_selection=[dg.AssetKey("parted_submission")],
        tags={"dagster/asset_partition_range_start": "a", "dagster/asset_partition_range_end": "b"},
        run_config={"ops": {"parted_submission": {"config": {"preview_rows": 9}}}},
        raise_on_error=False,
    )
    assert result.success, failure(result)
    (record,) = project.instance.fetch_observations(dg.AssetKey("parted_submission"), limit=10).records
    assert record.asset_observation is not None
    assert record.asset_observation.metadata["rows_to_ask"].value == 3
