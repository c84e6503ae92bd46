"""A frame of several partitions is split in one pass, by way of files."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractobatch_dagster.requests import split as split_module
from ractobatch_dagster.requests.frame import open_frame
from ractobatch_dagster.requests.split import split_frame


@given(
    rows=st.lists(st.sampled_from("abcd") | st.none(), max_size=60),
    lengths=st.lists(st.integers(1, 9), min_size=60, max_size=60),
    held=st.integers(1, 600),
)
@settings(deadline=None)
def test_each_partition_has_its_rows_in_order(
    rows: list[str | None], lengths: list[int], held: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Rows go to the partition that their text names, in order; rows of others, or of none, are dropped."""
    table = pa.table({"p": pa.array(rows, pa.string()), "n": pa.array(range(len(rows)), pa.int64())})
    table = table.append_column(
        "words", pa.array(["xyz"[n % 3] for n in range(len(rows))], pa.string()).dictionary_encode()
    )
    batches, start = [], 0
    for length in lengths:
        batches += table.slice(start, length).to_batches()
        start += length
    stream = pa.RecordBatchReader.from_batches(table.schema, batches)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_module, "_HELD_BYTES", held)
        patch.setattr("ractobatch_dagster.requests.frame.BLOCK", 4)
        parts = split_frame(stream, "p", ["b", "a", "none such"], tmp_path_factory.mktemp("split"))
    assert list(parts) == ["b", "a", "none such"]
    for key, part in parts.items():
        assert part.schema == table.schema
        assert part.read_all().to_pydict() == table.filter(pa.compute.equal(table["p"], key)).to_pydict()


def test_partitions_are_told_by_text(tmp_path: Path) -> None:
    """Dates, numbers and dictionaries name partitions by their text, and a key need not be a file's name."""
    day = dt.date(2024, 5, 1)
    table = pa.table({"d": [day, None], "n": [7, 8], "w": pa.array(["../x", "y"]).dictionary_encode()})
    for column, key in (("d", "2024-05-01"), ("n", "7"), ("w", "../x")):
        parts = split_frame(table.to_reader(), column, [key], tmp_path / column)
        assert parts[key].read_all().to_pylist() == table.slice(0, 1).to_pylist()


def test_files_are_opened_when_they_are_read(tmp_path: Path) -> None:
    """A thousand partitions hold no file open, and another split into the same folder begins anew."""
    keys = [str(number) for number in range(1_000)]
    for _ in range(2):
        parts = split_frame(open_frame(pa.table({"p": keys * 2})), "p", keys, tmp_path)
        assert len(list(Path("/proc/self/fd").iterdir())) < 200
    assert parts["999"].read_all()["p"].to_pylist() == ["999", "999"]
    for path in tmp_path.iterdir():
        path.unlink()
    assert parts["998"].read_all().num_rows == 0
