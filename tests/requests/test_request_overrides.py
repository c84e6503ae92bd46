"""Rows that say something of their own requests: model, parameters, system prompt, whole body."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import ConfigurationError, InvalidInputError
from ractobatch_dagster.requests.body import EMBEDDINGS, RequestTemplate
from ractobatch_dagster.requests.encode import Encoder, escape
from ractobatch_dagster.requests.overrides import OVERRIDES, Overrides, Own
from ractobatch_dagster.requests.rendering import Requests
from tests.requests.test_request_lines import EXTRA, ODD, SYSTEM

TEMPLATE = RequestTemplate("gpt-4o-mini", "Be brief.", temperature=0.5)
ALL = Overrides({name: name for name in OVERRIDES})


def named(row: int) -> str:
    """A row in an error."""
    return f"row {row}"


def block(**columns: list[Any]) -> pa.RecordBatch:
    """Some rows; columns that are not given say nothing."""
    rows = len(next(iter(columns.values())))
    return pa.RecordBatch.from_pydict({**{name: [None] * rows for name in OVERRIDES}, **columns})


def bodies(template: RequestTemplate = TEMPLATE, **columns: list[Any]) -> list[dict[str, Any]]:
    """The bodies of rows that say this."""
    some = block(**columns)
    return Requests("p", template, ALL).bodies(some, ["x"] * len(some), named)


def test_what_a_row_says_goes_before_what_all_share() -> None:
    """Each thing a row can say, and rows that say nothing."""
    plain = TEMPLATE.body("x")
    assert bodies(model=["gpt-4o", None, "", " "]) == [{**plain, "model": "gpt-4o"}, plain, plain, plain]
    assert bodies(temperature=[0, None])[0] == {**plain, "temperature": 0}
    assert bodies(max_tokens=[7.0, None])[0] == {**plain, "max_tokens": 7}
    assert bodies(system=["Shout.", None])[0]["messages"][0] == {"role": "system", "content": "Shout."}
    assert bodies(extra=['{"seed": 1, "temperature": null}', None])[0] == {
        **{name: value for name, value in plain.items() if name != "temperature"}, "seed": 1
    }  # fmt: skip
    assert bodies(extra=[{"seed": 1, "user": None}, {"seed": None, "user": "a"}, None]) == [
        {**plain, "seed": 1}, {**plain, "user": "a"}, plain
    ]  # fmt: skip


def test_a_reasoning_model_gets_a_temperature_from_its_row_only() -> None:
    """It takes none, so that the one for all rows is not for it; and its limit has another name."""
    (own, both) = bodies(model=["o3", "o3"], temperature=[None, 1.0], max_tokens=[9, 9])
    assert "temperature" not in own
    assert own["max_completion_tokens"] == 9
    assert both["temperature"] == 1.0


def test_a_body_is_sent_as_it_is() -> None:
    """Only a model is put in where it names none; nothing else of the row or the template counts."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    own, struct, other = bodies(
        body=[json.dumps({"messages": messages, "top_p": 0.1}), json.dumps({"model": "m", "messages": messages}), None],
        temperature=[2.0, None, None],
        model=["gpt-4o", "gpt-4o", None],
    )
    assert own == {"model": "gpt-4o", "messages": messages, "top_p": 0.1}
    assert struct == {"model": "m", "messages": messages}
    assert other == TEMPLATE.body("x")


OWN = st.builds(
    dict,
    model=st.none() | st.sampled_from(["m", "o3", "gpt-4o-mini"]),
    temperature=st.none() | st.floats(0, 2),
    max_tokens=st.none() | st.integers(1, 9),
    system=SYSTEM.filter(lambda text: text is None or text.strip()) | st.just("the-prompt-goes-here"),
    extra=st.none() | EXTRA.map(json.dumps),
)


