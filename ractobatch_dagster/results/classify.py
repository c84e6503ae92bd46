"""One line of an output or error file as an outcome. Total: any JSON object has one, and none raises."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel, ValidationError

from ractobatch_dagster.models import RETRYABLE_CODES, BatchStatus, RowStatus
from ractobatch_dagster.results.messages import as_chat, as_line
from ractobatch_dagster.secrecy import redacted

__all__ = ["Outcome", "classify", "no_line", "parse_json", "parse_text", "without_fence"]


@dataclass(slots=True)
class Outcome:
    """What became of one request, before the answer is held against the output model.

    Attributes:
        retryable: Asking again may well succeed, since the failure says nothing about the request.
        never_run: The provider did not get to it, so that asking again uses up none of the row's attempts.
        tool_calls: The message's own `tool_calls`, as they came.
        choices: All answers, where there are several: `text`, `refusal`, `finish_reason` and `calls` of each.
        logprobs: The tokens of the answer, where their probabilities were asked for: `token` and `logprob` of each.
        line: The line itself.
    """

    custom_id: str
    status: RowStatus
    retryable: bool = False
    never_run: bool = False
    text: str | None = None
    finish_reason: str | None = None
    model: str | None = None
    error_code: str | None = None
    error: str | None = None
    request_id: str | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    reasoning_tokens: int | None = None
    refusal: str | None = None
    thinking: str | None = None
    tool_calls: list[Any] = field(default_factory=list)
    choices: list[dict[str, Any]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    line: dict[str, Any] | None = None

    @property
    def more(self) -> str | None:
        """What the answer holds beside its text, as JSON; `None` where that is nothing."""
        parts = {"calls": self.tool_calls, "choices": self.choices, "logprobs": self.logprobs}
        return _text({name: part for name, part in parts.items() if part} or None)


def classify(line: dict[str, Any], *, raw: bool = False) -> Outcome:
    """The outcome that a line tells; of a `raw` one the whole body is the answer, of which nothing else is known.

    Success needs a 2xx and a body without an error: the provider puts HTTP errors into `response.body.error` with
    `error: null`, and ghosts with `status_code: 0` into files that it counts as completed.
    """
    told = as_line(line) if isinstance(line.get("result"), dict) and "response" not in line else line
    outcome = Outcome(_text(told.get("custom_id")) or "", "error", line=line)
    return _told(outcome, told, raw=raw)


def _told(outcome: Outcome, line: dict[str, Any], *, raw: bool) -> Outcome:
    response = line.get("response")
    response = response if isinstance(response, dict) else {}
    outcome.request_id = _text(response.get("request_id")) or None
    if line.get("error"):
        return _failed(outcome, line["error"], response.get("status_code"))
    body, code = response.get("body"), _int(response.get("status_code"))
    if isinstance(body, str):  # some servers write the body as JSON within the JSON
        body = parse_json(body) or body
    problem = body.get("error") if isinstance(body, dict) else None
    if code is None or not 200 <= code < 300 or problem or not isinstance(body, dict):
        said = problem or body or response.get("message") or _NOTHING_SAID
        return _failed(outcome, said, code or 0)
    return _raw(outcome, body) if raw else _answered(outcome, body)


def no_line(custom_id: str, status: BatchStatus) -> Outcome:
    """The outcome of a request that is in neither file of a batch that ended like this."""
    word: RowStatus = "missing"
    if status is BatchStatus.EXPIRED:
        word = "expired"
    elif status is BatchStatus.CANCELLED:
        word = "cancelled"
    error = f"The provider returned no line for it; its batch ended as {status.value}."
    return Outcome(
        custom_id,
        word,
        retryable=True,
        never_run=word != "missing",
        error=error,
        error_code=f"no_line_{status.value}",
    )


def _failed(outcome: Outcome, said: Any, status_code: Any) -> Outcome:
    said = said if isinstance(said, dict) else {"message": said}
    code, message = _text(said.get("code")), _text(said.get("message"))
    http = _int(status_code)
    outcome.error_code = code or _text(said.get("type")) or (f"http_{http}" if http is not None else None)
    said_text = message or code or _text(said)
    outcome.error = redacted(said_text) if said_text else None  # gateways echo their own keys
    if code in _NEVER_RUN:
        outcome.status, outcome.retryable, outcome.never_run = _NEVER_RUN[code], True, True
    else:
        outcome.retryable = code in _RETRYABLE_WORDS or (
            http is not None and (http in RETRYABLE_CODES or http >= 500 or 200 <= http < 300)
        )
    return outcome


def _answered(outcome: Outcome, body: dict[str, Any]) -> Outcome:
    if body.get("type") == "message":
        body = as_chat(body)
    outcome.model = _text(body.get("model"))
    _count_tokens(outcome, body.get("usage"))
    if isinstance(body.get("output"), list):
        return _responded(outcome, body)
    if body.get("object") == "list" and isinstance(body.get("data"), list):
        return _embedded(outcome, body["data"])
    choices = body.get("choices")
    if choices is None and isinstance(body.get("results"), list):
        return _moderated(outcome, body["results"])
    if not (isinstance(choices, list) and choices and isinstance(choices[0], dict)):
        return _failed(outcome, {"code": "no_choices", "message": "Empty choices in response."}, 200)
    choice = choices[0]
    message = _message(choice)
    outcome.thinking = _text(message.get("reasoning_content") or message.get("reasoning")) or None
    first = _choice(choice)
    outcome.text, outcome.refusal = first["text"], first["refusal"]
    outcome.finish_reason, outcome.tool_calls = first["finish_reason"], first["calls"]
    outcome.logprobs = _logprobs(choice.get("logprobs"))
    if len(choices) > 1:
        outcome.choices = [first, *(_choice(one if isinstance(one, dict) else {}) for one in choices[1:])]
    return _judged(outcome)


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    message = choice.get("message")
    return message if isinstance(message, dict) else {}


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    """What one of the answers says."""
    message = _message(choice)
    calls = message.get("tool_calls")
    return {
        "text": _content(message.get("content", choice.get("text"))),  # a completion is no message
        "refusal": _text(message.get("refusal")) or None,
        "finish_reason": _text(choice.get("finish_reason")),
        "calls": calls if isinstance(calls, list) else [],
    }


def _logprobs(said: Any) -> list[dict[str, Any]]:
    """Each token with the logarithm of its probability: of a chat, of a response's part, or of a completion."""
    if isinstance(said, dict) and isinstance(said.get("tokens"), list):
        logs = said.get("token_logprobs")
        pairs = list(zip_longest(said["tokens"], logs if isinstance(logs, list) else []))[: len(said["tokens"])]
    else:
        listed = said.get("content") or said.get("refusal") if isinstance(said, dict) else said
        some = listed if isinstance(listed, list) else []
        pairs = [(one.get("token"), one.get("logprob")) for one in some if isinstance(one, dict)]
    return [{"token": _text(token) or "", "logprob": _float(log)} for token, log in pairs]


