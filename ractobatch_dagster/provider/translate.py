"""The client's exceptions in our words, and back: which of them mean "later", "never" or "nobody knows"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ractobatch_dagster.errors import (
    ProviderAPIError,
    ProviderAuthError,
    ProviderError,
    ProviderNotFoundError,
    ProviderTimeoutError,
    QueueFullError,
)

__all__ = ["not_found_yet", "translated"]

_HTTP_CLIENTS = ("httpx2", "httpx", "httpcore2", "httpcore")


@contextmanager
def translated(doing: str, *, creating: bool = False) -> Iterator[None]:
    """Raise what goes wrong inside as one of our errors.

    Args:
        doing: What is being done, for the message.
        creating: A batch is being created, so that "too much" means the quota and will pass.
    """
    import openai

    try:
        yield
    except openai.APITimeoutError as error:
        raise ProviderTimeoutError(f"[openai] {doing}: no answer in time") from error
    except openai.APIStatusError as error:
        raise _of_status(error, doing, creating) from error
    except openai.APIError as error:
        raise ProviderAPIError(f"[openai] {doing}: {error.message}") from error
    except Exception as error:
        # a reply that breaks off while it is streamed comes up as the HTTP client's own error
        if type(error).__module__.partition(".")[0] not in _HTTP_CLIENTS:
            raise
        raise ProviderAPIError(f"[openai] {doing}: the connection broke ({error})") from error


def _of_status(error: object, doing: str, creating: bool) -> ProviderError:
    status = int(getattr(error, "status_code", 0))
    code = getattr(error, "code", None)
    code = None if code is None else str(code)  # some servers write a number
    message = f"[openai] {doing}: {getattr(error, 'message', error)}"
    kind: type[ProviderError] = ProviderAPIError
    if status in (401, 403):
        kind = ProviderAuthError
    elif status == 404:
        kind = ProviderNotFoundError
    elif creating and _is_queue_full(status, code, message):
        kind = QueueFullError
    return kind(message, status_code=status, code=code)


def _is_queue_full(status: int, code: str | None, message: str) -> bool:
    if status == 429:
        return code not in ("insufficient_quota", "billing_hard_limit_reached")
    return status == 400 and ("token_limit_exceeded" in (code or message) or "nqueued token" in message)


def not_found_yet(error: ProviderError) -> bool:
    """Whether a create was refused only because a file just uploaded is not visible everywhere yet."""
    return error.status_code in (400, 404) and "cannot find file" in str(error).lower()
