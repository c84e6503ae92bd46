"""What answers the requests: the protocol of a model, and the built-in one, which is plain rules.

`RuleModel` is no language model and says so in the name it gives itself. What it fills in is computed from
the text it is asked about: sentiment by VADER, unwanted effects by a list of words, and where a request brings
another JSON schema, a valid instance of it. The same request always gets the same answer.
"""

from __future__ import annotations

import base64
import hashlib
import math
import random
import secrets
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from ractobatch_dagster.local.calling import PIECE, chosen, likelihoods
from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.moderating import moderated
from ractobatch_dagster.local.plain import plain_answer
from ractobatch_dagster.local.problems import error_body
from ractobatch_dagster.local.rules import Reading
from ractobatch_dagster.local.schema import SchemaError, make_instance

__all__ = ["Answer", "Model", "RuleModel"]


@dataclass(frozen=True)
class Answer:
    """What a request is answered with.

    Attributes:
        status_code: The HTTP status; with one that is not 2xx the request has failed.
        body: The JSON body: of the endpoint's own kind, or `{"error": {...}}`.
    """

    status_code: int
    body: Mapping[str, Any]


class Model(Protocol):
    """Answers requests, in several threads at once."""

    @property
    def concurrency(self) -> int:
        """How many requests it is given at once."""
        ...

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """Answer one request.

        Args:
            endpoint: Where it would be sent, for example `/v1/chat/completions`.
            body: Its JSON body, as the client wrote it: nothing in it has been checked.
        """
        ...


class RuleModel:
    """The built-in model: rules, no network and no weights. It takes chats, responses, embeddings, completions,
    moderations, messages."""

    concurrency = 1  # it computes in Python, where a second thread gains nothing

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """Answer one request; one that cannot be answered gets a 400 that says why."""
        answerers = {
            "/v1/chat/completions": _chat,
            "/v1/responses": _response,
            "/v1/embeddings": _embeddings,
            "/v1/messages": _message,
            "/v1/completions": _completion,
            "/v1/moderations": _moderations,
        }
        try:
            if endpoint not in answerers:
                raise _RefusedError(f"The built-in model does not answer {endpoint}.", "url")
            return Answer(200, answerers[endpoint](body))
        except _RefusedError as refusal:
            message, param = refusal.args
            return Answer(400, error_body(400, message, param=param))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            message = f"The request body is malformed: {type(error).__name__}: {error}"
            return Answer(400, error_body(400, message))


class _RefusedError(Exception):
    """A request that is answered with a 400: the message, and the parameter to blame."""


def _chat(body: Mapping[str, Any]) -> Json:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _RefusedError("Missing required parameter: 'messages'.", "messages")
    text = _last_user_text(messages)
    functions = [tool.get("function") or {} for tool in body.get("tools") or [] if tool.get("type") == "function"]
    tools, likely = chosen(body, functions, text), None
    given = _tokens(msgspec.json.encode(messages))
    if not tools:
        wanted = body.get("response_format") or {}
        content = _content(text, wanted, (wanted.get("json_schema") or {}).get("schema"), "response_format")
        content, made, cut = _limit(content, body.get("max_completion_tokens") or body.get("max_tokens"))
        message: Json = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        reason = "length" if cut else "stop"
        likely = {"content": likelihoods(content), "refusal": None} if body.get("logprobs") else None
    else:
        called = [_called(tool, text) for tool in tools]
        calls = [{"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": one} for one in called]
        message = {"role": "assistant", "content": None, "refusal": None, "tool_calls": calls}
        made, reason = sum(_tokens(one["arguments"]) for one in called), "tool_calls"
    choices = [
        {"index": index, "message": message, "logprobs": likely, "finish_reason": reason}
        for index in range(int(body.get("n") or 1))
    ]
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.get("model"),
        "choices": choices,
        "usage": {
            "prompt_tokens": given,
            "completion_tokens": made * len(choices),
            "total_tokens": given + made * len(choices),
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        },
        "system_fingerprint": "fp_local_rules",
    }


