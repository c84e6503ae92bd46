"""Answers that are more than a text: calls of tools, several choices, the probabilities of tokens."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel, Field, RootModel

from ractobatch_dagster import BatchAsset, ConfigurationError, batch_asset
from ractobatch_dagster.local import Answer, LocalServer
from ractobatch_dagster.requests.body import RequestTemplate
from tests.project import Project, failure
from tests.requests.openai_schema import BODIES, validator
from tests.requests.strict_mode import faults
from tests.scripted import Scripted, items, made
from tests.test_assets import Label
from tests.test_endpoints import sent


class RefundOrder(BaseModel):
    """Give the money back."""

    order: int = Field(ge=0, description="The order's number.")
    reason: Literal["broken", "late", "other"]


@dataclasses.dataclass
class Ship:
    """Send something."""

    items: list[str]


TOOLS = [RefundOrder, Ship]


def call(name: str, arguments: Any) -> dict[str, Any]:
    """A call as a message has it."""
    given = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": given}}


def calling(*calls: dict[str, Any], content: str | None = None, **more: Any) -> dict[str, Any]:
    """A message with calls."""
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


GOOD = {"order": 5, "reason": "late"}


def asked(*words: str, **options: Any) -> BatchAsset:
    """An asset whose prompts end in these words, by which the scripted model answers."""

    def rows() -> pd.DataFrame:
        return pd.DataFrame({"user_message": [f"say {word}" for word in words]})

    return batch_asset(**{"model": "gpt-4o-mini", "name": "asked", **options})(rows)


@contextmanager
def landed(answers: Mapping[str, Any], folder: Path, **options: Any) -> Iterator[tuple[pa.Table, Project, Scripted]]:
    """The table of what a scripted model answers."""
    model = Scripted(answers)
    with LocalServer(model=model) as server:
        project = Project(server, folder, asked(*answers, **options).assets)
        assert project.run("asked_submission").success
        project.land()
        yield project.load("asked", kind=pa.Table), project, model


@pytest.mark.parametrize("endpoint", ["chat", "responses"])
def test_calls_are_columns(endpoint: Any, batch_server: LocalServer, tmp_path: Path) -> None:
    """Of the local model, which calls what the text names; each a list, with the types of the tool's fields."""
    made = asked("refund", "nothing", "refund and ship", tools=TOOLS, endpoint=endpoint, prompt="Serve.")
    project = Project(batch_server, tmp_path, made.assets)
    assert project.run("asked_submission").success
    project.land()
    table = project.load("asked", kind=pa.Table)
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    refunds, ships = table["refund_order"].to_pylist(), table["ship"].to_pylist()
    assert [one and len(one) for one in refunds] == [1, None, 1]
    assert [one and len(one) for one in ships] == [None, None, 1]
    kind = table.schema.field("refund_order").type.value_type
    assert (kind.field("order").type, kind.field("reason").type) == (pa.int64(), pa.dictionary(pa.int32(), pa.string()))
    assert table.schema.field("refund_order").metadata == {b"description": b"Give the money back."}
    assert table["llm_finish_reason"].to_pylist() == ["tool_calls", "stop", "tool_calls"]
    calls = [[one["function"]["name"] for one in json.loads(text)] for text in table["llm_text"].to_pylist()[::2]]
    assert calls == [["refund_order"], ["refund_order", "ship"]]
    assert table["llm_text"].to_pylist()[1]
    assert project.load("asked", kind=pl.DataFrame)["ship"].to_list()[2][0].keys() == {"items"}
    assert (table["llm_cost_usd"].to_pandas() > 0).all()
    shown = made.preview(project.resource, rows=3)
    assert shown.table["refund_order"].to_pylist() == refunds
    assert "refund_order" in shown.shown
    for one in sent(batch_server):
        validator(BODIES[one["url"]]).validate(one["body"])
        functions = [tool.get("function", tool) for tool in one["body"]["tools"]]
        assert [function["name"] for function in functions] == ["refund_order", "ship"]
        assert functions[0]["description"] == "Give the money back."
        for function in functions:
            assert function["strict"] is True
            assert faults(function["name"], function["parameters"]) == []
    assert made.estimate(project.resource).reused == 3
    assert project.run("asked_submission").success  # and what was paid for is not asked again
    project.land()
    assert project.load("asked", kind=pa.Table)["refund_order"].to_pylist() == refunds
    assert len(batch_server.batches()) == 1


