"""What the UI is told of a submission and of its table."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from ractobatch_dagster import batch_asset
from ractobatch_dagster.local import Faults, LocalServer
from tests.project import Project
from tests.test_assets import ASSETS, PROMPT, TEXTS


def told(*columns: str) -> dg.AssetsDefinition:
    """Three texts, of which the run says which columns they have; nothing if none are named."""

    @dg.asset
    def texts() -> Any:
        frame = pd.DataFrame({"id": [30, 10, 20], "text": TEXTS, "weight": [0.5, None, 2.0]})
        schema = dg.TableSchema([dg.TableColumn(name) for name in columns])
        return dg.MaterializeResult(value=frame, metadata={"dagster/column_schema": schema} if columns else {})

    return texts


@batch_asset(model="gpt-4o-mini", prompt=PROMPT, key="id", template="{{ text }}")
def labels(texts: pd.DataFrame) -> pd.DataFrame:
    """Labels of texts, which their template joins."""
    return texts


def test_a_submission_tells_what_is_sent_and_what_is_not(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows, requests, what was held back and why, an estimate, the batches, and a few prompts."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT, key="id", on_null="skip")
    def held() -> pd.DataFrame:
        return pd.DataFrame({"id": range(7), "user_message": ["a", None, "b", "a", "", "c", "long " * 90]})

    project = Project(batch_server, tmp_path, held.assets)
    project.run("held_submission")
    said = project.metadata("held_submission")
    assert (said["rows"], said["requests"]) == (7, 4)
    assert (said["rows_reused"], said["rows_repeated"], said["rows_skipped"]) == (0, 1, 2)
    assert 0 < said["prompt_cost_usd_estimated"] < 0.001
    (state,) = project.submissions("held")
    assert f"| {state.batches[0].batch_id} | gpt-4o-mini | running | 4 | 0.01 |" in said["batch_table"]
    prompts = [record.data for record in said["prompts"].records]
    assert prompts[:2] == [{"id": 0, "user_message": "a"}, {"id": 1, "user_message": None}]
    assert len(prompts) == 5
    project.land()
    project.run("held_submission")
    again = project.metadata("held_submission")
    assert (again["requests"], again["rows_reused"], again["rows_skipped"]) == (0, 4, 2)
    assert "batch_table" not in again


def test_a_batch_is_linked_where_its_provider_shows_it(batch_server: LocalServer, tmp_path: Path) -> None:
    """OpenAI's dashboard has a page of each batch."""
    from ractobatch_dagster.metadata import submission_metadata

    project = Project(batch_server, tmp_path, ASSETS)
    project.run("texts", "labels_submission")
    (state,) = project.submissions("labels")
    said = submission_metadata(state, None, dashboard="https://example.com/batches")
    name = state.batches[0].batch_id
    assert f"| [{name}](https://example.com/batches/{name}) |" in said["batch_table"].value
    assert said["dashboard"].value == "https://example.com/batches"


def test_a_table_tells_what_it_used_as_dagster_openai_does(batch_server: LocalServer, tmp_path: Path) -> None:
    """So that Dagster's own reports add it up; an answer that is reused is not counted again."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("texts", "labels_submission")
    project.land()
    said = project.metadata("labels")
    (model,) = set(project.load("labels")["llm_model"])
    used = {name.rpartition(".")[2]: value for name, value in said.items() if name.startswith(f"openai.{model}.")}
    tokens = {name: said[name] for name in ("prompt_tokens", "completion_tokens")}
    assert used == {"calls": 3, **tokens, "total_tokens": sum(tokens.values())}
    assert said["prompt_tokens"] > 0
    assert 0 <= said["seconds_from_submission"] < 60
    table = project.load("labels", kind=pa.Table)
    counts = {word: table["sentiment"].to_pylist().count(word) for word in table["sentiment"].to_pylist()}
    assert said["label_counts"] == {"sentiment": counts}
    project.run("labels_submission")
    project.land()
    assert not any(name.startswith("openai.") for name in project.metadata("labels"))


def test_the_statuses_are_drawn(batch_server: LocalServer, tmp_path: Path) -> None:
    """As an image that is short enough for the UI to show it in place, with a part for each status."""
    batch_server.faults = Faults(fail_ids={"row-00000000": 400})
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("texts", "labels_submission")
    project.land()
    chart = project.metadata("labels")["statuses_chart"]
    assert len(chart) < 1000
    match = re.fullmatch(r"!\[.*\]\(data:image/svg\+xml;base64,(.*)\)", chart)
    assert match is not None
    assert base64.b64decode(match[1]).decode().count("<path") == 2


def test_an_image_of_every_status_is_short_enough() -> None:
    """With all ten of them."""
    from ractobatch_dagster.metadata import _status_chart
    from ractobatch_dagster.models import ROW_STATUSES

    assert len(_status_chart(dict.fromkeys(ROW_STATUSES, 1))) < 1000


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ((), {"sentiment": ["text"], "tags": ["text"], "score": ["text"], "llm_text": ["text"]}),
        (("id", "weight"), {"id": ["id"], "weight": ["weight"]}),
        (
            ("id", "text"),
            {"sentiment": ["text"], "tags": ["text"], "score": ["text"], "llm_text": ["text"], "id": ["id"],
             "text": ["text"]},
        ),
    ],
)  # fmt: skip
def test_columns_are_traced_to_the_upstream(
    batch_server: LocalServer, tmp_path: Path, columns: tuple[str, ...], expected: dict[str, list[str]]
) -> None:
    """Answers to the columns of the template; kept columns to their own, where the upstream says it has them."""
    project = Project(batch_server, tmp_path, [told(*columns), *labels.assets])
    project.run("texts", "labels_submission")
    project.land()
    lineage = project.metadata("labels")["dagster/column_lineage"]
    found = {
        name: [dep.column_name for dep in deps]
        for name, deps in lineage.deps_by_column.items()
        if all(dep.asset_key == dg.AssetKey("texts") for dep in deps)
    }
    assert found == expected


def test_nothing_is_traced_where_it_is_not_known(batch_server: LocalServer, tmp_path: Path) -> None:
    """A function that writes its own prompts may take them from anywhere."""
    project = Project(batch_server, tmp_path, ASSETS)
    project.run("texts", "labels_submission")
    project.land()
    assert "dagster/column_lineage" not in project.metadata("labels")
