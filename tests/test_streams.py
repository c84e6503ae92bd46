"""What comes as a stream, what travels along, and rows in many blocks, as the user of `batch_asset` meets them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from ractobatch_dagster import ConfigurationError, ParquetIOManager, batch_asset
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.requests import frame as frame_module
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.encode import Encoder, escape
from ractobatch_dagster.submission import rows as rows_module
from tests.project import Project, failure

ROWS = pa.table({"id": [3, 1, 2], "user_message": ["a", "b", "c"], "note": ["x", None, "z"]})
ADDED = {"llm_status", "llm_text", "llm_request_hash", "custom_id"}


def landed(project: Project, name: str) -> pa.Table:
    """Submit and land one asset; its table."""
    result = project.run(f"{name}_submission")
    assert result.success, failure(result)
    project.land()
    table: pa.Table = project.load(name, kind=pa.Table)
    return table


@pytest.mark.parametrize(
    ("key", "carry", "kept"),
    [
        (None, None, ["id", "user_message", "note"]),
        (None, ["note"], ["note"]),
        (None, [], []),
        ("id", [], ["id"]),
        ("id", ["note"], ["id", "note"]),
        ("id", ["note", "user_message", "note", "id"], ["id", "user_message", "note"]),
    ],
)
def test_only_what_is_to_be_carried_stands_in_the_table(
    batch_server: LocalServer, tmp_path: Path, key: str | None, carry: list[str] | None, kept: list[str]
) -> None:
    """All columns, some or none, in the frame's order; the key always; and the answers whatever is carried."""
    asked = batch_asset(model="gpt-4o-mini", name="asked", key=key, carry=carry)(lambda: ROWS)
    project = Project(batch_server, tmp_path, asked.assets)
    table = landed(project, "asked")
    assert [name for name in table.column_names if not name.startswith("llm_")] == [*kept, "custom_id"]
    assert table.column_names[: len(kept)] == kept
    assert table.select(kept).to_pydict() == ROWS.select(kept).to_pydict()
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert set(table.column_names) >= ADDED
    metadata = project.metadata("asked")
    assert metadata["rows"] == 3
    assert [column.name for column in metadata["dagster/column_schema"].columns] == table.column_names


def test_a_column_to_carry_that_is_not_there_is_refused(batch_server: LocalServer, tmp_path: Path) -> None:
    """Before anything is sent; and a text where a list is meant, before anything runs."""
    asked = batch_asset(model="gpt-4o-mini", name="asked", carry=["note", "nothing"])(lambda: ROWS)
    result = Project(batch_server, tmp_path, asked.assets).run("asked_submission")
    assert "no column 'nothing', which carry= names" in failure(result)
    assert not batch_server.files()
    with pytest.raises(ConfigurationError, match=r"\['note'\]"):
        batch_asset(model="gpt-4o-mini", carry="note")(lambda: ROWS)


def test_what_is_carried_is_no_part_of_the_question(batch_server: LocalServer, tmp_path: Path) -> None:
    """Other columns in the table are not paid for again."""
    one = batch_asset(model="gpt-4o-mini", name="asked", carry=[])(lambda: ROWS)
    other = batch_asset(model="gpt-4o-mini", name="asked", carry=["note"])(lambda: ROWS)
    assert landed(Project(batch_server, tmp_path, one.assets), "asked")["llm_reused"].to_pylist() == [False] * 3
    table = landed(Project(batch_server, tmp_path, other.assets), "asked")
    assert (table["note"].to_pylist(), table["llm_reused"].to_pylist()) == (["x", None, "z"], [True] * 3)
    assert len(batch_server.batches()) == 1


def generated(folder: Path) -> Iterator[Any]:
    """A frame of each kind for each row."""
    yield ROWS.slice(0, 1).to_pandas()
    yield pl.from_arrow(ROWS.slice(1, 1))
    yield ROWS.slice(2, 1)


def written(folder: Path) -> Path:
    """The rows as a Parquet file of several row groups."""
    pq.write_table(ROWS, folder / "rows.parquet", row_group_size=2)
    return folder / "rows.parquet"


STREAMS = {
    "generator": generated,
    "list": lambda folder: [ROWS.slice(0, 2), ROWS.slice(2)],
    "reader": lambda folder: ROWS.to_reader(1),
    "path": written,
    "path as text": lambda folder: str(written(folder)),
    "folder": lambda folder: written(folder).parent,
    "dataset": lambda folder: pyarrow.dataset.dataset(written(folder)),
    "lazy": lambda folder: pl.scan_parquet(written(folder)),
}


