"""A table as a Parquet file on this disk: written block by block, handed to an IO manager as one piece."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ractobatch_dagster.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TableFile", "write_table_file"]

_GROUP_ROWS, _GROUP_BYTES = 65_536, 64 << 20
"""What a row group holds, about: enough for whoever scans the table, and not more than is to be held in memory."""


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
    """Write blocks as row groups, with no more than one in memory.

    Raises:
        StoreError: The disk is full.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = held = weight = 0
    waiting: list[pa.Table] = []
    try:
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=1) as writer:

            def write() -> None:
                # with one dictionary for the group, as a second one would make the rest of the column plain
                group = pa.concat_tables(waiting).unify_dictionaries()
                writer.write_table(group, row_group_size=max(len(group), 1))

            for block in blocks:
                table = block if isinstance(block, pa.Table) else pa.Table.from_batches([block])
                waiting.append(table)
                rows, held, weight = rows + len(table), held + len(table), weight + table.nbytes
                if held >= _GROUP_ROWS or weight >= _GROUP_BYTES:
                    write()
                    waiting, held, weight = [], 0, 0
            if not rows:  # a file without any row group is none to some versions of Arrow
                waiting = [schema.empty_table()]
            if waiting:
                write()
    except OSError as error:
        raise StoreError(
            f"Could not write {path}, where a table is made before it is stored: {error}. Is the disk full? TMPDIR "
            "names another folder. The answers are safe; run it again."
        ) from error
    return TableFile(path, rows)
