"""Errors in the shape in which OpenAI gives them, and in Anthropic's."""

from __future__ import annotations

from collections.abc import Mapping

from ractobatch_dagster.local.disk import Json

__all__ = ["ANTHROPIC_ERRORS", "MESSAGES", "ApiError", "as_told", "error_body"]

MESSAGES = "/v1/messages"
"""Below this everything is in Anthropic's words."""

ANTHROPIC_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
"""What Anthropic calls an HTTP status."""


class ApiError(Exception):
    """A request that is answered with an error."""

    def __init__(
        self,
        status_code: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.body = error_body(status_code, message, code=code, param=param)
        self.headers = dict(headers or {})


def error_body(status_code: int, message: str, *, code: str | None = None, param: str | None = None) -> Json:
    """The JSON body of an error: of an HTTP answer, or of one request inside a batch."""
    if status_code == 429:
        kind, code = "requests", code or "rate_limit_exceeded"
    elif status_code >= 500:
        kind, code = "server_error", code or "server_error"
    else:
        kind = "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def as_told(path: str, status_code: int, body: Json) -> Json:
    """An error's body as whoever called this path expects it."""
    if not path.startswith(MESSAGES):
        return body
    kind = ANTHROPIC_ERRORS.get(status_code, "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": body["error"]["message"]}}
