"""Endpoints beyond chat: responses with their items, and embeddings as vectors."""

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster import ConfigurationError, batch_asset
from ractobatch_dagster.embedding import embedding_model
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.requests.body import COMPLETIONS, EMBEDDINGS, MODERATIONS, RESPONSES, RequestTemplate
from ractobatch_dagster.requests.encode import Encoder, encode_line, escape
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.requests.rendering import Requests
from ractobatch_dagster.results.answers import Answers
from ractobatch_dagster.results.classify import Outcome, classify
from tests.project import Project
from tests.requests.test_request_lines import EXTRA, ODD, SYSTEM
from tests.requests.test_request_overrides import block, named
from tests.test_assets import PROMPT, TEXTS, Label


def sent(server: LocalServer) -> list[dict[str, Any]]:
    """Every request that was sent, in order."""
    files = [server.read(batch["input_file_id"]) for batch in server.batches()]
    return [json.loads(line) for data in files for line in data.splitlines()]


def rows() -> pd.DataFrame:
    """Three texts."""
    return pd.DataFrame({"id": [3, 1, 2], "user_message": TEXTS})


def asset(**options: Any) -> Any:
    """An asset of three texts."""
    return batch_asset(name="answers", key="id", **options)(rows)


def test_responses_give_typed_columns(batch_server: LocalServer, tmp_path: Path) -> None:
    """The prompt as instructions, the schema as text format, the items read back; and usage under its other names."""
    made = asset(model="gpt-4o-mini", prompt=PROMPT, endpoint="responses", max_tokens=400, temperature=0)
    project = Project(batch_server, tmp_path, made.assets)
    assert project.run("answers_submission").success
    project.land()
    table = project.load("answers")
    assert table["llm_status"].tolist() == ["ok"] * 3
    assert table["sentiment"].tolist()[:2] == ["positive", "negative"]
    assert (table["llm_prompt_tokens"] > 0).all()
    assert (table["llm_cost_usd"] > 0).all()
    (first, *_) = sent(batch_server)
    assert first["url"] == "/v1/responses"
    assert batch_server.batches()[0]["endpoint"] == "/v1/responses"
    body = first["body"]
    assert body["input"] == [{"role": "user", "content": TEXTS[0]}]
    assert body["instructions"] == PROMPT.compile()
    assert body["max_output_tokens"] == 400
    assert (body["text"]["format"]["type"], body["text"]["format"]["strict"]) == ("json_schema", True)


def test_a_response_is_repaired(batch_server: LocalServer, tmp_path: Path) -> None:
    """The answer that did not fit stands in the input, as a turn of its own."""

    class Fussy(Label):
        """Every first answer is wrong."""

        @classmethod
        def model_validate_json(cls, *given: Any, **more: Any) -> Any:
            made = super().model_validate_json(*given, **more)
            if len(batch_server.batches()) < 2:
                raise ValueError("not good enough")
            return made

    made = asset(model="gpt-4o-mini", prompt="Label it.", output=Fussy, endpoint="responses", repairs=1)
    project = Project(batch_server, tmp_path, made.assets)
    project.run("answers_submission")
    project.land()
    assert project.load("answers")["llm_round"].tolist() == [1] * 3
    turns = sent(batch_server)[-1]["body"]["input"]
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert "not good enough" in turns[-1]["content"]


def test_embeddings_give_vectors(batch_server: LocalServer, tmp_path: Path) -> None:
    """Packed on the wire, 32-bit floats in the table, as long as the model makes them; no text beside them."""
    made = asset(model="text-embedding-3-small", endpoint="embeddings", extra={"dimensions": 64})
    project = Project(batch_server, tmp_path, made.assets)
    assert project.run("answers_submission").success
    project.land()
    table = project.load("answers", kind=pa.Table)
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert np.allclose([np.linalg.norm(vector) for vector in table["embedding"].to_pylist()], 1, atol=1e-5)
    assert table["llm_text"].to_pylist() == [None] * 3
    assert table["llm_completion_tokens"].to_pylist() == [0] * 3
    assert [one["body"] for one in sent(batch_server)] == [
        {"model": "text-embedding-3-small", "input": text, "encoding_format": "base64", "dimensions": 64}
        for text in TEXTS
    ]
    assert project.load("answers")["embedding"][0].shape == (64,)
    assert project.load("answers", kind=pl.DataFrame)["embedding"].dtype == pl.List(pl.Float32)
    assert project.metadata("answers")["dagster/row_count"] == 3


