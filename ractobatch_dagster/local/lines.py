"""The line of a result file that answers one request, or that stands for what became of it instead."""

from __future__ import annotations

import secrets
from collections.abc import Callable

import msgspec

from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.faults import Fate
from ractobatch_dagster.local.problems import error_body

__all__ = ["CANCELLED", "EXPIRED", "Ask", "has_failed", "result_line", "unfinished_line", "with_separators"]

Ask = Callable[[Json], tuple[int, Json]]
"""Gives the status and body that answer a request."""

EXPIRED = ("batch_expired", "This request could not be executed before the completion window expired.")
CANCELLED = ("batch_cancelled", "This request was not executed because the batch was cancelled.")

_ERRORS = {
    "error": ("server_error", "The server had an error while processing this request."),
    "expired": EXPIRED,
    "cancelled": CANCELLED,
}


def result_line(request: Json, fate: Fate | None, ask: Ask) -> Json:
    """The line for a request that has been taken up."""
    custom_id = request["custom_id"]
    if fate in _ERRORS:
        return unfinished_line(custom_id, *_ERRORS[str(fate)])
    if fate in ("ghost", 0):
        return _line(custom_id, {"status_code": 0, "request_id": "", "body": {}}, None)
    body: Json | str
    if isinstance(fate, int):
        status, body = fate, error_body(fate, f"This request was made to fail with status {fate}.")
    elif fate == "body_error":
        status, body = 200, error_body(400, "This request was made to fail with an error in its body.")
    else:
        status, body = ask(request)
        body = _altered(body, fate)
    return _line(custom_id, {"status_code": status, "request_id": f"req_{secrets.token_hex(12)}", "body": body}, None)


def unfinished_line(custom_id: str, code: str, message: str) -> Json:
    """The line for a request that was not executed."""
    return _line(custom_id, None, {"code": code, "message": message})


def has_failed(line: Json) -> bool:
    """Whether a line belongs into the error file."""
    response = line["response"]
    return response is None or not 200 <= response["status_code"] < 300


def with_separators(body: Json) -> Json:
    """An answer with characters in it that some take for the end of a line."""
    return {**body, "system_fingerprint": "fp_\u2028local\u2029\u0085"}


def _altered(body: Json, fate: Fate | None) -> Json | str:
    match fate:
        case "text_body":
            return msgspec.json.encode(body).decode()
        case "no_usage":
            return {**body, "usage": None}
        case "separators":
            return with_separators(body)
        case _:
            return body


def _line(custom_id: str, response: Json | None, error: Json | None) -> Json:
    return {
        "id": f"batch_req_{secrets.token_hex(12)}",
        "custom_id": custom_id,
        "response": response,
        "error": error,
    }