@given(own=OWN, text=ODD.filter(str.strip))
def test_a_row_writes_the_body_that_it_says(own: dict[str, Any], text: str) -> None:
    """Its line holds the very body, in as many bytes as are known beforehand, and so does the line of a repair."""
    some = block(**{name: [value] for name, value in own.items()})
    requests = Requests("p", TEMPLATE, ALL)
    made, (body,) = requests.render(some, [text], named), requests.bodies(some, [text], named)
    line = requests.encoder.line(b"row-00000001", made.parts[0])
    assert len(line) == requests.encoder.overhead + len(made.parts[0]) + len(b"row-00000001")
    assert json.loads(line) == {"custom_id": "row-00000001", "method": "POST", "url": TEMPLATE.endpoint, "body": body}
    assert len(line.decode().splitlines()) == 1
    repaired = json.loads(requests.encoder.repaired(b"a", made.parts[0], text, "why"))["body"]
    assert {**repaired, "messages": repaired["messages"][:-2]} == body
    assert repaired["messages"][-2] == {"role": "assistant", "content": text}
    assert made.models == [body["model"]]
    assert requests.models == (body["model"],)


@given(own=OWN, text=ODD.filter(str.strip))
def test_a_question_has_one_hash_however_it_is_said(own: dict[str, Any], text: str) -> None:
    """For all rows, by overrides, or as a whole body: equal bodies, equal hashes; so paid answers are found again."""
    by_columns, requests = block(**{name: [value] for name, value in own.items()}), Requests("p", TEMPLATE, ALL)
    (body,) = requests.bodies(by_columns, [text], named)
    whole = block(body=[json.dumps(body, sort_keys=True)])
    hashes = [requests.render(some, [text], named).hashes[0] for some in (by_columns, whole)]
    assert hashes[0] == hashes[1]
    nothing = block(model=[None])
    assert requests.render(nothing, [text], named).hashes == Encoder.of("p", TEMPLATE).hashes([escape(text)])


