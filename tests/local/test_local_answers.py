"""What the built-in model answers: valid instances of any schema, and what the text says."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import time
import uuid
from typing import Annotated, Any, Literal, Optional, Union

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from ractobatch_dagster.local import Answer, RuleModel
from ractobatch_dagster.local.rules import Reading
from tests.local.helpers import CHAT

REVIEW = (
    "I was prescribed this for migraines. It gave me terrible nausea and dizziness, and I had to stop taking it "
    "after a week. No headaches though. I would not recommend it."
)


def ask(text: str, schema: Any = None, **body: Any) -> Answer:
    if schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    return RuleModel().answer(CHAT, {"model": "m", "messages": [{"role": "user", "content": text}], **body})


def content(answer: Answer) -> str:
    assert answer.status_code == 200, answer.body
    return str(answer.body["choices"][0]["message"]["content"])


def fill(model: type[BaseModel], text: str = REVIEW) -> Any:
    return model.model_validate_json(content(ask(text, model.model_json_schema())))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    colour: Colour
    size: Annotated[int, Field(gt=3, lt=5)]


class Everything(BaseModel):
    text: Annotated[str, Field(min_length=5, max_length=9)]
    long: Annotated[str, Field(min_length=3000)]
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{3,5}(?:x|y)?$")]
    whole: Annotated[int, Field(multiple_of=7, ge=50)]
    share: Annotated[float, Field(ge=0, le=1)]
    tiny: Annotated[float, Field(gt=0, lt=0.001)]
    below: Annotated[int, Field(le=-3)]
    step: Annotated[float, Field(multiple_of=0.25, ge=1, le=2)]
    money: decimal.Decimal
    flag: bool
    nothing: None
    fixed: Literal["only"]
    day: dt.date
    moment: dt.datetime
    hour: dt.time
    span: dt.timedelta
    key: uuid.UUID
    link: pydantic.AnyUrl
    inner: Inner
    several: Annotated[list[Inner], Field(min_length=2, max_length=3)]
    distinct: Annotated[set[int], Field(min_length=4)]
    colours: Annotated[set[Colour], Field(min_length=2)]
    pair: tuple[int, str]
    table: dict[str, float]
    by_colour: dict[Colour, int]
    maybe: Inner | None = None
    either: int | list[str] | Inner
    anything: Any
    given: int = 5


class Leaf(BaseModel):
    kind: Literal["leaf"]
    value: float


class Sum(BaseModel):
    kind: Literal["sum"]
    left: Expression
    right: Expression


Expression = Annotated[Sum | Leaf, Field(discriminator="kind")]


class Formula(BaseModel):
    root: Expression


class Tree(BaseModel):
    name: str
    children: list[Tree]
    parent: Tree | None = None


Sum.model_rebuild()


@pytest.mark.parametrize("text", [REVIEW, "", "short", "\u2028 \U0001f600 \x00"])
@pytest.mark.parametrize("model", [Everything, Formula, Tree])
def test_an_answer_is_a_valid_instance_of_the_schema(model, text):
    """Whatever a model's schema asks for is there, also where it refers to itself."""
    assert fill(model, text)


_FIELDS = st.recursive(
    st.sampled_from(
        [
            *(str, int, float, bool, type(None), dt.date, dt.timedelta, uuid.UUID),
            Literal["a", "b"],
            Literal["a"],
            Colour,
            Inner,
        ]
    )
    | st.builds(lambda low, n: Annotated[int, Field(ge=low, le=low + n)], st.integers(-99, 99), st.integers(0, 9))
    | st.builds(lambda low, n: Annotated[float, Field(gt=low, lt=low + n)], st.integers(-9, 9), st.floats(0.01, 9))
    | st.builds(
        lambda n, m: Annotated[str, Field(min_length=n, max_length=n + m)], st.integers(0, 9), st.integers(0, 9)
    ),
    lambda inner: (
        st.builds(lambda kind: list[kind], inner)
        | st.builds(lambda kind: Optional[kind], inner)  # noqa: UP045
        | st.builds(lambda kind: dict[str, kind], inner)
        | st.builds(lambda one, two: Union[one, two], inner, inner)  # noqa: UP007
        | st.builds(
            lambda kind, n: Annotated[list[kind], Field(min_length=n, max_length=n + 1)], inner, st.integers(0, 3)
        )
    ),
    max_leaves=5,
)
_NAMES = st.sampled_from(
    ["sentiment", "side_effects", "score", "keywords", "summary", "urgency", "x", "is_happy", "highlights"]
)


@settings(max_examples=150, deadline=None)
@given(fields=st.dictionaries(_NAMES, _FIELDS, max_size=5), text=st.text(max_size=80))
def test_any_model_is_filled(fields, text):
    """Names never get in the way of types: an answer is valid before it is meaningful."""
    model = pydantic.create_model("Made", **{name: (kind, ...) for name, kind in fields.items()})
    assert fill(model, text)


