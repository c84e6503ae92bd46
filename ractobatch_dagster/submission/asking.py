"""Which rows are asked, and in which batch each is: decided from hashes and lengths, before any line is made.

A row without a prompt is not asked. Nor is one that asks what an earlier row asks (a copy), one whose answer was paid
for before, or one that no batch can take.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ractobatch_dagster.requests.cut import Cut, Limits, cut
from ractobatch_dagster.requests.encode import Encoder, custom_id_bytes
from ractobatch_dagster.requests.frame import REQUEST_HASH
from ractobatch_dagster.requests.hashes import from_binary, repeats
from ractobatch_dagster.submission.files import SubmissionFiles, parquet_file, write_parquet
from ractobatch_dagster.submission.reusing import Known
from ractobatch_dagster.submission.rows import MODEL, PROMPT_BYTES, read_rows
from ractobatch_dagster.submission.state import BatchState, PartitionRows

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["LATER", "AskedRows", "Asking", "asked_rows", "plan_batches"]


@dataclass(frozen=True, slots=True)
class AskedRows:
    """What one batch asks.

    Attributes:
        rows: The numbers of its rows, ascending.
        answers: By row, the answer that is shown to the model again, and what is wrong with it.
        counts: By row, how often it failed, never ran, and was answered invalidly so far; those not at all left out.
    """

    rows: np.ndarray
    answers: dict[int, tuple[str, str]]
    counts: dict[int, tuple[int, int, int]]


class Asking:
    """The rows of a submission as hashes and lengths.

    Args:
        files: The submission.
        shares: Which rows are its own: its partitions' first rows and the rows behind them.
        rows: How many rows were sealed.
        encoder: Makes the lines.
        models: The models that rows ask, where each names its own.
    """

    def __init__(
        self,
        files: SubmissionFiles,
        shares: Sequence[tuple[int, int]],
        rows: int,
        encoder: Encoder,
        models: Sequence[str] = (),
    ) -> None:
        self._files = files
        self._edges = _edges(shares)
        self._shares = list(shares)
        self._asked: np.ndarray | None = None
        self.rows = rows
        self._overhead = encoder.overhead
        self._models = models

    def hashes(self) -> Iterator[np.ndarray]:
        """The hash of every row, in order; zeros where nothing is asked, or where the row belongs to others."""
        for _, hashes, _ in self._sealed():
            yield hashes

    def _sealed(self, model: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Numbers, hashes, and the bytes of the line of each row; no hash for a row of another model than this."""
        import numpy as np
        import pyarrow.compute as pc

        row, columns = 0, [REQUEST_HASH, PROMPT_BYTES, *([MODEL] if model is not None else [])]
        for batch in read_rows(self._files, 0, self.rows, columns):
            rows = np.arange(row, row + len(batch))
            wanted = self._own(rows)
            if model is not None:
                wanted &= pc.fill_null(pc.equal(batch.column(MODEL), model), False).to_numpy(zero_copy_only=False)
            hashes = _only(from_binary(batch.column(REQUEST_HASH)), wanted)
            row += len(batch)
            prompts = batch.column(PROMPT_BYTES).to_numpy(zero_copy_only=False)
            yield rows, hashes, prompts + self._overhead + custom_id_bytes(rows)

    def _own(self, rows: np.ndarray) -> np.ndarray:
        """Which of these rows are the submission's: those with an odd number of edges before them."""
        import numpy as np

        own: np.ndarray = np.searchsorted(self._edges, rows, side="right") % 2 == 1
        return own

    def write_copies(self, *, dedupe: bool) -> None:
        """Find the rows that ask what an earlier row asks, if that is wanted, and write them down."""
        import pyarrow as pa

        rows, firsts = repeats(self.hashes, self.rows) if dedupe else (_none(), _none())
        write_parquet(self._files.store, self._files.copies, pa.table({"row": rows, "first": firsts}))

    def counted(self, shares: Iterable[PartitionRows]) -> list[PartitionRows]:
        """The partitions, each with how many of its rows are asked; as they were where nothing is planned yet."""
        if self._asked is None:
            return list(shares)
        counts = dict(zip(self._shares, self._asked.tolist(), strict=True))
        return [msgspec.structs.replace(one, asked=counts[one.start, one.start + one.rows]) for one in shares]

    def _count(self, rows: np.ndarray) -> None:
        """Count rows that are asked, which ascend, for their partitions."""
        import numpy as np

        if self._asked is None:
            self._asked = np.zeros(len(self._shares), dtype=np.int64)
        starts, stops = np.array(self._shares, dtype=np.int64).reshape(-1, 2).T
        self._asked += np.searchsorted(rows, stops) - np.searchsorted(rows, starts)

    def plan(self, known: Known, limits: Limits, folder: Path) -> tuple[BatchState, ...]:
        """Write down what needs no asking, and cut the rest into batches.

        Args:
            known: Answers that were paid for before.
            limits: What a batch may hold.
            folder: Where files are made before they go into the store.
        """
        with parquet_file(self._files.store, self._files.copies) as file:
            copied = file.read(columns=["row"], use_threads=False)["row"].to_numpy()
        taken = known.take(lambda: _without(self._sealed(), copied), self.rows)

        def left(model: str | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            for rows, hashes, sizes in self._sealed(model):
                asked = hashes.any(axis=1) & ~_among(rows, copied) & ~_among(rows, taken)
                for row in rows[asked & (sizes > limits.max_bytes)]:
                    known.refuse(int(row), limits.max_bytes)
                asked &= sizes <= limits.max_bytes
                self._count(rows[asked])
                yield rows[asked], sizes[asked]

        cuts = (one for model in self._models or (None,) for one in cut(left(model), limits, model or ""))
        planned = plan_batches(self._files, cuts, folder, round_=0, first=0)
        known.store(self.rows)
        return planned


def _edges(shares: Iterable[tuple[int, int]]) -> list[int]:
    """Where runs of own rows begin and end, in turn; shares that touch are one run."""
    edges: list[int] = []
    for start, stop in sorted(one for one in shares if one[0] < one[1]):
        if edges and edges[-1] == start:
            edges[-1] = stop
        else:
            edges += [start, stop]
    return edges


def _none() -> np.ndarray:
    import numpy as np

    return np.empty(0, dtype=np.int64)


def _among(rows: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Which of these rows, a run of numbers, are among some others, which ascend."""
    import numpy as np

    found = np.zeros(len(rows), dtype=bool)
    if len(rows) and len(some):
        there = some[np.searchsorted(some, rows[0]) : np.searchsorted(some, rows[-1], side="right")]
        found[there - rows[0]] = True
    return found


def _without(sealed: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], some: np.ndarray) -> Iterator[np.ndarray]:
    for rows, hashes, _ in sealed:
        yield _only(hashes, ~_among(rows, some))


def _only(hashes: np.ndarray, these: np.ndarray) -> np.ndarray:
    """The hashes, with zeros for the others."""
    import numpy as np

    return hashes if these.all() else np.where(these[:, None], hashes, np.uint64(0))


def plan_batches(
    files: SubmissionFiles,
    cuts: Iterable[Cut],
    folder: Path,
    *,
    round_: int,
    first: int,
    more: pa.Table | None = None,
) -> tuple[BatchState, ...]:
    """Write down which rows each batch asks, one row group a batch, under a name that no other writer uses.

    Args:
        files: The submission.
        cuts: The rows of each batch.
        folder: Where the file is made.
        round_: The round.
        first: The number of the first batch.
        more: What a later round knows of all these rows, in their order: the columns of `LATER`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    token = secrets.token_hex(4)
    schema = pa.schema([("row", pa.int64()), *(LATER() if more is not None else ())])
    path, planned, done = folder / "asked.parquet", [], 0
    with pq.ParquetWriter(
        path, schema, use_dictionary=False, column_encoding={"row": "DELTA_BINARY_PACKED"}, write_statistics=False
    ) as writer:
        for group, one in enumerate(cuts):
            known = more.slice(done, len(one.rows)).columns if more is not None else []
            writer.write_table(pa.table([pa.array(one.rows), *known], schema=schema), row_group_size=len(one.rows))
            done += len(one.rows)
            planned.append(
                BatchState(
                    number=first + group,
                    round=round_,
                    model=one.model,
                    requests=len(one.rows),
                    size=one.size,
                    token=token,
                    group=group,
                    start=int(one.rows[0]),
                    stop=int(one.rows[-1]) + 1,
                )
            )
    if planned:
        files.store.take(files.asked(round_, token), path)
    return tuple(planned)


def LATER() -> list[tuple[str, Any]]:  # noqa: N802  (a constant, but for the import that it delays)
    """What is known of a row that is asked again: counts, and where it is to be repaired the answer and its fault."""
    import pyarrow as pa

    counts = [(name, pa.int16()) for name in ("failures", "never_run", "invalid")]
    return [*counts, ("answer", pa.string()), ("problem", pa.string())]


def asked_rows(files: SubmissionFiles, batch: BatchState) -> AskedRows:
    """What a batch asks.

    Raises:
        StoreError: It cannot be read.
    """
    with parquet_file(files.store, files.asked(batch.round, batch.token)) as file:
        table = file.read_row_group(batch.group, use_threads=False)
    rows = table["row"].to_numpy()
    if len(table.column_names) == 1:
        return AskedRows(rows, {}, {})
    failures, never_run, invalid, answers, problems = (table[name].to_pylist() for name in table.column_names[1:])
    numbers = rows.tolist()
    counts = dict(zip(numbers, zip(failures, never_run, invalid, strict=True), strict=True))
    shown = {
        row: (answer or "", problem) for row, answer, problem in zip(numbers, answers, problems, strict=True) if problem
    }
    return AskedRows(rows, shown, counts)