CASES: dict[str, tuple[Any, str, str | None, list[Any] | None, str | None]] = {
    # the message; status, what the error says, the column of refunds, the text
    "good": (calling(call("refund_order", GOOD)), "ok", None, [GOOD], None),
    "twice": (calling(call("refund_order", GOOD), call("refund_order", GOOD)), "ok", None, [GOOD, GOOD], None),
    "said": (calling(call("refund_order", GOOD), content="I see."), "ok", None, [GOOD], "I see."),
    "text": ("Hello.", "ok", None, None, "Hello."),
    "unknown": (calling(call("fly", {})), "invalid_output", "calls 'fly', which is none of the tools", None, None),
    "wrong": (
        calling(call("refund_order", {"order": "x", "reason": "late"})),
        "invalid_output",
        "refund_order.0.order: Input should be a valid integer",
        None,
        None,
    ),
    "low": (
        calling(call("refund_order", {**GOOD, "order": -1})),
        "invalid_output",
        "greater than or equal",
        None,
        None,
    ),
    "second": (
        calling(call("refund_order", GOOD), call("ship", {"items": 5}), content="Well."),
        "invalid_output",
        "ship.0.items: Input should be a valid array",
        None,
        None,
    ),
    "broken": (calling(call("refund_order", '{"order": 5')), "invalid_output", "are no JSON object", None, None),
    "list": (calling(call("refund_order", "[1]")), "invalid_output", "are no JSON object", None, None),
    "closing": (
        calling(call("refund_order", '{}],"ship":[{"items":[]}')),
        "invalid_output",
        "are no JSON object",
        None,
        None,
    ),
    "custom": (
        {"content": None, "tool_calls": [{"type": "custom"}]},
        "invalid_output",
        "none of the tools",
        None,
        None,
    ),
    "odd": ({"content": None, "tool_calls": [3]}, "invalid_output", "none of the tools", None, None),
    "object": (
        {"content": None, "tool_calls": [{"function": {"name": "refund_order", "arguments": GOOD}}]},
        "ok",
        None,
        [GOOD],
        None,
    ),
    "refused": (calling(call("refund_order", GOOD), refusal="No."), "refusal", "No.", None, "No."),
}


def test_every_call_has_its_status(tmp_path: Path) -> None:
    """A call that is none of the tools, or has bad arguments, makes the row invalid; what came is kept."""
    with landed({name: case[0] for name, case in CASES.items()}, tmp_path, tools=TOOLS) as (table, _, _):
        for row, (message, status, error, refunds, text) in zip(table.to_pylist(), CASES.values(), strict=True):
            assert row["llm_status"] == status, row
            assert row["refund_order"] == refunds
            assert row["ship"] is None
            assert (error or "") in (row["llm_error"] or "")
            assert (row["llm_error"] is None) == (error is None)
            if text is not None:
                assert row["llm_text"] == text
            else:
                *before, calls = row["llm_text"].split("\n")
                assert json.loads(calls) == message["tool_calls"]
                assert before == ([message["content"]] if message["content"] else [])


def test_an_output_is_for_answers_without_calls(tmp_path: Path) -> None:
    """Whoever calls need not give the output as well; whoever does neither is invalid."""
    answers = {
        "call": calling(call("ship", {"items": ["a"]}), content="Let me see."),
        "label": '{"sentiment": "neutral", "tags": [], "score": null}',
        "neither": "Hm.",
    }
    with landed(answers, tmp_path, tools=TOOLS, output=Label) as (table, project, model):
        assert table["llm_status"].to_pylist() == ["ok", "ok", "invalid_output"]
        assert table["sentiment"].to_pylist() == [None, "neutral", None]
        assert table["ship"].to_pylist() == [[{"items": ["a"]}], None, None]
        assert table.column_names[1:6] == ["sentiment", "tags", "score", "refund_order", "ship"]
        assert model.bodies[0].keys() >= {"tools", "response_format"}
        assert any(column.name == "ship" for column in project.metadata("asked")["dagster/column_schema"].columns)


