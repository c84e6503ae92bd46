"""Ways of asking, each an asset with some rows: what is held against OpenAI's schema, and kept byte by byte.

`python -m tests.requests.golden_cases` writes what they ask now into `golden/`; README.md beside this says when to.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import dagster as dg
import pandas as pd
from pydantic import BaseModel, Field, RootModel

from ractobatch_dagster import BatchAsset, OpenAIBatchResource, RactoPrompt, batch_asset
from ractobatch_dagster.requests.encode import Encoder, escape
from ractobatch_dagster.requests.frame import REQUEST_HASH
from ractobatch_dagster.requests.rendering import Requests
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.rows import read_rows
from ractobatch_dagster.submission.sealing import seal_rows
from ractobatch_dagster.submitting import frame_of

GOLDEN = Path(__file__).with_name("golden")
HASHES = GOLDEN / "hashes.json"
NOTE = GOLDEN / "note.txt"

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(24))
PDF = b"%PDF-1.7 and so on"
TEXTS = ["I love it.", 'Broken: "it\\s" ünüsable\n\tafter 2 days \U0001f622', "line\u2028separators\u2029and\x85these"]


class Mood(Enum):
    GOOD = "good"
    BAD = "bad"


class Product(BaseModel):
    """Something sold."""

    name: str
    price: float | None = Field(default=None, ge=0, description="In euro.")


class Book(BaseModel):
    kind: Literal["book"]
    pages: int


class Film(BaseModel):
    kind: Literal["film"]
    minutes: int


class Review(BaseModel):
    """What a review says."""

    mood: Mood
    urgency: Literal[1, 2, 3]
    products: list[Product]
    about: Annotated[Book | Film, Field(discriminator="kind")] | None = None
    written: dt.date | None = None
    paid: Decimal = Decimal(0)
    tags: list[str] = Field(default=[], max_length=5)


class Part(BaseModel):
    name: str
    parts: list[Part] = []


class Scores(BaseModel):
    scores: dict[str, int]


class Words(RootModel[list[str]]):
    pass


@dataclass
class Person:
    name: str
    age: int | None = None


class Place(TypedDict):
    city: str
    zip: NotRequired[str]


SCHEMA = {
    "title": "Verdict",
    "type": "object",
    "properties": {
        "fair": {"type": "boolean"},
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "by": {"enum": ["us", "them", None]},
    },
    "required": ["fair"],
}

PROMPT = RactoPrompt(
    role="You read reviews.",
    aim="Label one review.",
    constraints=["Use only its text.", "Never guess."],
    tone="neutral",
    output_format="json",
    context="A shop's reviews — in many languages.",
    examples=[{"input": "Great!", "output": '{"mood": "good"}'}],
)


@dataclass(frozen=True)
class Case:
    """An asset, and the rows that its function is given."""

    asset: BatchAsset
    rows: pd.DataFrame

    def lines(self, folder: Path) -> list[bytes]:
        """Every request of it as a line of an input file, as it would be sent to OpenAI."""
        inputs = folder / "inputs"
        self.asset.estimate(resource(folder), {"rows": self.rows}, inputs=inputs)
        lines = [line for path in sorted(inputs.iterdir()) for line in path.read_bytes().splitlines(keepends=True)]
        shutil.rmtree(inputs)
        return lines

    def hashes(self, folder: Path) -> list[str]:
        """The identity of every row's question, if OpenAI is asked."""
        spec = self.asset.spec
        terms = spec.terms(resource(folder), "")
        frame = frame_of(dg.build_asset_context(), {"rows": self.rows}, spec, self.asset.signature)
        requests = Requests(terms.provider, terms.template, terms.overrides)
        with tempfile.TemporaryDirectory() as made:
            files = SubmissionFiles(Store(made), "golden", "golden")
            seal_rows(files, {None: frame}, terms.rules, requests, Path(made), time.time, print)
            blocks = list(read_rows(files, 0, len(self.rows), [REQUEST_HASH]))
        return [value.hex() for block in blocks for value in block.column(0).to_pylist()]

    def repair(self, answer: str, problem: str) -> bytes:
        """The line that shows the model an answer of its own to the first row."""
        encoder = Encoder.of("", self.asset.spec.template)
        return encoder.repaired(b"row-00000000", escape(self.rows["user_message"][0]), answer, problem)


