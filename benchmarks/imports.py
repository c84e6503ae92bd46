"""What importing the package adds to importing dagster, and how long the command takes to show its help.

python -m benchmarks.imports --rounds 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time

_COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "dagster": [sys.executable, "-c", "import dagster"],
    "ours": [sys.executable, "-c", "import dagster, ractobatch_dagster"],
    "names": [sys.executable, "-c", "import dagster; from ractobatch_dagster import *"],
    "help": [sys.executable, "-m", "ractobatch_dagster.cli", "--help"],
}
"""`ours` is the package alone, whose names load on first use; `names` loads every one of them."""


def _once(command: list[str]) -> dict[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "80"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": time.perf_counter() - began, "cpu": cpu}


def main() -> None:
    """Measure, and print the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    draw, names, samples = random.Random(0), list(_COMMANDS), []
    for command in _COMMANDS.values():
        _once(command)  # so that everything is compiled and in the page cache
    for round_ in range(rounds):
        draw.shuffle(names)
        samples += [{"candidate": name, "round": round_, **_once(_COMMANDS[name])} for name in names]
    print(json.dumps({"samples": samples}))


if __name__ == "__main__":
    main()
