"""A table as a Parquet file on this disk: written block by block, handed to an IO manager as one piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ractobatch_dagster.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableFile", "write_table_file"]

_GROUP_ROWS, _GROUP_BYTES = 65_536, 16 << 20
"""What a row group holds, about: enough for whoever scans the table, and no more than memory should hold twice."""


@dataclass(frozen=True, slots=True)
class TableFile:
    """A finished Parquet file, which whoever stores it may move away."""

    path: Path
    rows: int

    def read(self) -> pa.Table:
        """The whole table, for those who store it otherwise."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path) as file:
            return file.read(use_threads=False)


def write_table_file(path: Path, schema: pa.Schema, blocks: Iterable[pa.Table | pa.RecordBatch]) -> TableFile:
    """Write blocks as row groups: while one is compressed and written, the next is made.

    Raises:
        StoreError: The disk is full.
    """
    import pyarrow.parquet as pq

    rows = 0
    try:
        with (
            pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer,
            ThreadPoolExecutor(1, "ractobatch-write") as thread,
        ):
            writing: Future[None] | None = None
            for group in _groups(schema, blocks):
                rows += len(group)
                if writing is not None:
                    writing.result()
                writing = thread.submit(writer.write_table, group, row_group_size=max(len(group), 1))
            if writing is not None:
                writing.result()
    except OSError as error:
        raise StoreError(
            f"Could not write {path}, where a table is made before it is stored: {error}. Is the disk full? TMPDIR "
            "names another folder. The answers are safe; run it again."
        ) from error
    return TableFile(path, rows)


def _groups(schema: pa.Schema, blocks: Iterable[pa.Table | pa.RecordBatch]) -> Iterator[pa.Table]:
    """Blocks put together to row groups; at least one, since a file without any is none to some versions of Arrow."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    held = weight = groups = 0

    def group() -> pa.Table:
        # with one dictionary for the group, as a second one would make the rest of the column plain
        return pa.concat_tables(waiting).unify_dictionaries()

    for block in blocks:
        table = block if isinstance(block, pa.Table) else pa.Table.from_batches([block])
        waiting.append(table)
        held, weight = held + len(table), weight + table.nbytes
        if held >= _GROUP_ROWS or weight >= _GROUP_BYTES:
            yield group()
            waiting, held, weight, groups = [], 0, 0, groups + 1
    if held or not groups:
        waiting.append(schema.empty_table())
        yield group()