def _float(value: Any) -> float | None:
    """A finite number; whole ones come without a point."""
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        return None
    return float(value) if value == value else None  # noqa: PLR0124 (NaN, which JSON has no word for)


_LARGEST = 1e300


def _responded(outcome: Outcome, body: dict[str, Any]) -> Outcome:
    """What the items of a response say: texts, refusals, function calls, summaries of the reasoning."""
    texts, refusals, thoughts = list[str](), list[str](), list[str]()
    for item in (item for item in body["output"] if isinstance(item, dict)):
        kind = item.get("type")
        parts = item.get("summary" if kind == "reasoning" else "content")
        said = [part for part in parts if isinstance(part, dict)] if isinstance(parts, list) else []
        if kind == "reasoning":
            thoughts += [text for part in said if (text := _text(part.get("text")))]
        elif kind == "function_call":
            called = {"name": item.get("name"), "arguments": item.get("arguments")}
            outcome.tool_calls.append({"id": item.get("call_id"), "type": "function", "function": called})
        elif kind == "message":
            written = [part for part in said if part.get("type") == "output_text"]
            texts += [_text(part.get("text")) or "" for part in written]
            outcome.logprobs += [one for part in written for one in _logprobs(part.get("logprobs"))]
            refusals += [_text(part.get("refusal")) or "" for part in said if part.get("type") == "refusal"]
    outcome.text = "".join(texts) if texts else None
    outcome.refusal, outcome.thinking = "".join(refusals) or None, "\n".join(thoughts) or None
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) and body.get("status") == "incomplete" else None
    ends = {None: "tool_calls" if outcome.tool_calls else "stop", "max_output_tokens": "length"}
    outcome.finish_reason = ends.get(reason, _text(reason))
    return _judged(outcome)


