"""Lines of Anthropic's results, and its messages, in the words of the chat completions that everything else reads.

Total, as `classify` is: whatever a line holds, it becomes one that `classify` takes.
"""

from __future__ import annotations

import json
from typing import Any

from ractobatch_dagster.provider.naming import untagged

__all__ = ["STOPS", "as_chat", "as_line"]

_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""What a direct call would be answered with; what is not here is the provider's own trouble. None of them is billed."""

STOPS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
"""Why a message ends, as chat completions say it."""

_UNRUN = {
    "expired": {"code": "batch_expired", "message": "The batch expired before this request was run."},
    "canceled": {"code": "batch_cancelled", "message": "The batch was cancelled before this request was run."},
}


def as_line(line: dict[str, Any]) -> dict[str, Any]:
    """A line of a message batch's results as a line of an output or error file."""
    result = line["result"]
    custom_id = line.get("custom_id")
    made = {"custom_id": untagged(custom_id) if isinstance(custom_id, str) else custom_id}
    if (kind := _word(result.get("type"))) in _UNRUN:
        return made | {"response": None, "error": _UNRUN[kind]}
    if kind == "succeeded" and isinstance(message := result.get("message"), dict):
        return made | {"response": {"status_code": 200, "request_id": message.get("id"), "body": as_chat(message)}}
    said = result.get("error")
    said = said if isinstance(said, dict) else {}
    inner = said["error"] if isinstance(said.get("error"), dict) else said
    status = _STATUS.get(_word(inner.get("type")), 500)
    return made | {
        "response": {"status_code": status, "request_id": said.get("request_id"), "body": {"error": inner or result}}
    }


def as_chat(message: dict[str, Any]) -> dict[str, Any]:
    """A message as a chat completion."""
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []

    def texts(kind: str, name: str) -> list[str]:
        return [block[name] for block in blocks if block.get("type") == kind and isinstance(block.get(name), str)]

    said = texts("text", "text")
    reason = _word(message.get("stop_reason"))
    spoken: dict[str, Any] = {
        "content": "".join(said) if said else None,
        "reasoning_content": "\n".join(texts("thinking", "thinking")) or None,
        "tool_calls": [_tool_call(block) for block in blocks if block.get("type") == "tool_use"],
    }
    if reason == "refusal":
        spoken["refusal"] = _why(message.get("stop_details")) or spoken["content"] or "The model refused to answer."
    return {
        "model": message.get("model"),
        "choices": [{"message": spoken, "finish_reason": STOPS.get(reason, reason or None)}],
        "usage": _usage(message.get("usage")),
    }


def _tool_call(block: dict[str, Any]) -> dict[str, Any]:
    try:
        arguments = json.dumps(block.get("input"), ensure_ascii=False)
    except RecursionError:
        arguments = "{}"
    return {
        "id": block.get("id"),
        "type": "function",
        "function": {"name": block.get("name"), "arguments": arguments},
    }


def _why(details: Any) -> str | None:
    """What a refusal says of itself."""
    said = details if isinstance(details, dict) else {}
    words = [_word(said.get(name)) for name in ("category", "explanation")]
    return ": ".join(word for word in words if word) or None


def _usage(usage: Any) -> dict[str, Any] | None:
    """Tokens as chat completions count them: the prompt's include what the cache gave and what went into it."""
    if not isinstance(usage, dict):
        return None
    parts = [usage.get(name) for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")]
    made = usage.get("output_tokens_details")
    return {
        "prompt_tokens": sum(part for part in parts if _is_count(part)) if _is_count(parts[0]) else None,
        "prompt_tokens_details": {"cached_tokens": parts[1]},
        "completion_tokens": usage.get("output_tokens"),
        "completion_tokens_details": {
            "reasoning_tokens": made.get("thinking_tokens") if isinstance(made, dict) else None
        },
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _word(value: Any) -> str:
    return value if isinstance(value, str) else ""
