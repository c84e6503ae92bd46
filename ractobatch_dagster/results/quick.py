"""The line that nearly all are: a plain answer, read without building what nobody looks at.

Anything else about a line (an error, a refusal, a tool call, a second choice, a field of another type) sends it the
general way, through `read_line` and `classify`, with the same outcome.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from ractobatch_dagster.provider.naming import untagged

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


class _Said(msgspec.Struct, gc=False):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    refusal: None = None
    tool_calls: None = None
    reasoning_content: None = None
    reasoning: None = None


class _Choice(msgspec.Struct, gc=False):
    message: _Said
    finish_reason: Literal["stop"]
    logprobs: None = None


class _Body(msgspec.Struct, gc=False):
    model: str
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1, max_length=1)]
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


class _Block(msgspec.Struct, gc=False):
    type: Literal["text"]
    text: Annotated[str, msgspec.Meta(min_length=1)]


class _Spent(msgspec.Struct, gc=False):
    input_tokens: _Count
    output_tokens: _Count
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    output_tokens_details: None = None


class _Message(msgspec.Struct, gc=False):
    id: Annotated[str, msgspec.Meta(min_length=1)]
    model: str
    content: Annotated[list[_Block], msgspec.Meta(min_length=1, max_length=1)]
    stop_reason: Literal["end_turn", "stop_sequence"]
    usage: _Spent


class _Result(msgspec.Struct, gc=False):
    type: Literal["succeeded"]
    message: _Message


class _MessageLine(msgspec.Struct, gc=False):
    custom_id: Annotated[str, msgspec.Meta(min_length=1)]
    result: _Result
    response: msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Line).decode
_decode_message = msgspec.json.Decoder(_MessageLine).decode
_NO_DETAILS = _Details()


def read_answer(data: bytes) -> PlainAnswer | None:
    """What a line says that is a plain answer; `None` for any other."""
    try:
        line = _decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_message(data)
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


def _read_message(data: bytes) -> PlainAnswer | None:
    """The same of a line of Anthropic's results."""
    try:
        line = _decode_message(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    message = line.result.message
    usage = message.usage
    read = usage.cache_read_input_tokens
    prompt = usage.input_tokens + (read or 0) + (usage.cache_creation_input_tokens or 0)
    if prompt >= 1 << 63:
        return None
    return (
        untagged(line.custom_id),
        message.content[0].text,
        message.model,
        message.id,
        prompt,
        read,
        usage.output_tokens,
        None,
    )