@pytest.mark.parametrize("name", list(STREAMS))
def test_whatever_a_function_returns_is_read_as_one_frame(batch_server: LocalServer, tmp_path: Path, name: str) -> None:
    """A generator of frames, a reader, a Parquet path or folder, a dataset: the same rows in the same order."""
    (tmp_path / "frames").mkdir()
    asked = batch_asset(model="gpt-4o-mini", name="asked", key="id")(lambda: STREAMS[name](tmp_path / "frames"))
    table = landed(Project(batch_server, tmp_path, asked.assets), "asked")
    assert table.select(ROWS.column_names).to_pydict() == ROWS.to_pydict()
    assert table["llm_status"].to_pylist() == ["ok"] * 3


def test_a_function_may_itself_be_a_generator(batch_server: LocalServer, tmp_path: Path) -> None:
    """What it yields are frames; in a blocking asset as well."""

    @batch_asset(model="gpt-4o-mini", key="id")
    def apart() -> Iterator[pd.DataFrame]:
        for number in range(3):
            yield ROWS.slice(number, 1).to_pandas()

    @batch_asset(model="gpt-4o-mini", blocking=True, poll_seconds=0.01)
    def together(context: dg.AssetExecutionContext) -> Iterator[pa.Table]:
        assert context.run
        yield from (ROWS.slice(number, 1) for number in range(3))

    project = Project(batch_server, tmp_path, [*apart.assets, *together.assets])
    assert landed(project, "apart")["id"].to_pylist() == [3, 1, 2]
    result = project.run("together")
    assert result.success, failure(result)
    assert project.load("together")["id"].tolist() == [3, 1, 2]


def test_what_a_generator_raises_fails_the_run_and_sends_nothing(batch_server: LocalServer, tmp_path: Path) -> None:
    """In the middle of the rows, with the user's own words."""

    @batch_asset(model="gpt-4o-mini")
    def broken() -> Iterator[pa.Table]:
        yield ROWS
        raise LookupError("the source went away")

    project = Project(batch_server, tmp_path, broken.assets)
    result = project.run("broken_submission")
    assert not result.success
    assert "the source went away" in failure(result)
    assert not batch_server.files()


ROWS_UPSTREAM = 10_000


@dg.asset
def upstream() -> pa.Table:
    """More rows than are read at a time."""
    return pa.table({"n": range(ROWS_UPSTREAM), "text": [f"text {n % 7}" for n in range(ROWS_UPSTREAM)]})


