"""A partition's result table, made block by block from its sealed rows and their outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ractobatch_dagster.requests.encode import custom_ids
from ractobatch_dagster.requests.frame import REQUEST_HASH
from ractobatch_dagster.results.table import ResultTable
from ractobatch_dagster.submission.answered import Answered, Copies
from ractobatch_dagster.submission.files import SubmissionFiles, parquet_file
from ractobatch_dagster.submission.rows import read_rows, sealed_fields
from ractobatch_dagster.submission.state import PartitionRows, SubmissionState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Assembly"]


class Assembly:
    """The result table of one partition of a collected submission.

    Args:
        files: The submission.
        state: Its state.
        share: The partition's rows.
        table: Makes the blocks.
        carry: The user's columns that travel along; `None` for all.

    Raises:
        StoreError: The rows are not there.
    """

    def __init__(
        self,
        files: SubmissionFiles,
        state: SubmissionState,
        share: PartitionRows,
        table: ResultTable,
        carry: Sequence[str] | None = None,
    ) -> None:
        self._files, self._state, self._share, self._table = files, state, share, table
        sealed = {field.name for field in sealed_fields()}
        with parquet_file(files.store, files.rows(0)) as file:
            given = file.schema_arrow.remove_metadata()
        self._carried = [f for f in given if f.name not in sealed and (carry is None or f.name in carry)]

    @property
    def schema(self) -> pa.Schema:
        """The table's columns."""
        return self._table.schema(self._carried)

    def blocks(self) -> Iterator[pa.Table]:
        """The table, in input order, a row group of rows at a time."""
        start, stop = self._share.start, self._share.start + self._share.rows
        answered = Answered(self._files, self._state, start, stop)
        copies = Copies(self._files, self._state, start, stop)
        for rows in read_rows(self._files, start, stop, [*(f.name for f in self._carried), REQUEST_HASH]):
            end = start + len(rows)
            yield self._block(rows, answered.until(end), copies, start, end)
            start = end

    def _block(self, rows: pa.RecordBatch, found: pa.Table, copies: Copies, start: int, end: int) -> pa.Table:
        import numpy as np
        import pyarrow as pa

        copied, numbers, firsts = copies.between(start, end)
        if len(copied):
            found = pa.concat_tables([found, copied])
        answering = np.arange(start, end)
        answering[numbers - start] = firsts
        nothing_asked = rows.column(REQUEST_HASH).is_null().to_numpy(zero_copy_only=False)
        return self._table.block(rows, found, start, custom_ids(pa.array(answering, mask=nothing_asked)))
