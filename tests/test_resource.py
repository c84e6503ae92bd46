"""The resource: its key stays hidden, and what cannot work is said before anything is sent."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest
from pydantic import ValidationError

from ractobatch_dagster import BatchItem, ConfigurationError, OpenAIBatchResource, batch_asset
from ractobatch_dagster.local import LocalServer, stop_server
from tests.project import Project, failure

KEY = "sk-very-secret"


def test_the_key_is_never_shown(tmp_path: Path) -> None:
    """Neither the resource nor what it builds prints its key."""
    resource = OpenAIBatchResource(
        api_key=KEY, root=str(tmp_path), default_headers={"x": KEY}, store_options={"aws_secret_access_key": KEY}
    )
    shown = [repr(resource), str(resource), repr(resource.get_provider()), repr(resource.store)]
    assert all(KEY not in text for text in shown)


def test_the_key_is_in_no_file_and_no_event(batch_server: LocalServer, tmp_path: Path) -> None:
    """After a whole submission the key is found neither in the store nor in Dagster's own storage."""
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pd.DataFrame({"user_message": ["a"]}))
    with LocalServer(tmp_path / "server", api_key=KEY) as server:
        project = Project(server, tmp_path / "dagster", asked.assets)
        project.run("asked_submission")
        project.land()
    files = [path for path in (tmp_path / "dagster").rglob("*") if path.is_file()]
    assert {"rows", "encoder.json", "results", "responses"} <= {part for path in files for part in path.parts}
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_a_missing_key_is_said(tmp_path: Path) -> None:
    """Without a key nothing starts, and the message names the variable."""
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY"):
        OpenAIBatchResource(root=str(tmp_path)).get_provider()


def test_an_unknown_provider_is_said(tmp_path: Path) -> None:
    """A typo in `provider` names the ones there are."""
    with pytest.raises(ConfigurationError, match="compatible"):
        OpenAIBatchResource(root=str(tmp_path), api_key="x", provider="opennai").get_provider()


@pytest.mark.parametrize(
    ("base_url", "kind"),
    [
        (None, "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://name.openai.azure.com/openai/v1/", "azure"),
        ("http://localhost:8000/v1", "compatible"),
    ],
)
def test_the_kind_of_provider_is_told_from_its_address(tmp_path: Path, base_url: str | None, kind: str) -> None:
    """Known hosts have their own limits; every other server is a compatible one."""
    resource = OpenAIBatchResource(root=str(tmp_path), api_key="x", base_url=base_url)
    assert resource.get_provider().profile.kind == kind


def test_limits_can_only_be_made_smaller(tmp_path: Path) -> None:
    """A wish above the provider's limit stays at the limit."""
    resource = OpenAIBatchResource(
        root=str(tmp_path), api_key="x", max_requests_per_batch=10**9, max_bytes_per_batch=1_000
    )
    assert (resource.limits().max_requests, resource.limits().max_bytes) == (50_000, 1_000)
    assert resource.limits().most_bytes == 1_000


def test_tokens_of_a_batch_may_be_limited(tmp_path: Path) -> None:
    """Without a wish there is no such limit; with one, batches are smaller."""
    plain = OpenAIBatchResource(root=str(tmp_path), api_key="x")
    limited = OpenAIBatchResource(root=str(tmp_path), api_key="x", max_tokens_per_batch=1_000)
    assert plain.limits().max_tokens is None
    assert limited.limits().max_tokens == 1_000
    assert 1_000 < limited.limits().most_bytes < plain.limits().most_bytes


