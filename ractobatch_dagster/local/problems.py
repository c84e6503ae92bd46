"""Errors in the shape in which OpenAI gives them."""

from __future__ import annotations

from collections.abc import Mapping

from ractobatch_dagster.local.disk import Json

__all__ = ["ApiError", "error_body"]


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
