"""From a frame to request files within the limits.

    python -m benchmarks.encode --rows 100000 --rounds 5

loop     `itertuples` and `json.dumps`, a new file before either limit is passed, no hashes
ours     the package: the same requests, and the hash of each; `ours-2` with two processes. This is `write_inputs`,
         which does what the loop does; a submission stores the rows as well, and takes what `benchmarks.memory` says
bare     the steps that none can leave out, one loop around the libraries that the package rests on: the prompts as
         Python's text, escaped, hashed, put between what all share, written
write    the same number of bytes from one small buffer, which is as quick as files can be written here
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks import ours
from benchmarks.bare import Lines
from benchmarks.data import data_folder, rows_folder
from benchmarks.measure import Candidate, Work, once, parser, rounds, scratch


def _frame(arguments: Mapping[str, Any]) -> Any:
    import pandas as pd

    return pd.read_parquet(arguments["rows"])


def loop(arguments: Mapping[str, Any]) -> Work:
    """What one writes without a library."""
    frame, limits = _frame(arguments), ours.LIMITS
    body = ours.template().body("")
    system = body["messages"][0]
    rest = {name: value for name, value in body.items() if name != "messages"}

    def work() -> dict[str, int]:
        files = total = lines = size = 0
        folder, file = scratch(arguments["folder"]), None
        for row in frame.itertuples(index=True):
            request = {
                "custom_id": f"row-{row.Index:08d}",
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {**rest, "messages": [system, {"role": "user", "content": row.user_message}]},
            }
            line = (json.dumps(request) + "\n").encode()
            if file is None or lines == limits.max_requests or size + len(line) > limits.max_bytes:
                if file is not None:
                    file.close()
                file = (folder / f"{files:05d}.jsonl").open("wb")
                files, lines, size = files + 1, 0, 0
            file.write(line)
            lines, size, total = lines + 1, size + len(line), total + len(line)
        if file is not None:
            file.close()
        return {"rows": len(frame), "bytes": total}

    return work


def _ours(processes: int) -> Candidate:
    def candidate(arguments: Mapping[str, Any]) -> Work:
        frame = _frame(arguments)

        def work(rows: Any = frame) -> dict[str, int]:
            return ours.write_requests(rows, scratch(arguments["folder"]), processes=processes)

        work(frame.head(1_000))  # so that all it imports is there
        return work

    return candidate


def bare(arguments: Mapping[str, Any]) -> Work:
    """The package's libraries alone, one loop around them: no checks, no limits, one file."""
    import pyarrow as pa

    frame, lines = _frame(arguments), Lines(ours.template().body)

    def work(frame: Any = frame) -> dict[str, int]:
        column = pa.Table.from_pandas(frame[["user_message"]], preserve_index=False).column(0)
        hashes = list[bytes]()
        with (scratch(arguments["folder"]) / "requests.jsonl").open("wb", buffering=1 << 18) as file:
            for escaped in lines.write(column, file):
                hashes += lines.hashes(escaped)
            return {"rows": len(hashes), "bytes": file.tell()}

    work(frame.head(1_000))
    return work


def write(arguments: Mapping[str, Any]) -> Work:
    """The limit."""
    buffer = b"x" * (1 << 18)

    def work() -> None:
        left, number = arguments["bytes"], 0
        folder = scratch(arguments["folder"])
        while left > 0:
            room = min(left, ours.LIMITS.max_bytes)
            left, number = left - room, number + 1
            with (folder / f"{number:05d}.jsonl").open("wb", buffering=0) as file:
                while room > 0:
                    room -= file.write(buffer[: min(room, len(buffer))])

    return work


CANDIDATES = {"loop": loop, "bare": bare, "write": write, "ours": _ours(1), "ours-2": _ours(2)}


def main() -> None:
    """Measure, and print the samples."""
    options = parser(__doc__, rows=100_000).parse_args()
    with data_folder(options.data) as folder:
        arguments = {"rows": str(rows_folder(folder, options.rows)), "folder": str(folder)}
        arguments["bytes"] = once("encode", "ours", arguments)["bytes"]  # and everything is in the page cache
        candidates = ["loop", "bare", "write", *(f"ours-{n}".removesuffix("-1") for n in ours.ENCODES)]
        samples = rounds("encode", candidates, arguments, options.rounds)
    print(json.dumps({"rows": options.rows, "samples": samples}))


if __name__ == "__main__":
    main()
