"""What a provider tells about batches, as plain data, and how its own words for it are read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ractobatch_dagster.errors import ProviderAPIError
from ractobatch_dagster.models import BatchJobInfo, BatchStatus
from ractobatch_dagster.secrecy import redacted

__all__ = [
    "Issue",
    "Page",
    "RemoteBatch",
    "UploadedFile",
    "queue_limit",
    "read_batch",
    "read_file",
    "read_status",
    "says_file_missing",
    "says_queue_full",
]


@dataclass(frozen=True, slots=True)
class Issue:
    """One reason why a batch was refused; `line` counts from 1 in its input file."""

    message: str
    code: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        return f"{place}{self.message}" + (f" ({self.code})" if self.code else "")


@dataclass(frozen=True, slots=True)
class RemoteBatch:
    """A batch as the provider last described it.

    `completed` and `failed` are its progress meter, not an audit. Of an `anonymous` one only the results tell whose it
    is: neither metadata nor an input file says so.

    `tokens` are those that it says it billed, read and written, once it has ended; 0 where it does not say.
    """

    id: str
    status: BatchStatus
    created_at: float = 0.0
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    issues: Sequence[Issue] = ()
    tokens: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False
    raw: Any = None

    def job_info(self, provider: str) -> BatchJobInfo:
        """The same in the words of the processor."""
        return BatchJobInfo(
            job_id=self.id,
            provider=provider,
            status=self.status,
            created_at=self.created_at,
            request_count=self.total,
            completed_count=self.completed,
            failed_count=self.failed,
            errors=[str(issue) for issue in self.issues],
            metadata=dict(self.metadata),
            input_file_id=self.input_file_id,
            output_file_id=self.output_file_id,
            error_file_id=self.error_file_id,
            raw=self.raw,
        )


@dataclass(frozen=True, slots=True)
class UploadedFile:
    """A file at the provider: its size in bytes, and when it was made, by its clock; 0 where it does not say."""

    id: str
    name: str = ""
    size: int = 0
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Page:
    """A page of the provider's list; `next_after` is where the next one starts, or `None` after the last."""

    batches: Sequence[RemoteBatch]
    next_after: str | None


_STATUSES = {
    "validating": BatchStatus.PENDING,
    "pending": BatchStatus.PENDING,
    "queued": BatchStatus.PENDING,
    "scheduling": BatchStatus.PENDING,
    "in_progress": BatchStatus.IN_PROGRESS,
    "running": BatchStatus.IN_PROGRESS,
    "finalizing": BatchStatus.FINALIZING,
    "completed": BatchStatus.COMPLETED,
    "failed": BatchStatus.FAILED,
    "expired": BatchStatus.EXPIRED,
    "cancelling": BatchStatus.CANCELLING,
    "canceling": BatchStatus.CANCELLING,
    "cancelled": BatchStatus.CANCELLED,
    "canceled": BatchStatus.CANCELLED,
}


def read_status(word: object, own: Mapping[str, BatchStatus] | None = None) -> BatchStatus:
    """The provider's word for a status, in any case and spelling. An unknown word means that it goes on.

    Args:
        word: The word.
        own: What the provider's own words mean, in small letters.
    """
    said = str(word).strip().lower()
    return (own or {}).get(said) or _STATUSES.get(said, BatchStatus.IN_PROGRESS)


def read_batch(
    batch: Any, hide: Callable[[str], str] = redacted, statuses: Mapping[str, BatchStatus] | None = None
) -> RemoteBatch:
    """A batch as the `openai` client returns it; its fields are not validated there, and any may be missing.

    Args:
        batch: What the client returned.
        hide: Takes secrets out of what is told of it.
        statuses: What the provider's own words for statuses mean, in small letters.

    Raises:
        ProviderAPIError: It is no batch at all, but for example a web page.
    """
    if not getattr(batch, "id", None):
        raise ProviderAPIError(f"[openai] the reply is no batch but {hide(repr(batch)):.200}. Is the base URL right?")
    counts = getattr(batch, "request_counts", None)
    errors = getattr(getattr(batch, "errors", None), "data", None) or ()
    metadata = getattr(batch, "metadata", None)
    return RemoteBatch(
        id=str(batch.id),
        status=read_status(getattr(batch, "status", None), statuses),
        created_at=_seconds(getattr(batch, "created_at", None)),
        input_file_id=getattr(batch, "input_file_id", None) or None,
        output_file_id=getattr(batch, "output_file_id", None) or None,  # "" on Azure and at times on OpenAI
        error_file_id=getattr(batch, "error_file_id", None) or None,
        total=_count(counts, "total"),
        completed=_count(counts, "completed"),
        failed=_count(counts, "failed"),
        issues=tuple(_issue(one, hide) for one in errors),
        tokens=sum(_count(getattr(batch, "usage", None), name) for name in ("input_tokens", "output_tokens")),
        metadata={str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, Mapping) else {},
        raw=batch,
    )


def read_file(file: Any, hide: Callable[[str], str] = redacted) -> UploadedFile:
    """A file as the `openai` client returns it.

    Args:
        file: What the client returned.
        hide: Takes secrets out of what is told of it.

    Raises:
        ProviderAPIError: It is no file at all.
    """
    if not getattr(file, "id", None):
        raise ProviderAPIError(f"[openai] the reply is no file but {hide(repr(file)):.200}. Is the base URL right?")
    return UploadedFile(
        id=str(file.id),
        name=str(getattr(file, "filename", None) or ""),
        size=_count(file, "bytes"),
        created_at=_seconds(getattr(file, "created_at", None)),
    )


def says_queue_full(message: str, code: str | None = None) -> bool:
    """Whether a create or a batch was refused for want of quota, which passes."""
    return code == "token_limit_exceeded" or any(words in message.lower() for words in _QUEUE_FULL)


def queue_limit(message: str) -> int | None:
    """How many tokens of a model may be enqueued, where a refusal says so."""
    told = _QUEUE_LIMIT.search(message)
    return int(told[1].replace(",", "")) if told else None


def says_file_missing(message: str) -> bool:
    """Whether a create or a batch was refused for want of its input file: deleted, or not visible everywhere yet."""
    return any(words in message.lower() for words in _FILE_MISSING)


_QUEUE_FULL = ("enqueued token", "token_limit_exceeded")
_QUEUE_LIMIT = re.compile(r"limit:\s*(\d[\d,]*)\s*enqueued token", re.IGNORECASE)
_FILE_MISSING = ("cannot find file", "file not found", "no such file")


def _issue(error: Any, hide: Callable[[str], str]) -> Issue:
    line = getattr(error, "line", None)
    return Issue(
        message=hide(str(getattr(error, "message", None) or "no reason given")),
        code=getattr(error, "code", None),
        line=line if isinstance(line, int) else None,
    )


def _count(counts: Any, name: str) -> int:
    value = getattr(counts, name, None)
    return value if isinstance(value, int) and value > 0 else 0


def _seconds(value: Any) -> float:
    """Seconds since 1970; 0 where a server writes a date, milliseconds or nonsense."""
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return 0.0
    return seconds if 0 < seconds < _YEAR_2200 else 0.0


_YEAR_2200 = 7_258_118_400.0
