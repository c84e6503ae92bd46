"""Outcomes that need no asking: answers that an earlier submission paid for, taken over by request hash."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.requests.frame import REQUEST_HASH
from ractobatch_dagster.requests.hashes import from_binary, pairs
from ractobatch_dagster.submission.answered import FINAL, Answered, Stream, as_reused, outcomes_of
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.rows import read_rows
from ractobatch_dagster.submission.state import SubmissionState

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Known"]

_AT_ONCE = 100_000
"""So many answers are in memory at a time."""


class Known:
    """The answers of earlier submissions, each of which one row takes over, and rows that nobody can ask.

    Where identical rows were samples of their own, there are several answers to one question, and each goes to another
    row.

    Args:
        files: Which submission takes them over.
        sources: Whose answers; those included that they had taken over themselves.
        folder: Where files are made before they go into the store.
    """

    def __init__(self, files: SubmissionFiles, sources: Sequence[SubmissionFiles], folder: Path) -> None:
        self._files = files
        # what somebody deleted wholly cannot be taken over, and is no reason not to go on
        loaded = [(source, source.log.load()) for source in sources]
        self._sources = [
            (source, version.state)
            for source, version in loaded
            if version is not None and source.store.exists(source.rows(0))
        ]
        self._path = folder / "known.parquet"
        self._refused: list[dict[str, Any]] = []
        self._taken: list[tuple[np.ndarray, np.ndarray]] = []  # by source: our rows, and theirs
        self.answers = 0

    def take(self, wanted: Callable[[], Iterable[np.ndarray]], rows: int) -> np.ndarray:
        """Which of our rows have an answer already, ascending; those are taken over.

        Args:
            wanted: The hash of each row; zeros where none is wanted.
            rows: How many rows there are.
        """
        import numpy as np

        if not self._sources:
            return np.empty(0, dtype=np.int64)
        starts = np.cumsum([0, *(state.sealed for _, state in self._sources)])
        mine, theirs = pairs(wanted, rows, self._hashes, int(starts[-1]))
        source = np.searchsorted(starts, theirs, side="right") - 1
        self._taken = [
            (mine[source == number], theirs[source == number] - starts[number]) for number in range(len(self._sources))
        ]
        self.answers = len(mine)
        return mine

    def _hashes(self) -> Iterator[np.ndarray]:
        """The hashes of the sources' rows, one source after the other; zeros where a row has no answer to give."""
        import numpy as np
        import pyarrow as pa

        batches = [{batch.batch_id for batch in state.batches if batch.batch_id} for _, state in self._sources]
        for (files, state), mine in zip(self._sources, batches, strict=True):
            answered, row = Answered(files, state, 0, state.sealed), 0
            others = pa.array(sorted(set().union(*batches) - mine), pa.string())
            for batch in read_rows(files, 0, state.sealed, [REQUEST_HASH]):
                there = _answered(answered.until(row + len(batch)), row, len(batch), others)
                yield np.where(there[:, None], from_binary(batch.column(0)), np.uint64(0))
                row += len(batch)

    def refuse(self, row: int, most: int) -> None:
        """Note a row that no batch can take."""
        error = f"Its request is larger than the {most:,} bytes that one input file takes. It was not sent."
        blank = dict.fromkeys(FINAL().names)
        told = {"row": row, "status": "error", "error_code": "request_too_large", "error": error, "reused": False}
        self._refused.append({**blank, **told})

    def store(self, rows: int) -> None:
        """Write down what was taken over, and what was refused, in the order of our rows, of which there are `rows`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        streams = [
            Stream(_taken(rows, files, state, theirs))
            for (files, state), (rows, theirs) in zip(self._sources, self._taken, strict=False)
        ]
        streams.append(Stream(iter([pa.Table.from_pylist(self._refused, schema=FINAL())])))
        # also where there are none: an earlier try may have left some
        with pq.ParquetWriter(self._path, FINAL(), compression="zstd", compression_level=1) as writer:
            for stop in range(_AT_ONCE, rows + _AT_ONCE, _AT_ONCE):
                found = [table for stream in streams if (table := stream.until(stop)) is not None]
                if found:
                    writer.write_table(pa.concat_tables(found).sort_by("row"))
        self._files.store.take(self._files.known, self._path)


def _answered(outcomes: pa.Table, start: int, rows: int, others: pa.Array) -> np.ndarray:
    """Which of these rows have an answer that is not from the batches of `others`, which tell of it themselves."""
    import numpy as np
    import pyarrow.compute as pc

    found = np.zeros(rows, dtype=bool)
    wanted = pc.equal(outcomes["status"], "ok")
    if len(others) and pc.any(outcomes["reused"]).as_py():
        wanted = pc.and_not(wanted, pc.is_in(outcomes["batch_id"], others))
    found[outcomes.filter(wanted)["row"].to_numpy() - start] = True
    return found


def _taken(rows: np.ndarray, files: SubmissionFiles, state: SubmissionState, theirs: np.ndarray) -> Iterator[pa.Table]:
    """The answers to our rows by another submission's rows, in our order."""
    import numpy as np

    for start in range(0, len(rows), _AT_ONCE):
        mine, wanted = rows[start : start + _AT_ONCE], theirs[start : start + _AT_ONCE]
        order = np.argsort(wanted)
        yield as_reused(outcomes_of(files, state, wanted[order]).take(np.argsort(order)), mine)
