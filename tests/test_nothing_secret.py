"""A key in none of the places where a run leaves traces: state files, tables, events, metadata, run config, logs."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from ractobatch_dagster import OpenAIBatchResource, batch_asset, build_batch_sensor
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from tests.project import Project

KEY = "sk-recognisable-key-0123456789"


QUESTIONS = ["a"]


@batch_asset(model="gpt-4o-mini")
def answers() -> pd.DataFrame:
    """Some rows."""
    return pd.DataFrame({"user_message": QUESTIONS})


def test_a_key_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """After a run that succeeds, a tick, and a run whose key the server refuses and repeats, the key is nowhere."""
    monkeypatch.setenv("MY_KEY", KEY)
    with LocalServer(tmp_path / "server", api_key=KEY) as server:
        project = Project(server, tmp_path / "project", answers.assets, api_key=dg.EnvVar("MY_KEY").get_value())
        resource = OpenAIBatchResource(
            api_key=dg.EnvVar("MY_KEY"), base_url=server.base_url, root=project.resource.root
        )
        project.defs = dg.Definitions(
            assets=answers.assets, sensors=[build_batch_sensor()], resources={"openai_batch": resource}
        )
        assert project.run("answers_submission").success
        project.land()
        QUESTIONS.append("b")
        server.faults = Faults(calls=[CallFault(status=401, message="Incorrect API key provided: {key}.")])
        assert not project.run("answers_submission").success
        project.tick()
    found = [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert [path for path in found if "server" not in path.parts] == []
    shown = capfd.readouterr()
    assert KEY not in shown.out + shown.err
    assert KEY not in repr(project.resource)
