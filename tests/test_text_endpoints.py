"""Endpoints whose answers are neither chats nor vectors: completions, moderations, and those we know nothing of."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster import ConfigurationError, InvalidInputError, batch_asset
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.local.answers import Answer
from ractobatch_dagster.moderation import CATEGORIES, Moderation
from ractobatch_dagster.requests.body import COMPLETIONS, MODERATIONS, RequestTemplate
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.requests.rendering import Requests
from ractobatch_dagster.results.answers import Answers
from ractobatch_dagster.results.classify import Outcome, classify
from tests.project import Project, failure
from tests.requests.test_request_overrides import block, named
from tests.test_assets import Label
from tests.test_endpoints import asset, sent

SAID = ["I will kill you, you idiot.", "What a lovely day.", "He read about suicide."]


def said() -> pd.DataFrame:
    """Three texts, of which two are flagged."""
    return pd.DataFrame({"user_message": SAID})


def test_moderations_give_flags_and_scores(batch_server: LocalServer, tmp_path: Path) -> None:
    """By the provider's names as far as columns may have them; nothing is paid, and the raw answer is kept."""
    made = batch_asset(model="omni-moderation-latest", endpoint="moderations", name="judged")(said)
    project = Project(batch_server, tmp_path, made.assets)
    assert project.run("judged_submission").success
    project.land()
    table = project.load("judged", kind=pa.Table)
    assert table["flagged"].to_pylist() == [True, False, True]
    kinds = {name: table.schema.field(name).type for name in ("categories", "category_scores")}
    assert {one.type for one in kinds["categories"]} == {pa.bool_()}
    assert {one.type for one in kinds["category_scores"]} == {pa.float64()}
    assert [one.name for one in kinds["categories"]] == [one.name for one in kinds["category_scores"]]
    categories, scores = (table[name].to_pylist() for name in kinds)
    assert [name for name, one in categories[0].items() if one] == ["harassment", "violence"]
    assert [name for name, one in categories[2].items() if one] == ["self_harm"]
    assert scores[0]["violence"] > 0.9 > 0.1 > scores[0]["self_harm_intent"]
    assert table["llm_cost_usd"].to_pylist() == [0.0] * 3
    assert "category_applied_input_types" in table["llm_text"][0].as_py()
    assert [one["body"] for one in sent(batch_server)] == [
        {"model": "omni-moderation-latest", "input": text} for text in SAID
    ]
    assert project.metadata("judged")["cost_usd"] == 0
    shown = made.preview(project.resource, rows=2)
    assert shown.table["categories"].to_pylist() == categories[:2]
    assert shown.cost_usd == 0
    estimate = made.estimate(project.resource)
    assert (estimate.requests, estimate.reused) == (0, 3)


def test_a_moderation_is_given_a_price_of_nothing_before(batch_server: LocalServer, tmp_path: Path) -> None:
    """So that no budget holds it up."""
    made = batch_asset(model="omni-moderation-latest", endpoint="moderations", name="judged")(said)
    estimate = made.estimate(Project(batch_server, tmp_path, made.assets).resource)
    assert (estimate.requests, estimate.prompt_cost_usd, estimate.cost_usd_at_most) == (3, 0, 0)


def test_completions_give_text(batch_server: LocalServer, tmp_path: Path) -> None:
    """With what a chat says beside it: the reason, the model, the tokens; a text that was cut off is no answer."""
    made = asset(model="gpt-3.5-turbo-instruct", endpoint="completions", max_tokens=1, temperature=0, extra={"n": 1})
    whole = asset(model="gpt-3.5-turbo-instruct", endpoint="completions").assets
    for assets, folder, status, reason in (
        (made.assets, tmp_path / "cut", "truncated", "length"),
        (whole, tmp_path / "whole", "ok", "stop"),
    ):
        project = Project(batch_server, folder, assets)
        assert project.run("answers_submission").success
        project.land()
        table = project.load("answers")
        assert table["llm_status"].tolist() == [status] * 3
        assert table["llm_finish_reason"].tolist() == [reason] * 3
        assert table["llm_text"].str.len().gt(0).all()
        assert (table["llm_prompt_tokens"] > 0).all()
        assert (table["llm_completion_tokens"] > 0).all()
    first = sent(batch_server)[0]
    assert first["url"] == "/v1/completions"
    assert first["body"].keys() == {"model", "prompt", "temperature", "max_tokens", "n"}


