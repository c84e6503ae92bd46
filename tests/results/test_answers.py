"""Answer texts as Arrow columns: the quick way gives what the general way gives."""

from __future__ import annotations

import datetime as dt
import enum
import json
import math
import sys
import types
from collections.abc import Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal, Optional, Union, get_origin
from uuid import UUID

import pyarrow as pa
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    create_model,
    field_validator,
    model_validator,
)

from ractobatch_dagster.results.answers import Answers
from ractobatch_dagster.results.classify import parse_text
from ractobatch_dagster.results.schema import model_columns


class Colour(str, enum.Enum):  # noqa: UP042 - its str() is not its value
    """Texts, one of them twice."""

    RED = "red"
    BLUE = "blue"
    AZURE = "blue"  # noqa: PIE796 - so that one has two names


class Level(enum.IntEnum):
    """Numbers."""

    LOW = 1
    HIGH = 2


class Size(enum.Enum):
    """Numbers that are none."""

    SMALL = 1
    BIG = -5


class Mixed(enum.Enum):
    """Either."""

    ONE = 1
    TWO = "two"


class Shade(enum.IntFlag):
    """Numbers that add up."""

    A = 1
    B = 2


class Part(BaseModel):
    """A nested model."""

    name: str
    colour: Colour | None = None


class Whole(BaseModel):
    """Every plain kind."""

    text: str
    number: int
    amount: float
    flag: bool
    mood: Literal["good", "bad"]
    level: Level
    size: Size
    rank: Literal[1, 2, 3]
    colour: Colour
    maybe: Optional[int]  # noqa: UP045 - both spellings are to be known
    perhaps: str | None = None
    part: Part
    parts: list[Part]
    table: list[list[int | None]]
    words: list[Literal["x", "y"]] | None
    few: Annotated[list[str], Field(max_length=2)] = []
    share: float = Field(ge=0, lt=1, description="Of it all.")
    short: str = Field(min_length=1, max_length=3)


GOOD: dict[str, Any] = {
    "text": "Grüße, 😀",
    "number": -(1 << 63),
    "amount": 5,
    "flag": True,
    "mood": "bad",
    "level": 2,
    "size": -5,
    "rank": 3,
    "colour": "blue",
    "maybe": None,
    "perhaps": "",
    "part": {"colour": None, "name": "a"},
    "parts": [{"name": "b", "colour": "red"}, {"name": "c"}],
    "table": [[1, None], []],
    "words": ["y", "y"],
    "few": ["one"],
    "share": 0.5,
    "short": "😀😀😀",
}


def general(model: type[BaseModel], texts: Sequence[str | None]) -> tuple[list[pa.Array], list[str | None]]:
    """Every text by Pydantic, every value by its column."""
    columns = model_columns(model)
    rows: list[list[Any]] = []
    problems: list[str | None] = []
    for text in texts:
        value, problem = (None, None) if text is None else parse_text(text, model)
        row = [None] * len(columns)
        try:
            if value is not None:
                row = [column.convert(getattr(value, column.name)) for column in columns]
        except (ValueError, TypeError, ArithmeticError) as error:
            problem = str(error) or "it does not fit"
        rows.append(row)
        problems.append(problem)
    return [pa.array([row[i] for row in rows], column.type) for i, column in enumerate(columns)], problems


def same(model: type[BaseModel], texts: Sequence[str | None]) -> list[str | None]:
    """Both ways say the same of all texts; the problems."""
    answers = Answers(model)
    expected, expected_problems = general(model, texts)
    arrays, problems = answers.read(texts)
    assert problems == expected_problems
    assert [field.type for field in answers.fields] == [array.type for array in expected]
    assert [field.name for field in answers.fields] == list(model.model_fields)
    for array, wanted in zip(arrays, expected, strict=True):
        array.validate(full=True)
        assert array.type == wanted.type
        assert repr(array.to_pylist()) == repr(wanted.to_pylist())  # tells -0.0 from 0.0, and NaN is NaN
        if pa.types.is_dictionary(array.type):
            assert array.dictionary.to_pylist() == wanted.dictionary.to_pylist()
    return problems


