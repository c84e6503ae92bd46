"""The line that nearly all are: a plain answer, read without building what nobody looks at.

Anything else about a line (an error, a refusal, a tool call, a field of another type) sends it the general way, through
`read_line` and `classify`, with the same outcome.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

__all__ = ["PlainAnswer", "read_answer"]

PlainAnswer = tuple[str, str, str, str, int, int | None, int, int | None]
"""The `custom_id`, text, model, request id, and the tokens: prompt, cached, completion, reasoning."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Message(msgspec.Struct, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    refusal: None = None
    tool_calls: None = None
    reasoning_content: None = None
    reasoning: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Message
    finish_reason: Literal["stop"]


class _Body(msgspec.Struct, gc=False):
    model: str
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: _Usage
    error: None = None


class _Response(msgspec.Struct, gc=False):
    status_code: Annotated[int, msgspec.Meta(ge=200, lt=300)]
    request_id: Annotated[str, msgspec.Meta(min_length=1)]
    body: _Body


class _Line(msgspec.Struct, gc=False):
    custom_id: Annotated[str, msgspec.Meta(min_length=1)]
    response: _Response
    error: None = None


_decode = msgspec.json.Decoder(_Line).decode
_NO_DETAILS = _Details()


def read_answer(data: bytes) -> PlainAnswer | None:
    """What a line says that is a plain answer; `None` for any other."""
    try:
        line = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    response = line.response
    body = response.body
    usage = body.usage
    return (
        line.custom_id,
        body.choices[0].message.content,
        body.model,
        response.request_id,
        usage.prompt_tokens,
        (usage.prompt_tokens_details or _NO_DETAILS).cached_tokens,
        usage.completion_tokens,
        (usage.completion_tokens_details or _NO_DETAILS).reasoning_tokens,
    )
