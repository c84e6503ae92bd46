"""The line that nearly all are: a plain answer, read without building what nobody looks at.

Anything else about a line (an error, a refusal, a tool call, a field of another type) sends it the general way, through
`read_lines` and `classify`, with the same outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import msgspec

from ractobatch_dagster.results.classify import Outcome
from ractobatch_dagster.results.lines import BadLine, raw_lines, read_line

__all__ = ["Answered", "answer_lines"]

_Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class _Details(msgspec.Struct):
    cached_tokens: _Count | None = None
    reasoning_tokens: _Count | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Count
    completion_tokens: _Count
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Message(msgspec.Struct):
    content: Annotated[str, msgspec.Meta(min_length=1)]
    refusal: None = None
    tool_calls: None = None
    reasoning_content: None = None
    reasoning: None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str


class _Body(msgspec.Struct):
    model: str
    choices: list[_Choice]
    usage: _Usage
    error: None = None


class _Response(msgspec.Struct):
    status_code: Annotated[int, msgspec.Meta(ge=200, lt=300)]
    request_id: Annotated[str, msgspec.Meta(min_length=1)]
    body: _Body


class _Line(msgspec.Struct):
    custom_id: Annotated[str, msgspec.Meta(min_length=1)]
    response: _Response
    error: None = None


_decode = msgspec.json.Decoder(_Line).decode
_NO_DETAILS = _Details()
_SEEN: dict[str, Any] = {}
"""Stands for a line that was there and was not kept."""


class Answered(msgspec.Struct, frozen=True):
    """A plain answer, and the line that it came in."""

    outcome: Outcome
    data: bytes


def answer_lines(chunks: Iterable[bytes]) -> Iterator[Answered | dict[str, Any] | BadLine]:
    """As `read_lines`, with plain answers as what they come to."""
    for number, data in enumerate(raw_lines(chunks), start=1):
        try:
            line = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            line = None
        if line is not None and line.response.body.choices and line.response.body.choices[0].finish_reason == "stop":
            yield Answered(_outcome(line), data)
        elif (general := read_line(number, data)) is not None:
            yield general


def _outcome(line: _Line) -> Outcome:
    response, body = line.response, line.response.body
    usage, choice = body.usage, body.choices[0]
    return Outcome(
        line.custom_id,
        "ok",
        text=choice.message.content,
        finish_reason=choice.finish_reason,
        model=body.model,
        request_id=response.request_id,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=(usage.prompt_tokens_details or _NO_DETAILS).cached_tokens,
        completion_tokens=usage.completion_tokens,
        reasoning_tokens=(usage.completion_tokens_details or _NO_DETAILS).reasoning_tokens,
        line=_SEEN,
    )
