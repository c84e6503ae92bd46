"""Where everything of a table and of a submission lies in the store. The one place that knows the paths.

submissions/<table>/log/00000000.json.gz                the table's log
submissions/<table>/<submission>/log/00000000.json.gz   the submission's log
submissions/<table>/<submission>/rows.parquet           the user's rows, with custom_id and request hash
submissions/<table>/<submission>/requests/00000.jsonl   what is sent, one file per batch
submissions/<table>/<submission>/responses/00000.jsonl  what came back, verbatim
submissions/<table>/<submission>/odd_lines.jsonl        lines of those files that answer no request of ours
submissions/<table>/<submission>/results.parquet        every request's outcome, before the answers are typed
submissions/<table>/<submission>/reused.parquet         outcomes taken over from an earlier submission
tables/<asset key>/<partition>.parquet                  the result tables (written by the IO manager)
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.store import Store, table_name
from ractobatch_dagster.submission.log import Log
from ractobatch_dagster.submission.state import BatchState, SubmissionState, TableState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ROOT", "SubmissionFiles", "TableFiles", "read_parquet", "write_parquet"]

ROOT = "submissions"


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

    @property
    def rows(self) -> str:
        """The user's rows."""
        return f"{self.prefix}/rows.parquet"

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
        """Another submission of the same table."""
        return SubmissionFiles(self.store, f"{self.prefix.rpartition('/')[0]}/{submission}", submission)

    def requests(self, batch: BatchState) -> str:
        """One batch's input file."""
        token = f"-{batch.token}" if batch.token else ""
        return f"{self.prefix}/requests/{batch.number:05d}{token}.jsonl"

    def responses(self, number: int) -> str:
        """What one batch returned."""
        return f"{self.prefix}/responses/{number:05d}.jsonl"

    @property
    def odd(self) -> str:
        """What the provider's files held that belongs to no request, line by line."""
        return f"{self.prefix}/odd_lines.jsonl"

    @property
    def results(self) -> str:
        """Every request's outcome."""
        return f"{self.prefix}/results.parquet"

    @property
    def reused(self) -> str:
        """Outcomes that an earlier submission had already paid for."""
        return f"{self.prefix}/reused.parquet"


def write_parquet(store: Store, path: str, table: pa.Table) -> None:
    """Write one table, whole or not at all."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", compression_level=1)
    store.write(path, buffer.getvalue())


def read_parquet(store: Store, path: str) -> pa.Table | None:
    """Read one table; `None` if it does not exist."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = store.read(path)
    # not `read_table`: with pyarrow 26 a process that ends right after it is aborted
    return None if data is None else pq.ParquetFile(pa.BufferReader(data)).read()