def test_an_upstream_loads_as_a_stream(batch_server: LocalServer, tmp_path: Path) -> None:
    """Annotated as a reader, an upstream comes some rows at a time, and goes on as a stream; so does our own table."""

    @batch_asset(model="gpt-4o-mini", key="n", carry=[])
    def answers(upstream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        assert isinstance(upstream, pa.RecordBatchReader)
        for batch in upstream:
            assert len(batch) < ROWS_UPSTREAM
            yield batch.rename_columns(["n", "user_message"])

    @dg.asset
    def counted(answers: pa.RecordBatchReader) -> int:
        assert isinstance(answers, pa.RecordBatchReader)
        return sum(len(batch) for batch in answers)

    project = Project(batch_server, tmp_path, [upstream, *answers.assets, counted])
    frames = ParquetIOManager(root=project.resource.root)
    project.defs = dg.Definitions.merge(project.defs, dg.Definitions(resources={"io_manager": frames}))
    result = project.run("upstream", "answers_submission")
    assert result.success, failure(result)
    project.land()
    table = project.load("answers", kind=pa.Table)
    assert table["n"].to_pylist() == list(range(ROWS_UPSTREAM))
    assert table["llm_status"].to_pylist() == ["ok"] * ROWS_UPSTREAM
    assert batch_server.batches()[0]["request_counts"]["total"] == 7
    texts = table["llm_text"].to_pylist()
    assert texts == [texts[row % 7] for row in range(ROWS_UPSTREAM)]


def test_partitions_of_a_stream(batch_server: LocalServer, tmp_path: Path) -> None:
    """With `partition_by` one stream is split, with `carry` also by a column that is not in the table."""
    days = dg.StaticPartitionsDefinition(["x", "y", "z"])

    @batch_asset(model="gpt-4o-mini", partitions_def=days, partition_by="day", carry=["n"])
    def split() -> Iterator[pa.Table]:
        for start in range(0, 30, 3):
            yield pa.table({"day": ["x", "y", "other"], "n": range(start, start + 3), "user_message": ["a", "b", "c"]})

    project = Project(batch_server, tmp_path, split.assets)
    result = project.run("split_submission", span=("x", "z"))
    assert result.success, failure(result)
    project.land()
    tables = {key: project.load("split", partition=key, kind=pa.Table) for key in ("x", "y", "z")}
    assert {key: table["n"].to_pylist() for key, table in tables.items()} == {
        "x": list(range(0, 30, 3)),
        "y": list(range(1, 30, 3)),
        "z": [],
    }
    assert all("day" not in table.column_names for table in tables.values())
    assert batch_server.batches()[0]["request_counts"]["total"] == 2


class Kept(dg.IOManager):
    """Somebody's own storage."""

    def __init__(self) -> None:
        self.tables: list[Any] = []

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Keep it."""
        self.tables.append(obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Not asked for."""
        raise NotImplementedError


def test_an_io_manager_of_ones_own_gets_an_arrow_table(batch_server: LocalServer, tmp_path: Path) -> None:
    """Other storage than ours knows nothing of how the table was made."""
    kept = Kept()
    asked = batch_asset(model="gpt-4o-mini", name="asked", io_manager_key="mine")(lambda: ROWS)
    project = Project(batch_server, tmp_path, asked.assets)
    project.defs = dg.Definitions.merge(project.defs, dg.Definitions(resources={"mine": kept}))
    assert project.run("asked_submission").success
    project.land()
    (table,) = kept.tables
    assert isinstance(table, pa.Table)
    assert table.select(ROWS.column_names).to_pydict() == ROWS.to_pydict()
    assert table["llm_status"].to_pylist() == ["ok"] * 3


SMALL = {(frame_module, "BLOCK"): 2, (rows_module, "PART_ROWS"): 10, (rows_module, "_GROUP_ROWS"): 4}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, row groups and files of so few rows that a small frame has many."""
    for (module, name), value in SMALL.items():
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, value)


@pytest.mark.usefixtures("small_blocks")
def test_copies_reach_across_blocks_batches_and_files(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows that ask the same share the first one's answer, wherever they stand; each row has the text of its own."""
    prompts = [f"text {number % 11}" if number % 3 else f"own {number}" for number in range(47)]
    firsts = [prompts.index(prompt) for prompt in prompts]
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pa.table({"user_message": prompts}))
    project = Project(batch_server, tmp_path, asked.assets, max_requests_per_batch=4)
    table = landed(project, "asked")
    assert table["user_message"].to_pylist() == prompts
    assert table["llm_status"].to_pylist() == ["ok"] * 47
    assert table["custom_id"].to_pylist() == [f"row-{first:08d}" for first in firsts]
    assert table["llm_reused"].to_pylist() == [first != row for row, first in enumerate(firsts)]
    texts, costs = table["llm_text"].to_pylist(), table["llm_cost_usd"].to_pylist()
    assert texts == [texts[first] for first in firsts]
    assert [cost > 0 for cost in costs] == [first == row for row, first in enumerate(firsts)]
    assert sum(batch["request_counts"]["total"] for batch in batch_server.batches()) == len(set(prompts))
    assert len(list((tmp_path / "store").rglob("rows/*.parquet"))) == 5


