"""One measurement: `python -m benchmarks.one MODULE CANDIDATE ARGUMENTS`, as `measure.once` starts it."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys

from benchmarks.measure import SCRATCH, measure


def main() -> None:
    """Measure one candidate in this process, and print the sample."""
    module, candidate, arguments = sys.argv[1:]
    prepare = importlib.import_module(f"benchmarks.{module}").CANDIDATES[candidate]
    sample = measure(prepare(json.loads(arguments)))
    for folder in SCRATCH:
        shutil.rmtree(folder)
    print(json.dumps(sample), flush=True)
    os._exit(0)  # the memory of millions of rows need not be given back piece by piece


if __name__ == "__main__":
    main()
