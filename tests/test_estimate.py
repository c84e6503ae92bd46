"""An estimate: what a submission would ask and cost, and nothing sent."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import dagster as dg
import pandas as pd
import pytest

from ractobatch_dagster import ConfigurationError, InvalidInputError, OpenAIBatchResource, batch_asset, cli
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.requests import tokens
from ractobatch_dagster.requests.tokens import counter
from ractobatch_dagster.results.cost import answers_cost, prompts_cost
from ractobatch_dagster.submission import estimating
from tests.project import Project
from tests.test_assets import PROMPT, labels, texts

WORDS = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split()


def prompts(rows: int, seed: int = 0) -> pd.DataFrame:
    """Prompts of real words, of lengths that differ."""
    draw = random.Random(seed)
    made = [" ".join(draw.choices(WORDS, k=draw.randint(1, 80))) for _ in range(rows)]
    return pd.DataFrame({"id": range(rows), "user_message": [f"{number} {text}" for number, text in enumerate(made)]})


@batch_asset(model="gpt-4o-mini", prompt=PROMPT, key="id", max_tokens=100)
def asked(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows that are prompts already."""
    return rows


def test_nothing_is_sent_and_nothing_stays(batch_server: LocalServer, tmp_path: Path) -> None:
    """No call to the provider, no file in the root."""
    project = Project(batch_server, tmp_path, [])
    made = asked.estimate(project.resource, {"rows": prompts(20)})
    assert (made.rows, made.requests, made.batches) == (20, 20, {"gpt-4o-mini": 1})
    assert not batch_server.calls
    assert not list((tmp_path / "store").rglob("*.parquet"))


def test_tokens_of_all_are_told_from_some(batch_server: LocalServer, tmp_path: Path) -> None:
    """The count of every request lies within the error that is told, for most draws; the cost follows."""
    frame, count = prompts(3_000), counter("gpt-4o-mini")
    assert count is not None
    truth = sum(count(asked.spec.template.body(text)) for text in frame["user_message"])
    made = asked.estimate(Project(batch_server, tmp_path, []).resource, {"rows": frame})
    assert made.prompt_tokens_error is not None
    assert 0 < made.prompt_tokens_error < 0.01 * truth
    assert abs(made.prompt_tokens - truth) <= 2 * made.prompt_tokens_error
    assert "counted as o200k_base in 500 of 3,000 requests" in made.counted
    assert made.prompt_cost_usd == pytest.approx(prompts_cost("gpt-4o-mini", made.prompt_tokens))
    assert made.completion_tokens_at_most == 300_000
    assert made.cost_usd_at_most == pytest.approx(made.prompt_cost_usd + (answers_cost("gpt-4o-mini", 300_000) or 0))
    assert "± " in str(made)


def test_a_small_frame_is_counted_whole(batch_server: LocalServer, tmp_path: Path) -> None:
    """No error then, and the very number."""
    frame, count = prompts(25), counter("gpt-4o-mini")
    assert count is not None
    made = asked.estimate(Project(batch_server, tmp_path, []).resource, {"rows": frame})
    assert made.prompt_tokens == sum(count(asked.spec.template.body(text)) for text in frame["user_message"])
    assert made.prompt_tokens_error == 0


