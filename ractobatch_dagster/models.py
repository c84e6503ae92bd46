"""What goes into a batch and what comes back, one item at a time."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel, Field

__all__ = [
    "RETRYABLE_CODES",
    "ROW_STATUSES",
    "BatchItem",
    "BatchJobInfo",
    "BatchResult",
    "BatchStatus",
    "FinishReason",
    "LLMResponse",
    "RowStatus",
    "ToolCallResult",
]

RowStatus = Literal[
    "ok",
    "refusal",
    "truncated",
    "content_filter",
    "invalid_output",
    "error",
    "expired",
    "cancelled",
    "missing",
    "skipped",
]
"""What became of one row; the column `llm_status` of every result table."""

ROW_STATUSES: tuple[RowStatus, ...] = RowStatus.__args__  # type: ignore[attr-defined]

RETRYABLE_CODES = frozenset({0, 408, 409, 429})
"""HTTP statuses inside a result line, beside all of 5xx, that say nothing about the request itself."""


class BatchStatus(str, Enum):  # noqa: UP042 - str() of it is ractogateway's
    """Where a batch stands, in the provider's order of events."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether the batch has ended. Only `FAILED` means that there is nothing to collect."""
        return self in _TERMINAL


_TERMINAL = frozenset({BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED})


class FinishReason(str, Enum):  # noqa: UP042
    """Why the model stopped."""

    STOP = "stop"
    TOOL_CALL = "tool_call"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    ERROR = "error"


class BatchItem(BaseModel):
    """One request of a batch.

    Attributes:
        custom_id: The item's name, unique within the batch; 1 to 64 characters go everywhere.
        user_message: The text of the user message.
        temperature: 0 to 2, or `None` to leave it out and take the model's own default. Reasoning models
            accept none, so for them the default is left out and only a value you give is sent.
        max_tokens: The most tokens the answer may take, or `None` to leave it out. Sent to reasoning models
            as `max_completion_tokens`.
        extra: Merged last into the request body, so it can override anything; a value of `None` removes
            the key.
    """

    custom_id: str = Field(min_length=1)
    user_message: str = Field(min_length=1)
    temperature: float | None = Field(default=0.0, ge=0.0, le=2.0)
    max_tokens: int | None = Field(default=4096, gt=0)
    extra: dict[str, Any] = Field(default_factory=dict)


class BatchJobInfo(BaseModel):
    """A batch at the provider, as it was when last looked at.

    Attributes:
        job_id: The batch's id at the provider.
        provider: Which provider, for example `openai`.
        status: Where it stands.
        created_at: When it was created, in seconds since 1970, by the provider's clock.
        request_count: How many requests it holds.
        completed_count: How many the provider says it has answered: a progress meter, not an audit.
        failed_count: How many the provider says have failed; it is often wrong.
        errors: Why the batch was refused, one text per issue, with line numbers where the provider gave them.
        metadata: The key-value pairs the batch was created with.
        input_file_id: The file of its requests.
        output_file_id: The file of its answers, once there is one.
        error_file_id: The file of its failed requests, once there is one.
        raw: The provider's own object.
    """

    job_id: str
    provider: str
    status: BatchStatus
    created_at: float
    request_count: int = Field(default=0, ge=0)
    completed_count: int = Field(default=0, ge=0)
    failed_count: int = Field(default=0, ge=0)
    errors: list[str] = Field(default_factory=list)
    metadata: dict[str, str] = Field(default_factory=dict)
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    raw: Any = None


class ToolCallResult(BaseModel):
    """One call of a tool that the model asks for. `arguments` is empty where they were no JSON object."""

    id: str = ""
    name: str
    arguments: dict[str, Any] = Field(default_factory=dict)


class LLMResponse(BaseModel):
    """One answer.

    Attributes:
        content: The text, without the white space and the Markdown fence that may be around the whole of it.
        thinking: The reasoning text, where the provider gives it.
        parsed: The answer as data: an instance of the prompt's output model as a dict, or any JSON object
            or array the text was.
        tool_calls: The tools the model wants called.
        finish_reason: Why the model stopped.
        refusal: The model's own words where it refused.
        usage: Tokens: `prompt_tokens`, `completion_tokens` and `total_tokens`, 0 where the provider did not tell
            them, and where it did also `cached_tokens` and `reasoning_tokens`.
        model: The model as served.
        raw: The response body.
    """

    content: str | None = None
    thinking: str | None = None
    parsed: dict[str, Any] | list[Any] | None = None
    tool_calls: list[ToolCallResult] = Field(default_factory=list)
    finish_reason: FinishReason = FinishReason.STOP
    refusal: str | None = None
    usage: dict[str, int] = Field(default_factory=dict)
    model: str | None = None
    raw: Any = None


class BatchResult(BaseModel):
    """What became of one item.

    Attributes:
        custom_id: The item's name.
        response: The answer, where there is one; a refusal, a truncated or an invalid answer is here too.
        error: Why the item is not `ok`, or `None`.
        status: What became of it, in one of the ten words of `RowStatus`.
        error_code: The provider's own code for the error.
        raw: The line the provider returned.
    """

    custom_id: str
    response: LLMResponse | None = None
    error: str | None = None
    status: RowStatus = "ok"
    error_code: str | None = None
    raw: Any = None

    @property
    def ok(self) -> bool:
        """Whether there is an answer to use."""
        return self.error is None and self.response is not None
