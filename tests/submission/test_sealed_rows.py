"""Frames of any size: read once, sealed in parts, asked in batches, landed in order, copies and old answers too."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ractobatch_dagster.errors import InvalidInputError, ProviderError, StoreError, SubmissionConflictError
from ractobatch_dagster.form import Form
from ractobatch_dagster.local import CallFault, Faults
from ractobatch_dagster.processes import pool
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.results.table import ResultTable
from ractobatch_dagster.submission import rows as rows_module
from ractobatch_dagster.submission.assembling import Assembly
from ractobatch_dagster.submission.engine import SUBMIT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.opening import Opened, Terms, open_submission
from ractobatch_dagster.submission.parallel import Workers
from ractobatch_dagster.submission.plan import Collect, Poll, Upload
from ractobatch_dagster.submission.rows import read_rows
from ractobatch_dagster.submission.sealing import Rules
from ractobatch_dagster.submission.state import Owner
from tests.submission.test_engine import LIMITS, Bench, bench

__all__ = ["bench"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts and row groups of a few rows, so that small frames have many of them."""
    monkeypatch.setattr(rows_module, "PART_ROWS", 7)
    monkeypatch.setattr(rows_module, "_GROUP_ROWS", 3)


def opened(bench: Bench, frames: dict[str | None, Any], **terms: Any) -> Opened:
    """Open a submission of these partitions."""
    given_terms = {"provider": bench.engine().identity, "template": RequestTemplate("m"), "limits": LIMITS, **terms}
    return open_submission(bench.table, Owner(asset="answers"), frames, Terms(**given_terms), now=lambda: bench.clock)


def table(files: SubmissionFiles, key: str | None = None, **options: Any) -> pa.Table:
    """The result table of a partition."""
    state = files.state()
    share = state.partition(key)
    assert share is not None
    assembly = Assembly(files, state, share, ResultTable(Form(), "f"), **options)
    return pa.concat_tables([assembly.schema.empty_table(), *assembly.blocks()])


def frame(*prompts: str | None) -> pd.DataFrame:
    """Rows with numbers."""
    return pd.DataFrame({"number": range(len(prompts)), "user_message": pd.array(prompts, dtype="string")})


def sums(numbers: list[int]) -> list[str]:
    """Questions whose answers tell them apart."""
    return [f"What is {number}+1000?" for number in numbers]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.none() | st.integers(0, 20), min_size=1, max_size=40), dedupe=st.booleans())
def test_every_row_has_its_own_answer(bench: Bench, numbers: list[int | None], dedupe: bool) -> None:
    """In order, whatever repeats and whatever is empty; each question is asked once unless it is to be sampled."""
    bench.land()
    prompts = [None if number is None else f"What is {number}+1000?" for number in numbers]
    before = bench.server.billed.total()
    files = bench.table.submission(opened(bench, {None: frame(*prompts)}, dedupe=dedupe, reuse=None).submissions[None])
    bench.finish(files)
    made = table(files)
    assert made["number"].to_pylist() == list(range(len(numbers)))
    assert made["llm_text"].to_pylist() == [None if number is None else str(number + 1000) for number in numbers]
    asked = [number for number in numbers if number is not None]
    assert bench.server.billed.total() - before == len(set(asked) if dedupe else asked)
    firsts = [number is not None and number in numbers[:row] for row, number in enumerate(numbers)]
    assert made["llm_reused"].to_pylist() == [dedupe and copy for copy in firsts]


def test_answers_are_taken_over_in_any_order(bench: Bench) -> None:
    """Shuffled rows, some of them new: what was answered costs nothing again, and each row has its own answer."""
    numbers = list(range(30))
    first = opened(bench, {None: frame(*sums(numbers))})
    bench.finish(bench.table.submission(first.submissions[None]))
    bench.land()
    shuffled = [*numbers, 50, 51]
    random.Random(1).shuffle(shuffled)
    files = bench.table.submission(opened(bench, {None: frame(*sums(shuffled))}).submissions[None])
    assert files.state().requests == 2
    bench.finish(files)
    assert table(files)["llm_text"].to_pylist() == [str(number + 1000) for number in shuffled]
    assert bench.server.billed.total() == 32