def test_bad_arguments_are_repaired(tmp_path: Path) -> None:
    """The model is shown its call and what is wrong with it; rounds go on as ever."""

    class Learning(Scripted):
        def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
            self.bodies.append(body)
            bad = {**GOOD, "reason": "bored"}
            said = calling(call("refund_order", GOOD if len(body["messages"]) > 1 else bad))
            return Answer(200, {"choices": [{"message": said, "finish_reason": "tool_calls"}], "model": "m"})

    model = Learning({})
    with LocalServer(model=model) as server:
        project = Project(server, tmp_path, asked("x", tools=TOOLS, repairs=1).assets)
        assert project.run("asked_submission").success
        project.land()
        table = project.load("asked", kind=pa.Table)
    assert table["refund_order"].to_pylist() == [[GOOD]]
    assert (table["llm_status"].to_pylist(), table["llm_round"].to_pylist()) == (["ok"], [1])
    _, answer, problem = model.bodies[-1]["messages"]
    assert json.loads(answer["content"])[0]["function"]["name"] == "refund_order"
    assert "refund_order.0.reason: Input should be 'broken', 'late' or 'other'" in problem["content"]
    assert model.bodies[-1]["tools"] == model.bodies[0]["tools"]


def test_without_tools_calls_are_the_text(tmp_path: Path) -> None:
    """They have no column then, and are not lost either."""
    given = {"x": calling(call("f", {"a": 1}))}
    with landed(given, tmp_path, extra={"tools": []}) as (table, _, _):
        assert json.loads(table["llm_text"].to_pylist()[0]) == given["x"]["tool_calls"]
        assert table["llm_status"].to_pylist() == ["ok"]
        assert "choices" not in table.column_names