def test_a_vector_that_is_missing_is_null(batch_server: LocalServer, tmp_path: Path) -> None:
    """A request that fails, and one whose length is another than was asked for."""
    batch_server.faults = Faults(fail_ids={"row-00000001": 400})
    made = asset(model="text-embedding-3-small", endpoint="embeddings")  # 1536, and the local model makes 256
    project = Project(batch_server, tmp_path, made.assets)
    project.run("answers_submission")
    project.land()
    table = project.load("answers", kind=pa.Table)
    assert table["embedding"].to_pylist() == [None] * 3
    assert table["llm_status"].to_pylist() == ["invalid_output", "error", "invalid_output"]
    assert "it has 256 dimensions, and 1536 were asked for" in table["llm_error"].to_pylist()[0]
    assert table["llm_text"].to_pylist()[0]  # what came is kept, to be looked at


def test_a_preview_asks_the_same_endpoint(batch_server: LocalServer, tmp_path: Path) -> None:
    """Bodies, hashes and vectors are those of the batch."""
    made = asset(model="text-embedding-3-small", endpoint="embeddings", extra={"dimensions": 8})
    project = Project(batch_server, tmp_path, made.assets)
    shown = made.preview(project.resource, rows=3)
    project.run("answers_submission")
    project.land()
    table = project.load("answers", kind=pa.Table)
    assert shown.table["embedding"].to_pylist() == table["embedding"].to_pylist()
    assert shown.table["llm_request_hash"].to_pylist() == table["llm_request_hash"].to_pylist()
    assert shown.requests == [one["body"] for one in sent(batch_server)]
    estimate = made.estimate(project.resource)
    assert (estimate.requests, estimate.reused) == (0, 3)


def test_rows_may_ask_for_lengths_of_their_own(batch_server: LocalServer, tmp_path: Path) -> None:
    """Then the answer tells, and none is refused for its length."""

    def frame() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a", "b"], "e": ['{"dimensions": 8}', None]})

    options = {"model": "text-embedding-3-small", "endpoint": "embeddings", "extra": {"dimensions": 16}}
    made = batch_asset(**options, name="own", overrides={"extra": "e"})(frame)  # type: ignore[arg-type]
    project = Project(batch_server, tmp_path, made.assets)
    project.run("own_submission")
    project.land()
    assert [len(vector) for vector in project.load("own")["embedding"]] == [8, 16]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (
            {"endpoint": "images"},
            "'images' is none of chat, responses, embeddings, completions, moderations, and no path",
        ),
        ({"endpoint": "embeddings", "prompt": "x"}, "prompt: the embeddings endpoint takes none"),
        ({"endpoint": "embeddings", "output": Label}, "output: the embeddings endpoint takes none"),
        ({"endpoint": "embeddings", "max_tokens": 5}, "max_tokens: the embeddings endpoint takes none"),
        ({"endpoint": "embeddings", "extra": {"dimensions": "8"}}, "'8' is no number of dimensions"),
        ({"endpoint": "embeddings", "overrides": {"system": "s"}}, "the embeddings endpoint takes no 'system'"),
    ],
)
def test_what_an_endpoint_does_not_take_is_refused(options: dict[str, Any], why: str) -> None:
    """When the asset is defined."""
    with pytest.raises(ConfigurationError, match=why):
        asset(model="m", **options)


@given(
    text=ODD,
    system=SYSTEM,
    extra=EXTRA.filter(lambda extra: not {"input", "prompt"} & extra.keys()),
    endpoint=st.sampled_from([RESPONSES, EMBEDDINGS, COMPLETIONS, MODERATIONS]),
)
def test_lines_and_hashes_are_those_of_the_body(
    text: str, system: str | None, extra: dict[str, Any], endpoint: str
) -> None:
    """The quick way, the plain way, and a body of the row's own write the same, with one hash."""
    template = RequestTemplate("m", system if endpoint == RESPONSES else None, extra=extra, endpoint=endpoint)
    encoder, escaped = Encoder.of("p", template), escape(text)
    assert encoder.line(b"row-1", escaped) == encode_line("row-1", template.body(text), endpoint=endpoint)
    if not text.strip():
        return
    own = Requests("p", template, Overrides({"body": "body"}, endpoint))
    made = own.render(block(body=[json.dumps(template.body(text))]), [text], named)
    assert made.hashes == encoder.hashes([escaped])
    line = own.encoder.line(b"row-1", made.parts[0])
    assert json.loads(line)["body"] == template.body(text)
    assert len(line) == own.encoder.overhead + len(made.parts[0]) + len(b"row-1")


