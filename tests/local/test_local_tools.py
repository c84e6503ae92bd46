"""Which tools the built-in model calls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ractobatch_dagster.local.answers import RuleModel

TOOLS = {
    name: {"name": name, "parameters": {"type": "object", "properties": {"order": {"type": "integer"}}}}
    for name in ("refund_order", "ask_back")
}


def called(endpoint: str, text: str, **more: Any) -> list[str]:
    """The names of what is called."""
    if endpoint == "chat":
        tools = [{"type": "function", "function": one} for one in TOOLS.values()]
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": text}], "tools": tools}
        body = RuleModel().answer("/v1/chat/completions", {**asked, **more}).body
        calls = [one["function"] for one in body["choices"][0]["message"].get("tool_calls") or []]
        assert body["choices"][0]["finish_reason"] == ("tool_calls" if calls else "stop")
    else:
        asked = {"input": text, "tools": [{"type": "function", **one} for one in TOOLS.values()]}
        body = RuleModel().answer("/v1/responses", {**asked, **more}).body
        calls = [one for one in body["output"] if one["type"] == "function_call"]
    assert all(isinstance(json.loads(one["arguments"]), dict) for one in calls)
    return [one["name"] for one in calls]


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
@pytest.mark.parametrize(
    ("text", "more", "names"),
    [
        ("Refund it.", {}, ["refund_order"]),
        ("My order? Call back!", {}, ["refund_order", "ask_back"]),
        ("My order? Call back!", {"parallel_tool_calls": False}, ["refund_order"]),
        ("I ask.", {}, []),
        ("Hello.", {"tool_choice": "auto"}, []),
        ("Hello.", {"tool_choice": "required"}, ["refund_order"]),
        ("Call back!", {"tool_choice": "required"}, ["ask_back"]),
        ("Refund it.", {"tool_choice": "none"}, []),
        ("Refund it.", {"tool_choice": {"type": "function", "name": "ask_back"}}, ["ask_back"]),
        ("Refund it.", {"tool_choice": {"type": "function", "name": "fly"}}, []),
    ],
)
def test_what_the_text_names_is_called(endpoint: str, text: str, more: dict[str, Any], names: list[str]) -> None:
    """Or what must be; otherwise a text is written."""
    choice = more.get("tool_choice")
    if endpoint == "chat" and isinstance(choice, dict):
        more = {"tool_choice": {"type": "function", "function": {"name": choice["name"]}}}
    assert called(endpoint, text, **more) == names