def _embedded(outcome: Outcome, data: list[Any]) -> Outcome:
    """The one vector that was asked for: packed as text, or written out."""
    first = data[0].get("embedding") if data and isinstance(data[0], dict) else None
    outcome.text = _text(first)
    if outcome.prompt_tokens is not None and outcome.completion_tokens is None:
        outcome.completion_tokens = 0
    return _judged(outcome)


def _moderated(outcome: Outcome, results: list[Any]) -> Outcome:
    """What is said of the one text that was asked about, at no price."""
    outcome.text = _text(results[0]) if results else None
    outcome.prompt_tokens, outcome.completion_tokens = outcome.prompt_tokens or 0, outcome.completion_tokens or 0
    return _judged(outcome)


def _raw(outcome: Outcome, body: dict[str, Any]) -> Outcome:
    outcome.model = _text(body.get("model"))
    _count_tokens(outcome, body.get("usage"))
    outcome.text = _text(body)
    return _judged(outcome)


def _judged(outcome: Outcome) -> Outcome:
    """Whether a complete answer came, from what the model itself says about it."""
    if outcome.finish_reason == "content_filter":
        outcome.status, outcome.error_code = "content_filter", "content_filter"
        outcome.error = "The provider's content filter cut the answer off."
    elif outcome.refusal:
        outcome.status, outcome.error_code, outcome.error = "refusal", "refusal", outcome.refusal
        outcome.text = outcome.text or outcome.refusal
    elif outcome.finish_reason == "length":
        outcome.status, outcome.error_code = "truncated", "length"
        spent = " Reasoning used the whole budget." if not outcome.text and outcome.reasoning_tokens else ""
        outcome.error = f"The answer was cut off at the token limit.{spent} Raise max_tokens."
    elif outcome.text is None and not outcome.tool_calls:
        outcome.status, outcome.error_code = "invalid_output", "no_content"
        outcome.error = "The model returned neither text nor a tool call."
    else:
        outcome.status = "ok"
    return outcome


def _count_tokens(outcome: Outcome, usage: Any) -> None:
    if not isinstance(usage, dict):
        return
    outcome.prompt_tokens = _int(usage.get("prompt_tokens", usage.get("input_tokens")))
    outcome.completion_tokens = _int(usage.get("completion_tokens", usage.get("output_tokens")))
    read = usage.get("prompt_tokens_details", usage.get("input_tokens_details"))
    made = usage.get("completion_tokens_details", usage.get("output_tokens_details"))
    outcome.cached_tokens = _int(read.get("cached_tokens")) if isinstance(read, dict) else None
    outcome.reasoning_tokens = _int(made.get("reasoning_tokens")) if isinstance(made, dict) else None


def parse_text(text: str | None, output_type: type[BaseModel]) -> tuple[BaseModel | None, str | None]:
    """The answer as an instance of the output model, or `None` and why it is none."""
    try:
        return output_type.model_validate_json(without_fence(text or "")), None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return None, f"{place}: {first['msg']}{more}" if place else f"{first['msg']}{more}"
    except Exception as error:  # noqa: BLE001 (a validator of the user's may raise anything, and the answer is paid for)
        return None, f"{type(error).__name__}: {error}"


def parse_json(text: str) -> dict[str, Any] | list[Any] | None:
    """The JSON object or array that the text is, if it is one."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, (dict, list)) else None


_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\r?\n(.*?)\r?\n?[ \t]*```\s*\Z", re.DOTALL)


def without_fence(text: str) -> str:
    """The text without a Markdown fence, where the fence holds the whole of it; otherwise as it is."""
    match = _FENCE.match(text)
    return match[1] if match and "```" not in match[1] else text


def _content(content: Any) -> str | None:
    """Text, or the text parts of a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        texts = [part for part in parts if isinstance(part, str)]
        return _text("".join(texts) if texts else content)
    return _text(content)


def _text(value: Any) -> str | None:
    """A value as text that UTF-8 can hold; half a character is replaced."""
    if value is None:
        return None
    try:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except RecursionError:
        text = "[nested too deep]"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _int(value: Any) -> int | None:
    """A count that 64 bits can hold, never below 0; some servers write it as text, or as a float."""
    if isinstance(value, bool):
        return None
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 <= number < 1 << 63 else None


_NOTHING_SAID = {"code": "no_answer", "message": "The provider answered nothing."}
_NEVER_RUN: dict[str | None, RowStatus] = {"batch_expired": "expired", "batch_cancelled": "cancelled"}
_RETRYABLE_WORDS = frozenset({"request_timeout", "rate_limit_exceeded", "server_error", "internal_error", "no_answer"})