def single(annotation: Any, **config: Any) -> type[BaseModel]:
    """A model with one field."""
    return create_model("Single", value=annotation if isinstance(annotation, tuple) else (annotation, ...), **config)


def listed(item: Any) -> Any:
    """A list of what is known only at run time."""
    return types.GenericAlias(list, item)


def by_pydantic(answers: Answers, texts: Sequence[str | None]) -> int:
    """How many of the texts went the general way."""
    calls = 0

    def count(frame: Any, what: str, _arg: Any) -> None:
        nonlocal calls
        calls += what == "call" and frame.f_code is parse_text.__code__

    sys.setprofile(count)
    try:
        answers.read(texts)
    finally:
        sys.setprofile(None)
    return calls


def test_every_plain_kind_is_read_as_it_is() -> None:
    """All kinds in one model, the values written out, and none of them by Pydantic."""
    answers = Answers(Whole)
    text = json.dumps(GOOD)
    arrays, problems = answers.read([text, None])
    assert answers.plain
    assert problems == [None, None]
    assert {field.name: array.to_pylist() for field, array in zip(answers.fields, arrays, strict=True)} == {
        **{name: [value, None] for name, value in GOOD.items()},
        "amount": [5.0, None],
        "parts": [[{"name": "b", "colour": "red"}, {"name": "c", "colour": None}], None],
    }
    assert answers.fields == [column.field() for column in model_columns(Whole)]
    assert by_pydantic(answers, [text, None]) == 0
    same(Whole, [text, None, json.dumps(GOOD, indent=4), json.dumps(GOOD, ensure_ascii=False)])


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("number", 5.0, None),
        ("number", "5", None),
        ("number", True, None),
        ("number", 5.5, "number: Input should be a valid integer, got a number with a fractional part"),
        ("number", 1 << 63, "9223372036854775808 does not fit into 64 bits"),
        ("text", 5, "text: Input should be a valid string"),
        ("amount", math.inf, None),
        ("amount", "1e3", None),
        ("flag", "yes", None),
        ("mood", "awful", "mood: Input should be 'good' or 'bad'"),
        ("colour", "green", "colour: Input should be 'red', 'blue' or 'blue'"),
        ("part", {"name": 1}, "part.name: Input should be a valid string"),
        ("few", ["a", "b", "c"], "few: List should have at most 2 items after validation, not 3"),
        ("share", 1, "share: Input should be less than 1"),
        ("short", "😀😀😀😀", "short: String should have at most 3 characters"),
        ("new", [[[[{}]]]], None),
    ],
)
def test_what_is_not_exactly_so_goes_the_general_way(name: str, value: Any, problem: str | None) -> None:
    """Pydantic takes it or says what is wrong, and the values of a wrong row are null."""
    texts = [json.dumps({**GOOD, name: value}), json.dumps(GOOD)]
    assert by_pydantic(Answers(Whole), texts) == 1
    assert same(Whole, texts) == [problem, None]
    arrays, _ = Answers(Whole).read(texts)
    assert all(array[0].as_py() is None for array in arrays) or problem is None


@pytest.mark.parametrize(
    "number", ["1" + "0" * 20, "-1" + "0" * 400, "1" * 5000, "-0", "1e400", "2.0", "0.1e-400", "01"]
)
@pytest.mark.parametrize("annotation", [int, float, int | None, list[float], Literal[1, 2]])
def test_a_number_is_the_same_number(annotation: Any, number: str) -> None:
    """However large, small or oddly written."""
    same(single(annotation), [f'{{"value": {number}}}', f'{{"value": [{number}]}}'])


def test_of_a_key_that_comes_twice_the_last_counts() -> None:
    """Also where it is written with escapes."""
    texts = ['{"value": 1, "value": 2}', '{"value": 1, "\\u0076alue": 2}']
    assert by_pydantic(Answers(single(int)), texts) == 0
    same(single(int), texts)
    assert Answers(single(int)).read(texts)[0][0].to_pylist() == [2, 2]