def resource(folder: Path) -> OpenAIBatchResource:
    """OpenAI itself, whom nobody here asks anything."""
    return OpenAIBatchResource(api_key="nobody-s", root=str(folder / "store"))


def case(rows: Mapping[str, list[Any]] | None = None, /, **options: Any) -> Case:
    """A case of these columns; the prompts are `TEXTS` where nothing is said."""

    def asked(rows: pd.DataFrame) -> pd.DataFrame:
        return rows

    made = batch_asset(**{"model": "gpt-4o-mini", "name": "asked", **options})(asked)
    return Case(made, pd.DataFrame(rows or {"user_message": TEXTS}, dtype=object))


_TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "What is 2+2?"},
]
_TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "number"}}}}
_OWN = {name: name for name in ("model", "temperature", "max_tokens", "system", "extra")}
_SAID = {
    "user_message": ["a", "b", "c", "d"],
    "model": ["gpt-4o", None, "o3", None],
    "temperature": [0.0, 1.5, None, None],
    "max_tokens": [50, None, 70, None],
    "system": [None, "Label it kindly.", "", None],
    "extra": ['{"seed": 7, "top_p": 0.5}', None, None, '{"user": "u-1"}'],
}

_SHOWN = {"user_message": ["a", "b", "c"], "files": [[PNG], [PDF, PNG], None]}
_NAMED = {
    "user_message": ["a", "b", "c"],
    "files": [["https://example.org/a.png"], [str(NOTE), "data:image/png;base64,AAAA"], None],
}

