"""The final outcomes of a submission's rows, read in the order of the rows, with but a part of them in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from ractobatch_dagster.results.outcomes import ANSWERED, OUTCOMES
from ractobatch_dagster.submission.files import SubmissionFiles, parquet_file
from ractobatch_dagster.submission.state import BatchState, SubmissionState

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["FINAL", "Answered", "Copies", "Stream", "as_reused", "outcomes_of"]

_READ_ROWS = 8_192


def FINAL() -> pa.Schema:  # noqa: N802  (a constant, but for the import that it delays)
    """What is told of a row: its number, its outcome, who answered in which round, and whether that was paid before."""
    import pyarrow as pa

    outcome = [OUTCOMES().field(name) for name in ANSWERED]
    origin = [("batch_id", pa.string()), ("round", pa.int32()), ("reused", pa.bool_())]
    return pa.schema([("row", pa.int64()), *outcome, *origin])


class Answered:
    """Reads the outcomes of the rows from `start` on, ever further.

    Of one round and one model, batches ascend in their rows; those, and what was known before, are streams to be
    merged. Of several outcomes of a row the last counts, but an answer, if only an invalid one, is better than none.

    Args:
        files: The submission.
        state: Its state; outcomes of batches that are not collected are not there.
        start: The first row.
        stop: The row behind the last that is wanted.
    """

    def __init__(self, files: SubmissionFiles, state: SubmissionState, start: int, stop: int) -> None:
        there = [b for b in state.batches if b.collected and b.start < stop and start < b.stop]
        there.sort(key=lambda batch: (batch.round, batch.model, batch.number))
        runs = [list(batches) for _, batches in groupby(there, key=lambda batch: (batch.round, batch.model))]
        self._streams = [Stream(_known(files, state, start)), *(Stream(_results(files, batches)) for batches in runs)]
        self._schema = FINAL()
        self.until(start)

    def until(self, stop: int) -> pa.Table:
        """The outcomes of the rows below `stop` that were not read yet, by row; rows that have none are left out."""
        import pyarrow as pa

        found = [table for stream in self._streams if (table := stream.until(stop)) is not None]
        if len(found) == 1:
            return found[0]
        return _best(pa.concat_tables(found)) if found else self._schema.empty_table()

    def among(self, rows: np.ndarray) -> pa.Table:
        """The outcomes of some rows that were not read yet, which ascend, by row; those that have none are left out."""
        import numpy as np
        import pyarrow as pa

        parts = []
        for some in np.array_split(rows, -(-len(rows) // _READ_ROWS)):
            part = self.until(int(some[-1]) + 1)
            parts.append(part.filter(pa.array(np.isin(part["row"].to_numpy(), some))))
        return pa.concat_tables(parts)


class Stream:
    """Tables that ascend in their rows, read up to one row after the other."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._left: pa.Table | None = None

    def until(self, stop: int) -> pa.Table | None:
        """Rows below `stop` that were not read yet; `None` where there are none."""
        import numpy as np
        import pyarrow as pa

        found = []
        while True:
            if self._left is None:
                self._left = next(self._tables, None)
            if self._left is None:
                break
            rows = self._left["row"].to_numpy()
            fits = int(np.searchsorted(rows, stop))
            if fits:
                found.append(self._left.slice(0, fits))
            self._left = self._left.slice(fits) if fits < len(rows) else None
            if self._left is not None:
                break
        return pa.concat_tables(found) if found else None


def _known(files: SubmissionFiles, state: SubmissionState, start: int) -> Iterator[pa.Table]:
    if state.predecessors:
        return  # nothing is planned yet
    with parquet_file(files.store, files.known) as file:
        told = [file.metadata.row_group(group) for group in range(file.num_row_groups)]
        groups = [group for group, one in enumerate(told) if one.num_rows and one.column(0).statistics.max >= start]
        if groups:
            yield from _tables(file.iter_batches(_READ_ROWS, row_groups=groups, use_threads=False))


def _results(files: SubmissionFiles, batches: Sequence[BatchState]) -> Iterator[pa.Table]:
    import pyarrow as pa

    schema = FINAL()
    for batch in batches:
        with parquet_file(files.store, files.results(batch)) as file:
            for part in _tables(file.iter_batches(_READ_ROWS, columns=["row", *ANSWERED], use_threads=False)):
                origin = (batch.batch_id, batch.round, False)
                made = [pa.repeat(pa.scalar(value, schema.field(name).type), len(part))
                        for name, value in zip(("batch_id", "round", "reused"), origin, strict=True)]  # fmt: skip
                yield pa.Table.from_arrays([*part.columns, *made], schema=schema)


def _tables(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    import pyarrow as pa

    for batch in batches:
        table = pa.Table.from_batches([batch])
        if "more" not in table.schema.names:  # of a version that kept nothing but texts
            table = table.add_column(len(ANSWERED), "more", pa.nulls(len(table), pa.string()))
        yield table


def _best(found: pa.Table) -> pa.Table:
    """One outcome a row, of several."""
    import numpy as np
    import pyarrow.compute as pc

    rows, rounds = found["row"].to_numpy(), found["round"].fill_null(0).to_numpy()
    order = np.lexsort((rounds, pc.equal(found["status"], "ok").to_numpy(), rows))
    last = np.append(rows[order][1:] != rows[order][:-1], True)
    return found.take(order[last])


class Copies:
    """Rows that ask what an earlier row asks, and the outcomes of those.

    All outcomes that are copied are held in memory, since a copy may stand anywhere behind what it copies.

    Args:
        files: The submission.
        state: Its state.
        start: The first row that is wanted.
        stop: The row behind the last.
    """

    def __init__(self, files: SubmissionFiles, state: SubmissionState, start: int, stop: int) -> None:
        import numpy as np

        self._copied = FINAL().empty_table()
        with parquet_file(files.store, files.copies) as file:
            copies = file.read(use_threads=False)
        rows = copies["row"].to_numpy()
        low, high = np.searchsorted(rows, [start, stop])
        self._rows, self._firsts = rows[low:high], copies["first"].to_numpy()[low:high]
        if len(self._rows):
            wanted = np.unique(self._firsts)
            self._copied = outcomes_of(files, state, wanted).combine_chunks()

    def between(self, start: int, stop: int) -> tuple[pa.Table, pa.Array, pa.Array]:
        """The outcomes of the copies among these rows under the copies' own numbers; all copies, and whom they copy."""
        import numpy as np

        low, high = np.searchsorted(self._rows, [start, stop])
        rows, firsts = self._rows[low:high], self._firsts[low:high]
        known = self._copied["row"].to_numpy()
        place = np.searchsorted(known, firsts)
        there = place < len(known)
        there[there] = known[place[there]] == firsts[there]
        return as_reused(self._copied.take(place[there]), rows[there]), rows, firsts


def outcomes_of(files: SubmissionFiles, state: SubmissionState, rows: np.ndarray) -> pa.Table:
    """The outcomes of some rows, which ascend, by row; those that have none are left out."""
    return Answered(files, state, int(rows[0]), int(rows[-1]) + 1).among(rows)


def as_reused(outcomes: pa.Table, rows: np.ndarray) -> pa.Table:
    """The same outcomes for other rows, which they cost nothing."""
    import pyarrow as pa

    given = {"row": pa.array(rows), "reused": pa.repeat(True, len(rows))}
    for name, column in given.items():
        outcomes = outcomes.set_column(outcomes.schema.get_field_index(name), name, column)
    return outcomes
