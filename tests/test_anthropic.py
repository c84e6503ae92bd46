"""Batch assets of Claude: from a frame to a table, as with OpenAI."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pydantic import BaseModel

from ractobatch_dagster import ConfigurationError, batch_asset
from ractobatch_dagster.cli import main
from ractobatch_dagster.local import Faults, LocalServer
from tests.anthropic_project import MODEL, Claude, sent
from tests.project import Project, failure
from tests.test_assets import PROMPT, TEXTS, Label

ROWS = pd.DataFrame({"id": [3, 1, 2], "user_message": TEXTS})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalServer]:
    """A server whose Claude refuses on request."""
    with LocalServer(tmp_path / "server", model=Claude()) as server:
        yield server


def asset(rows: pd.DataFrame = ROWS, **options: Any) -> Any:
    """An asset of these rows."""
    given = {"model": MODEL, "prompt": PROMPT, "key": "id", "name": "answers", **options}
    return batch_asset(**given)(lambda: rows)


def project(server: LocalServer, folder: Path, made: Any, **resource: Any) -> Project:
    """A project whose resource is one of Anthropic's."""
    return Project(server, folder / "project", made.assets, provider="anthropic", **resource)


def table_of(project: Project) -> pa.Table:
    """Submit, tick until all has landed, load."""
    result = project.run("answers_submission")
    assert result.success, failure(result)
    project.land()
    loaded: pa.Table = project.load("answers", kind=pa.Table)
    return loaded


def test_frame_becomes_table(server: LocalServer, tmp_path: Path) -> None:
    """Typed answers, the same columns, tokens and costs; what waited to be sent is gone."""
    claude = asset(temperature=0, max_tokens=500)
    assert all("anthropic" in spec.kinds for one in claude.assets[:2] for spec in one.specs)
    made = project(server, tmp_path, claude)
    table = table_of(made)
    assert table["id"].to_pylist() == [3, 1, 2]
    assert table["sentiment"].to_pylist()[:2] == ["positive", "negative"]
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert table["llm_model"].to_pylist() == [MODEL] * 3
    assert table["llm_finish_reason"].to_pylist() == ["stop"] * 3
    assert all(tokens > 0 for tokens in table["llm_prompt_tokens"].to_pylist())
    assert all(cost > 0 for cost in table["llm_cost_usd"].to_pylist())
    assert table["custom_id"].to_pylist() == ["row-00000000", "row-00000001", "row-00000002"]
    assert table["llm_batch_id"].to_pylist()[0].startswith("msgbatch_")
    (state,) = made.submissions("answers")
    assert state.provider == f"anthropic {server.base_url.removesuffix('/v1')}"
    assert not made.resource.store.folders("inputs")
    body = sent(server)[0]["body"]
    assert (body["system"], body["max_tokens"], body["temperature"]) == (PROMPT.compile(), 500, 0)
    assert body["output_config"]["format"]["schema"]["properties"].keys() == Label.model_fields.keys()


class Ship(BaseModel):
    """Send something."""

    items: list[str]


def test_calls_of_tools_are_columns(server: LocalServer, tmp_path: Path) -> None:
    """The tools are described in Anthropic's words, and what is called is read as with OpenAI."""
    choice = {"tool_choice": {"type": "tool", "name": "ship"}}
    table = table_of(project(server, tmp_path, asset(prompt="Serve.", tools=[Ship], extra=choice)))
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert [len(calls) for calls in table["ship"].to_pylist()] == [1] * 3
    (tool,) = sent(server)[0]["body"]["tools"]
    assert (tool["name"], tool["description"]) == ("ship", "Send something.")
    assert tool["input_schema"]["required"] == ["items"]


def test_answered_rows_are_not_asked_again(server: LocalServer, tmp_path: Path) -> None:
    """The next submission takes them over."""
    made = project(server, tmp_path, asset())
    table_of(made)
    table = table_of(made)
    assert table["llm_reused"].to_pylist() == [True] * 3
    assert sum(server.billed.values()) == 3


def test_a_refusal_and_an_answer_that_does_not_fit(server: LocalServer, tmp_path: Path) -> None:
    """One is final; the other is shown to the model again."""
    rows = pd.DataFrame({"id": [1, 2, 3], "user_message": ["refuse this", "unfit at first", "wonderful"]})
    table = table_of(project(server, tmp_path, asset(rows, repairs=1)))
    assert table["llm_status"].to_pylist() == ["refusal", "ok", "ok"]
    assert table["llm_error"].to_pylist()[0] == "The model refused to answer."
    assert table["llm_round"].to_pylist() == [0, 1, 0]
    turns = [turn["role"] for turn in sent(server)[-1]["body"]["messages"]]
    assert turns == ["user", "assistant", "user"]


def test_what_expired_goes_out_again(server: LocalServer, tmp_path: Path) -> None:
    """As the next round; what the first one answered is not paid twice."""
    server.faults = Faults(expire_at=0.4, first_attempts=1)
    table = table_of(project(server, tmp_path, asset()))
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert sorted(table["llm_round"].to_pylist()) == [0, 1, 1]
    assert sum(server.billed.values()) == 3


def test_a_truncated_answer(server: LocalServer, tmp_path: Path) -> None:
    """It says so."""
    table = table_of(project(server, tmp_path, asset(max_tokens=1)))
    assert table["llm_status"].to_pylist() == ["truncated"] * 3


def test_a_lost_reply_to_create(server: LocalServer, tmp_path: Path) -> None:
    """The run may fail; the sensor finds the batch by its results, and nothing is paid twice."""
    server.faults = Faults(lost_create_replies=1)
    made = project(server, tmp_path, asset())
    made.run("answers_submission")
    server.wait_idle()
    made.land()
    assert made.load("answers")["llm_status"].tolist() == ["ok"] * 3
    assert (server.creates, sum(server.billed.values())) == (1, 3)


def test_a_preview_and_an_estimate(server: LocalServer, tmp_path: Path) -> None:
    """They ask, and count, what the batch would."""
    made = asset()
    one = project(server, tmp_path, made)
    estimate = made.estimate(one.resource)
    assert (estimate.requests, estimate.completion_tokens_at_most) == (3, 3 * 4096)
    assert estimate.cost_usd_at_most > 0
    shown = made.preview(one.resource, rows=3)
    assert shown.table["llm_status"].to_pylist() == ["ok"] * 3
    table = table_of(one)
    assert shown.table["llm_request_hash"].to_pylist() == table["llm_request_hash"].to_pylist()
    assert shown.requests == [line["body"] for line in sent(server)]


def test_endpoints_and_processors_that_are_not_there(server: LocalServer, tmp_path: Path) -> None:
    """Nothing is sent."""
    made = project(server, tmp_path, asset(prompt=None, endpoint="embeddings"))
    result = made.run("answers_submission")
    assert not result.success
    assert "anthropic has nothing like /v1/embeddings" in failure(result)
    with pytest.raises(ConfigurationError, match="The processor speaks to OpenAI's API"):
        made.resource.processor()
    assert not server.batches()


def test_the_command_line(
    server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looks at Anthropic with the key from its own variable, and deletes what is no longer needed there."""
    made = project(server, tmp_path, asset())
    table_of(made)
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("OPENAI_API_KEY")
    at = ["--root", made.resource.root, "--provider", "anthropic"]
    main(["reconcile", *at])
    assert "1 batches are known to both" in capsys.readouterr().out
    main(["gc", *at, "--days", "0", "--yes"])
    client = made.resource.get_provider().client
    assert client.messages.batches.list().data == []
