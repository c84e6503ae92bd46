"""Submissions whose rows ask several models: batches of one each, rounds of one each, one table."""

from __future__ import annotations

import json
import random

import pandas as pd
import pytest

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.local import Faults
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.submission.engine import SUBMIT
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.opening import Terms, open_submission
from ractobatch_dagster.submission.state import Owner
from tests.submission.test_engine import LIMITS, Bench, bench

__all__ = ["bench"]

MODELS = ["gpt-4o", "gpt-4o-mini", "gpt-4.1"]


def opened(bench: Bench, frame: pd.DataFrame, limits: Limits = LIMITS, **terms: object) -> SubmissionFiles:
    """An open submission of rows that name their models, and perhaps more."""
    given = {"provider": bench.engine().identity, "template": RequestTemplate("gpt-4o-mini"), "limits": limits}
    own = Overrides({name: name for name in frame.columns if name != "user_message"})
    made = open_submission(
        bench.table,
        Owner(asset="answers"),
        {None: frame},
        Terms(**{**given, "overrides": own, **terms}),  # type: ignore[arg-type]
        now=lambda: bench.clock,
    )
    return bench.table.submission(made.submissions[None])


def rows(count: int, models: list[str | None] | None = None) -> pd.DataFrame:
    """Prompts that ask the models in turn."""
    models = models or [MODELS[row % len(MODELS)] for row in range(count)]
    return pd.DataFrame({"user_message": [f"text {row}" for row in range(count)], "model": models})


def test_rows_of_several_models_become_batches_of_one_each(bench: Bench) -> None:
    """Nothing is refused for its model, and every row has the answer of its own."""
    files = opened(bench, rows(35))
    assert bench.finish(files) == ["ok"] * 35
    asked = bench.input_files()
    assert [len(lines) for lines in asked] == [10, 2, 10, 2, 10, 1]
    assert [{line["body"]["model"] for line in lines} for lines in asked] == [{one} for one in MODELS for _ in (1, 2)]
    assert bench.outcomes(files)["model"].to_pylist() == rows(35)["model"].tolist()
    assert [batch.model for batch in files.state().batches] == [one for one in MODELS for _ in (1, 2)]
    assert files.state().asks == "gpt-4o, gpt-4o-mini, gpt-4.1"


def test_rows_that_name_no_model_ask_that_of_all(bench: Bench) -> None:
    """One batch, as if the column were not there."""
    files = opened(bench, rows(4, [None, "gpt-4o-mini", "", None]))
    assert bench.finish(files) == ["ok"] * 4
    assert len(bench.server.batches()) == 1


def test_a_further_round_keeps_models_apart(bench: Bench) -> None:
    """Failed rows of each model go out again with their own; the others do not."""
    failing = {f"row-{row:08d}": 500 for row in (0, 1, 3, 8)}
    bench.server.faults = Faults(fail_ids=failing, first_attempts=3)
    files = opened(bench, rows(9))
    assert bench.finish(files) == ["ok"] * 9
    again = bench.input_files()[3:]
    assert [[line["custom_id"][-1] for line in lines] for lines in again] == [["0", "3"], ["1"], ["8"]]
    assert [lines[0]["body"]["model"] for lines in again] == MODELS
    assert bench.outcomes(files)["model"].to_pylist() == rows(9)["model"].tolist()


def test_a_repair_shows_the_answer_in_the_row_s_own_request(bench: Bench) -> None:
    """The row's system prompt, parameters and model are those of the first time."""
    problems = iter(["too short", None, None])
    frame = pd.DataFrame(
        {"user_message": ["a", "b"], "system": ["Shout.", None], "max_tokens": [50, None], "model": ["gpt-4o", None]}
    )
    files = opened(bench, frame, repairs=1, max_rounds=0)
    assert bench.finish(files, validate=lambda *_: next(problems, None)) == ["ok", "ok"]
    first, _, repair = (lines[0]["body"] for lines in bench.input_files())
    assert first["messages"][0] == {"role": "system", "content": "Shout."}
    assert {**repair, "messages": repair["messages"][:-2]} == first
    assert "too short" in repair["messages"][-1]["content"]


def test_identical_rows_of_two_models_are_two_questions(bench: Bench) -> None:
    """And of one model one."""
    frame = pd.DataFrame({"user_message": ["a", "a", "a"], "model": ["gpt-4o", "gpt-4.1", "gpt-4o"]})
    files = opened(bench, frame)
    assert bench.finish(files) == ["ok"] * 2
    assert bench.answers(files) == ["ok"] * 3


def test_answers_are_taken_over_by_what_was_asked(bench: Bench) -> None:
    """One row changes its model: it alone is asked again. Rows that nobody overrides stay those of before."""
    assert bench.finish(bench.open("text 0", "text 1", "text 2")) == ["ok"] * 3
    bench.land()
    files = opened(bench, rows(3, [None, "gpt-4o-mini", "gpt-4o"]))
    assert files.state().requests == 1
    bench.finish(files)
    assert bench.answers(files) == ["ok"] * 3


def test_what_replaces_an_open_submission_plans_by_model_as_well(bench: Bench) -> None:
    """Its batches are planned once the old one has ended, from what was sealed."""
    bench.server.faults = Faults(expire_at=0.5, first_attempts=1)
    old = opened(bench, rows(6))
    bench.engine().advance(old, steps=SUBMIT)
    new = opened(bench, rows(8), on_change="replace")
    assert new.state().predecessors == (old.id,)
    bench.finish(new)
    assert bench.answers(new) == ["ok"] * 8
    state = new.state()
    assert all(batch.model in MODELS for batch in state.batches)
    models = bench.outcomes(new)["model"].to_pylist()
    assert models == rows(8)["model"].tolist()


def test_whole_bodies_go_as_they_are(bench: Bench) -> None:
    """With what no parameter of ours says."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "seed": 3}
    frame = pd.DataFrame({"user_message": ["Hi", "you"], "body": [json.dumps(body), None]})
    files = opened(bench, frame)
    assert bench.finish(files) == ["ok"] * 2
    (lines,) = bench.input_files()
    assert [line["body"] for line in lines] == [
        {"model": "gpt-4o-mini", **body},
        RequestTemplate("gpt-4o-mini").body("you"),
    ]


def test_a_row_that_cannot_be_sent_stops_all_before_anything_is(bench: Bench) -> None:
    """Nothing is opened, and nothing of it stays."""
    frame = pd.DataFrame({"user_message": ["a", "b"], "temperature": [1.0, 3.0]})
    with pytest.raises(InvalidInputError, match="row 1: 'temperature'"):
        opened(bench, frame)
    assert bench.table.log.load() is None
    assert not list(bench.store.names("submissions/answers"))


@pytest.mark.parametrize("seed", range(3))
def test_every_row_is_asked_once_whatever_the_order_of_the_models(bench: Bench, seed: int) -> None:
    """However the models are mixed and the batches cut, and although some rows fail at first."""
    draw = random.Random(seed)
    models = [draw.choice([*MODELS, None]) for _ in range(14)]
    bench.server.faults = Faults(seed=seed, shares={"drop": 0.3}, first_attempts=3)
    files = opened(bench, rows(len(models), models), Limits(max_requests=3, max_bytes=100_000), max_rounds=3)
    assert bench.finish(files) == ["ok"] * len(models)
    assert bench.outcomes(files)["model"].to_pylist() == [model or "gpt-4o-mini" for model in models]
    state = files.state()
    assert sum(batch.requests for batch in state.batches if batch.round == 0) == len(models)
    assert all(batch.requests <= 3 for batch in state.batches)
    assert state.round