def test_rows_of_a_partition_that_is_open_elsewhere_are_not_asked(bench: Bench) -> None:
    """A run over two partitions, one of which is under way already, asks only the other's, though it sealed both."""
    one, two = frame(*sums([1, 2, 3])), frame(*sums([3, 4]))
    first = opened(bench, {"one": one})
    both = opened(bench, {"one": one, "two": two})
    assert both.submissions["one"] == first.submissions["one"]
    files = bench.table.submission(both.submissions["two"])
    assert (files.state().rows, files.state().sealed, files.state().requests) == (2, 5, 2)
    bench.finish(files)
    assert table(files, "two")["llm_text"].to_pylist() == ["1003", "1004"]


def test_attaching_leaves_nothing_behind(bench: Bench) -> None:
    """What was sealed for nothing is deleted."""
    opened(bench, {None: frame("a")})
    before = bench.store.folders("submissions/answers")
    opened(bench, {None: frame("a")})
    assert bench.store.folders("submissions/answers") == before


def test_what_is_refused_or_interrupted_leaves_nothing_behind(bench: Bench) -> None:
    """Nor does a conflict with what is open, however often it is tried, or a run that is ended while it seals."""

    def interrupted() -> Iterator[pd.DataFrame]:
        yield frame(*sums(list(range(20))))
        raise KeyboardInterrupt

    first = opened(bench, {None: frame("a")})
    bench.engine().advance(bench.table.submission(first.submissions[None]), steps=SUBMIT)
    before = bench.store.folders("submissions/answers")
    with pytest.raises(SubmissionConflictError):
        opened(bench, {None: frame("b")})
    with pytest.raises(KeyboardInterrupt):
        opened(bench, {None: interrupted()})
    assert bench.store.folders("submissions/answers") == before


def test_a_row_that_no_file_can_hold_fails_alone(bench: Bench) -> None:
    """It is not sent and says why; the others are asked."""
    limits = Limits(max_requests=10, max_bytes=2_000)
    files = bench.table.submission(opened(bench, {None: frame("a", "x" * 3_000, "b")}, limits=limits).submissions[None])
    bench.finish(files)
    made = table(files)
    assert made["llm_status"].to_pylist() == ["ok", "error", "ok"]
    assert made["llm_error_code"].to_pylist()[1] == "request_too_large"
    assert made["llm_cost_usd"].to_pylist()[1] == 0.0
    assert bench.server.billed.total() == 2


def test_a_stream_is_read_once_and_block_by_block(bench: Bench) -> None:
    """A generator of frames need not fit into memory, and is not asked for more than once."""
    given_out: list[int] = []

    def frames() -> Iterator[pd.DataFrame]:
        for number in range(5):
            given_out.append(number)
            yield frame(*sums([number * 2, number * 2 + 1]))

    files = bench.table.submission(opened(bench, {None: frames()}).submissions[None])
    assert given_out == list(range(5))
    bench.finish(files)
    assert table(files)["llm_text"].to_pylist() == [str(number + 1000) for number in range(10)]


def test_the_columns_that_are_carried(bench: Bench) -> None:
    """All, some, or none of the user's columns stand beside the answers."""
    files = bench.table.submission(opened(bench, {None: frame("a", "b")}).submissions[None])
    bench.finish(files)
    own = {"number", "user_message"}
    assert {name for name in table(files).column_names if name in own} == own
    assert {name for name in table(files, carry=("number",)).column_names if name in own} == {"number"}
    assert not own & set(table(files, carry=()).column_names)
    with pytest.raises(InvalidInputError, match="no column 'absent'"):
        opened(bench, {None: frame("c")}, rules=Rules(needed=("absent",)))


