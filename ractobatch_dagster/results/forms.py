"""What an answer holds beside its text: calls of tools, further choices, the probabilities of its tokens."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic import BaseModel

from ractobatch_dagster.form import Form
from ractobatch_dagster.results.answers import Answers
from ractobatch_dagster.results.classify import parse_text
from ractobatch_dagster.tools import calls_model, field_of

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Forms", "More", "raw_text", "read_more", "validator"]


class Choice(msgspec.Struct):
    """One of several answers."""

    text: str | None = None
    refusal: str | None = None
    finish_reason: str | None = None
    calls: list[Any] = []


class Logprob(msgspec.Struct):
    """A token, and the logarithm of its probability."""

    token: str
    logprob: float | None = None


class More(msgspec.Struct):
    """What is stored of an answer beside its text, as it came."""

    calls: list[Any] = []
    choices: list[Choice] = []
    logprobs: list[Logprob] = []


_decode = msgspec.json.Decoder(More).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOTHING = More()


def read_more(stored: str | None) -> More:
    """What `Outcome.more` holds."""
    if stored is None:
        return _NOTHING
    try:
        return _decode(stored)
    except (msgspec.MsgspecError, RecursionError):  # nested deeper than anybody reads: a call that nobody can make
        return More(calls=[None])


def raw_text(text: str | None, calls: Sequence[Any], *, whole: bool = False) -> str | None:
    """What the model wrote; where it wrote nothing, its calls as they came, which a `whole` answer has in any case."""
    if not calls or (text and not whole):
        return text
    said = json.dumps(calls, ensure_ascii=False)
    return f"{text}\n{said}" if text else said


def validator(form: Form) -> Callable[[str | None, str | None], str | None] | None:
    """Says what is wrong with an answer, told by its text and by what is stored beside it; `None` if nothing can be."""
    output_type, tools = form.output_type, form.tools
    if output_type is None and not tools:
        return None
    calls_type = calls_model(tools)

    def problem(text: str | None, stored: str | None) -> str | None:
        calls = read_more(stored).calls if tools else ()
        if calls:
            called, wrong = _called(calls, tools)
            return wrong or parse_text(called, calls_type)[1]
        return None if output_type is None else parse_text(text, output_type)[1]

    return problem


class Forms:
    """The columns of what answers hold beside their texts.

    Attributes:
        fields: Their Arrow fields.
    """

    fields: list[pa.Field]

    def __init__(self, form: Form) -> None:
        import pyarrow as pa

        self._tools, self._with = form.tools, (form.choices, form.logprobs)
        self._calls = Answers(calls_model(form.tools)) if form.tools else Answers(None)
        self._choice = Answers(form.output_type)
        self.fields = [
            pa.field(name, field.type, metadata=_described(model.__doc__))
            for (name, model), field in zip(form.tools.items(), self._calls.fields, strict=True)
        ]
        if form.choices:
            parts = [pa.field(name, pa.string()) for name in ("text", "refusal", "finish_reason")]
            if self._choice.fields:
                parts.append(pa.field("output", pa.struct(self._choice.fields)))
            self.fields.append(pa.field("choices", pa.list_(pa.struct(parts)), metadata=_described(_CHOICES)))
        if form.logprobs:
            one = pa.struct([("token", pa.string()), ("logprob", pa.float64())])
            self.fields.append(pa.field("logprobs", pa.list_(one), metadata=_described(_LOGPROBS)))

    def read(self, found: pa.Table, mores: Sequence[More]) -> tuple[list[pa.Array], list[str | None]]:
        """One array per field, and for each outcome what is wrong with its calls, or `None`.

        Args:
            found: Some outcomes.
            mores: What each holds beside its text.
        """
        import pyarrow as pa

        arrays, problems = self._read_calls(found["status"].to_pylist(), mores)
        with_choices, with_logprobs = self._with
        if with_choices:
            arrays.append(self._choices(found, mores))
        if with_logprobs:
            lists = [[{"token": one.token, "logprob": one.logprob} for one in more.logprobs] or None for more in mores]
            arrays.append(pa.array(lists, self.fields[-1].type))
        return arrays, problems

    def _read_calls(
        self, statuses: Sequence[str | None], mores: Sequence[More]
    ) -> tuple[list[pa.Array], list[str | None]]:
        if not self._tools:
            return [], [None] * len(mores)
        read = [
            _called(more.calls, self._tools) if status == "ok" and more.calls else (None, None)
            for status, more in zip(statuses, mores, strict=True)
        ]
        arrays, problems = self._calls.read([called for called, _ in read])
        return arrays, [wrong or problem for (_, wrong), problem in zip(read, problems, strict=True)]

    def _choices(self, found: pa.Table, mores: Sequence[More]) -> pa.Array:
        """All answers of each row; typed are those that are complete and fit."""
        import pyarrow as pa

        rows = found.select(["status", "text", "error", "finish_reason"]).to_pylist()
        lists = [more.choices or _only(row, more.calls) for row, more in zip(rows, mores, strict=True)]
        some = list(chain.from_iterable(lists))
        parts = [
            pa.array([raw_text(one.text, one.calls) for one in some], pa.string()),
            pa.array([one.refusal for one in some], pa.string()),
            pa.array([one.finish_reason for one in some], pa.string()),
        ]
        kind = next(field.type for field in self.fields if field.name == "choices")
        if self._choice.fields:
            texts = [one.text if _complete(one) else None for one in some]
            arrays, problems = self._choice.read(texts)
            absent = [text is None or problem is not None for text, problem in zip(texts, problems, strict=True)]
            parts.append(
                pa.StructArray.from_arrays(arrays, fields=self._choice.fields, mask=pa.array(absent, pa.bool_()))
            )
        items = pa.StructArray.from_arrays(parts, fields=list(kind.value_type))
        ends = pa.array([0, *accumulate(map(len, lists))], pa.int32())
        return pa.ListArray.from_arrays(ends, items, type=kind, mask=pa.array([not one for one in lists], pa.bool_()))


def _only(row: Mapping[str, Any], calls: list[Any]) -> list[Choice]:
    """The one answer of a row that has not several; none of a row without any."""
    text, reason = row["text"], row["finish_reason"]
    if row["status"] == "refusal":
        return [Choice(None if text == row["error"] else text, row["error"], reason, calls)]
    return [Choice(text, None, reason, calls)] if text is not None or calls else []


def _complete(choice: Choice) -> bool:
    return not choice.refusal and not choice.calls and choice.finish_reason not in ("length", "content_filter")


def _called(calls: Sequence[Any], tools: Mapping[str, type[BaseModel]]) -> tuple[str | None, str | None]:
    """All calls of an answer as the JSON of one object, the arguments by tool; or what is wrong with them."""
    by_tool: dict[str, list[str]] = {}
    for call in calls:
        told = call.get("function") if isinstance(call, dict) else None
        function: dict[str, Any] = told if isinstance(told, dict) else {}
        name = str(function.get("name"))
        if name not in tools:
            return None, f"it calls {name!r}, which is none of the tools: {', '.join(tools)}"
        given = function.get("arguments")
        # a function without parameters may be called with nothing at all; some servers give an object, not its JSON
        arguments = (given or "{}") if isinstance(given, str) else json.dumps(given or {})
        try:
            _object(arguments)  # by itself, since it is put between others
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError) as error:
            return None, f"{name}: its arguments are no JSON object: {error}"
        by_tool.setdefault(field_of(name), []).append(arguments)
    lists = [f'"{name}":[{",".join(some)}]' for name, some in by_tool.items()]
    return "{" + ",".join(lists) + "}", None


def _described(text: str | None) -> dict[bytes, bytes] | None:
    return {b"description": " ".join(text.split()).encode()} if text else None


_CHOICES = "All answers of the row; the first is the one in the other columns."
_LOGPROBS = "The answer's tokens, each with the logarithm of its probability."