def _response(body: Mapping[str, Any]) -> Json:
    asked = body.get("input")
    if not asked:
        raise _RefusedError("Missing required parameter: 'input'.", "input")
    text = asked if isinstance(asked, str) else _last_user_text(asked)
    given = _tokens(msgspec.json.encode(asked)) + _tokens(body.get("instructions") or "")
    tools = chosen(body, [tool for tool in body.get("tools") or [] if tool.get("type") == "function"], text)
    items, made, cut = _call_items(tools, text) if tools else _message_items(body, text)
    status = "incomplete" if cut else "completed"
    return {
        "id": f"resp_{secrets.token_hex(12)}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
        "model": body.get("model"),
        "output": items,
        "usage": {
            "input_tokens": given,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": given + made,
        },
    }


def _message(body: Mapping[str, Any]) -> Json:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _RefusedError("messages: Field required", "messages")
    if not isinstance(body.get("max_tokens"), int):
        raise _RefusedError("max_tokens: Field required", "max_tokens")
    text, wanted = _last_user_text(messages), (body.get("output_config") or {}).get("format") or {}
    choice = body.get("tool_choice") or {}
    tool = next((one for one in body.get("tools") or [] if one.get("name") == choice.get("name")), None)
    if tool is not None:
        made = _instance(tool.get("input_schema") or {"type": "object"}, text, "tools")
        block: Json = {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": tool["name"], "input": made}
        spent, reason = _tokens(_compact(made)), "tool_use"
    else:
        content = _content(text, wanted, wanted.get("schema"), "output_config.format")
        content, spent, cut = _limit(content, body["max_tokens"])
        block, reason = {"type": "text", "text": content}, "max_tokens" if cut else "end_turn"
    given = _tokens(msgspec.json.encode(messages)) + _tokens(msgspec.json.encode(body.get("system") or ""))
    return {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "model": body.get("model"),
        "content": [block],
        "stop_reason": reason,
        "stop_sequence": None,
        "usage": {
            "input_tokens": given,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": spent,
        },
    }


def _message_items(body: Mapping[str, Any], text: str) -> tuple[list[Json], int, bool]:
    """What is written, how many tokens that are, and whether it is cut off."""
    wanted = (body.get("text") or {}).get("format") or {}
    content = _content(text, wanted, wanted.get("schema"), "text.format")
    content, made, cut = _limit(content, body.get("max_output_tokens"))
    likely = likelihoods(content) if "message.output_text.logprobs" in (body.get("include") or ()) else []
    message = {
        "id": f"msg_{secrets.token_hex(12)}",
        "type": "message",
        "role": "assistant",
        "status": "incomplete" if cut else "completed",
        "content": [{"type": "output_text", "text": content, "annotations": [], "logprobs": likely}],
    }
    return [message], made, cut


def _call_items(tools: list[Mapping[str, Any]], text: str) -> tuple[list[Json], int, bool]:
    called = [_called(tool, text) for tool in tools]
    items = [
        {
            "id": f"fc_{secrets.token_hex(12)}",
            "call_id": f"call_{secrets.token_hex(12)}",
            "type": "function_call",
            "status": "completed",
            **one,
        }
        for one in called
    ]
    return items, sum(_tokens(one["arguments"]) for one in called), False


def _called(tool: Mapping[str, Any], text: str) -> Json:
    """A call of a function, with arguments that fit."""
    arguments = _instance(tool.get("parameters") or {"type": "object"}, text, "tools")
    return {"name": tool.get("name"), "arguments": _compact(arguments)}


def _embeddings(body: Mapping[str, Any]) -> Json:
    asked = body.get("input")
    if not asked:
        raise _RefusedError("Missing required parameter: 'input'.", "input")
    packed = body.get("encoding_format") == "base64"
    texts = asked if isinstance(asked, list) and not isinstance(asked[0], int) else [asked]
    size = int(body.get("dimensions") or 256)
    used = sum(_tokens(str(text)) for text in texts)
    return {
        "object": "list",
        "model": body.get("model"),
        "data": [
            {"object": "embedding", "index": index, "embedding": _pack(vector) if packed else vector}
            for index, vector in enumerate(_unit_vector(str(text), size) for text in texts)
        ],
        "usage": {"prompt_tokens": used, "total_tokens": used},
    }


def _completion(body: Mapping[str, Any]) -> Json:
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise _RefusedError("Missing required parameter: 'prompt'.", "prompt")
    text, made, cut = _limit(_content(prompt, {}, None, "prompt"), body.get("max_tokens"))
    given, many = _tokens(prompt), int(body.get("n") or 1)
    likely = None
    if body.get("logprobs") is not None:
        tokens = likelihoods(text)
        likely = {
            "tokens": [one["token"] for one in tokens],
            "token_logprobs": [one["logprob"] for one in tokens],
            "top_logprobs": None,
            "text_offset": [PIECE * number for number in range(len(tokens))],
        }
    return {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": body.get("model"),
        "choices": [
            {"index": index, "text": text, "logprobs": likely, "finish_reason": "length" if cut else "stop"}
            for index in range(many)
        ],
        "usage": {
            "prompt_tokens": given,
            "completion_tokens": made * many,
            "total_tokens": given + made * many,
        },
    }


def _moderations(body: Mapping[str, Any]) -> Json:
    asked = body.get("input")
    if not asked:
        raise _RefusedError("Missing required parameter: 'input'.", "input")
    if isinstance(asked, list) and isinstance(asked[0], dict):  # of one text and its pictures there is one judgement
        asked = "\n".join(str(part.get("text", "")) for part in asked)
    return {
        "id": f"modr-{secrets.token_hex(12)}",
        "model": body.get("model") or "omni-moderation-latest",
        "results": [moderated(str(text)) for text in (asked if isinstance(asked, list) else [asked])],
    }


def _pack(vector: list[float]) -> str:
    """Little-endian 32-bit floats, which take a quarter of the space."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _unit_vector(text: str, size: int) -> list[float]:
    """A vector of length 1 in which each word of the text pulls in a direction of its own."""
    vector = [0.0] * size
    for word in text.lower().split() or [""]:
        draw = random.Random(hashlib.blake2b(word.encode(), digest_size=8).digest())
        for _ in range(8):
            vector[draw.randrange(size)] += draw.choice((-1.0, 1.0))
    length = math.sqrt(sum(value * value for value in vector))
    if length == 0:
        vector[0] = length = 1.0
    return [value / length for value in vector]


def _content(text: str, wanted: Mapping[str, Any], schema: Any, param: str) -> str:
    kind = wanted.get("type")
    if kind == "json_schema":
        return _compact(_instance(schema, text, param))
    reading = Reading(text)
    if kind == "json_object":
        return _compact({"summary": reading.summary, "sentiment": reading.sentiment})
    return plain_answer(reading)


def _instance(schema: Any, text: str, param: str) -> Any:
    try:
        return make_instance(schema, Reading(text))
    except SchemaError as error:
        raise _RefusedError(f"Invalid schema: {error}", param) from error


def _limit(content: str, most: Any) -> tuple[str, int, bool]:
    """The content within its limit, how many tokens it has, and whether it was cut."""
    tokens = _tokens(content)
    if not isinstance(most, int) or tokens <= most:
        return content, tokens, False
    return content[: most * PIECE], most, True


def _tokens(text: str | bytes) -> int:
    """A text's number of tokens, roughly."""
    return (len(text) + PIECE - 1) // PIECE


def _compact(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _last_user_text(messages: list[Any]) -> str:
    """What the user said last, or whatever was said last."""
    spoken = [message for message in messages if isinstance(message, dict)]
    if not spoken:
        raise _RefusedError("Each message must be an object.", "messages")
    message = next((m for m in reversed(spoken) if m.get("role") == "user"), spoken[-1])
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
