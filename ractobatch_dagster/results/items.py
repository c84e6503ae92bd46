"""Outcomes in the words of the processor: one `BatchResult` per item."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from ractobatch_dagster.models import BatchResult, BatchStatus, FinishReason, LLMResponse, ToolCallResult
from ractobatch_dagster.results.classify import Outcome, classify, parse_json, parse_text, without_fence
from ractobatch_dagster.results.join import join_lines
from ractobatch_dagster.results.lines import BadLine, read_lines

__all__ = ["item_results"]

_FINISH = {
    "stop": FinishReason.STOP,
    "tool_calls": FinishReason.TOOL_CALL,
    "function_call": FinishReason.TOOL_CALL,
    "length": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}


def item_results(
    asked: Sequence[str] | None, answers: bytes, status: BatchStatus, output_type: type[BaseModel] | None
) -> list[BatchResult]:
    """One result per item, in the items' order.

    Args:
        asked: The items' `custom_id`s; `None` if nobody knows them any more, which gives what was answered.
        answers: The lines of the output and the error file.
        status: How the batch ended.
        output_type: What answers must be instances of.
    """
    lines = list(read_lines([answers]))
    if asked is None:
        asked = [classify(line).custom_id for line in lines if not isinstance(line, BadLine) and "custom_id" in line]
    outcomes = join_lines(asked, lines, status)
    return [_result(outcome, output_type) for outcome in outcomes.values()]


def _result(outcome: Outcome, output_type: type[BaseModel] | None) -> BatchResult:
    response = _response(outcome) if outcome.status not in _NO_ANSWER else None
    result = BatchResult(
        custom_id=outcome.custom_id,
        response=response,
        error=outcome.error,
        status=outcome.status,
        error_code=outcome.error_code,
        raw=outcome.line,
    )
    if response is None:
        return result
    if output_type is not None and outcome.status in ("ok", "truncated") and not response.tool_calls:
        value, problem = parse_text(outcome.text, output_type)
        if value is not None:
            response.parsed = _as_data(value)
        elif outcome.status == "ok":
            result.status, result.error_code, result.error = "invalid_output", "invalid_output", problem
    elif outcome.status == "truncated":
        result.error = result.error_code = None  # a text is of use even where it is cut off; `finish_reason` tells
    return result


def _as_data(value: BaseModel) -> dict[str, Any] | list[Any] | None:
    """What the model's own `model_validate` takes back; `None` for a root model that is neither object nor array."""
    data = value.model_dump(mode="json", by_alias=True)
    return data if isinstance(data, (dict, list)) else None


def _response(outcome: Outcome) -> LLMResponse:
    text = None if outcome.text is None else without_fence(outcome.text).strip()
    asked, made = outcome.prompt_tokens or 0, outcome.completion_tokens or 0
    details = {"cached_tokens": outcome.cached_tokens, "reasoning_tokens": outcome.reasoning_tokens}
    line = outcome.line or {}
    return LLMResponse(
        content=None if outcome.refusal and outcome.text == outcome.refusal else text,
        thinking=outcome.thinking,
        parsed=parse_json(text) if text else None,
        tool_calls=[call for one in outcome.tool_calls if (call := _tool_call(one)) is not None],
        finish_reason=_finish(outcome),
        refusal=outcome.refusal,
        usage={
            "prompt_tokens": asked,
            "completion_tokens": made,
            "total_tokens": asked + made,
            **{name: count for name, count in details.items() if count is not None},
        },
        model=outcome.model,
        raw=line.get("response", {}).get("body"),
    )


def _finish(outcome: Outcome) -> FinishReason:
    if outcome.finish_reason is None:
        return FinishReason.TOOL_CALL if outcome.tool_calls else FinishReason.STOP
    return _FINISH.get(outcome.finish_reason, FinishReason.STOP)


def _tool_call(call: Any) -> ToolCallResult | None:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    given = function.get("arguments")
    arguments = parse_json(given) if isinstance(given, str) else given
    return ToolCallResult(
        id=str(call.get("id") or ""),
        name=function["name"],
        arguments=arguments if isinstance(arguments, dict) else {},
    )


_NO_ANSWER = frozenset({"error", "expired", "cancelled", "missing", "skipped"})