def test_other_questions_have_other_hashes() -> None:
    """Also those whose last message is no text of the user's."""
    conversations = [
        [{"role": "user", "content": "a"}],
        [{"role": "assistant", "content": "a"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": "b"}],
        [{"role": "user", "content": "a", "name": "n"}],
    ]
    some = block(body=[json.dumps({"messages": one}) for one in conversations])
    assert len(set(Requests("p", TEMPLATE, ALL).render(some, ["x"] * 5, named).hashes)) == 5


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("model", 4, "'model', its model, is no text but 4"),
        ("temperature", 3.0, "is 3.0, and takes 0 to 2"),
        ("temperature", "hot", "is no number but 'hot'"),
        ("max_tokens", 0, "is 0, and takes whole numbers from 1"),
        ("max_tokens", 1.5, "is 1.5, and takes whole numbers from 1"),
        ("extra", "[1]", "is no object but [1]"),
        ("extra", "{", "is no JSON"),
        ("body", '{"model": "m"}', "has no `messages`"),
        ("body", '{"messages": []}', "has no `messages`"),
        ("body", '{"messages": ["a"]}', "has no `messages`"),
        ("body", '{"model": 1, "messages": [{}]}', "names no model but 1"),
        ("extra", '{"messages": []}', "its extra, must not replace `messages`"),
        ("extra", '{"messages": null}', "its extra, must not replace `messages`"),
        ("extra", '{"model": null}', "names a model"),
        ("extra", {"top_p": Decimal("0.5")}, "its extra, cannot be written as JSON"),
        ("body", {"messages": [{"role": "user"}], "metadata": {"day": date(2026, 1, 1)}}, "cannot be written as JSON"),
        ("extra", '{"a": NaN}', "cannot be written as JSON"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_row(column: str, value: Any, why: str) -> None:
    """Before anything is spent, and with the column's name."""
    some = block(**{column: [None, value]})
    with pytest.raises(InvalidInputError) as caught:
        Requests("p", TEMPLATE, ALL).render(some, ["x", "y"], named)
    assert str(caught.value).startswith("row 1: ")
    assert why in str(caught.value)


def test_a_row_has_its_turns_from_nothing_but_prompt_files_and_body() -> None:
    """An `extra` with turns of its own would lose the prompt, or the files that go with it; so would a whole body."""
    for said in ("null", "[]", '[{"role": "user", "content": "mine"}]'):
        some = block(files=[["https://example.org/a.png"]], extra=[f'{{"messages": {said}}}'])
        with pytest.raises(InvalidInputError, match="row 0: 'extra', its extra, must not replace `messages`"):
            Requests("p", TEMPLATE, ALL).bodies(some, ["x"], named)
    some = block(files=[None, ["https://example.org/a.png"]], body=['{"messages": [{"role": "user"}]}'] * 2)
    with pytest.raises(InvalidInputError, match="row 1 has files, in 'files', and a whole body"):
        Requests("p", TEMPLATE, ALL).bodies(some, ["x", "y"], named)
    with pytest.raises(InvalidInputError, match="its extra, must not replace `input`"):
        Requests("p", RequestTemplate("m", endpoint=EMBEDDINGS), Overrides({"extra": "extra"}, EMBEDDINGS)).bodies(
            block(extra=['{"input": "other"}']), ["x"], named
        )


def test_a_temperature_is_one_number_however_it_is_written() -> None:
    """A column of numbers is one of floats where some are missing; what all rows share is as somebody wrote it."""
    for shared, own in ((0, 0.0), (1.0, 1), (0.5, 0.5), (2, 2.0)):
        template = RequestTemplate("m", temperature=shared)
        hashes = Requests("p", template, ALL).render(block(temperature=[None, own]), ["x", "x"], named).hashes
        assert hashes[0] == hashes[1] == Encoder.of("p", replace(template, temperature=own)).hashes([escape("x")])[0]


def test_nan_says_nothing() -> None:
    """Polars and Arrow tell it from null; here it is none."""
    some = pa.RecordBatch.from_pydict({"t": [float("nan"), 1.0]})
    assert Overrides({"temperature": "t"}).rows(some, named) == [Own(), Own(temperature=1.0)]


def test_columns_must_be_there() -> None:
    """What names nothing is said when the asset is defined, a column that is missing before anything is sent."""
    with pytest.raises(ConfigurationError, match="'top_p' is none of model, temperature"):
        Overrides({"top_p": "p"})
    with pytest.raises(ConfigurationError, match="needs the name of a column"):
        Overrides({"model": ""})
    for no_mapping in (["model"], "model"):
        with pytest.raises(ConfigurationError, match="Give a dict, such as"):
            Overrides(no_mapping)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="has no column 'm', which overrides= names as 'model'"):
        Overrides({"model": "m"}).check(pa.schema([("a", pa.string())]), "the frame")


def test_a_body_tells_what_the_prompt_is() -> None:
    """The last message's text, where the frame has no prompt of its own for the row."""
    parts = [{"type": "text", "text": "ä"}]
    said = [
        {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]},
        {"messages": [{"role": "user", "content": parts}]},
        None,
    ]
    frame = pa.table({"body": [one and json.dumps(one) for one in said]})
    own = Overrides({"body": "body"})
    assert own.prompts(frame, what="the frame").read_all()["user_message"].to_pylist() == [
        "u",
        json.dumps(parts, ensure_ascii=False),
        None,
    ]
    given_too = frame.append_column("user_message", pa.array(["mine", None, "other"]))
    filled = own.prompts(given_too, what="the frame").read_all()
    assert filled["user_message"].to_pylist() == ["mine", json.dumps(parts, ensure_ascii=False), "other"]
    assert filled.column_names == ["body", "user_message"]
    assert Overrides({"model": "m"}).prompts(frame, what="the frame") is frame


def test_a_last_message_may_have_no_text() -> None:
    """People see the message itself then, a call of a tool, say; half a character fails with its row's name, later."""
    call = {"role": "assistant", "content": None, "tool_calls": []}
    said = [{"messages": [call]}, {"messages": [{"role": "user", "content": "\ud83d"}]}]
    frame = pa.table({"body": [json.dumps(one) for one in said]})
    (shown, half) = ALL_BODY.prompts(frame, what="the frame").read_all()["user_message"].to_pylist()
    assert (json.loads(shown), half) == (call, "?")
    with pytest.raises(InvalidInputError, match="row 1: the text holds half a character"):
        Requests("p", TEMPLATE, ALL_BODY).render(frame.to_batches()[0], [shown, half], named)


ALL_BODY = Overrides({"body": "body"})
