"""A batch's input file: made from the sealed rows when it is uploaded, and nowhere kept."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.requests.encode import Encoder, custom_id, escape_all
from ractobatch_dagster.requests.frame import PROMPT
from ractobatch_dagster.submission.asking import AskedRows, asked_rows
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.rows import REQUEST, read_rows
from ractobatch_dagster.submission.state import BatchState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["read_encoder", "write_encoder", "write_input"]

_AT_ONCE = 512
"""Lines are made in blocks of so many: larger ones no longer fit a processor's cache."""


def write_encoder(files: SubmissionFiles, encoder: Encoder) -> None:
    """Keep what stands around the prompts."""
    files.store.write(files.encoder, msgspec.json.encode(encoder))


def read_encoder(files: SubmissionFiles) -> Encoder:
    """What stands around the prompts.

    Raises:
        StoreError: It is not there, or cannot be read.
    """
    data = files.store.read(files.encoder)
    try:
        return msgspec.json.decode(data or b"", type=Encoder)
    except msgspec.MsgspecError as error:
        raise StoreError(f"{files.store.uri(files.encoder)} is missing or torn: {error}") from error


def write_input(files: SubmissionFiles, batch: BatchState, encoder: Encoder, path: Path) -> None:
    """Write the batch's input file.

    Raises:
        StoreError: The rows are not those that were sealed, or the disk is full.
    """
    import pyarrow as pa

    try:
        with path.open("wb", buffering=1 << 18) as target:
            _write_lines(files, batch, encoder, target)
    except OSError as error:
        raise StoreError(
            f"Could not write {path}, where input files are made: {error}. Is the disk full? TMPDIR names another "
            "folder. Batches that were not uploaded go up when it is run again."
        ) from error
    pa.default_memory_pool().release_unused()  # of which Arrow keeps more and more, file by file


def _write_lines(files: SubmissionFiles, batch: BatchState, encoder: Encoder, target: IO[bytes]) -> None:
    asked = asked_rows(files, batch)
    requests = size = place = 0
    for block in read_rows(files, batch.start, batch.stop, [REQUEST if encoder.bodies else PROMPT]):
        first = batch.start + place
        place += len(block)
        rows, column = _picked(asked, block, first)
        for start in range(0, len(rows), _AT_ONCE):
            values = column.slice(start, _AT_ONCE).to_pylist()
            parts = values if encoder.bodies else escape_all(values)
            data = _lines(encoder, asked, rows[start : start + _AT_ONCE], parts)
            requests, size = requests + len(parts), size + len(data)
            target.write(data)
    if (requests, size) != (batch.requests, batch.size):
        raise StoreError(
            f"Batch {batch.number} of submission {files.id} was planned with {batch.requests:,} requests in "
            f"{batch.size:,} bytes, and its rows in the store now give {requests:,} in {size:,}. Nothing was sent."
        )


def _picked(asked: AskedRows, block: pa.RecordBatch, first: int) -> tuple[list[int], pa.Array]:
    """Of a block of rows those that are asked: their numbers, and what each adds to its line."""
    import numpy as np
    import pyarrow as pa

    low, high = np.searchsorted(asked.rows, [first, first + len(block)])
    rows, column = asked.rows[low:high], block.column(0)
    if len(rows) < len(block):
        column = column.take(pa.array(rows - first))
    return rows.tolist(), column


def _lines(encoder: Encoder, asked: AskedRows, rows: list[int], parts: list[bytes]) -> bytes:
    if asked.answers:
        return b"".join(_line(encoder, asked, row, part) for row, part in zip(rows, parts, strict=True))
    return encoder.lines(rows, parts)


def _line(encoder: Encoder, asked: AskedRows, row: int, part: bytes) -> bytes:
    shown = asked.answers.get(row)
    id_ = custom_id(row).encode()
    if shown is None:
        return encoder.line(id_, part)
    return encoder.repaired(id_, part, *shown)
