"""Where everything of a table and of a submission lies in the store. The one place that knows the paths.

submissions/<table>/log/00000000.json.gz                 the table's log
submissions/<table>/<submission>/log/00000000.json.gz    the submission's log
submissions/<table>/<submission>/rows/00000.parquet      the user's rows, 50,000 a file, with each one's request hash
submissions/<table>/<submission>/encoder.json            what stands around the prompts in the requests
submissions/<table>/<submission>/copies.parquet          rows that ask what an earlier row asks
submissions/<table>/<submission>/known.parquet           outcomes that needed no asking, above all answers paid before
submissions/<table>/<submission>/asked/00-<token>.parquet    which rows each batch of a round asks
submissions/<table>/<submission>/responses/00000-<token>.jsonl   what a batch returned, verbatim
submissions/<table>/<submission>/results/00000-<token>.parquet   the outcome of each of a batch's requests
submissions/<table>/<submission>/odd_lines/00000-<token>.jsonl   lines of its files that answer no request of ours
tables/<asset key>/<partition>.parquet                   the result tables (written by the IO manager)
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.store import Store, table_name
from ractobatch_dagster.submission.log import Log
from ractobatch_dagster.submission.state import BatchState, SubmissionState, TableState

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = [
    "ROOT",
    "SubmissionFiles",
    "TableFiles",
    "open_states",
    "parquet_file",
    "read_parquet",
    "tables",
    "write_parquet",
]

ROOT = "submissions"


def tables(store: Store) -> list[TableFiles]:
    """Every table of which anything was ever submitted."""
    return [TableFiles(store, unquote(name)) for name in store.folders(ROOT)]


@dataclass(frozen=True, slots=True)
class TableFiles:
    """One table's corner of the store. `asset` is the asset key, its parts joined by `/`."""

    store: Store
    asset: str

    @property
    def _prefix(self) -> str:
        return f"{ROOT}/{table_name(self.asset)}"

    @property
    def log(self) -> Log[TableState]:
        """The table's log."""
        return Log(self.store, f"{self._prefix}/log", TableState)

    def submissions(self) -> list[str]:
        """Every submission that has files, opened or not, by age."""
        return sorted(name for name in self.store.folders(self._prefix) if name != "log")

    def submission(self, submission: str) -> SubmissionFiles:
        """One submission's corner."""
        return SubmissionFiles(self.store, f"{self._prefix}/{submission}", submission)


@dataclass(frozen=True, slots=True)
class SubmissionFiles:
    """One submission's corner of the store."""

    store: Store
    prefix: str
    id: str

    @property
    def log(self) -> Log[SubmissionState]:
        """The submission's log."""
        return Log(self.store, f"{self.prefix}/log", SubmissionState)

    def state(self) -> SubmissionState:
        """The submission as last committed.

        Raises:
            StoreError: There is none, or it cannot be read.
        """
        version = self.log.load()
        if version is None:
            raise StoreError(f"Submission {self.id} has no log under {self.store.uri(self.prefix)}. Was it deleted?")
        return version.state

    def change(
        self, change: Callable[[SubmissionState], dict[int, BatchState]], known: SubmissionState | None = None
    ) -> SubmissionState:
        """Commit what `change`, a pure function, makes of some of the newest state's batches, by number.

        Where it makes nothing of the state that is `known` already, the store is not asked.
        """
        if known is not None and known.with_batches(change(known)) == known:
            return known
        return self._update(lambda state: state.with_batches(change(state)))

    def replace(self, change: Callable[[SubmissionState], dict[str, Any]]) -> SubmissionState:
        """Commit what `change`, a pure function, makes of some of the newest state's fields, by name."""
        return self._update(lambda state: msgspec.structs.replace(state, **change(state)))

    def _update(self, change: Callable[[SubmissionState], SubmissionState]) -> SubmissionState:
        state = self.log.update(lambda state: None if state is None else change(state))
        return self.state() if state is None else state

    def sibling(self, submission: str) -> SubmissionFiles:
        """Another submission: of the same table, or of the one that is named before a `/`."""
        table, _, id_ = submission.rpartition("/")
        folder = f"{ROOT}/{table}" if table else self.prefix.rpartition("/")[0]
        return SubmissionFiles(self.store, f"{folder}/{id_}", id_)

    def rows(self, part: int) -> str:
        """One file of the user's rows."""
        return f"{self.prefix}/rows/{part:05d}.parquet"

    @property
    def encoder(self) -> str:
        """What stands around the prompts in the requests."""
        return f"{self.prefix}/encoder.json"

    @property
    def copies(self) -> str:
        """Rows that ask what an earlier row asks."""
        return f"{self.prefix}/copies.parquet"

    @property
    def known(self) -> str:
        """Outcomes that needed no asking; not there as long as no batch is planned."""
        return f"{self.prefix}/known.parquet"

    def asked(self, round_: int, token: str) -> str:
        """Which rows each batch of a round asks, as one writer planned it."""
        return f"{self.prefix}/asked/{round_:02d}-{token}.parquet"

    def responses(self, batch: BatchState) -> str:
        """What one batch returned to one of those who collected it."""
        return f"{self.prefix}/responses/{_read(batch)}.jsonl"

    def results(self, batch: BatchState) -> str:
        """The outcome of each of one batch's requests."""
        return f"{self.prefix}/results/{_read(batch)}.parquet"

    @property
    def odd_lines(self) -> str:
        """The folder of what the provider's files held that belongs to no request."""
        return f"{self.prefix}/odd_lines"

    def odd(self, batch: BatchState) -> str:
        """What one batch's files held that belongs to no request, line by line."""
        return f"{self.odd_lines}/{_read(batch)}.jsonl"


def _read(batch: BatchState) -> str:
    return f"{batch.number:05d}-{batch.reader}"


def write_parquet(store: Store, path: str, table: pa.Table) -> None:
    """Write one small table, whole or not at all."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=1)
    store.write(path, buffer.getvalue())


def read_parquet(store: Store, path: str, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Read one table; `None` if it does not exist."""
    if not store.exists(path):
        return None
    # not `read_table`: with pyarrow 26 a process that ends right after it is aborted
    with parquet_file(store, path) as file:
        return file.read(columns=columns, use_threads=False)


def open_states(store: Store) -> Iterator[SubmissionState]:
    """All open submissions of a root, and those that they replace.

    One that cannot be read is left out: the sensor tells of it.
    """
    for table in tables(store):
        try:
            version = table.log.load()
        except StoreError:
            continue
        waiting = list(version.state.open) if version is not None else []
        while waiting:
            try:
                state = table.submission(waiting.pop()).state()
            except StoreError:
                continue
            waiting += state.predecessors
            yield state


@contextmanager
def parquet_file(store: Store, path: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file that must exist, read with no more memory than is asked of it.

    Raises:
        StoreError: It is not there, or is torn.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with store.open(path) as source:
        try:
            yield pq.ParquetFile(source, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:  # a torn page is an OSError
            raise StoreError(f"{store.uri(path)} is torn or no Parquet file: {error}") from error