@pytest.mark.usefixtures("small_blocks")
def test_answers_are_taken_over_across_blocks(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows in another order, some gone and some new: what was paid for is taken over, only the rest is sent."""
    old = [f"text {number}" for number in range(40)]
    new = [f"text {number}" for number in (np.arange(60) * 7 % 60)]
    frames = [old, new]
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pa.table({"user_message": frames.pop(0)}))
    project = Project(batch_server, tmp_path, asked.assets, max_requests_per_batch=9)
    before = landed(project, "asked")
    paid = dict(zip(old, before["llm_text"].to_pylist(), strict=True))
    sent = len(batch_server.batches())
    table = landed(project, "asked")
    assert table["user_message"].to_pylist() == new
    assert table["llm_status"].to_pylist() == ["ok"] * 60
    assert table["llm_reused"].to_pylist() == [prompt in paid for prompt in new]
    for prompt, text in zip(new, table["llm_text"].to_pylist(), strict=True):
        assert prompt not in paid or text == paid[prompt]
    later = sorted(batch["request_counts"]["total"] for batch in batch_server.batches())
    assert sum(later) == 40 + 20
    assert len(batch_server.batches()) - sent == 3


@pytest.mark.usefixtures("small_blocks")
def test_samples_of_one_question_are_each_taken_over_once(batch_server: LocalServer, tmp_path: Path) -> None:
    """With `dedupe=False` several answers to one question go to as many rows, and only what lacks one is sent."""
    counts = [7, 12]
    asked = batch_asset(model="gpt-4o-mini", name="asked", dedupe=False)(
        lambda: pa.table({"user_message": ["same"] * counts.pop(0)})
    )
    project = Project(batch_server, tmp_path, asked.assets)
    first = landed(project, "asked")
    assert first["llm_reused"].to_pylist() == [False] * 7
    second = landed(project, "asked")
    assert sum(second["llm_reused"].to_pylist()) == 7
    assert len(set(second["custom_id"].to_pylist())) == 12
    taken = [row["llm_request_id"] for row in second.to_pylist() if row["llm_reused"]]
    assert sorted(taken) == sorted(first["llm_request_id"].to_pylist())
    assert [batch["request_counts"]["total"] for batch in batch_server.batches()] == [7, 5]


def test_only_answers_are_taken_over(batch_server: LocalServer, tmp_path: Path) -> None:
    """What failed is asked again by a later submission; what is ok is not."""
    batch_server.faults = Faults(fail_ids={"row-00000001": 400})
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: ROWS)
    project = Project(batch_server, tmp_path, asked.assets)
    assert landed(project, "asked")["llm_status"].to_pylist() == ["ok", "error", "ok"]
    batch_server.faults = Faults()
    table = landed(project, "asked")
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert table["llm_reused"].to_pylist() == [True, False, True]


def test_a_row_over_the_limit_fails_alone(batch_server: LocalServer, tmp_path: Path) -> None:
    """A request that no file can hold is an error of its row, which was not sent and cost nothing; the rest goes on."""
    prompts = ["a", "long " * 1_000, "b", "long " * 1_000]
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pa.table({"user_message": prompts}))
    project = Project(batch_server, tmp_path, asked.assets, max_bytes_per_batch=2_000)
    table = landed(project, "asked")
    assert table["llm_status"].to_pylist() == ["ok", "error", "ok", "error"]
    assert table["llm_error_code"].to_pylist() == [None, "request_too_large", None, "request_too_large"]
    assert "2,000 bytes" in table["llm_error"][1].as_py()
    assert table["llm_cost_usd"].to_pylist()[1::2] == [0.0, 0.0]
    assert sum(batch["request_counts"]["total"] for batch in batch_server.batches()) == 2


def test_nothing_but_rows_over_the_limit_is_a_table_all_the_same(batch_server: LocalServer, tmp_path: Path) -> None:
    """There is no batch, and the table says why."""
    asked = batch_asset(model="gpt-4o-mini", name="asked")(lambda: pa.table({"user_message": ["long " * 1_000]}))
    project = Project(batch_server, tmp_path, asked.assets, max_bytes_per_batch=2_000)
    assert landed(project, "asked")["llm_error_code"].to_pylist() == ["request_too_large"]
    assert not batch_server.files()


def test_the_hash_of_a_row_is_that_of_its_question(batch_server: LocalServer, tmp_path: Path) -> None:
    """32 hex digits: what the encoder says of template and prompt, so that anybody can tell it beforehand."""
    asked = batch_asset(model="gpt-4o-mini", name="asked", prompt="Be brief.", on_null="skip")(
        lambda: pa.table({"user_message": ["a", "ä\u2028", None, "a"]})
    )
    project = Project(batch_server, tmp_path, asked.assets)
    hashes = landed(project, "asked")["llm_request_hash"].to_pylist()
    identity = project.resource.get_provider().identity
    encoder = Encoder.of(identity, RequestTemplate.of("gpt-4o-mini", "Be brief."))
    wanted = [one.hex() for one in encoder.hashes(map(escape, ("a", "ä\u2028")))]
    assert hashes == [wanted[0], wanted[1], None, wanted[0]]
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in wanted)
