"""The rows of a submission as they were sealed, in files of `PART_ROWS`: written once, read from anywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.requests.frame import PROMPT, REQUEST_HASH
from ractobatch_dagster.submission.files import SubmissionFiles, parquet_file

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

__all__ = ["MODEL", "PART_ROWS", "PROMPT_BYTES", "REQUEST", "RowsWriter", "read_rows", "sealed_fields"]

PART_ROWS = 50_000
"""Rows in one file, as part of the format. As many as a batch takes, so that a batch's rows lie in few files."""

PROMPT_BYTES = "llm_prompt_bytes"
"""How many bytes each row adds to its line, which are its prompt's or those of `REQUEST`: lengths without lines."""

REQUEST, MODEL = "llm_request", "llm_request_model"
"""What each row adds to its line, and which model it asks; sealed where rows differ in more than their prompt."""

_GROUP_ROWS, _GROUP_BYTES = 8_192, 16 << 20
"""What a row group holds at most: whoever needs a part of a file reads no more than whole ones."""


def sealed_fields(*, own: bool = True) -> list[pa.Field]:
    """What is sealed beside the user's columns; `own` is whether rows differ in more than their prompt."""
    import pyarrow as pa

    shared = [pa.field(REQUEST_HASH, pa.binary(16)), pa.field(PROMPT_BYTES, pa.int64())]
    return [*shared, pa.field(REQUEST, pa.binary()), pa.field(MODEL, pa.string())] if own else shared


class RowsWriter:
    """Writes rows block by block, with no more than a row group in memory.

    Args:
        files: Whose rows they are.
        schema: Their columns, those of `sealed_fields` included.
        folder: Where the files are made before they go into the store.
    """

    def __init__(self, files: SubmissionFiles, schema: pa.Schema, folder: Path) -> None:
        self._files = files
        self._schema = schema
        self._path = folder / "rows.parquet"
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self.rows = 0

    def add(self, block: pa.RecordBatch) -> None:
        """Append rows.

        Raises:
            StoreError: The disk is full, or the store cannot be written.
        """
        while len(block):
            room = PART_ROWS - self.rows % PART_ROWS
            fitting, block = block.slice(0, room), block.slice(room)
            self._waiting.append(fitting)
            self._waiting_rows += len(fitting)
            self._waiting_bytes += fitting.nbytes
            self.rows += len(fitting)
            full = self.rows % PART_ROWS == 0
            if full or self._waiting_rows >= _GROUP_ROWS or self._waiting_bytes >= _GROUP_BYTES:
                self._write_group()
            if full:
                self._finish()

    def close(self) -> None:
        """Put the last file into the store; without any rows it tells the columns."""
        if self._waiting or not self.rows:
            self._write_group()
        if self._writer is not None:
            self._finish()

    def _write_group(self) -> None:
        import pyarrow as pa

        group = pa.Table.from_batches(self._waiting, self._schema)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        try:
            if self._writer is None:
                self._writer = _writer(self._path, self._schema)
            self._writer.write_table(group, row_group_size=max(len(group), 1))
        except OSError as error:
            raise self._full(error) from error

    def _finish(self) -> None:
        import pyarrow as pa

        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                writer.close()
        except OSError as error:
            raise self._full(error) from error
        self._files.store.take(self._files.rows(max(self.rows - 1, 0) // PART_ROWS), self._path)
        pa.default_memory_pool().release_unused()  # of which Arrow keeps more and more, file by file

    def _full(self, error: OSError) -> StoreError:
        return StoreError(
            f"Could not write {self._path}, where files are made: {error}. Is the disk full? TMPDIR names another "
            "folder. Nothing was sent."
        )


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    import pyarrow.parquet as pq

    # prompts seldom repeat, hashes never: a dictionary of them is work for nothing
    sealed = {PROMPT, *(field.name for field in sealed_fields())} - {MODEL}
    encoded = [name for name in schema.names if name not in sealed]
    # LZ4 takes half of Zstandard's time to write and to read, which is done twice, and half as much space again
    return pq.ParquetWriter(path, schema, use_dictionary=encoded or False, write_statistics=False, compression="lz4")


def read_rows(
    files: SubmissionFiles, start: int, stop: int, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """The rows from `start` up to `stop`, in batches of a row group at most.

    Raises:
        StoreError: They are not there.
    """
    for part in range(start // PART_ROWS, -(-stop // PART_ROWS)):
        with parquet_file(files.store, files.rows(part)) as file:
            place = part * PART_ROWS
            if place + file.metadata.num_rows < min(stop, place + PART_ROWS):
                raise StoreError(f"{files.store.uri(files.rows(part))} has fewer rows than were sealed.")
            for group in range(file.num_row_groups):
                after = place + file.metadata.row_group(group).num_rows
                if start < after and place < stop:
                    batch = _read_group(file, group, columns)
                    first = max(start - place, 0)
                    yield batch.slice(first, min(stop, after) - place - first)
                place = after


def _read_group(file: pq.ParquetFile, group: int, columns: Sequence[str] | None) -> pa.RecordBatch:
    import pyarrow as pa

    table = file.read_row_group(group, columns=columns, use_threads=False)
    batches = table.unify_dictionaries().combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
