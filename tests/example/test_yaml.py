"""The example's pair in YAML."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

import example_project
from ractobatch_dagster import OpenAIBatchComponent
from ractobatch_dagster.local import LocalServer
from tests.project import Project

DEFS = Path(str(example_project.__file__)).parent / "defs" / "side_effect_groups"


def _component() -> OpenAIBatchComponent:
    given = yaml.safe_load((DEFS / "defs.yaml").read_text())
    return OpenAIBatchComponent.from_attributes_dict(attributes=given["attributes"])


@dg.asset
def side_effects() -> pl.DataFrame:
    """As the example has it."""
    return pl.DataFrame({"side_effect": ["nausea", "headache"], "reviews": [23, 13]})


def test_the_yaml_pair_lands(batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One answer for each side effect, beside its own columns; the model can be chosen as in Python."""
    monkeypatch.delenv("RACTOBATCH_MODEL", raising=False)
    component = _component()
    assert component.model_name == "gpt-4o-mini"
    project = Project(batch_server, tmp_path, [side_effects, *component.build_batch_asset(DEFS).assets])
    assert project.run("side_effects", "side_effect_groups_submission").success
    project.land()
    table = project.load("side_effect_groups", kind=pl.DataFrame)
    assert table["side_effect"].to_list() == ["nausea", "headache"]
    assert table["llm_status"].to_list() == ["ok", "ok"]
    assert {"part", "serious"} <= set(table.columns)


def test_the_model_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same variable as in `definitions.py`."""
    monkeypatch.setenv("RACTOBATCH_MODEL", "gpt-4.1-nano")
    component = _component()
    assert component.batch_asset_arguments()["model"] == "gpt-4.1-nano"