def test_how_often_the_queue_is_filled(batch_server: LocalServer, tmp_path: Path) -> None:
    """Where the resource says how much it takes, or a refusal did."""
    tight = Project(batch_server, tmp_path, [], enqueued_tokens={"gpt-4o-mini": 500}).resource
    made = asked.estimate(tight, {"rows": prompts(25)})
    assert made.waves == -(-made.prompt_tokens // 500) > 1
    assert f"has to be filled {made.waves} times" in str(made)
    assert asked.estimate(Project(batch_server, tmp_path, []).resource, {"rows": prompts(25)}).waves is None
    dated = batch_asset(model="gpt-4o-mini-2024-07-18", name="dated")(lambda rows: rows)
    assert (dated.estimate(tight, {"rows": prompts(25)}).waves or 0) > 1  # as the quota has it


def test_the_error_that_is_told_is_the_error_that_is_made() -> None:
    """Of a thousand draws from one population about 95 in 100 lie within it."""
    draw = random.Random(4)
    population = [(size, round(size / 4 + draw.gauss(0, 3))) for size in draw.choices(range(20, 400), k=5_000)]
    truth, bytes_ = sum(tokens for _, tokens in population), sum(size for size, _ in population)
    within = 0
    for _ in range(1_000):
        ratio, error = estimating._ratio(draw.sample(population, 100), len(population))
        within += abs(ratio * bytes_ - truth) <= 1.96 * error
    assert 930 <= within <= 970


def test_what_was_answered_is_not_counted(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows of the landed table are reused, repeats and empty rows are told, answers are as long as the last ones."""

    @batch_asset(model="gpt-4o-mini", prompt=PROMPT, on_null="skip", name="asked")
    def some(rows: pd.DataFrame) -> pd.DataFrame:
        return rows

    @dg.asset
    def rows() -> pd.DataFrame:
        return prompts(6)

    project = Project(batch_server, tmp_path, [rows, *some.assets])
    assert project.run("rows", "asked_submission").success
    project.land()
    landed = project.load("asked")
    more = pd.concat([prompts(6), pd.DataFrame({"user_message": ["new", "new", None, "other"]})])
    made = some.estimate(project.resource, {"rows": more})
    assert (made.rows, made.requests, made.reused, made.repeated, made.skipped) == (10, 2, 6, 1, 1)
    assert made.completion_tokens == round(2 * landed["llm_completion_tokens"].mean())
    assert made.cost_usd is not None
    assert made.prompt_cost_usd is not None
    assert made.cost_usd > made.prompt_cost_usd


def test_models_are_counted_apart(batch_server: LocalServer, tmp_path: Path) -> None:
    """Each with its vocabulary and its price; one that has none leaves the cost unknown."""

    @batch_asset(model="gpt-4o-mini", overrides={"model": "model"}, name="asked")
    def some(rows: pd.DataFrame) -> pd.DataFrame:
        return rows

    frame = prompts(60)
    resource = Project(batch_server, tmp_path, []).resource
    two = some.estimate(resource, {"rows": frame.assign(model=["gpt-4", None] * 30)})
    assert two.batches == {"gpt-4": 1, "gpt-4o-mini": 1}
    assert "cl100k_base" in two.counted
    assert "o200k_base" in two.counted
    assert two.prompt_cost_usd is not None
    one = some.estimate(resource, {"rows": frame.assign(model=["mine", None] * 30)})
    assert one.prompt_cost_usd is None
    assert "at a price that is not known" in str(one)


def test_the_input_files_are_those_that_are_sent(batch_server: LocalServer, tmp_path: Path) -> None:
    """Byte by byte."""

    @dg.asset
    def rows() -> pd.DataFrame:
        return prompts(12)

    project = Project(batch_server, tmp_path, [rows, *asked.assets], max_requests_per_batch=5)
    asked.estimate(project.resource, {"rows": prompts(12)}, inputs=tmp_path / "inputs")
    project.run("rows", "asked_submission")
    sent = [batch_server.read(batch["input_file_id"]) for batch in batch_server.batches()]
    made = [path.read_bytes() for path in sorted((tmp_path / "inputs").iterdir())]
    assert made == sent
    assert len(made) == 3


def test_a_folder_with_other_files_is_refused(batch_server: LocalServer, tmp_path: Path) -> None:
    """Those of an earlier estimate could be taken for this one's."""
    resource = Project(batch_server, tmp_path, []).resource
    asked.estimate(resource, {"rows": prompts(2)}, inputs=tmp_path / "inputs")
    with pytest.raises(ConfigurationError, match="is not empty"):
        asked.estimate(resource, {"rows": prompts(1)}, inputs=tmp_path / "inputs")


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv/below"])
def test_what_cannot_be_a_folder_is_seen_first(batch_server: LocalServer, tmp_path: Path, name: str) -> None:
    """Before the rows are looked at, which may be many."""
    (tmp_path / "rows.csv").write_text("user_message")
    with pytest.raises(ConfigurationError, match=r"rows\.csv.* cannot be a folder for the input files"):
        asked.estimate(Project(batch_server, tmp_path, []).resource, {"rows": "no frame"}, inputs=tmp_path / name)


def test_the_partition_is_one_of_the_assets(batch_server: LocalServer, tmp_path: Path) -> None:
    """Its last table is looked at: with a wrong one, or none, answers would seem to be unpaid."""
    resource = Project(batch_server, tmp_path, []).resource
    parted = batch_asset(model="m", name="parted", partitions_def=dg.StaticPartitionsDefinition(["a"]))(
        lambda: prompts(2)
    )
    added = batch_asset(model="m", name="added", partitions_def=dg.DynamicPartitionsDefinition(name="x"))(
        lambda: prompts(2)
    )
    assert [made.estimate(resource, partition="a").rows for made in (parted, added)] == [2, 2]
    for ask in (parted.estimate, parted.preview):
        with pytest.raises(ConfigurationError, match="'parted' is partitioned: say of which"):
            ask(resource)
        with pytest.raises(ConfigurationError, match="'parted' has no partition 'b'"):
            ask(resource, partition="b")
    with pytest.raises(ConfigurationError, match="'asked' has no partitions, and 'a' was given"):
        asked.estimate(resource, {"rows": prompts(2)}, partition="a")


def test_no_key_and_no_server_are_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests are those of the provider all the same, and so are their hashes."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for kind in ("openai", "local"):
        resource = OpenAIBatchResource(provider=kind, root=str(tmp_path / kind))  # type: ignore[arg-type]
        assert asked.estimate(resource, {"rows": prompts(3)}).requests == 3
        assert not (tmp_path / kind / "local-server").exists()
    keyed = OpenAIBatchResource(api_key="sk-1", root=str(tmp_path))
    assert keyed.unasked().identity == keyed.get_provider().identity == "openai https://api.openai.com/v1"
    with pytest.raises(ConfigurationError, match="There is no API key"):
        asked.preview(OpenAIBatchResource(root=str(tmp_path)), {"rows": prompts(3)})


def test_a_picture_is_in_no_estimate(
    batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither where tokens are counted, nor where they are guessed from the bytes."""
    picture = b"\x89PNG\r\n\x1a\n" + bytes(300_000)
    frame = pd.DataFrame({"user_message": ["What is it?", "And this?"], "picture": [picture, None]})
    made = batch_asset(model="gpt-4o-mini", name="seen", overrides={"files": "picture"})(lambda: frame)
    resource = Project(batch_server, tmp_path, []).resource
    assert made.estimate(resource).prompt_tokens < 100
    monkeypatch.setitem(sys.modules, "bpe_openai", None)
    tokens._tokenizer.cache_clear()
    guessed = made.estimate(resource)
    tokens._tokenizer.cache_clear()
    assert "guessed from the bytes" in guessed.counted
    assert 100 < guessed.prompt_tokens < 300


def test_a_limit_that_is_none_is_not_known(batch_server: LocalServer, tmp_path: Path) -> None:
    """What the provider would refuse does not make answers cheaper."""
    made = batch_asset(model="gpt-4o-mini", name="odd", extra={"max_tokens": -5})(lambda: prompts(2))
    estimate = made.estimate(Project(batch_server, tmp_path, []).resource)
    assert (estimate.completion_tokens_at_most, estimate.cost_usd_at_most) == (None, None)


def test_embeddings_have_no_answers_to_pay_for(batch_server: LocalServer, tmp_path: Path) -> None:
    """Nothing comes on top."""

    @batch_asset(model="text-embedding-3-small", endpoint="embeddings", name="asked")
    def vectors(rows: pd.DataFrame) -> pd.DataFrame:
        return rows

    made = vectors.estimate(Project(batch_server, tmp_path, []).resource, {"rows": prompts(5)})
    assert made.completion_tokens_at_most == 0
    assert "on top" not in str(made)


def test_a_run_may_only_estimate(batch_server: LocalServer, tmp_path: Path) -> None:
    """By a switch of its config: an observation tells it, and nothing is materialised."""
    project = Project(batch_server, tmp_path, [texts, *labels.assets])
    project.run("texts")
    job = project.defs.resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=project.instance,
        asset_selection=[dg.AssetKey("labels_submission")],
        run_config={"ops": {"labels_submission": {"config": {"estimate": True}}}},
    )
    assert result.success
    assert batch_server.batches() == []
    (record,) = project.instance.fetch_observations(dg.AssetKey("labels_submission"), limit=5).records
    metadata = record.asset_observation.metadata  # type: ignore[union-attr]
    assert metadata["requests"].value == 3
    assert "3 rows: 3 to ask in 1 batch" in str(metadata["estimate"].value)
    assert not project.instance.fetch_materializations(dg.AssetKey("labels_submission"), limit=5).records


def test_a_row_that_cannot_be_sent_is_told(batch_server: LocalServer, tmp_path: Path) -> None:
    """As it would be by the submission."""
    with pytest.raises(InvalidInputError, match="has no text in 'user_message'"):
        asked.estimate(
            Project(batch_server, tmp_path, []).resource, {"rows": pd.DataFrame({"id": [1], "user_message": [None]})}
        )


def test_the_command_needs_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither key nor network; the input files where they were wanted."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    prompts(7).to_parquet(tmp_path / "rows.parquet")
    frame = f"rows={tmp_path / 'rows.parquet'}"
    command = ["estimate", "tests.test_estimate:asked", "--frame", frame]
    cli.main([*command, "--inputs", str(tmp_path / "inputs")])
    assert "7 rows: 7 to ask in 1 batch" in capsys.readouterr().out
    assert len((tmp_path / "inputs" / "00000.jsonl").read_bytes().splitlines()) == 7
    assert cli.main([*command[:2], "--frame", str(tmp_path / "rows.parquet")]) == 1
    assert "rows.parquet: give NAME=FILE" in capsys.readouterr().err
    cli.main([*command, "--json"])
    assert json.loads(capsys.readouterr().out)["requests"] == 7