@pytest.mark.parametrize(
    "annotation",
    [
        *(dt.date, dt.datetime, Decimal, UUID, bytes, Any, dict[str, int], set[int], tuple[int, ...], int | str),
        *(Mixed, Shade, Literal[1, "one"], Literal[True], Literal[1 << 63], list, list[Any], object),
        *(RootModel[int], create_model("Empty"), single(int | str), listed(single(Any))),
        *(Annotated[str, AfterValidator(str.upper)], Annotated[int, BeforeValidator(abs)]),
        *(Annotated[int, Field(strict=True)], Annotated[str, Field(pattern="a")]),
        *(
            Annotated[int, Field(gt=(1 << 63) - 1)],
            Annotated[int, Field(lt=-1 << 70)],
            Annotated[int, Field(multiple_of=2)],
        ),
        *((int, Field(alias="other")), (int, Field(1, validate_default=True)), (int, Field(gt=1, ge=1))),
    ],
)
def test_what_is_not_plain_goes_the_general_way(annotation: Any) -> None:
    """Where both ways might differ, there is only one."""
    model = single(annotation)
    assert not Answers(model).plain
    assert not Answers(single(listed(model))).plain
    same(
        model, ['{"value": 1}', '{"value": "one"}', '{"other": [1, 2]}', '{"value": {"value": true}}', "{}", "1", None]
    )


@pytest.mark.parametrize(
    "config",
    [
        *({"str_strip_whitespace": True}, {"strict": True}, {"str_max_length": 2}, {"str_to_upper": True}),
        *({"coerce_numbers_to_str": True}, {"allow_inf_nan": False}, {"validate_default": True}),
        *({"alias_generator": str.upper}, {"from_attributes": True}),
    ],
)
def test_a_setting_that_may_change_a_value_is_not_plain(config: ConfigDict) -> None:
    """Blanks that are stripped, say, are stripped."""
    model = single(str, __config__=config)
    assert not Answers(model).plain
    same(model, ['{"value": " a "}', '{"value": 1}', '{"VALUE": "abc"}', '{"value": "abc"}'])


@pytest.mark.parametrize("extra", ["ignore", "allow", "forbid"])
def test_a_key_too_much_is_the_models_affair(extra: Any) -> None:
    """Ignored, kept or refused, also where it is nested deeper than Pydantic goes."""
    model = single(int, __config__=ConfigDict(extra=extra, title="A title", frozen=True))
    assert Answers(model).plain
    deep = '{"value": 1, "more": ' + "[" * 250 + "]" * 250 + "}"
    problems = same(model, ['{"value": 1}', '{"value": 1, "more": 1e999}', '{"value": 1, "more": "\\ud800"}', deep])
    assert problems[0] is None
    assert (problems[1] is None) == (extra != "forbid")
    assert problems[3] is not None


class Checked(BaseModel):
    """A validator of one field."""

    value: str

    @field_validator("value")
    @classmethod
    def _upper(cls, value: str) -> str:
        return value.upper()


class Turned(BaseModel):
    """A validator of the whole."""

    value: str

    @model_validator(mode="before")
    @classmethod
    def _turn(cls, data: Any) -> Any:
        return {"value": data["value"][::-1]}


class Late(BaseModel):
    """A hook after validation."""

    value: str

    def model_post_init(self, _context: Any) -> None:
        self.value += "!"


class Started(BaseModel):
    """An `__init__` of its own."""

    value: str

    def __init__(self, value: str) -> None:
        super().__init__(value=value * 2)


class Hidden(BaseModel):
    """Its values are not what they look."""

    value: str

    def __getattribute__(self, name: str) -> Any:
        return "hidden" if name == "value" else super().__getattribute__(name)


class Shadow:
    """A property."""

    @property
    def value(self) -> str:
        """Not what was set."""
        return "shadow"


with pytest.warns(UserWarning, match="shadows"):

    class Shadowed(Shadow, BaseModel):
        """A property before the field."""

        value: str


class Loud(BaseModel):
    """It reads JSON in a way of its own."""

    value: str

    @classmethod
    def model_validate_json(cls, _data: Any, **_how: Any) -> Loud:  # type: ignore[override]
        return cls(value="loud")


class Node(BaseModel):
    """A model that contains itself."""

    value: str
    nodes: list[Node] = []


