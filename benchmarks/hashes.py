"""How fast request hashes are matched, and in how much memory: `python -m benchmarks.hashes`.

Prints one JSON object: seconds (median and all runs, ours and DuckDB's anti join by turns over the same Parquet files)
and the peak of memory in MB above what importing takes, each from a fresh process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ractobatch_dagster.requests.hashes import Chunks, from_binary, pairs, repeats, to_binary

FILE_ROWS = 500_000
COLUMN = "request_hash"
WRITER = {"compression": "none", "use_dictionary": False, "write_statistics": False, "data_page_size": 1 << 16}
MEASURES = ("pairs", "repeats", "duckdb", "duckdb_repeats")


def write(folder: Path, rows: int, seed: int, taken: np.ndarray) -> None:
    """Random hashes as Parquet files, with these among them at random places."""
    random = np.random.default_rng(seed)
    places = random.choice(rows, len(taken), replace=False)
    order = np.argsort(places)
    places, taken = places[order], taken[order]
    folder.mkdir()
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        hashes = random.integers(0, 1 << 64, (min(FILE_ROWS, rows - start), 2), dtype=np.uint64)
        low, high = np.searchsorted(places, [start, start + len(hashes)])
        hashes[places[low:high] - start] = taken[low:high]
        table = pa.table({COLUMN: to_binary(hashes)})
        pq.write_table(table, folder / f"{number:05d}.parquet", row_group_size=FILE_ROWS, **WRITER)


def chunks(folder: Path) -> Chunks:
    """A pass over all hashes of these files, file by file."""

    def read() -> Iterator[np.ndarray]:
        for path in sorted(folder.iterdir()):
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16) as file:
                for batch in file.iter_batches(1 << 18, columns=[COLUMN], use_threads=False):
                    yield from_binary(batch.column(0))

    return read


def measure(what: str, root: Path, wanted: int, known: int) -> dict[str, Any]:
    """One run: what was found, the seconds it took, and the seconds of all its threads."""
    ask, have = f"read_parquet('{root}/wanted/*')", f"read_parquet('{root}/known/*')"
    start, cpu = time.perf_counter(), time.process_time()
    if what == "pairs":
        found = len(pairs(chunks(root / "wanted"), wanted, chunks(root / "known"), known)[0])
    elif what == "repeats":
        found = len(repeats(chunks(root / "known"), known)[0])
    elif what == "duckdb":  # counts the rows that have no answer, which is less work
        query = f"select count(*) from {ask} asked anti join {have} known using ({COLUMN})"
        found = wanted - int(duckdb.execute(query).fetchall()[0][0])
    else:
        query = f"select count(*) - count(distinct {COLUMN}) from {have}"
        found = int(duckdb.execute(query).fetchall()[0][0])
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {"found": found, "seconds": round(seconds, 4), "cpu_seconds": round(cpu, 4)}


def memory(field: str) -> float:
    """A figure of this process's memory, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def alone(what: str, root: Path, wanted: int, known: int) -> dict[str, Any]:
    """One run in a fresh process, which knows its memory's peak."""
    command = [sys.executable, "-m", "benchmarks.hashes", "--run", what, "--root", str(root)]
    command += ["--wanted", str(wanted), "--known", str(known)]
    return dict(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))


def compare(root: Path, wanted: int, known: int, runs: int, measures: Sequence[str]) -> dict[str, Any]:
    """Everything for one pair of sizes and both shares of hits."""
    results: dict[str, Any] = {"wanted": wanted, "known": known, "runs": runs}
    for percent in (1, 50):
        here = root / str(percent)
        here.mkdir()
        taken = np.random.default_rng(3).integers(0, 1 << 64, (wanted * percent // 100, 2), dtype=np.uint64)
        taken = taken[: known // 2]
        write(here / "wanted", wanted, 1, taken)
        # Some of the known ones are known twice, so that there is something that repeats.
        write(here / "known", known, 2, np.concatenate([taken, taken[: len(taken) // 2]]))
        found: dict[str, list[dict[str, Any]]] = {what: [] for what in measures}
        for _ in range(runs):
            for what in measures:
                found[what].append(alone(what, here, wanted, known))
        for what, each in found.items():
            results[f"{what}_{percent}_percent"] = {
                "seconds": statistics.median(one["seconds"] for one in each),
                "all_seconds": [one["seconds"] for one in each],
                "cpu_seconds": statistics.median(one["cpu_seconds"] for one in each),
                "memory_mb": max(one["memory_mb"] for one in each),
                "found": each[0]["found"],
            }
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--known", type=int, default=10_000_000)
    parser.add_argument("--wanted", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--measures", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--run", choices=MEASURES, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        before = memory("VmRSS")
        result = measure(options.run, options.root, options.wanted, options.known)
        result["memory_mb"] = round(memory("VmHWM") - before, 1)
    else:
        with tempfile.TemporaryDirectory() as folder:
            result = compare(Path(folder), options.wanted, options.known, options.runs, options.measures)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
