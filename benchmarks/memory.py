"""How much memory encoding and collecting take, from a Parquet data set and at two sizes: it should not grow.

    python -m benchmarks.memory --rows 1000000 10000000

`encode` seals the data set's rows in a store, plans the batches and writes their input files, each removed once it is
complete, as after an upload. `collect` reads the output files of all batches and writes the table. What is told is the
most memory above what the process held when it had imported everything and done a small piece of the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.data import data_folder, rows_folder
from benchmarks.decode import prepare
from benchmarks.measure import Work, rounds, scratch

_WARM = 1_000


def encode(arguments: Mapping[str, Any]) -> Work:
    """From the data set to request files."""

    def work(rows: str = arguments["rows"]) -> Mapping[str, Any]:
        folder = scratch(arguments["folder"])
        return ours.write_batches(ours.seal(Path(rows), folder / "store"), folder)

    work(arguments["few_rows"])
    return work


def collect(arguments: Mapping[str, Any]) -> Work:
    """From output files to a table."""

    def work(answers: str = arguments["answers"]) -> Mapping[str, Any]:
        folder, target = Path(answers), scratch(arguments["folder"]) / "labels.parquet"
        return ours.land(ours.sealed(folder / "store"), folder, target)

    work(arguments["few_answers"])
    return work


CANDIDATES = {"encode": encode, "collect": collect}


def main() -> None:
    """Measure, and print the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path, help="a folder for the data, kept; left out, a temporary one")
    options = parser.parse_args()
    found = []
    with data_folder(options.data) as folder:
        few = {"few_rows": str(rows_folder(folder, _WARM)), "few_answers": str(prepare(folder, _WARM, 0.0))}
        for rows in options.rows:
            arguments = {
                "folder": str(folder),
                "rows": str(rows_folder(folder, rows)),
                "answers": str(prepare(folder, rows, 0.0)),
                **few,
            }
            found.append({"rows": rows, "samples": rounds("memory", CANDIDATES, arguments, options.rounds)})
    print(json.dumps({"sizes": found}))


if __name__ == "__main__":
    main()