@pytest.mark.parametrize("model", [Checked, Turned, Late, Started, Hidden, Shadowed, Loud, Node])
def test_a_model_with_ways_of_its_own_is_not_plain(model: type[BaseModel]) -> None:
    """Whatever it does to a value is done."""
    for one in (model, single(model)):
        assert not Answers(one).plain
        same(one, ['{"value": "ab"}', '{"value": {"value": "ab"}}', '{"value": "ab", "nodes": [{"value": "b"}]}'])


def test_a_schema_that_says_other_than_the_annotation_is_not_plain() -> None:
    """The annotation decides the column: a name for `str` that the column does not know becomes JSON text."""
    from typing_extensions import TypeAliasType

    model = single(TypeAliasType("Name", str))
    assert not Answers(model).plain
    same(model, ['{"value": "a"}'])


def test_a_null_struct_in_a_map_points_to_no_word() -> None:
    """Nor does one in a list of maps; PyArrow by itself makes an index of 0 where there may be no word at all."""
    part = create_model("Part", word=(Literal["x"], ...))
    for model in (single(dict[str, part | None]), single(dict[str, listed(part | None)])):  # type: ignore[valid-type]
        same(model, ['{"value": {"a": null}}', '{"value": {}}', '{"value": {"a": [null]}}', None])
    same(single(listed(dict[str, part | None])), ['{"value": [{"a": null}]}', '{"value": []}', None])  # type: ignore[valid-type]


def test_no_output_model_has_no_columns() -> None:
    """Text answers stay what they are."""
    answers = Answers(None)
    assert not answers.fields
    assert answers.read(["a", None]) == ([], [None, None])


@pytest.mark.parametrize("model", [Whole, single(Any)])
def test_no_texts_are_empty_columns(model: type[BaseModel]) -> None:
    """The types are the same whatever the data."""
    same(model, [])
    same(model, [None, None])


def test_a_value_that_no_column_holds_is_its_rows_fault() -> None:
    """A time that in UTC is outside the calendar, however deep, and half a character in a default of the user's."""
    late, early = "9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"
    texts = [f'{{"value": "{when}"}}' for when in (late, "2026-01-01T01:00:00+01:00", early)]
    arrays, problems = Answers(single(dt.datetime)).read(texts)
    assert arrays[0].to_pylist() == [None, dt.datetime(2026, 1, 1, tzinfo=dt.UTC), None]
    assert problems[1] is None
    assert [problem for problem in problems if problem and "outside the years 1 to 9999" in problem] == problems[::2]
    _, deep = Answers(single(dict[str, list[dt.datetime]])).read([f'{{"value": {{"a": ["{early}"]}}}}'])
    assert "outside the years" in str(deep[0])
    half = create_model("Half", value=(str, "\ud800"), name=(str, ...))
    arrays, problems = Answers(half).read(['{"name": "a"}', '{"name": "b", "value": "c"}', None])
    assert [array.to_pylist() for array in arrays] == [[None, "c", None], [None, "b", None]]
    assert "surrogates not allowed" in str(problems[0])
    assert problems[1:] == [None, None]


def test_blocks_join_to_the_same_column_however_they_are_cut() -> None:
    """Values, nested ones too, and the dictionary of the words are those of one block."""
    words = ["good", "bad", "bad", "good", "bad"]
    texts = [json.dumps({**GOOD, "mood": word, "words": ["xy"[i % 2]]}) for i, word in enumerate(words)]
    whole, _ = Answers(Whole).read(texts)
    for cut in range(len(texts) + 1):
        blocks = [Answers(Whole).read(block)[0] for block in (texts[:cut], texts[cut:])]
        for parts in zip(*blocks, whole, strict=True):
            assert pa.concat_arrays(list(parts[:2])).equals(parts[2])


# -- any model, any text -----------------------------------------------------------------------------------------------

