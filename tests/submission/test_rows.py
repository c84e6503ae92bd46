"""Sealed rows come back as they went in, or not at all."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission import rows
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.rows import RowsWriter, read_rows


@pytest.fixture
def sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SubmissionFiles:
    """Ten rows, four to a file."""
    monkeypatch.setattr(rows, "PART_ROWS", 4)
    files = TableFiles(Store(tmp_path / "root"), "answers").submission("one")
    writer = RowsWriter(files, pa.schema([("number", pa.int64())]), tmp_path)
    for numbers in (range(3), range(3, 6), range(6, 10)):
        writer.add(pa.RecordBatch.from_pydict({"number": pa.array(numbers, pa.int64())}))
    writer.close()
    return files


def test_any_run_of_rows_is_read_across_files(sealed: SubmissionFiles) -> None:
    """From any row to any other, in order, whichever files they lie in."""
    for start in range(10):
        for stop in range(start, 11):
            batches = read_rows(sealed, start, stop)
            assert [row for batch in batches for row in batch.column(0).to_pylist()] == list(range(start, stop))


def test_a_file_with_too_few_rows_is_an_error(sealed: SubmissionFiles) -> None:
    """A table must not come out short because a part of its rows is."""
    whole = sealed.store.read(sealed.rows(2))
    assert whole is not None
    sealed.store.write(sealed.rows(1), whole)  # two rows instead of four
    with pytest.raises(StoreError, match="fewer rows than were sealed"):
        list(read_rows(sealed, 0, 10))
    with pytest.raises(StoreError, match="fewer rows than were sealed"):
        list(read_rows(sealed, 8, 11))
