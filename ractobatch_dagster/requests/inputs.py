"""A frame as input files on this disk: what would be sent, to be looked at, counted, or sent by other means.

A submission does not go this way. It seals the rows first and makes each batch's file from them when it is uploaded, so
that a row need not be asked, or can be asked again, without a file of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.processes import pool
from ractobatch_dagster.requests.checks import check_block, check_schema
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.encode import Encoder, custom_id, escape_all
from ractobatch_dagster.requests.frame import PROMPT, blocks, open_frame

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["InputFile", "write_inputs"]

_FRAME = "the frame"


@dataclass(frozen=True, slots=True)
class InputFile:
    """One input file: where it is, how many requests and bytes it has, and the hash of each request, 16 bytes each."""

    path: Path
    requests: int
    size: int
    hashes: bytes


def write_inputs(
    frame: Any, encoder: Encoder, limits: Limits, folder: Path, *, processes: int = 0
) -> Iterator[InputFile]:
    """Write input files within the limits; each is told of when it is finished, and the next is then begun.

    Every row with a prompt is in them, those included that a submission would not send again. Rows are read once, and
    but a part of them is in memory.

    Args:
        frame: Whatever `open_frame` takes, with a column `user_message`.
        encoder: Makes the lines.
        limits: What one file may hold. With several processes a file ends with each run of that many rows.
        folder: Where the files go; it must be there.
        processes: Processes that make the lines, beside this one; 0 does it here.

    Raises:
        InvalidInputError: A row cannot be sent.
    """
    if type(frame).__module__.startswith(("pandas", "polars")) and PROMPT in frame.columns:
        frame = frame[[PROMPT]]  # nothing else is needed
    stream = open_frame(frame)
    check_schema(stream.schema, key=None, reserved=(), where=_FRAME)
    if not processes:
        yield from _written(blocks(stream), 0, encoder, limits, lambda number: folder / f"{number:05d}.jsonl")
        return
    yield from _spread(stream, encoder, limits, folder, processes)


def _written(
    some: Iterable[pa.RecordBatch], row: int, encoder: Encoder, limits: Limits, path: Callable[[int], Path]
) -> Iterator[InputFile]:
    """Write the lines of these blocks, of which the first row has this number."""
    file: _File | None = None
    number = 0
    try:
        for block in some:
            rows, escaped = _escaped(block, row)
            row += len(block)
            while rows:
                file = file or _File(path(number), encoder, limits)
                fits = file.add(rows, escaped)
                if fits < len(rows):
                    yield file.close()
                    file, number = None, number + 1
                rows, escaped = rows[fits:], escaped[fits:]
    finally:
        finished = file.close() if file is not None else None
    if finished is not None:
        yield finished


class _File:
    """One input file in the making."""

    def __init__(self, path: Path, encoder: Encoder, limits: Limits) -> None:
        self._path, self._encoder, self._limits = path, encoder, limits
        self._target = path.open("wb", buffering=1 << 18)
        self._hashes: list[bytes] = []
        self._requests = self._size = 0

    def add(self, rows: Sequence[int], escaped: Sequence[bytes]) -> int:
        """Append the lines of as many of these rows as fit; how many they are."""
        room = self._limits.max_requests - self._requests
        data = self._encoder.lines(rows[:room], escaped[:room])
        fits = min(room, len(rows))
        if self._size + len(data) > self._limits.most_bytes:
            fits = self._fitting(rows[:room], escaped[:room])
            data = self._encoder.lines(rows[:fits], escaped[:fits])
        self._target.write(data)
        self._hashes += self._encoder.hashes(escaped[:fits])
        self._requests, self._size = self._requests + fits, self._size + len(data)
        return fits

    def _fitting(self, rows: Sequence[int], escaped: Sequence[bytes]) -> int:
        around, left = self._encoder.overhead, self._limits.most_bytes - self._size
        for count, (row, one) in enumerate(zip(rows, escaped, strict=True)):
            left -= around + len(custom_id(row)) + len(one)
            if left < 0 and (count or self._requests):  # a line over the limit has a file of its own
                return count
        return len(rows)

    def close(self) -> InputFile:
        """The file, finished."""
        self._target.close()
        return InputFile(self._path, self._requests, self._size, b"".join(self._hashes))


def _escaped(block: pa.RecordBatch, row: int) -> tuple[list[int], list[bytes]]:
    """The numbers of the rows that have a prompt, and the prompt of each."""
    prompts = check_block(block, row, key=None, where=_FRAME, on_null="skip")
    rows = [number for number, prompt in enumerate(prompts, start=row) if prompt]
    return rows, escape_all([prompt for prompt in prompts if prompt])


def _spread(
    stream: pa.RecordBatchReader, encoder: Encoder, limits: Limits, folder: Path, processes: int
) -> Iterator[InputFile]:
    """Hand runs of rows to other processes, by way of files; no more than two runs each are under way."""
    with pool(processes) as workers:
        going: list[Future[list[InputFile]]] = []
        for run, row, path in _runs(stream, limits.max_requests, folder):
            if len(going) >= 2 * processes:
                yield from going.pop(0).result()
            going.append(workers.submit(_of_run, path, row, encoder, limits, folder, run))
        for left in going:
            yield from left.result()


def _runs(stream: pa.RecordBatchReader, rows: int, folder: Path) -> Iterator[tuple[int, int, Path]]:
    """Runs of as many rows as one file takes, each in a file: its number, its first row, and where it is."""
    import pyarrow as pa

    schema = pa.schema([(PROMPT, pa.string())])
    run = place = 0
    writer, path = None, folder / "0.arrow"
    for block in blocks(stream):
        left = block.select([PROMPT]).cast(schema)
        while len(left):
            if writer is None:
                path = folder / f"{run}.arrow"
                writer = pa.ipc.new_file(str(path), schema)
            fits = left.slice(0, rows - place % rows)
            writer.write_batch(fits)
            left, place = left.slice(len(fits)), place + len(fits)
            if place % rows == 0:
                writer.close()
                yield run, place - rows, path
                run, writer = run + 1, None
    if writer is not None:
        writer.close()
        yield run, place - place % rows, path


def _of_run(path: Path, row: int, encoder: Encoder, limits: Limits, folder: Path, run: int) -> list[InputFile]:
    """What another process does with one run."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as reader:
        some = (reader.get_batch(number) for number in range(reader.num_record_batches))
        made = list(_written(some, row, encoder, limits, lambda number: folder / f"{run:05d}-{number:02d}.jsonl"))
    path.unlink()
    return made