def test_keys_are_unique_within_a_partition(bench: Bench) -> None:
    """Across its blocks and parts; another partition may have the same keys."""
    rules = Rules(key="number")
    opened(bench, {"one": frame(*sums([1, 2])), "two": frame(*sums([3, 4]))}, rules=rules)
    twice = pd.concat([frame(*sums(list(range(20)))), frame("a", "b", "c")])
    with pytest.raises(InvalidInputError, match=r"3 values of the key 'number' stand on more than one row: 0, 1, 2\."):
        opened(bench, {"three": twice}, rules=rules)
    assert len(bench.store.folders("submissions/answers")) == 2  # the submission and the table's log


def test_partitions_of_other_columns_are_refused(bench: Bench) -> None:
    """A column that is all null in one partition has the type of the others; a number is no text."""
    nothing = frame("a").assign(note=None)
    opened(bench, {"one": nothing, "two": frame("b").assign(note="x")})
    with pytest.raises(InvalidInputError, match="different types"):
        opened(bench, {"three": frame("a").assign(note=1), "four": frame("b").assign(note="x")})


@pytest.mark.parametrize("workers", [Workers(4), Workers(4, 2)], ids=["threads", "processes"])
def test_several_at_a_time_do_the_same(bench: Bench, workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Uploads and downloads in threads, lines and answers in other processes: the same table."""
    monkeypatch.undo()  # other processes know nothing of small parts
    numbers = list(range(35))
    files = bench.table.submission(opened(bench, {None: frame(*sums(numbers))}).submissions[None])
    provider = bench.engine()._provider
    engine = Engine(bench.store, provider, limits=LIMITS, now=lambda: bench.clock, workers=workers)
    engine.advance(files, steps=SUBMIT)
    assert len(bench.server.batches()) == 4
    bench.server.wait_idle()
    bench.clock += 100
    assert engine.advance(files).collected
    assert table(files)["llm_text"].to_pylist() == [str(number + 1000) for number in numbers]
    workers.close()


def test_one_upload_that_is_refused_stops_no_other(bench: Bench) -> None:
    """What is under way beside it is recorded."""
    bench.server.faults = Faults(calls=[CallFault("POST", "/v1/files", times=1, status=400, message="not this one")])
    files = bench.table.submission(opened(bench, {None: frame(*sums(list(range(35))))}).submissions[None])
    provider = bench.engine()._provider
    engine = Engine(bench.store, provider, limits=LIMITS, now=lambda: bench.clock, workers=Workers(4))
    with pytest.raises(ProviderError, match="not this one"):
        engine.advance(files, steps={Upload})
    assert sum(batch.stage == "uploaded" for batch in files.state().batches) == 3


@pytest.mark.parametrize("other", [[1.5, None], [], ["x", "y"]], ids=["floats", "empty", "text"])
def test_a_partition_is_the_same_whatever_it_is_submitted_with(bench: Bench, other: list[Any]) -> None:
    """Its types beside another partition's do not make its rows others: by itself it is gone on with."""
    one = frame("a", "b").assign(note=[1, 2] if other != ["x", "y"] else [None, None])
    two = pd.DataFrame({"number": range(len(other)), "user_message": ["c"] * len(other), "note": other})
    both = opened(bench, {"one": one, "two": two})
    assert opened(bench, {"one": one}).submissions["one"] == both.submissions["one"]


def test_values_that_do_not_fit_together_are_refused(bench: Bench) -> None:
    """A number that the other partition's type cannot hold, or a type that no Parquet file has, is bad input."""
    large, halves = frame("a").assign(note=[2**60 + 1]), frame("b").assign(note=[1.5])
    with pytest.raises(InvalidInputError, match="does not fit the columns of the other partitions"):
        opened(bench, {"one": large, "two": halves})
    nothing = pa.array([{}], pa.struct([]))
    with pytest.raises(InvalidInputError, match="column 'empty' of type struct<> cannot be stored"):
        opened(bench, {None: pa.table({"user_message": ["a"], "empty": nothing})})
    assert bench.store.folders("submissions/answers") == []


def test_a_partition_without_rows_may_meet_one_with_rows(bench: Bench) -> None:
    """What changed is told, or replaced, as with any other rows."""
    first = opened(bench, {"one": frame(*sums([1])), "two": frame()})
    bench.engine().advance(bench.table.submission(first.submissions["one"]), steps=SUBMIT)
    with pytest.raises(SubmissionConflictError):
        opened(bench, {"one": frame(*sums([1])), "two": frame("new")})
    assert opened(bench, {"one": frame(*sums([1])), "two": frame("new")}, on_change="replace").replaced


def test_a_sample_goes_to_one_row_only(bench: Bench) -> None:
    """Without `dedupe` an answer that two submissions know of is still one sample."""
    one = opened(bench, {None: frame("hi")}, dedupe=False)
    bench.finish(bench.table.submission(one.submissions[None]))
    bench.land()
    opened(bench, {None: frame("hi", "other")}, dedupe=False)
    third = opened(bench, {None: frame("hi", "hi", "other")}, dedupe=False)
    assert third.withdrawn
    assert bench.table.submission(third.submissions[None]).state().requests == 2


def test_a_torn_file_of_rows_says_so(bench: Bench) -> None:
    """Whatever Arrow makes of damaged bytes, it is an error that names the file."""
    files = bench.table.submission(opened(bench, {None: frame(*sums(list(range(50))))}).submissions[None])
    path = Path(bench.store.uri(files.rows(0)))
    data = bytearray(path.read_bytes())
    for place in range(10, len(data) // 2):
        data[place] ^= 0x5A
    path.write_bytes(data)
    with pytest.raises(StoreError, match="00000"):
        list(read_rows(files, 0, 7))


def test_pieces_of_the_work(bench: Bench) -> None:
    """Upload and collect only some of the batches; the rest stays to be done."""
    files = bench.table.submission(opened(bench, {None: frame(*sums(list(range(35))))}).submissions[None])
    engine = bench.engine()
    state = engine.advance(files, steps={Upload}, batches=[1, 3])
    assert [batch.stage for batch in state.batches] == ["planned", "uploaded", "planned", "uploaded"]
    engine.advance(files, steps=SUBMIT)
    bench.server.wait_idle()
    bench.clock += 100
    engine.advance(files, steps={Poll})
    state = engine.advance(files, steps={Collect}, batches=[0])
    assert [batch.stage for batch in state.batches] == ["collected", "ended", "ended", "ended"]


def test_a_part_that_is_gone_is_no_empty_one(bench: Bench) -> None:
    """What cannot be read is an error that names it, and nothing is sent."""
    files = bench.table.submission(opened(bench, {None: frame(*sums(list(range(20))))}).submissions[None])
    assert bench.store.local_path is not None
    Path(bench.store.uri(files.rows(1))).unlink()
    with pytest.raises(StoreError, match="00001"):
        bench.engine().advance(files, steps=SUBMIT)
    with pytest.raises(StoreError, match="00001"):
        list(read_rows(files, 0, 20))
    assert bench.server.batches() == []


def test_other_processes_end_with_the_one_that_started_them(tmp_path: Path) -> None:
    """However it ends: a worker would otherwise wait for ever for a parent that is gone."""
    script = tmp_path / "started.py"
    script.write_text(
        "import os\nfrom ractobatch_dagster.processes import pool\n"
        "if __name__ == '__main__':\n"
        "    print(pool(1).submit(os.getpid).result(), flush=True)\n    os._exit(0)\n"
    )
    # its output only ends once every process that holds it has ended
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=True)
    assert int(done.stdout) != os.getpid()
    assert pool(1).submit(os.getpid).result() != os.getpid()