def test_rows_differ_in_what_completions_take(batch_server: LocalServer, tmp_path: Path) -> None:
    """Parameters, and whole bodies."""

    def frame() -> pd.DataFrame:
        return pd.DataFrame(
            {"user_message": ["a", "b"], "t": [0.5, None], "request": [None, '{"prompt": "c", "n": 2}']}
        )

    own = {"temperature": "t", "body": "request"}
    made = batch_asset(model="m", endpoint="completions", overrides=own, name="own")(frame)
    project = Project(batch_server, tmp_path, made.assets)
    project.run("own_submission")
    project.land()
    assert project.load("own")["llm_status"].tolist() == ["ok"] * 2
    assert [one["body"] for one in sent(batch_server)] == [
        {"model": "m", "prompt": "a", "temperature": 0.5},
        {"model": "m", "prompt": "c", "n": 2},
    ]


class Painter:
    """Answers what no built-in model does."""

    concurrency = 1

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """A picture of few bytes, in the shape of OpenAI's."""
        assert endpoint == "/v1/images/generations"
        drawn = {"b64_json": f"{body['prompt']}".encode().hex()}
        return Answer(200, {"created": 1, "data": [drawn], "usage": {"input_tokens": 3, "output_tokens": 5}})


BODIES = [json.dumps({"prompt": text, "size": "256x256"}) for text in ("a cat", "a dog", "a bird")]


def drawn() -> pd.DataFrame:
    """Bodies of an endpoint that we know nothing of."""
    return pd.DataFrame({"request": BODIES})


def test_any_other_path_gives_what_came_back(tmp_path: Path) -> None:
    """As JSON, with status and usage; in a preview as well."""
    path = "/v1/images/generations"
    made = batch_asset(model="gpt-image-1", endpoint=path, overrides={"body": "request"}, name="drawn")(drawn)
    with LocalServer(model=Painter(), faults=Faults(fail_ids={"row-00000001": 400})) as server:
        project = Project(server, tmp_path, made.assets)
        assert project.run("drawn_submission").success
        project.land()
        table = project.load("drawn")
        assert table["llm_status"].tolist() == ["ok", "error", "ok"]
        assert json.loads(table["llm_text"][0])["data"] == [{"b64_json": b"a cat".hex()}]
        assert table["llm_completion_tokens"].tolist()[0] == 5
        assert table["user_message"].tolist() == BODIES
        asked = sent(server)
        assert {one["url"] for one in asked} == {path}
        assert asked[0]["body"] == {"model": "gpt-image-1", "prompt": "a cat", "size": "256x256"}
        assert made.preview(project.resource, rows=1).table["llm_text"][0].as_py() == table["llm_text"][0]


def test_a_row_of_such_a_path_needs_its_body(batch_server: LocalServer, tmp_path: Path) -> None:
    """Its prompt alone cannot be sent, since nobody knows where to put it."""

    def frame() -> pd.DataFrame:
        return pd.DataFrame({"user_message": ["a", "b"], "request": [BODIES[0], None]})

    made = batch_asset(model="m", endpoint="/v1/videos", overrides={"body": "request"}, name="own")(frame)
    project = Project(batch_server, tmp_path, made.assets)
    assert "row 1: it has no body, and nothing else can be sent to /v1/videos" in failure(project.run("own_submission"))
    assert batch_server.batches() == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"endpoint": "moderations", "prompt": "x"}, "prompt: the moderations endpoint takes none"),
        ({"endpoint": "moderations", "temperature": 0}, "temperature: the moderations endpoint takes none"),
        ({"endpoint": "moderations", "overrides": {"files": "f"}}, "the moderations endpoint takes no 'files'"),
        ({"endpoint": "completions", "prompt": "x"}, "prompt: the completions endpoint takes none"),
        ({"endpoint": "completions", "output": Label}, "output: the completions endpoint takes none"),
        ({"endpoint": "completions", "overrides": {"system": "s"}}, "the completions endpoint takes no 'system'"),
        ({"endpoint": "/v1/videos"}, "of /v1/videos nothing is known, so that rows bring whole bodies"),
        ({"endpoint": "/v1/../x y"}, "and no path under /v1/"),
        ({"endpoint": "/v1/videos", "overrides": {"body": "b", "extra": "e"}}, "/v1/videos endpoint takes no 'extra'"),
        ({"endpoint": "/v1/videos", "overrides": {"body": "b"}, "output": Label}, "output: the /v1/videos endpoint"),
        ({"endpoint": "/v1/videos", "overrides": {"body": "b"}, "extra": {"n": 2}}, "extra: the /v1/videos endpoint"),
    ],
)
def test_what_they_do_not_take_is_refused(options: dict[str, Any], why: str) -> None:
    """When the asset is defined."""
    with pytest.raises(ConfigurationError, match=why):
        asset(model="m", **options)