def test_a_response_may_be_asked_by_a_plain_text() -> None:
    """As the API takes it; it is sent as the one turn that it stands for."""
    own = Requests("p", RequestTemplate("m", endpoint=RESPONSES), Overrides({"body": "body"}, RESPONSES))
    (body,) = own.bodies(block(body=['{"input": "hi"}']), ["hi"], named)
    assert body == {"model": "m", "input": [{"role": "user", "content": "hi"}]}


def response(*output: Any, **more: Any) -> Outcome:
    """The outcome of a response of these items."""
    body = {"object": "response", "status": "completed", "model": "m", "output": list(output), **more}
    return classify({"custom_id": "a", "response": {"status_code": 200, "body": body}})


def message(*parts: dict[str, Any]) -> dict[str, Any]:
    """A message item."""
    return {"type": "message", "role": "assistant", "content": list(parts)}


TEXT = {"type": "output_text", "text": "x"}


def test_every_item_of_a_response_is_read() -> None:
    """Texts are joined, thoughts and calls kept beside them."""
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    both = response(thought, message(TEXT, {"type": "output_text", "text": "y"}), call)
    assert (both.status, both.text, both.thinking, both.finish_reason) == ("ok", "xy", "hm", "tool_calls")
    assert both.tool_calls == [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    assert response(call).status == "ok"
    refused = response(message({"type": "refusal", "refusal": "no"}))
    assert (refused.status, refused.error) == ("refusal", "no")


@pytest.mark.parametrize(
    ("reason", "status"),
    [("max_output_tokens", "truncated"), ("content_filter", "content_filter"), ("made_up", "ok"), (None, "ok")],
)
def test_an_incomplete_response_says_why(reason: str | None, status: str) -> None:
    """As the finish reasons of a chat."""
    details = {"incomplete_details": {"reason": reason}}
    assert response(message(TEXT), status="incomplete", **details).status == status


@pytest.mark.parametrize("output", [[], [message()], [{"type": "web_search_call"}], ["odd", None, {"type": "message"}]])
def test_a_response_of_nothing_is_no_answer(output: list[Any]) -> None:
    """Nor does anything odd raise."""
    assert (response(*output).status, response(*output).error_code) == ("invalid_output", "no_content")


def test_a_response_that_failed_is_an_error() -> None:
    """Its error stands in the body."""
    failed = response(status="failed", error={"code": "server_error", "message": "oh"})
    assert (failed.status, failed.error_code, failed.retryable) == ("error", "server_error", True)


@given(
    st.lists(st.none() | st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4), min_size=1, max_size=5),
    st.booleans(),
)
def test_vectors_survive_the_wire(vectors: list[list[float] | None], packed: bool) -> None:
    """Packed or written out, of a known length or not."""
    texts = [
        None if one is None
        else base64.b64encode(struct.pack("<4f", *one)).decode() if packed
        else json.dumps(one)
        for one in vectors
    ]  # fmt: skip
    for model in (embedding_model("m", 4), embedding_model("m")):
        (column,), problems = Answers(model).read(texts)
        assert problems == [None] * len(vectors)
        assert column.to_pylist() == vectors
        column.validate(full=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "!",
        "AAAA",
        "[]",
        "[1, null]",
        "[[1]]",
        "[1e999]",
        "[1" + "0" * 400 + "]",
        '["1", "2"]',
        "[true, false]",
        "[1e39, 1]",
        "{}",
        "[" * 100_000,
    ],
)
def test_what_is_no_vector_is_said(text: str) -> None:
    """The row's column is null, whatever came."""
    (column,), problems = Answers(embedding_model("m", 2)).read([text])
    assert column.to_pylist() == [None]
    assert problems[0]
