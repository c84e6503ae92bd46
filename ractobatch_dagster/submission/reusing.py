"""Outcomes that need no asking: answers that an earlier submission paid for, taken over by request hash."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.requests.frame import REQUEST_HASH
from ractobatch_dagster.requests.hashes import from_binary, pairs
from ractobatch_dagster.reuse import Reuse
from ractobatch_dagster.store import table_name
from ractobatch_dagster.submission.answered import FINAL, Answered, Stream, as_reused
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.rows import read_rows
from ractobatch_dagster.submission.state import PartitionRows, SubmissionState, TableState, Takes
from ractobatch_dagster.submission.validating import Validator

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Known", "sources_of"]

_AT_ONCE = 50_000
"""So many answers are in memory at a time."""

_MOST, _MOST_ROWS = 32, 1_000_000
"""So many submissions of other partitions are looked at, and about so many rows beside as many as are asked: each costs
a look into the store."""


def sources_of(
    table: TableFiles, state: TableState | None, shares: Sequence[PartitionRows], reuse: Reuse, *, dedupe: bool
) -> list[str]:
    """The submissions whose answers these partitions may take over; those of other tables after the table's name.

    Args:
        table: The table.
        state: Its log's newest state.
        shares: The partitions and their rows.
        reuse: What may be taken over.
        dedupe: Whether a question has one answer, wherever it is asked.
    """
    mine = {there.landed for one in shares if state and (there := state.partition(one.key)) and there.landed}
    found, left = sorted(mine, reverse=True), _MOST_ROWS + sum(one.rows for one in shares)
    others = _landed(state) - mine if state and reuse.partitions and dedupe else set()
    for id_ in sorted(others, reverse=True)[:_MOST]:
        version = table.submission(id_).log.load()
        rows = version.state.sealed if version is not None else 0
        if rows <= left:  # a large one hides no small ones behind it
            left -= rows
            found.append(id_)
    for name in reuse.tables:
        other = TableFiles(table.store, name)
        version_ = other.log.load()
        landed = sorted(_landed(version_.state), reverse=True)[:_MOST] if version_ is not None else []
        found += [f"{table_name(name)}/{id_}" for id_ in landed if name != table.asset]
    return found


def _landed(state: TableState) -> set[str]:
    return {one.landed for one in state.partitions if one.landed}


class Known:
    """The answers of earlier submissions, each of which one row takes over, and rows that nobody can ask.

    Where identical rows were samples of their own, there are several answers to one question, and each goes to another
    row.

    Args:
        files: Which submission takes them over.
        sources: Whose answers; those included that they had taken over themselves.
        folder: Where files are made before they go into the store.
        takes: Which of their answers.
        keys: Our partitions.
        validate: Says what is wrong with an answer, or `None`; those with which something is are asked again.
    """

    def __init__(
        self,
        files: SubmissionFiles,
        sources: Sequence[SubmissionFiles],
        folder: Path,
        *,
        takes: Takes = Takes(),  # noqa: B008 - it is frozen
        keys: Collection[str | None] = (),
        validate: Validator | None = None,
    ) -> None:
        self._files = files
        self._takes, self._keys = takes, set(keys)
        # what somebody deleted wholly cannot be taken over, and is no reason not to go on
        loaded = [(source, source.log.load()) for source in sources]
        self._sources = [
            (source, version.state)
            for source, version in loaded
            if version is not None and source.store.exists(source.rows(0))
        ]
        self._path = folder / "known.parquet"
        self._kept = folder / "known.hashes"
        self._refused: list[dict[str, Any]] = []
        self._taken: list[tuple[np.ndarray, np.ndarray]] = []  # by source: our rows, and theirs
        self.answers = 0
        self._validate = validate
        self._created = {id_: at for _, state in self._sources for id_, at in _created(state).items()}
        since = takes.since
        self._young = sorted(id_ for id_, at in self._created.items() if at >= since) if since else None
        self.created: dict[str, float] = {}
        """When the batches were created whose answers were taken over, by their ids."""

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
        with self._kept.open("wb") as file:
            for hashes in self._hashes():
                file.write(hashes.tobytes())
        mine, theirs = pairs(wanted, rows, self._passed, int(starts[-1]))
        self._kept.unlink()
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
        for number, ((files, state), mine) in enumerate(zip(self._sources, batches, strict=True)):
            answered, row = Answered(files, state, 0, state.sealed), 0
            told = set().union(*batches)
            if self._takes.samples:  # what two sources have taken over of a third is one answer
                told |= {id_ for _, before in self._sources[:number] for id_ in before.reused}
            others = pa.array(sorted(told - mine), pa.string())
            for batch in read_rows(files, 0, state.sealed, [REQUEST_HASH]):
                fit = self._fit(answered.until(row + len(batch)))
                there = _answered(fit, row, len(batch), others) & self._ours(files, state, row, len(batch))
                yield np.where(there[:, None], from_binary(batch.column(0)), np.uint64(0))
                row += len(batch)

    def _passed(self) -> Iterator[np.ndarray]:
        """The same from the file where they are kept: many passes are made, and each answer is looked at once."""
        import numpy as np

        with self._kept.open("rb") as file:
            while len(words := np.fromfile(file, np.uint64, 2 * _AT_ONCE)):
                yield words.reshape(-1, 2)

    def _ours(self, files: SubmissionFiles, state: SubmissionState, start: int, rows: int) -> np.ndarray:
        """Which of these rows are of partitions whose answers we may have: of samples, only our own."""
        import numpy as np

        if not self._takes.samples or files.sibling("").prefix != self._files.sibling("").prefix:
            return np.ones(rows, dtype=bool)
        found, places = np.zeros(rows, dtype=bool), np.arange(start, start + rows)
        for share in state.partitions:
            if share.key in self._keys:
                found |= (places >= share.start) & (places < share.start + share.rows)
        return found

    def _fit(self, outcomes: pa.Table) -> pa.Table:
        """The outcomes that are young enough, and with which nothing is wrong."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._takes.own:
            outcomes = outcomes.filter(pc.invert(pc.fill_null(outcomes["reused"], False)))
        if self._young is not None:
            outcomes = outcomes.filter(pc.is_in(outcomes["batch_id"], pa.array(self._young, pa.string())))
        if self._validate is None:
            return outcomes
        answers = zip(*(outcomes[name].to_pylist() for name in ("status", "text", "more")), strict=True)
        return outcomes.filter(
            pa.array(
                [status == "ok" and self._validate(text, more) is None for status, text, more in answers], pa.bool_()
            )
        )

    def refuse(self, row: int, most: int) -> None:
        """Note a row that no batch can take."""
        error = f"Its request is larger than the {most:,} bytes that one input file takes. It was not sent."
        blank = dict.fromkeys(FINAL().names)
        told = {"row": row, "status": "error", "error_code": "request_too_large", "error": error, "reused": False}
        self._refused.append({**blank, **told})

    def store(self, rows: int) -> None:
        """Write down what was taken over, and what was refused, in the order of our rows, of which there are `rows`."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        streams = [
            Stream(_taken(mine, files, state, theirs, self._path.with_suffix(f".{number}")))
            for number, ((files, state), (mine, theirs)) in enumerate(zip(self._sources, self._taken, strict=False))
        ]
        streams.append(Stream(iter([pa.Table.from_pylist(self._refused, schema=FINAL())])))
        # also where there are none: an earlier try may have left some
        with pq.ParquetWriter(self._path, FINAL(), compression="zstd", compression_level=1) as writer:
            for stop in range(_AT_ONCE, rows + _AT_ONCE, _AT_ONCE):
                found = [table for stream in streams if (table := stream.until(stop)) is not None]
                if found:
                    taken = found[0] if len(found) == 1 else pa.concat_tables(found).sort_by("row")
                    ids = pc.unique(taken["batch_id"]).to_pylist()
                    self.created |= {id_: self._created[id_] for id_ in ids if id_ in self._created}
                    writer.write_table(taken)
        self._files.store.take(self._files.known, self._path)


def _created(state: SubmissionState) -> dict[str, float]:
    """When each batch was created that a submission has answers of, by its id."""
    own = {b.batch_id: b.created_at or b.intended_at or state.created_at for b in state.batches if b.batch_id}
    return {**state.reused, **own}


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


def _taken(
    rows: np.ndarray, files: SubmissionFiles, state: SubmissionState, theirs: np.ndarray, path: Path
) -> Iterator[pa.Table]:
    """The answers to our rows by another submission's rows, in our order.

    They are read once, in the order that they are stored in. As a rule that is ours; else they wait at `path`.
    """
    import numpy as np

    if (theirs[1:] > theirs[:-1]).all():
        return _read(rows, files, state, theirs)
    order = np.argsort(theirs)
    return _reordered(_read(rows[order], files, state, theirs[order]), int(rows[-1]) + 1, path)


def _read(rows: np.ndarray, files: SubmissionFiles, state: SubmissionState, theirs: np.ndarray) -> Iterator[pa.Table]:
    """The answers to our rows by another submission's rows, which ascend, in their order."""
    if not len(theirs):
        return
    answered = Answered(files, state, int(theirs[0]), int(theirs[-1]) + 1)
    for start in range(0, len(theirs), _AT_ONCE):
        yield as_reused(answered.among(theirs[start : start + _AT_ONCE]), rows[start : start + _AT_ONCE])


def _reordered(tables: Iterable[pa.Table], stop: int, path: Path) -> Iterator[pa.Table]:
    """The same by row, all of which are below `stop`: cut where parts of the rows begin, and then put together."""
    import numpy as np
    import pyarrow as pa

    edges = np.append(np.arange(0, stop, _AT_ONCE), stop)
    places: list[list[int]] = [[] for _ in edges[1:]]
    written = 0
    with pa.ipc.new_file(path, FINAL(), options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        for table in tables:
            ordered = table.sort_by("row").combine_chunks()
            cuts = np.searchsorted(ordered["row"].to_numpy(), edges).tolist()
            for part, (start, end) in enumerate(pairwise(cuts)):
                for batch in ordered.slice(start, end - start).to_batches():
                    writer.write_batch(batch)
                    places[part].append(written)
                    written += 1
    with pa.OSFile(str(path)) as file, pa.ipc.open_file(file) as reader:
        for some in places:
            yield pa.Table.from_batches([reader.get_batch(place) for place in some], FINAL()).sort_by("row")
    path.unlink()