def test_many_calls_of_many_kinds(batch_server: LocalServer, tmp_path: Path) -> None:
    """More rows than are typed at a time, whose words come in another order in each block."""
    order = ["broken", "late", "other"]
    answers = {}
    for number in range(2_500):
        reason = order[(number + number // 1_000) % 3]
        answers[f"w{number}"] = calling(call("refund_order", {"order": number, "reason": reason}))
    with landed(answers, tmp_path, tools=[RefundOrder]) as (table, project, _):
        found = [one[0] for one in table["refund_order"].to_pylist()]
        assert [one["order"] for one in found] == list(range(2_500))
        assert [one["reason"] for one in found] == [order[(n + n // 1_000) % 3] for n in range(2_500)]
        table.validate(full=True)
        assert project.load("asked")["refund_order"][2_499][0]["order"] == 2_499


def several(*choices: Any) -> Answer:
    """An answer of several choices: texts, messages, or whole choices."""
    made = [
        one if "message" in one else {"message": one, "finish_reason": "stop"}
        for one in ({"content": one} if isinstance(one, str) else one for one in choices)
    ]
    usage = {"prompt_tokens": 2, "completion_tokens": 3 * len(made)}
    return Answer(200, {"choices": made, "model": "gpt-4o-mini", "usage": usage})


LABEL = '{"sentiment": "neutral", "tags": ["a"], "score": 1}'


def test_choices_are_a_column(tmp_path: Path) -> None:
    """All of them, each typed where it fits; the first fills the row."""
    cut = {"message": {"content": LABEL}, "finish_reason": "length"}
    answers = {
        "all": several(LABEL, "Hm.", {"refusal": "No.", "content": None}, cut),
        "one": several(LABEL),
        "bad": several("Hm.", LABEL),
        "refused": several({"refusal": "No."}, LABEL),
        "only": several({"refusal": "No."}),
        "failed": Answer(400, {"error": {"message": "no"}}),
    }
    with landed(answers, tmp_path, extra={"n": 4}, output=Label) as (table, project, model):
        rows = table.to_pylist()
        assert {body["n"] for body in model.bodies} == {4}
        label = {"sentiment": "neutral", "tags": ["a"], "score": 1}
        good = {"text": LABEL, "refusal": None, "finish_reason": "stop", "output": label}
        no = {"text": None, "refusal": "No.", "finish_reason": "stop", "output": None}
        hm = {**good, "text": "Hm.", "output": None}
        assert [row["choices"] for row in rows] == [
            [good, hm, no, {**good, "finish_reason": "length", "output": None}],
            [good],
            [hm, good],
            [no, good],
            [no],
            None,
        ]
        statuses = ["ok", "ok", "invalid_output", "refusal", "refusal", "error"]
        assert [row["llm_status"] for row in rows] == statuses
        assert [row["sentiment"] for row in rows] == ["neutral", "neutral", None, None, None, None]
        assert (rows[0]["llm_text"], rows[0]["llm_completion_tokens"]) == (LABEL, 12)
        table.validate(full=True)
        assert len(project.load("asked", kind=pl.DataFrame)["choices"][0]) == 4


def test_choices_of_a_chat_and_of_a_completion(batch_server: LocalServer, tmp_path: Path) -> None:
    """Texts alone, of the local model; those that call a tool have their calls for a text."""
    for endpoint in ("chat", "completions"):
        made = asked("x", extra={"n": 3}, endpoint=endpoint)
        project = Project(batch_server, tmp_path / endpoint, made.assets)
        project.run("asked_submission")
        project.land()
        table = project.load("asked", kind=pa.Table)
        (choices,), (text,) = table["choices"].to_pylist(), table["llm_text"].to_pylist()
        assert choices == [{"text": text, "refusal": None, "finish_reason": "stop"}] * 3
    ship = calling(call("ship", {"items": []}))
    with landed({"y": several("Well.", ship)}, tmp_path / "calls", extra={"n": 2}, tools=TOOLS) as (table, _, _):
        (choices,) = table["choices"].to_pylist()
        assert [one["text"] for one in choices] == ["Well.", json.dumps(ship["tool_calls"])]


@pytest.mark.parametrize(
    ("endpoint", "extra"),
    [
        ("chat", {"logprobs": True}),
        ("responses", {"include": ["message.output_text.logprobs"]}),
        ("completions", {"logprobs": 0}),
    ],
)
def test_probabilities_are_a_column(
    endpoint: Any, extra: dict[str, Any], batch_server: LocalServer, tmp_path: Path
) -> None:
    """Whose tokens are the text; each way of asking for them."""
    made = asked("x", "y", extra=extra, endpoint=endpoint)
    project = Project(batch_server, tmp_path, made.assets)
    project.run("asked_submission")
    project.land()
    table = project.load("asked", kind=pa.Table)
    assert table.schema.field("logprobs").type == pa.list_(
        pa.struct([("token", pa.string()), ("logprob", pa.float64())])
    )
    for row in table.to_pylist():
        assert "".join(one["token"] for one in row["logprobs"]) == row["llm_text"]
        assert all(one["logprob"] <= 0 for one in row["logprobs"])
    assert made.preview(project.resource, rows=2).table["logprobs"].to_pylist() == table["logprobs"].to_pylist()


def test_what_is_not_asked_for_is_no_column(batch_server: LocalServer, tmp_path: Path) -> None:
    """Nor does a row's own wish make one: the table's columns are the same for all."""

    def rows() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a", "b"], "e": ['{"n": 2, "logprobs": true}', None]})

    plain = batch_asset(model="m", name="asked", extra={"n": 1, "logprobs": False}, overrides={"extra": "e"})(rows)
    project = Project(batch_server, tmp_path, plain.assets)
    project.run("asked_submission")
    project.land()
    table = project.load("asked", kind=pa.Table)
    assert [name for name in table.column_names if not name.startswith("llm_")] == ["user_message", "e", "custom_id"]
    assert table["llm_status"].to_pylist() == ["ok", "ok"]


def test_a_row_that_has_a_column_of_a_tool_is_refused(batch_server: LocalServer, tmp_path: Path) -> None:
    """As with any other column of an answer."""

    def rows() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a"], "ship": [1]})

    made = batch_asset(model="m", name="asked", tools=TOOLS)(rows)
    project = Project(batch_server, tmp_path, made.assets)
    assert "'ship'" in failure(project.run("asked_submission"))
    assert not batch_server.files()


class Words(RootModel[list[str]]):
    """No object."""


class Choices(BaseModel):
    """Called as a column of ours."""

    a: int


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"tools": RefundOrder}, "is no list of models"),
        ({"tools": "my.Tool"}, "is no list of models"),
        ({"tools": [3]}, "tools: output: 3 is no Pydantic model"),
        ({"tools": [Words]}, "Words is no object"),
        (
            {"tools": [Ship, {"title": "ship", "type": "object", "properties": {"a": {"type": "string"}}}]},
            "two are called 'ship'",
        ),
        ({"tools": [Choices], "extra": {"n": 2}}, "two would be a column 'choices'"),
        (
            {"tools": [Ship], "extra": {"tools": [{"type": "web_search"}]}},
            "it has `tools`, and `tools` is given as well",
        ),
        ({"tools": [Ship], "endpoint": "embeddings"}, "tools: the embeddings endpoint takes none"),
        ({"tools": [Ship], "endpoint": "completions"}, "tools: the completions endpoint takes none"),
    ],
)
def test_tools_that_cannot_be_are_refused(options: dict[str, Any], why: str) -> None:
    """When the asset is defined."""
    with pytest.raises(ConfigurationError, match=why):
        asked("x", **options)


@pytest.mark.parametrize(
    "name", ["Copy", "Json", "JSONSchema", "Return", "Fields", "HTTPRequest2", "ModelDump", "Größe"]
)
def test_a_tool_may_have_any_name(name: str, tmp_path: Path) -> None:
    """One that Pydantic or Python has a use for as well."""
    tool = type(name, (BaseModel,), {"__annotations__": {"a": int}, "__module__": __name__})
    (called,) = RequestTemplate.of("m", None, tools=[tool]).tools
    with landed({"x": calling(call(called, {"a": 1}))}, tmp_path, tools=[tool]) as (table, _, _):
        assert table[called].to_pylist() == [[{"a": 1}]]


class Stop(BaseModel):
    """Takes nothing."""


@pytest.mark.parametrize("arguments", ["", "{}"])
def test_a_tool_may_take_nothing(arguments: str, tmp_path: Path) -> None:
    """Its calls are counted all the same."""
    with landed({"x": calling(call("stop", arguments))}, tmp_path, tools=[Stop]) as (table, _, _):
        assert table["stop"].to_pylist() == [["{}"]]
        assert table["llm_status"].to_pylist() == ["ok"]


def test_a_change_of_the_tools_is_named(batch_server: LocalServer, tmp_path: Path) -> None:
    """Where batches are still open."""
    before = asked("x", tools=[Ship])
    after = asked("x", tools=[Ship, RefundOrder])
    assert before.spec.code_version != after.spec.code_version
    with LocalServer(seconds=60) as server:
        Project(server, tmp_path, before.assets).run("asked_submission")
        said = failure(Project(server, tmp_path, after.assets).run("asked_submission"))
    assert "the tools changed" in said


def test_the_processor_gives_calls_as_ever() -> None:
    """Beside their text; an output is for answers without calls."""
    answers = {"a": calling(call("ship", {"items": ["x"]}), content="Well."), "b": "Hm."}
    with LocalServer(model=Scripted(answers)) as server:
        first, second = made(server).submit_and_wait(items("a", "b"), poll_interval_s=0.01)
    assert first.response is not None
    assert [(one.name, one.arguments) for one in first.response.tool_calls] == [("ship", {"items": ["x"]})]
    assert first.response.content == "Well."
    assert second.response is not None
    assert second.response.tool_calls == []


def without_more(folder: Path) -> int:
    """Take the column that an older version did not have out of every file of a store; how many had it."""
    found = [path for path in (folder / "store").rglob("*.parquet") if "more" in pq.read_schema(path).names]
    for path in found:
        pq.write_table(pq.read_table(path).drop_columns(["more"]), path)
    return len(found)


def test_answers_of_an_older_version_are_read(tmp_path: Path) -> None:
    """Which kept their texts and nothing else: they land, and are taken over, as texts."""
    with landed({"a": "Hello.", "b": "Hm."}, tmp_path, tools=[Ship]) as (before, project, model):
        for files in (2, 1):  # the results and what was known before; and then what was taken over from them
            assert without_more(tmp_path) == files
            assert project.run("asked").success
            assert project.load("asked", kind=pa.Table)["llm_text"].equals(before["llm_text"])
            assert project.run("asked_submission").success
            project.land()
            assert project.load("asked", kind=pa.Table)["llm_text"].equals(before["llm_text"])
        assert len(model.bodies) == 2
