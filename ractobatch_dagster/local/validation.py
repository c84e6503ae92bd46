"""What the API finds wrong with an input file before it runs any of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.problems import MESSAGES

__all__ = ["Limits", "Validated", "validate"]


@dataclass(frozen=True)
class Limits:
    """What one batch may hold; the defaults are OpenAI's.

    Attributes:
        max_requests: Requests in one input file.
        max_bytes: Bytes of one input file.
        max_listed: Errors that are listed before validation gives up.
    """

    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    max_listed: int = 100


@dataclass
class Validated:
    """The outcome of a validation: no `errors`, or a file that will not run."""

    custom_ids: list[str] = field(default_factory=list)
    model: str | None = None
    errors: list[Json] = field(default_factory=list)

    def blame(self, code: str, message: str, *, param: str | None = None, line: int | None = None) -> None:
        """Add an error."""
        self.errors.append({"code": code, "message": message, "param": param, "line": line})


def validate(path: Path, endpoint: str, limits: Limits) -> Validated:
    """Check every line of an input file, in one pass that holds one line at a time."""
    found = Validated()
    seen: set[str] = set()
    lines = 0
    with path.open("rb") as file:
        for lines, raw in enumerate(file, start=1):
            if lines > limits.max_requests:
                found.blame(
                    "too_many_tasks",
                    f"The batch input file holds more than the {limits.max_requests} requests that one batch may have.",
                )
                break
            _check_line(raw, lines, endpoint, found, seen)
            if len(found.errors) >= limits.max_listed:
                break
    if lines == 0:
        found.blame("empty_file", "The batch input file is empty. It must hold at least one request.")
    return found


def _check_line(raw: bytes, line: int, endpoint: str, found: Validated, seen: set[str]) -> None:
    try:
        request = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        request = None
    if not isinstance(request, dict):
        found.blame("invalid_json_line", "This line is not parseable as valid JSON.", line=line)
        return
    missing = [name for name in ("custom_id", "method", "url", "body") if request.get(name) in (None, "")]
    for name in missing:
        found.blame("missing_required_parameter", f"Missing required parameter: '{name}'.", param=name, line=line)
    if not missing:
        _check_request(request, line, endpoint, found, seen)


def _check_request(request: Json, line: int, endpoint: str, found: Validated, seen: set[str]) -> None:
    custom_id, body = request["custom_id"], request["body"]
    if not isinstance(custom_id, str):
        found.blame("invalid_request", "The custom_id must be a string.", param="custom_id", line=line)
    elif custom_id in seen:
        found.blame(
            "duplicate_custom_id",
            f"The custom_id {custom_id!r} is a duplicate of another request. The custom_id parameter must be "
            "unique for each request in a batch.",
            param="custom_id",
            line=line,
        )
    else:
        seen.add(custom_id)
        found.custom_ids.append(custom_id)
    if request["method"] != "POST":
        found.blame("invalid_method", "The method must be 'POST'.", param="method", line=line)
    if request["url"] != endpoint:
        found.blame(
            "url_mismatch",
            f"The url {request['url']!r} does not match the endpoint of the batch, {endpoint!r}.",
            param="url",
            line=line,
        )
    _check_body(body, line, found, one_model=endpoint != MESSAGES)


def _check_body(body: Any, line: int, found: Validated, *, one_model: bool) -> None:
    if not isinstance(body, dict):
        found.blame("invalid_request", "The body must be a JSON object.", param="body", line=line)
        return
    model = body.get("model")
    if not isinstance(model, str) or not model:
        found.blame(
            "missing_required_parameter",
            "Missing required parameter: 'body.model'.",
            param="body.model",
            line=line,
        )
    elif found.model is None:
        found.model = model
    elif one_model and model != found.model:
        found.blame(
            "model_mismatch",
            f"The model {model!r} differs from {found.model!r} of the lines before. All requests of a batch "
            "must use the same model.",
            param="body.model",
            line=line,
        )
    if body.get("stream"):
        found.blame(
            "invalid_request",
            "Streaming is not supported in a batch: leave 'stream' out.",
            param="body.stream",
            line=line,
        )