SPACE = st.sampled_from(["", " ", "\n", "\t\r\n "])
NO_SPACE = st.sampled_from(["\u00a0", "\ufeff", "\x0b", "\x00", "\u2028"])
ODD = st.sampled_from(
    "null true false 0 1 2 -0 -0.0 5.0 1e2 1E400 -1e400 1e-400 0.1 NaN Infinity -Infinity 9223372036854775807 01 +1 1. "
    '9223372036854775808 -9223372036854775809 18446744073709551616 1e5000 [] {} [1] [null] \'x\' "" " a " "5" '
    '"true" "1.5" "red" "\\u0072ed" "\\ud800" "\\ud83d\\ude00" "\\udc00\\ud800" "\x00" "\\u0000" "\ud800" "two" '
    '"2026-01-01" '
    '"00000000-0000-0000-0000-000000000000" /**/1 1,2 1]'.replace('" a "', '"\u2003a"').split(" ")
)
NUMBERS = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.from_regex(
        r"\A-?(0|[1-9][0-9]{0,40})(\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?\Z", alphabet=st.characters(codec="ascii")
    ),
)
TEXTS = st.text(max_size=8).flatmap(lambda text: st.booleans().map(lambda plain: json.dumps(text, ensure_ascii=plain)))

PLAIN: list[tuple[Any, st.SearchStrategy[str]]] = [
    (str, TEXTS),
    (int, st.integers().map(str)),
    (float, NUMBERS),
    (bool, st.sampled_from(["true", "false"])),
    (Literal["red", "", "ü"], st.sampled_from(['"red"', '""', '"ü"', '"\\u00fc"'])),
    (Literal[1, 2, -3], st.sampled_from(["1", "2", "-3"])),
    (Literal["red", None], st.sampled_from(['"red"', "null"])),
    (Colour, st.sampled_from(['"red"', '"blue"', '"AZURE"'])),
    (Level, st.sampled_from(["1", "2"])),
    (Size, st.sampled_from(["1", "-5"])),
    (Annotated[int, Field(ge=-3, lt=1 << 62)], st.integers().map(str)),
    (Annotated[int, Field(gt=-(1 << 63), le=3)], st.integers().map(str)),
    (Annotated[float, Field(gt=0, le=0.1)], NUMBERS),
    (Annotated[float, Field(ge=0, lt=2)], NUMBERS),
    (Annotated[str, Field(min_length=1, max_length=3)], TEXTS),
]
OTHER: list[tuple[Any, st.SearchStrategy[str]]] = [
    (int | str, TEXTS | NUMBERS),
    (Any, ODD),
    (dt.date, st.dates().map(lambda day: f'"{day}"')),
    (Decimal, NUMBERS),
    (UUID, st.uuids().map(lambda one: f'"{one}"')),
    (dict[str, int], st.just('{"a": 1, "a": 2}')),
    (Literal[1, "two"], st.sampled_from(["1", '"two"'])),
    (Mixed, st.sampled_from(["1", '"two"'])),
    (Shade, st.sampled_from(["1", "3"])),
    (Annotated[str, AfterValidator(str.upper)], TEXTS),
    (Annotated[int, BeforeValidator(lambda value: value or 7)], NUMBERS),
    (Annotated[float, Field(strict=True)], NUMBERS),
    (Annotated[str, Field(strict=True)], TEXTS),
    (set[int], st.just("[2, 1, 1]")),
]
CONFIGS = st.sampled_from(
    [
        *[ConfigDict()] * 6,
        *(ConfigDict(extra="forbid"), ConfigDict(extra="allow"), ConfigDict(title="T"), ConfigDict(frozen=True)),
        *(ConfigDict(str_strip_whitespace=True), ConfigDict(strict=True), ConfigDict(use_enum_values=True)),
        *(ConfigDict(str_max_length=2), ConfigDict(populate_by_name=True), ConfigDict(coerce_numbers_to_str=True)),
    ]
)
NAMES = st.sampled_from(["a", "b", "c", "red", "two", "value", "class", "self", "ü", "ab", "abc", "x" * 40])


