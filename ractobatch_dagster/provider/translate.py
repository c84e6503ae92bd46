"""The client's exceptions in our words: which of them mean "later", "never" or "nobody knows"."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ractobatch_dagster.errors import (
    ProviderAPIError,
    ProviderAuthError,
    ProviderError,
    ProviderNotFoundError,
    ProviderTimeoutError,
    QueueFullError,
)
from ractobatch_dagster.provider.remote import says_file_missing, says_queue_full
from ractobatch_dagster.provider.retry import asked_pause
from ractobatch_dagster.secrecy import redacted

__all__ = ["misses_file", "translated"]

_HTTP_CLIENTS = ("httpx2", "httpx", "httpcore2", "httpcore")


def translated(
    error: Exception, doing: str, sdk: Any, *, creating: bool = False, now: float = 0.0, secrets: Collection[str] = ()
) -> ProviderError | None:
    """What the client raised, as one of our errors, or `None` if it has nothing to do with the provider.

    Args:
        error: What was raised.
        doing: What was being done, for the message.
        sdk: The client's package: `openai`, or one that is made alike.
        creating: A batch was being created, so that "too much" means the quota and will pass.
        now: Seconds since 1970, for a `Retry-After` that is a date.
        secrets: What the message must not hold; the provider may have echoed it.
    """
    doing = f"[{sdk.__name__}] {doing}"
    if isinstance(error, sdk.APITimeoutError):
        return ProviderTimeoutError(f"{doing}: no answer in time")
    if isinstance(error, sdk.APIStatusError):
        return _of_status(error, doing, creating, now, secrets)
    if isinstance(error, sdk.APIError):
        why = f"{error.message} ({error.__cause__})" if error.__cause__ else error.message
        return ProviderAPIError(redacted(f"{doing}: {why}", secrets))
    if isinstance(error, json.JSONDecodeError | UnicodeError):
        return ProviderAPIError(redacted(f"{doing}: what is sent or came back is no text: {error}", secrets))
    # a reply that breaks off while it is streamed comes up as the HTTP client's own error
    if type(error).__module__.partition(".")[0] not in _HTTP_CLIENTS:
        return None
    if type(error).__name__.endswith("Timeout"):
        return ProviderTimeoutError(f"{doing}: no answer in time")
    return ProviderAPIError(redacted(f"{doing}: the connection broke ({error})", secrets))


def _of_status(error: Any, doing: str, creating: bool, now: float, secrets: Collection[str]) -> ProviderError:
    status = int(error.status_code)
    said = error.code if hasattr(error, "code") else _kind(error.body)
    code = None if said is None else redacted(str(said), secrets)  # some servers write a number
    message = redacted(f"{doing}: {error.message}", secrets)
    kind: type[ProviderError] = ProviderAPIError
    if status in (401, 403):
        kind = ProviderAuthError
    elif status == 404:
        kind = ProviderNotFoundError
    elif creating and _is_queue_full(status, code, message):
        kind = QueueFullError
    return kind(message, status_code=status, code=code, retry_after=asked_pause(error.response.headers, now))


def _kind(body: Any) -> Any:
    """What Anthropic calls an error."""
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("type") if isinstance(error, dict) else None


def _is_queue_full(status: int, code: str | None, message: str) -> bool:
    if status == 429:
        return code not in ("insufficient_quota", "billing_hard_limit_reached")
    return status == 400 and says_queue_full(message, code)


def misses_file(error: ProviderError) -> bool:
    """Whether a create was refused for want of its input file: it is gone, or not visible everywhere yet."""
    return error.refused and says_file_missing(str(error))