@pytest.mark.parametrize(
    "kind",
    [
        *(dt.date, dt.datetime, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal, pydantic.AnyUrl, pydantic.Base64Str),
        *(Literal["only"], Colour, Inner, int, float, bool, Annotated[str, Field(max_length=3)]),
    ],
)
@pytest.mark.parametrize("name", ["keywords", "side_effects", "highlights", "tags"])
def test_words_of_the_text_only_go_where_words_go(name, kind):
    """A list that is called after something in the text, but holds dates, links or anything else, is filled by type."""
    model = pydantic.create_model("Made", **{name: (list[kind], ...)})
    assert fill(model)
    with_some = pydantic.create_model("Made", **{name: (Annotated[list[kind], Field(min_length=3)], ...)})
    assert len(getattr(fill(with_some, "Nausea. Nausea. On 2020-02-02."), name)) >= 3


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        (str, 9),
        (Annotated[str, Field(max_length=4)], 9),
        (Annotated[str, Field(min_length=12)], 9),
        (Annotated[int, Field(ge=3, le=11)], 9),
        (Annotated[int, Field(gt=2, lt=12)], 9),
        (Annotated[int, Field(multiple_of=7, le=-7)], 9),
        (bool, 2),
        (Colour, 2),
    ],
)
@pytest.mark.parametrize("text", ["", "No. No. Nausea.", REVIEW])
@pytest.mark.parametrize("name", ["highlights", "side_effects", "x"])
def test_sets_are_filled_with_different_items_of_their_kind(kind, least, text, name):
    """Where the text says too little or the same twice, further items are what the schema takes, and no numbers."""
    model = pydantic.create_model("Made", **{name: (Annotated[set[kind], Field(min_length=least)], ...)})
    made = json.loads(content(ask(text, model.model_json_schema())))[name]
    assert len(getattr(model.model_validate({name: made}), name)) == len(made) >= least


def test_a_set_that_cannot_be_filled_is_a_bad_request():
    """No item is made up that the schema does not take."""
    for kind in (Literal["only"], bool, Annotated[int, Field(ge=1, le=2)], dt.timedelta):
        model = pydantic.create_model("Made", keywords=(Annotated[set[kind], Field(min_length=3)], ...))
        answer = ask(REVIEW, model.model_json_schema())
        assert answer.status_code == 400
        assert "not enough different items at /keywords" in answer.body["error"]["message"]


def test_the_same_request_gets_the_same_answer():
    """And another text another one."""
    schema = Everything.model_json_schema()
    assert content(ask(REVIEW, schema)) == content(ask(REVIEW, schema)) != content(ask("Another.", schema))


def test_schemas_that_all_refer_to_each_other_stay_small():
    """Thirty kinds of nodes, each with children of any kind, are filled in no time."""
    kinds = [f"K{number}" for number in range(30)]
    any_kind = {"anyOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds]}
    node = {
        "type": "object",
        "properties": {"a": any_kind, "b": any_kind, "c": {"type": "array", "items": any_kind}},
        "required": ["a", "b", "c"],
    }
    leaf = {"type": "object", "properties": {"v": {"type": "integer"}}, "required": ["v"]}
    defs = dict.fromkeys(kinds[1:], node) | {"K0": leaf}
    begin = time.perf_counter()
    assert json.loads(content(ask(REVIEW, {"$defs": defs, "$ref": "#/$defs/K5"})))
    assert time.perf_counter() - begin < 2


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {"$ref": "#/nowhere"},
        {"type": "strange"},
        {"$ref": "#"},
        {"enum": []},
        {"allOf": [3]},
        {"type": "array", "minItems": 10**9},
    ],
)
def test_an_impossible_schema_is_a_bad_request(schema):
    """It is that request's error, and says what is wrong."""
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    answer = ask(REVIEW, response_format=wanted)
    assert answer.status_code == 400
    assert "schema" in answer.body["error"]["message"]


class Review(BaseModel):
    sentiment: Literal["positive", "neutral", "negative"]
    side_effects: list[str]
    severity: Literal["none", "mild", "moderate", "severe"]
    summary: str
    stars: Annotated[int, Field(ge=1, le=5)]
    recommended: bool
    confidence: Annotated[float, Field(ge=0, le=1)]
    keywords: list[str]