def test_a_small_queue_gets_small_batches(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows are cut into as many batches as the estimate of their tokens asks for, and land as one table."""
    prompts = [f"{number} " + "word " * 200 for number in range(12)]
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pd.DataFrame({"user_message": prompts}))
    project = Project(batch_server, tmp_path, asked.assets, max_tokens_per_batch=1_000)
    project.run("asked_submission")
    project.land()
    sizes = [batch.size for batch in project.submissions("asked")[0].batches]
    assert len(sizes) >= 4
    assert max(sizes) <= project.resource.limits().most_bytes
    assert project.load("asked")["user_message"].tolist() == prompts


@pytest.mark.parametrize("wrong", [{"transfers": 0}, {"processes": -1}])
def test_there_is_at_least_one_transfer(tmp_path: Path, wrong: dict[str, int]) -> None:
    """A number with which nothing would ever go on is refused."""
    with pytest.raises(ValidationError):
        OpenAIBatchResource(root=str(tmp_path), **wrong)


@pytest.mark.parametrize("many", [{"transfers": 1}, {"transfers": 8, "processes": 1}])
def test_any_number_of_transfers_and_processes_gives_the_same_table(
    batch_server: LocalServer, tmp_path: Path, many: dict[str, int]
) -> None:
    """One after the other here, or several at a time with another process: the rows and their order are the same."""
    prompts = [f"text {number}" for number in range(20)]
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pd.DataFrame({"user_message": prompts}))
    project = Project(batch_server, tmp_path, asked.assets, max_requests_per_batch=3, **many)
    result = project.run("asked_submission")
    assert result.success, failure(result)
    project.land()
    table = project.load("asked")
    assert table["user_message"].tolist() == prompts
    assert table["llm_status"].tolist() == ["ok"] * 20
    assert len(batch_server.batches()) == 7


def test_local_provider_starts_a_server_of_its_own(tmp_path: Path) -> None:
    """With `provider="local"` neither a key nor an address is needed; every process finds the same server."""
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pd.DataFrame({"user_message": ["a"]}))
    with LocalServer(tmp_path / "unused") as unused:
        project = Project(
            unused, tmp_path, asked.assets, provider="local", api_key=None, base_url=None, local_seconds=0.0
        )
        try:
            result = project.run("asked_submission")
            assert result.success, failure(result)
            project.land()
        finally:
            stop_server(tmp_path / "store" / "local-server")
        assert project.submissions("asked")[0].provider == "local"
        assert project.load("asked")["llm_status"].tolist() == ["ok"]
        assert not unused.batches()


def test_local_provider_needs_a_directory() -> None:
    """On an object store its state would have no place."""
    with pytest.raises(ConfigurationError, match="ractobatch serve"):
        OpenAIBatchResource(root="memory:///", provider="local").get_provider()


def test_the_key_may_be_an_environment_variable(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`EnvVar` is resolved when a run starts."""
    monkeypatch.setenv("MY_KEY", batch_server.api_key)
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pd.DataFrame({"user_message": ["a"]}))
    project = Project(batch_server, tmp_path, asked.assets, api_key=dg.EnvVar("MY_KEY"))
    result = project.run("asked_submission")
    assert result.success, failure(result)


def test_a_token_is_asked_for_instead_of_a_key(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Azure's identities give them, for an hour each; by assets, the sensor, and the processor's both faces."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    asked: list[str] = []

    class Tokens(OpenAIBatchResource):
        def get_api_key(self) -> Callable[[], str]:
            def token() -> str:
                asked.append(threading.current_thread().name)
                return batch_server.api_key

            return token

    resource = Tokens(base_url=batch_server.base_url, root=str(tmp_path / "own"))
    provider = resource.get_provider()
    for _ in range(2):
        provider.list_batches()
    assert len(asked) >= 2
    processor = resource.processor(default_prompt="Answer briefly.")
    items = [BatchItem(custom_id="q", user_message="2+2?")]
    assert processor.submit_and_wait(items, poll_interval_s=0.01)[0].ok
    before = len(asked)
    (result,) = asyncio.run(processor.asubmit_and_wait(items, poll_interval_s=0.01))
    assert result.ok
    assert "MainThread" not in asked[before:]


def test_processor_uses_the_same_account(batch_server: LocalServer, tmp_path: Path) -> None:
    """One batch at a time, inside an asset or op of one's own."""
    resource = OpenAIBatchResource(api_key=batch_server.api_key, base_url=batch_server.base_url, root=str(tmp_path))
    processor = resource.processor(default_prompt="Answer briefly.")
    (result,) = processor.submit_and_wait([BatchItem(custom_id="q", user_message="2+2?")], poll_interval_s=0.01)
    assert result.ok
