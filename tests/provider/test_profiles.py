"""What a provider tells, as plain data: unknown, missing and misspelt values are taken as they come."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types import Batch

from ractobatch_dagster.errors import ProviderError
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Account
from ractobatch_dagster.provider.profile import PROFILES, kind_of
from ractobatch_dagster.provider.remote import read_batch, read_status


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("https://api.openai.com/v1/", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/v1/", "azure"),
        ("https://mine.services.ai.azure.com/openai/v1/", "azure"),
        ("https://api.openai.com.evil.org/v1", "compatible"),
        ("https://api.anthropic.com", "anthropic"),
        ("http://127.0.0.1:8000/v1", "compatible"),
        ("", "compatible"),
    ],
)
def test_the_kind_is_told_from_the_host(address: str, kind: str) -> None:
    """Only OpenAI's and Azure's own hosts are theirs."""
    assert kind_of(address) == kind


def test_limits_are_below_the_documented_ones() -> None:
    """No profile goes past 200 MB of either kind; only Azure and Anthropic take more than 50,000 requests."""
    assert {kind: profile.kind for kind, profile in PROFILES.items()} == {kind: kind for kind in PROFILES}
    assert all(profile.max_bytes < 200_000_000 for profile in PROFILES.values())
    assert [kind for kind, profile in PROFILES.items() if profile.max_requests != 50_000] == ["azure", "anthropic"]


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("validating", BatchStatus.PENDING),
        ("in_progress", BatchStatus.IN_PROGRESS),
        ("finalizing", BatchStatus.FINALIZING),
        ("completed", BatchStatus.COMPLETED),
        ("failed", BatchStatus.FAILED),
        ("expired", BatchStatus.EXPIRED),
        ("cancelling", BatchStatus.CANCELLING),
        ("cancelled", BatchStatus.CANCELLED),
        ("canceled", BatchStatus.CANCELLED),
        (" COMPLETED ", BatchStatus.COMPLETED),
        ("weird_new_status", BatchStatus.IN_PROGRESS),
        (None, BatchStatus.IN_PROGRESS),
    ],
)
def test_every_word_for_a_status(word: Any, status: BatchStatus) -> None:
    """ractogateway's map, in any case and spelling; an unknown word means that the batch goes on."""
    assert read_status(word) is status


def test_only_four_statuses_are_an_end() -> None:
    """Whoever waits, waits for these."""
    ends = {BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED}
    assert {status for status in BatchStatus if status.terminal} == ends


def batch(**fields: Any) -> Batch:
    return Batch.construct(id="batch_1", **fields)


def test_a_batch_with_everything() -> None:
    """Counts, files, metadata and reasons are read, and shown in the processor's words."""
    remote = read_batch(
        batch(
            status="failed",
            created_at=5,
            input_file_id="file-1",
            output_file_id="file-2",
            error_file_id="",
            request_counts={"total": 3, "completed": 2, "failed": 1},
            metadata={"k": "v"},
            errors={"data": [{"code": "invalid_json_line", "message": "no JSON", "line": 4}, {"message": None}]},
        )
    )
    info = remote.job_info("openai")
    assert (info.request_count, info.completed_count, info.failed_count) == (3, 2, 1)
    assert (info.input_file_id, info.output_file_id, info.error_file_id) == ("file-1", "file-2", None)
    assert info.errors == ["line 4: no JSON (invalid_json_line)", "no reason given"]
    assert (info.metadata, info.created_at, info.raw.id) == ({"k": "v"}, 5.0, "batch_1")
    assert '"batch_1"' in info.model_dump_json()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"status": None, "created_at": None, "request_counts": None, "metadata": None, "errors": None},
        {"created_at": "yesterday", "request_counts": {"total": None, "completed": -1}, "metadata": ["odd"]},
        {"errors": {"data": None}, "output_file_id": ""},
    ],
)
def test_a_batch_with_next_to_nothing(fields: dict[str, Any]) -> None:
    """Nothing but the id is relied on."""
    info = read_batch(batch(**fields)).job_info("openai")
    assert (info.status, info.created_at, info.request_count, info.output_file_id) == ("in_progress", 0.0, 0, None)


@pytest.mark.parametrize("reply", ["<html>Please log in</html>", None, Batch.construct(id=None)])
def test_what_is_no_batch_is_said_to_be_none(reply: Any) -> None:
    """A web page in place of a batch is an error that hints at the address."""
    with pytest.raises(ProviderError, match="Is the base URL right"):
        read_batch(reply)


def test_an_account_does_not_show_its_key() -> None:
    """Neither the key nor the headers are in the account's repr."""
    account = Account(api_key="sk-secret", base_url="http://x", default_headers={"Authorization": "sk-other"})
    assert "sk-" not in repr(account)
    assert "sk-" not in str(account)
    assert account.options() == {
        "api_key": "sk-secret",
        "base_url": "http://x",
        "default_headers": {"Authorization": "sk-other"},
    }