def test_a_known_path_may_be_told_as_a_path() -> None:
    """It is the same endpoint."""
    assert (
        asset(model="m", endpoint="/v1/moderations").spec.template
        == asset(model="m", endpoint="moderations").spec.template
    )


@pytest.mark.parametrize(
    ("endpoint", "body", "name"),
    [
        (MODERATIONS, '{"prompt": "x"}', "input"),
        (MODERATIONS, '{"input": []}', "input"),
        (MODERATIONS, '{"input": ["x"]}', "input"),
        (COMPLETIONS, '{"input": "x"}', "prompt"),
        (COMPLETIONS, '{"prompt": " "}', "prompt"),
    ],
)
def test_a_body_without_its_text_is_refused(endpoint: str, body: str, name: str) -> None:
    """By the row."""
    own = Requests("p", RequestTemplate.of("m", None, endpoint=endpoint), Overrides({"body": "body"}, endpoint))
    with pytest.raises(InvalidInputError, match=f"has no `{name}`"):
        own.render(block(body=[body]), ["x"], named)


def answered(body: Any, *, raw: bool = False) -> Outcome:
    """The outcome of a body."""
    return classify({"custom_id": "a", "response": {"status_code": 200, "body": body}}, raw=raw)


RESULT = {
    "flagged": True,
    "categories": {**dict.fromkeys(CATEGORIES, False), "violence": True, "new/thing": True},
    "category_scores": {**dict.fromkeys(CATEGORIES, 0.25), "new/thing": 1},
}


def test_categories_that_are_not_listed_stay_in_the_raw_answer() -> None:
    """The columns are the same whatever a later model finds; an older one's missing categories are null."""
    older = {**RESULT, "categories": {"violence": False}, "category_scores": {"violence": 0.5}}
    outcomes = [answered({"model": "omni-moderation-2024-09-26", "results": [one]}) for one in (RESULT, older)]
    assert [one.status for one in outcomes] == ["ok", "ok"]
    assert "new/thing" in (outcomes[0].text or "")
    (flagged, categories, scores), problems = Answers(Moderation).read([one.text for one in outcomes])
    assert problems == [None, None]
    assert flagged.to_pylist() == [True, True]
    assert categories.to_pylist()[0] == {
        name.replace("/", "_").replace("-", "_"): name == "violence" for name in CATEGORIES
    }
    assert scores.to_pylist()[1]["violence"] == 0.5
    assert scores.to_pylist()[1]["hate_threatening"] is None


@pytest.mark.parametrize("results", [[], [None]])
def test_a_moderation_of_nothing_is_no_answer(results: list[Any]) -> None:
    """It says nothing of the text."""
    assert answered({"results": results}).error_code == "no_content"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.booleans())
def test_whatever_comes_has_an_outcome(value: Any, raw: bool) -> None:
    """Of an odd body in each of the shapes; what is kept raw is the body itself."""
    for name in ("results", "choices", "data", "output", "usage"):
        body = {name: value, "object": "list"}
        outcome = answered(body, raw=raw)
        if raw:
            assert (outcome.status, json.loads(outcome.text or "")) == ("ok", body)
    choice = answered({"choices": [{"text": value, "finish_reason": "stop"}]})
    assert choice.status == ("invalid_output" if value is None else "ok")
