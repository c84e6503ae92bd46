"""A frame that holds several partitions becomes a stream for each, by way of files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ractobatch_dagster.requests.frame import blocks, joined, size

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["split_frame"]

_HELD_BYTES = 32 << 20
"""Rows are put in order and appended to the files once this much is held."""


def split_frame(
    stream: pa.RecordBatchReader, column: str, keys: Sequence[str], folder: Path
) -> dict[str, pa.RecordBatchReader]:
    """The rows of each partition in their order, in memory that grows neither with the rows nor with the partitions.

    Args:
        stream: The rows; read to its end.
        column: The column whose text names the partition of a row. It must be there.
        keys: The partitions; rows of others are dropped.
        folder: Where the files may stand, one for each partition; they must stay until the streams have been read.

    Returns:
        A stream for each partition, whose file is opened when it is first read.
    """
    import pyarrow as pa

    folder.mkdir(parents=True, exist_ok=True)
    paths = {key: folder / f"{number:06}.arrows" for number, key in enumerate(dict.fromkeys(keys))}
    for path in paths.values():
        path.unlink(missing_ok=True)
    held: list[pa.RecordBatch] = []
    weight = 0
    for block in blocks(stream):
        held.append(block)
        weight += size(block)
        if weight >= _HELD_BYTES:
            _append(joined(held), column, paths)
            held, weight = [], 0
    if held:
        _append(joined(held), column, paths)
    return {key: pa.RecordBatchReader.from_batches(stream.schema, _stored(path)) for key, path in paths.items()}


def _append(rows: pa.RecordBatch, column: str, paths: dict[str, Path]) -> None:
    """Append to each partition's file its part of these rows, as a complete IPC stream."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.index_in(rows.column(column).cast(pa.string()), pa.array(list(paths)))
    numbers = found.fill_null(-1).to_numpy()
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(len(paths) + 1))
    rows = rows.take(pa.array(order))
    for path, start, end in zip(paths.values(), bounds[:-1], bounds[1:], strict=True):
        if start < end:
            part = rows.slice(start, end - start)
            columns = [_own_dictionary(values) for values in part.columns]
            with path.open("ab") as file, pa.ipc.new_stream(file, part.schema) as sink:
                sink.write_batch(pa.RecordBatch.from_arrays(columns, schema=part.schema))


def _own_dictionary(values: pa.Array) -> pa.Array:
    """Dictionary values with only the words that they use, as each append writes all of them."""
    import pyarrow as pa

    if not pa.types.is_dictionary(values.type):
        return values
    own = values.dictionary_decode().dictionary_encode()
    return pa.DictionaryArray.from_arrays(own.indices, own.dictionary, ordered=values.type.ordered)


def _stored(path: Path) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    if not path.exists():
        return
    with pa.OSFile(str(path)) as file:
        while file.tell() < file.size():
            with pa.ipc.open_stream(file) as stream:
                yield from stream
