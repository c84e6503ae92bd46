"""What a compatible server is declared to do: limits, metadata, endpoints, windows, statuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from ractobatch_dagster import Capabilities, ConfigurationError, OpenAIBatchResource, batch_asset
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.models import BatchStatus
from tests.project import Project, failure
from tests.provider.scripted import scripted_server


def resource(tmp_path: Path, base_url: str = "http://gateway/v1", **declared: Any) -> OpenAIBatchResource:
    """A resource for a server that can do this."""
    return OpenAIBatchResource(
        root=str(tmp_path), api_key="x", base_url=base_url, capabilities=Capabilities(**declared), max_retries=0
    )


def asked() -> Any:
    """An asset that asks one question."""
    return batch_asset(model="m", name="asked")(lambda: pd.DataFrame({"user_message": ["a"]}))


def test_what_is_not_declared_is_as_with_its_kind(tmp_path: Path) -> None:
    """An empty table changes nothing; a full one changes all, limits above the kind's own included."""
    plain = OpenAIBatchResource(root=str(tmp_path), api_key="x", base_url="http://gateway/v1").unasked().profile
    assert resource(tmp_path).unasked().profile == plain
    declared = resource(
        tmp_path,
        max_requests=70_000,
        max_bytes=150_000_000,
        batches_per_hour=5,
        metadata=False,
        list_seconds=1.5,
        dashboard="https://gateway/batches",
    )
    profile = declared.unasked().profile
    assert (profile.kind, profile.supports_metadata, profile.list_lag) == ("compatible", False, 1.5)
    assert (profile.batches_per_hour, profile.dashboard) == (5, "https://gateway/batches")
    assert (declared.limits().max_requests, declared.limits().max_bytes) == (70_000, 150_000_000)
    assert declared.unasked().identity == resource(tmp_path).unasked().identity


def test_who_answers_is_the_same_whatever_is_declared(tmp_path: Path) -> None:
    """What is declared later costs no answer that was paid before."""
    plain = OpenAIBatchResource(root=str(tmp_path), api_key="x", base_url="http://gateway/v1")
    assert resource(tmp_path, metadata=False).unasked().identity == plain.unasked().identity


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"endpoints": ["/v1/embeddings"]}, "/v1/chat/completions"),
        ({"completion_windows": ["1h", "48h"]}, "1h, 48h"),
    ],
)
def test_what_is_not_declared_is_refused_before_anything_is_sealed(
    batch_server: LocalServer, tmp_path: Path, declared: dict[str, Any], named: str
) -> None:
    """An endpoint, a completion window: the error names what is asked or what there is, and nothing is uploaded."""
    project = Project(batch_server, tmp_path, asked().assets, capabilities=Capabilities(**declared))
    result = project.run("asked_submission")
    assert not result.success
    assert "ConfigurationError" in failure(result)
    assert named in failure(result)
    assert not (tmp_path / "store" / "submissions").exists()


def test_a_declared_endpoint_and_window_are_sent(batch_server: LocalServer, tmp_path: Path) -> None:
    """The table lands; without metadata, where the server is said to refuse it."""
    declared = Capabilities(metadata=False, endpoints=["/v1/chat/completions"], completion_windows=["24h"])
    project = Project(batch_server, tmp_path, asked().assets, capabilities=declared)
    assert project.run("asked_submission").success
    project.land()
    assert project.load("asked")["llm_status"].tolist() == ["ok"]
    (batch,) = project.resource.get_provider().list_batches().batches
    assert batch.metadata == {}


def test_a_server_has_its_own_words_for_statuses(tmp_path: Path) -> None:
    """In any case; those that nobody declared are read as ever."""
    with scripted_server() as script:
        said = ["Succeeded", "ERRORED ", "completed", "who knows"]
        replies = [(200, {"id": "b", "object": "batch", "status": word, "created_at": 1}) for word in said]
        script.say("GET /batches/b", *replies)
        declared = {"succeeded": "completed", "Errored": "failed"}
        provider = resource(tmp_path, script.base_url, statuses=declared).get_provider()
        found = [provider.retrieve("b").status for _ in said]
    expected = [BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.COMPLETED, BatchStatus.IN_PROGRESS]
    assert found == expected


@pytest.mark.parametrize("wrong", [{"statuses": {"done": "finished"}}, {"max_requests": 0}, {"list_seconds": -1}])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """A word that is none of our statuses, a limit that lets nothing through."""
    with pytest.raises(ValidationError):
        Capabilities(**wrong)


def test_the_processor_takes_any_server_that_speaks_openais_api(batch_server: LocalServer, tmp_path: Path) -> None:
    """Declared endpoints do not make it another API."""
    declared = resource(tmp_path, batch_server.base_url, endpoints=["/v1/chat/completions"])
    assert declared.processor()
    with pytest.raises(ConfigurationError, match="speaks to OpenAI's API"):
        OpenAIBatchResource(root=str(tmp_path), api_key="x", provider="anthropic").processor()