@st.composite
def annotated(draw: st.DrawFn, leaves: Any, depth: int = 2) -> tuple[Any, st.SearchStrategy[str]]:
    """An annotation, and texts that mostly fit it."""
    way = draw(st.integers(0, 6 if depth else 2))
    if way <= 2:
        annotation, texts = draw(st.sampled_from(leaves))
    elif way == 3:
        inner, texts = draw(annotated(leaves, depth - 1))
        annotation, texts = Union[inner, None], st.just("null") | texts  # noqa: UP007
    elif way == 4:
        inner, items = draw(annotated(leaves, depth - 1))
        comma = st.tuples(SPACE, SPACE).map(lambda spaces: f"{spaces[0]},{spaces[1]}")
        annotation = listed(inner)
        texts = st.tuples(comma, st.lists(items, max_size=3)).map(lambda drawn: f"[{drawn[0].join(drawn[1])}]")
    else:
        annotation, texts = draw(models(leaves, depth - 1))
    return annotation, st.integers(0, 40).flatmap(lambda odd: ODD if odd == 7 else texts)


@st.composite
def objects(draw: st.DrawFn, parts: dict[str, st.SearchStrategy[str]], needed: set[str]) -> str:
    """A JSON object: keys in any order, seldom one too few, too many, twice, or escaped."""
    names = draw(st.permutations(list(parts)))
    seldom = st.integers(0, 12).map(lambda number: number == 7)
    names = [name for name in names if not draw(seldom if name in needed else st.booleans())]
    if draw(seldom):
        names.insert(draw(st.integers(0, len(names))), draw(st.sampled_from([*names, "more"])))
    members = []
    for name in names:
        key = json.dumps(name, ensure_ascii=draw(st.booleans()))
        if draw(seldom):
            key = '"' + "".join(f"\\u{ord(letter):04x}" for letter in name) + '"'
        members.append(f"{draw(SPACE)}{key}{draw(SPACE)}:{draw(SPACE)}{draw(parts.get(name, ODD))}")
    return f"{{{','.join(members)}{draw(SPACE)}}}"


@st.composite
def models(draw: st.DrawFn, leaves: Any, depth: int = 2) -> tuple[type[BaseModel], st.SearchStrategy[str]]:
    """A model, and texts that mostly fit it."""
    fields: dict[str, Any] = {}
    parts: dict[str, st.SearchStrategy[str]] = {}
    needed = set()
    for name in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        annotation, parts[name] = draw(annotated(leaves, depth))
        own: list[Any] = (
            [7] if annotation is int else [Field(default_factory=list)] if get_origin(annotation) is list else []
        )
        default = draw(st.sampled_from([..., ..., ..., None, *own]))
        if default is ...:
            needed.add(name)
        fields[name] = (annotation, default)
    config = draw(CONFIGS) if leaves is not PLAIN else ConfigDict()
    return create_model("Drawn", __config__=config, **fields), objects(parts, needed)


@st.composite
def cases(draw: st.DrawFn) -> tuple[type[BaseModel], list[str | None]]:
    """A model and some texts: fitting, wrapped, cut, or anything."""
    model, fitting = draw(models(draw(st.sampled_from([PLAIN, PLAIN, PLAIN + OTHER]))))
    texts: list[str | None] = []
    for way in draw(st.lists(st.integers(0, 15), min_size=1, max_size=8)):
        text = draw(fitting)
        if way == 0:
            text = f"```json\n{text}\n```"
        elif way == 1:
            text = text[: draw(st.integers(0, len(text)))]
        elif way == 2:
            text = draw(st.text(max_size=10) | ODD)
        elif way == 3:
            text = draw(SPACE | NO_SPACE) + text + draw(SPACE | NO_SPACE)
        texts.append(None if way == 4 else text)
    return model, texts


@settings(max_examples=400, deadline=None)
@given(cases())
def test_both_ways_say_the_same(case: tuple[type[BaseModel], list[str | None]]) -> None:
    """Whatever the model and the text: the same values, types and problems."""
    model, texts = case
    try:
        general(model, texts)
    except Exception as error:  # noqa: BLE001 (what the general way does not survive, the quick way need not)
        event(f"the general way raises {type(error).__name__}")
        with pytest.raises(type(error)):
            Answers(model).read(texts)
        return
    answers = Answers(model)
    same(model, texts)
    quick = sum(text is not None for text in texts) - by_pydantic(answers, texts)
    event(f"plain: {answers.plain}, quickly read: {quick}")
