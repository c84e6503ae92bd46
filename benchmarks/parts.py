"""Where the time of encoding and decoding goes: each step that none can leave out as a loop around one library call.

    python -m benchmarks.parts --rows 100000 --rounds 5

Nothing of the package is in it: no checks, no limits, no hash tables, no joins. `bare` in `encode.py` and `decode.py`
does the steps one after the other.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.bare import BLOCK, Fields, Line
from benchmarks.data import data_folder, rows_folder
from benchmarks.decode import batches, prepare
from benchmarks.measure import parser

_BEFORE, _AFTER = b"x" * 1_581, b"y" * 441
"""As long as what stands around `custom_id` and prompt in the other benchmarks' requests."""


def encoding(rows: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """The steps from prompts in Arrow to the lines of a file."""
    files = sorted(rows.glob("*.parquet"))
    column = pq.read_table(files, columns=["user_message"], use_threads=False)["user_message"]
    blocks = [block["user_message"] for block in pa.table([column], ["user_message"]).to_batches(max_chunksize=BLOCK)]
    encode, sha256 = msgspec.json.Encoder().encode, hashlib.sha256
    escaped = [list(map(encode, block.to_pylist())) for block in blocks]

    def write() -> None:
        with (folder / "parts.jsonl").open("wb", buffering=1 << 18) as target:
            for some in escaped:
                target.write(_lines(some))

    return {
        # together, as a text keeps the UTF-8 that it was once escaped from, and would be quicker the next time
        "Arrow's text as Python's, with JSON's escapes (`to_pylist`, msgspec)": lambda: _each(
            blocks, lambda block: list(map(encode, block.to_pylist()))
        ),
        "hash (SHA-256, OpenSSL)": lambda: _each(escaped, lambda some: [sha256(one).digest() for one in some]),
        "lines joined and written": write,
    }


def decoding(answers: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """The steps from the lines of output files to a Parquet file with all columns."""
    found = batches(answers)
    envelopes, labels = msgspec.json.Decoder(Line), msgspec.json.Decoder(Fields)
    contents = [one for path, _ in found for line in _read(path) if (one := _content(envelopes, line)) is not None]

    def label(text: str) -> object:
        try:
            return labels.decode(text)
        except msgspec.DecodeError:  # refused, or cut off
            return None

    def prompts() -> None:
        schema = pq.read_schema(io.BytesIO(sealed[0]))
        with pq.ParquetWriter(folder / "parts.parquet", schema, compression="zstd", compression_level=1) as file:
            for data in sealed:
                file.write_table(pq.read_table(io.BytesIO(data), use_threads=False))

    sealed = [_lz4(rows) for _, rows in found]
    return {
        "lines read and parsed (msgspec, into fixed structs)": lambda: [
            _each(_read(path), lambda line: _content(envelopes, line)) for path, _ in found
        ],
        "the answers parsed (msgspec, into a fixed struct)": lambda: _each(contents, label),
        "the input's columns from LZ4 to Zstandard (pyarrow)": prompts,
        "the answers' text as Zstandard (pyarrow)": lambda: pq.write_table(
            pa.table({"llm_text": contents}), folder / "parts.parquet", compression="zstd", compression_level=1
        ),
    }


def _lines(escaped: Sequence[bytes]) -> bytes:
    return b"".join([piece for one in escaped for piece in (_BEFORE, one, _AFTER)])


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as lines:
        yield from lines


def _content(decoder: msgspec.json.Decoder[Line], line: bytes) -> str | None:
    choices = decoder.decode(line).response.body.choices  # an error's body has none
    return choices[0].message.content if choices else None


def _lz4(path: Path) -> bytes:
    target = io.BytesIO()
    pq.write_table(pq.read_table(path, use_threads=False), target, compression="lz4")
    return target.getvalue()


def _each(values: Any, step: Callable[[Any], object]) -> None:
    for value in values:
        step(value)


def timed(steps: Mapping[str, Callable[[], object]], rows: int, number: int) -> dict[str, list[float]]:
    """Microseconds of processor time per row of each step, round by round."""
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(number):
        for name, step in steps.items():
            before = time.process_time()
            step()
            taken[name].append((time.process_time() - before) / rows * 1e6)
    return taken


def main() -> None:
    """Measure, and print what each step took."""
    options = parser(__doc__, rows=100_000).parse_args()
    with data_folder(options.data) as folder:
        rows, answers = rows_folder(folder, options.rows), prepare(folder, options.rows, 0.0)
        scratch = folder / "parts"
        scratch.mkdir(exist_ok=True)
        found = {
            "encoding": timed(encoding(rows, scratch), options.rows, options.rounds),
            "decoding": timed(decoding(answers, scratch), options.rows, options.rounds),
        }
    print(json.dumps({"rows": options.rows, "steps": found}))


if __name__ == "__main__":
    main()