def test_fields_say_what_the_text_says():
    """Sentiment, unwanted effects and their severity, stars and the rest agree with the text."""
    review = fill(Review)
    assert review.sentiment == "negative"
    assert review.side_effects == ["nausea", "dizziness"]
    assert review.severity == "severe"
    assert review.summary == "I was prescribed this for migraines."
    assert review.stars < 3
    assert not review.recommended
    assert {"terrible", "recommend"} & set(review.keywords) or review.keywords
    happy = fill(Review, "This is the best medicine ever, it works wonders! I love it and had no side effects.")
    assert (happy.sentiment, happy.side_effects, happy.severity) == ("positive", [], "none")
    assert happy.recommended
    assert happy.stars > 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["Positive", "Negative"], "Negative"),
        (["POS", "NEU", "NEG"], "NEG"),
        (["very positive", "positive", "neutral", "negative", "very negative"], "negative"),
        (["satisfied", "dissatisfied"], "dissatisfied"),
        (["happy", "unhappy", "unknown"], "unhappy"),
    ],
)
def test_sentiment_takes_the_words_that_are_offered(options, expected):
    """Whatever a field is called, labels that are good and bad are chosen by the text's sentiment."""
    schema = {"type": "object", "properties": {"label": {"enum": options}}, "required": ["label"]}
    text = "It was disappointing and useless."
    assert json.loads(content(ask(text, schema))) == {"label": expected}


@pytest.mark.parametrize(
    ("text", "effects", "severity"),
    [
        ("No nausea, vomiting, or headaches.", [], "none"),
        ("I slept well without headaches and it cleared my acne.", [], "none"),
        ("It gave me headaches.", ["headache"], "mild"),
        ("I gained 20 pounds and was constipated every day.", ["weight gain", "constipation"], "moderate"),
        ("The rash it caused was so bad that I went to the hospital.", ["rash"], "severe"),
        ("My anxiety is finally gone.", [], "none"),
        ("", [], "none"),
    ],
)
def test_unwanted_effects_are_told_from_what_was_treated(text, effects, severity):
    """What is denied, or was there before, is no effect; without effects there is no severity."""
    reading = Reading(text)
    assert (reading.effects, reading.severity) == (effects, severity)


def test_severity_and_effects_never_contradict_each_other():
    """Over many texts, severity is `none` exactly when there are no effects."""
    parts = ["nausea", "it gave me hives", "no", "hospital", "mild", "terrible", "great", "I stopped taking it"]
    for one in parts:
        for other in parts:
            reading = Reading(f"{one} {other}.")
            assert (reading.severity == "none") == (not reading.effects)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("What is 2+2?", "4"),
        ("3 * (4 + 5)", "27"),
        ("How much is 10 / 4?", "2.5"),
        ("Capital of France?", "Paris"),
        ("What is the capital of the United Kingdom?", "London"),
    ],
)
def test_small_questions_have_small_answers(question, answer):
    """A sum or a capital is answered by itself."""
    assert content(ask(question)) == answer


@pytest.mark.parametrize("question", ["1/0", "9" * 5000, "((((", "2**9999999", "", "12-14 May"])
def test_odd_questions_do_no_harm(question):
    """They get some text."""
    assert content(ask(question))


def test_plain_text_is_answered_from_the_text():
    """The first sentence and what was found in it; nothing is made up."""
    answer = content(ask(REVIEW))
    assert answer.startswith("I was prescribed this for migraines.")
    assert "negative" in answer
    assert "nausea" in answer


def test_json_mode_gives_an_object():
    """A request for any JSON object gets one."""
    assert json.loads(content(ask(REVIEW, response_format={"type": "json_object"})))["sentiment"] == "negative"


def test_an_answer_is_cut_at_its_limit():
    """The finish reason says so, and the usage is the limit."""
    for name in ("max_tokens", "max_completion_tokens"):
        body = ask(REVIEW, **{name: 3}).body
        assert body["choices"][0]["finish_reason"] == "length"
        assert body["usage"]["completion_tokens"] == 3
        assert len(body["choices"][0]["message"]["content"]) <= 12


def test_a_forced_tool_is_called_with_valid_arguments():
    """The content is null then, and the arguments fit the tool's parameters."""
    tool = {"type": "function", "function": {"name": "label", "parameters": Inner.model_json_schema()}}
    body = ask(REVIEW, tools=[tool], tool_choice={"type": "function", "function": {"name": "label"}}).body
    choice = body["choices"][0]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    call = choice["message"]["tool_calls"][0]["function"]
    assert call["name"] == "label"
    Inner.model_validate_json(call["arguments"])


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": 3},
        {"messages": [None]},
        {"messages": [{"role": "user"}], "response_format": 7},
        {"messages": []},
    ],
)
def test_a_malformed_body_is_a_bad_request(body):
    """Nothing that a client writes breaks the model."""
    assert RuleModel().answer(CHAT, body).status_code in (200, 400)
    assert RuleModel().answer("/v1/unknown", body).status_code == 400


def test_the_rules_are_fast():
    """Well over a hundred answers a second, on any machine; it is some two thousand on a good one."""
    schema = Review.model_json_schema()
    begin = time.perf_counter()
    for number in range(200):
        ask(f"{REVIEW} {number}", schema)
    assert time.perf_counter() - begin < 2
