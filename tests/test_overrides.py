"""Overrides by columns, as the user of an asset meets them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from ractobatch_dagster import (
    BatchAsset,
    ConfigurationError,
    InvalidInputError,
    OpenAIBatchResource,
    batch_asset,
    build_batch_assets,
)
from ractobatch_dagster.local import LocalServer
from tests.project import Project, failure
from tests.test_assets import PROMPT, TEXTS, texts


def triage(frame: pd.DataFrame, **options: object) -> BatchAsset:
    """An asset whose function returns this frame."""

    @batch_asset(**{"model": "gpt-4o-mini", "prompt": PROMPT, "key": "id", "name": "triage", **options})  # type: ignore[arg-type]
    def made() -> pd.DataFrame:
        return frame

    return made


FRAME = pd.DataFrame(
    {
        "id": [1, 2, 3],
        "user_message": TEXTS,
        "tier": ["gpt-4o", None, "o3"],
        "limit": [50, None, 70],
        "instructions": [None, "Label it kindly.", None],
    }
)
OWN = {"model": "tier", "max_tokens": "limit", "system": "instructions"}


def test_rows_ask_as_they_say(batch_server: LocalServer, tmp_path: Path) -> None:
    """Three models make three batches and one table; what was said stands in it as the user's columns do."""
    asset = triage(FRAME, overrides=OWN, temperature=0.2)
    project = Project(batch_server, tmp_path, asset.assets)
    assert project.run("triage_submission").success
    project.land()
    table = project.load("triage")
    assert table["llm_status"].tolist() == ["ok"] * 3
    assert table["llm_model"].tolist() == ["gpt-4o", "gpt-4o-mini", "o3"]
    assert table["tier"].tolist()[::2] == ["gpt-4o", "o3"]
    assert table["sentiment"].tolist()[:2] == ["positive", "negative"]
    assert not [name for name in table.columns if name.startswith("llm_request_model") or name == "llm_request"]
    files = [batch_server.read(batch["input_file_id"]) for batch in batch_server.batches()]
    (first,), (second,), (third,) = ([json.loads(line)["body"] for line in data.splitlines()] for data in files)
    assert (first["model"], first["max_tokens"], first["temperature"]) == ("gpt-4o", 50, 0.2)
    assert second["messages"][0]["content"] == "Label it kindly."
    assert (third["max_completion_tokens"], third.get("temperature")) == (70, None)


def test_the_submission_tells_the_models(batch_server: LocalServer, tmp_path: Path) -> None:
    """Each batch with its own, and a cost of all of them together."""
    project = Project(batch_server, tmp_path, triage(FRAME, overrides=OWN).assets)
    project.run("triage_submission")
    said = project.metadata("triage_submission")
    assert said["model"] == "gpt-4o, gpt-4o-mini, o3"
    assert said["batches"] == 3
    assert all(f"| {name} | running | 1 |" in said["batch_table"] for name in ("gpt-4o", "gpt-4o-mini", "o3"))
    assert said["prompt_cost_usd_estimated"] > 0


def test_a_preview_asks_as_the_batch_would(batch_server: LocalServer, tmp_path: Path) -> None:
    """Bodies and hashes are those of the rows that land later."""
    asset = triage(FRAME, overrides=OWN)
    project = Project(batch_server, tmp_path, asset.assets)
    made = asset.preview(project.resource, rows=3)
    assert [body["model"] for body in made.requests] == ["gpt-4o", "gpt-4o-mini", "o3"]
    project.run("triage_submission")
    project.land()
    hashes = project.load("triage")["llm_request_hash"].tolist()
    assert made.table["llm_request_hash"].to_pylist() == hashes
    assert made.table["llm_model"].to_pylist() == project.load("triage")["llm_model"].tolist()


def test_whole_bodies_need_no_prompt(batch_server: LocalServer, tmp_path: Path) -> None:
    """Conversations that the user built; the prompt that people see is their last message."""
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    bodies = [{"messages": [*talk, {"role": "user", "content": text}]} for text in TEXTS]
    frame = pd.DataFrame({"id": [1, 2, 3], "request": [json.dumps(body) for body in bodies]})
    project = Project(batch_server, tmp_path, triage(frame, overrides={"body": "request"}).assets)
    assert project.run("triage_submission").success
    project.land()
    table = project.load("triage")
    assert table["user_message"].tolist() == TEXTS
    assert table["llm_status"].tolist()[0] in ("ok", "invalid_output")  # no output model was asked for in the body
    (batch,) = batch_server.batches()
    sent = [json.loads(line)["body"] for line in batch_server.read(batch["input_file_id"]).splitlines()]
    assert sent == [{"model": "gpt-4o-mini", **body} for body in bodies]


def test_a_template_and_overrides_go_together(batch_server: LocalServer, tmp_path: Path) -> None:
    """Without a function: prompts from one column, limits from another."""
    asset = build_batch_assets(
        "texts", name="made", model="gpt-4o-mini", template="{{ text }}", overrides={"temperature": "weight"}
    )
    project = Project(batch_server, tmp_path, [texts, *asset.assets])
    assert project.run("texts", "made_submission").success
    project.land()
    lineage = project.metadata("made")["dagster/column_lineage"]
    assert [dep.column_name for dep in lineage.deps_by_column["llm_text"]] == ["text", "weight"]
    (batch,) = batch_server.batches()
    sent = [json.loads(line)["body"] for line in batch_server.read(batch["input_file_id"]).splitlines()]
    assert [body.get("temperature") for body in sent] == [0.5, None, 2.0]


def test_a_column_that_is_not_there_fails_the_run(batch_server: LocalServer, tmp_path: Path) -> None:
    """Before anything is sent, with the columns that there are; and what a row cannot say when it is defined."""
    project = Project(batch_server, tmp_path, triage(FRAME, overrides={"model": "tear"}).assets)
    assert "has no column 'tear', which overrides= names as 'model'" in failure(project.run("triage_submission"))
    assert batch_server.batches() == []
    with pytest.raises(ConfigurationError, match="'n' is none of model"):
        triage(FRAME, overrides={"n": "tier"})


def test_a_row_that_its_template_makes_nothing_of_is_told_by_its_columns() -> None:
    """Who writes a template, in YAML say, never wrote a column `user_message`."""
    frame = pd.DataFrame({"id": [1, 2], "subject": ["a", None], "text": ["b", None]})
    made = triage(frame, template="{{ text }} {{ subject }}")
    with pytest.raises(InvalidInputError, match=r"row 1 \(id=2\) has no text in 'subject' or 'text'\. Fill it"):
        made.estimate(OpenAIBatchResource(root="memory:///"))


def test_the_code_version_tells_overrides() -> None:
    """Other columns, another version; none, the one of before."""
    plain, own = triage(FRAME), triage(FRAME, overrides=OWN)
    assert plain.spec.code_version != own.spec.code_version
    assert triage(FRAME, overrides={}).spec.code_version == plain.spec.code_version