CASES: dict[str, Case] = {
    "plain": case(),
    "system_text": case(prompt="Be brief."),
    "system_prompt": case(prompt=PROMPT, temperature=0.2, max_tokens=100),
    "template": case({"subject": ["A", "B"], "text": ["x", 'y "z"']}, template="{{ subject }}:\n\n{{ text }}"),
    "reasoning": case(model="o4-mini", max_tokens=500, extra={"reasoning_effort": "low"}),
    "extra": case(extra={"seed": 1, "top_p": 0.9, "stop": ["\n"], "logprobs": True, "metadata": {"a": "b"}}),
    "tools": case(extra={"tools": [{"type": "function", "function": _TOOL}], "tool_choice": "auto"}),
    "tools_models": case(prompt="Serve.", tools=[Product, Person], extra={"tool_choice": "required"}),
    "tools_not_strict": case(tools=[Scores], output=Product, extra={"n": 2, "logprobs": True}),
    "output_model": case(prompt="Read it.", output=Review, temperature=0),
    "output_in_prompt": case(prompt=PROMPT.model_copy(update={"output_format": Product})),
    "output_recursive": case(output=Part),
    "output_not_strict": case(output=Scores),
    "output_no_object": case(prompt="List the words.", output=Words),
    "output_dataclass": case(output=Person),
    "output_typed_dict": case(output=Place),
    "output_json_schema": case(output=SCHEMA),
    "overrides": case(_SAID, prompt="Be brief.", temperature=0.7, max_tokens=20, output=Product, overrides=_OWN),
    "body": case({"request": [json.dumps({"messages": _TALK, "n": 2}), json.dumps({"model": "m", "messages": _TALK})]},
                 overrides={"body": "request"}),
    "files": case(_SHOWN, prompt="Describe it.", overrides={"files": "files"}),
    "files_named": case(_NAMED, overrides={"files": "files"}),
    "files_output": case(_SHOWN, prompt=PROMPT, output=Product, max_tokens=50, overrides={"files": "files"}),
    "responses": case(prompt=PROMPT, endpoint="responses", temperature=0.2, max_tokens=100),
    "responses_plain": case(endpoint="responses"),
    "responses_output": case(endpoint="responses", prompt="Read it.", output=Review),
    "responses_tools": case(endpoint="responses", prompt="Serve.", tools=[Product, Person],
                            extra={"include": ["message.output_text.logprobs"], "parallel_tool_calls": False}),
    "responses_not_strict": case(endpoint="responses", output=Scores),
    "responses_extra": case(endpoint="responses", model="gpt-5",
                            extra={"reasoning": {"effort": "low"}, "store": False}),
    "responses_overrides": case(_SAID | {"extra": ['{"top_p": 0.5}', None, None, None]}, endpoint="responses",
                                overrides=_OWN),
    "responses_body": case({"request": ['{"input": "hi"}', json.dumps({"input": _TALK[1:], "top_p": 0.5})]},
                           endpoint="responses", overrides={"body": "request"}),
    "responses_files": case(_SHOWN, endpoint="responses", overrides={"files": "files"}),
    "responses_files_named": case(_NAMED, endpoint="responses", overrides={"files": "files"}),
    "responses_files_fetched": case({"user_message": ["a"], "files": [["https://example.org/a.pdf"]]},
                                    endpoint="responses", overrides={"files": "files"}),
    "embeddings": case(model="text-embedding-3-small", endpoint="embeddings"),
    "embeddings_dimensions": case(model="text-embedding-3-large", endpoint="embeddings", extra={"dimensions": 256}),
    "embeddings_floats": case(model="text-embedding-3-small", endpoint="embeddings",
                              extra={"encoding_format": "float", "user": "u-1"}),
    "embeddings_overrides": case({"user_message": ["a", "b"], "e": ['{"dimensions": 8}', None]},
                                 model="text-embedding-3-small", endpoint="embeddings", overrides={"extra": "e"}),
    "embeddings_body": case({"request": ['{"input": "hi", "dimensions": 8}']}, model="text-embedding-3-small",
                            endpoint="embeddings", overrides={"body": "request"}),
    "moderations": case(model="omni-moderation-latest", endpoint="moderations"),
    "moderations_body": case({"request": ['{"input": "hi"}', '{"input": [{"type": "text", "text": "hi"}]}']},
                             model="omni-moderation-latest", endpoint="moderations", overrides={"body": "request"}),
    "completions": case(model="gpt-3.5-turbo-instruct", endpoint="completions", temperature=0.2, max_tokens=100,
                        extra={"stop": ["."]}),
    "completions_overrides": case({name: _SAID[name] for name in _SAID if name != "system"},
                                  model="gpt-3.5-turbo-instruct", endpoint="completions",
                                  overrides={name: name for name in _OWN if name != "system"}),
    "completions_body": case({"request": ['{"prompt": "hi", "n": 2}']}, model="gpt-3.5-turbo-instruct",
                             endpoint="completions", overrides={"body": "request"}),
}  # fmt: skip
"""By name; the name is that of the file in `golden/`."""

REPAIRED = ("output_model", "responses_output")
"""Cases whose first row is asked again as well, with an answer that was not valid."""


def rendered(name: str, folder: Path) -> bytes:
    """What the golden file of a case holds."""
    made = CASES[name]
    again = [made.repair('{"mood": "so-so"}', 'mood: "so-so" is neither')] if name in REPAIRED else []
    return b"".join([*made.lines(folder), *again])


def main() -> None:
    """Take what is asked now for golden."""
    for path in GOLDEN.glob("*.jsonl"):
        path.unlink()
    with tempfile.TemporaryDirectory() as folder:
        for name in CASES:
            (GOLDEN / f"{name}.jsonl").write_bytes(rendered(name, Path(folder)))
        hashes = {name: made.hashes(Path(folder)) for name, made in CASES.items()}
    HASHES.write_text(json.dumps(hashes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
