"""Runs every benchmark and writes `benchmarks/README.md`: `make bench`, or with small sizes `make bench-quick`.

python -m benchmarks --data FOLDER --peers FOLDER       everything; hours, 80 GB of disk
python -m benchmarks --quick                            small sizes, to see that it works
python -m benchmarks --only encode decode               some, kept beside what was measured before
python -m benchmarks --report                           README.md again, from what was measured before
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.data import data_folder
from benchmarks.machine import machine
from benchmarks.measure import ROOT
from benchmarks.report import report

_HERE = Path(__file__).parent

_STEPS: dict[str, tuple[list[str], list[str]]] = {
    "encode": (["encode", "--rows", "100000", "--rounds", "5"], ["encode", "--rows", "20000", "--rounds", "2"]),
    "encode_million": (
        ["encode", "--rows", "1000000", "--rounds", "3"],
        ["encode", "--rows", "50000", "--rounds", "2"],
    ),
    "decode": (["decode", "--rows", "100000", "--rounds", "5"], ["decode", "--rows", "20000", "--rounds", "2"]),
    "decode_million": (
        ["decode", "--rows", "1000000", "--rounds", "3"],
        ["decode", "--rows", "50000", "--rounds", "1"],
    ),
    "parts": (["parts", "--rows", "100000", "--rounds", "5"], ["parts", "--rows", "5000", "--rounds", "2"]),
    "client": (["client", "--rows", "20000", "--rounds", "3"], ["client", "--rows", "2000", "--rounds", "1"]),
    "client_million": (
        ["client", "--rows", "1000000", "--rounds", "1", "--patience", "1200"],
        ["client", "--rows", "5000", "--rounds", "1"],
    ),
    "memory": (["memory", "--rows", "1000000", "10000000"], ["memory", "--rows", "20000", "60000"]),
    "transfer": (["transfer", "--rounds", "5"], ["transfer", "--megabytes", "20", "--rounds", "2"]),
    "ticks_thousand": (["ticks", "--open", "1000"], ["ticks", "--open", "50"]),
    "ticks_ten_thousand": (["ticks", "--open", "10000"], ["ticks", "--open", "100"]),
    "log": (["log", "--batches", "2000", "--rounds", "20"], ["log", "--batches", "2000", "--rounds", "3"]),
    "hashes": (["hashes"], ["hashes", "--known", "100000", "--wanted", "10000", "--runs", "2"]),
    "reuse": (["reuse", "--rows", "100000", "--rounds", "5"], ["reuse", "--rows", "20000", "--rounds", "2"]),
    "reuse_million": (["reuse", "--rows", "1000000", "--rounds", "3"], ["reuse", "--rows", "50000", "--rounds", "1"]),
    "imports": (["imports", "--rounds", "20"], ["imports", "--rounds", "2"]),
}
"""Each benchmark's module and arguments: as it should be, and small."""

_WITH_DATA = {"encode", "decode", "parts", "client", "memory", "transfer", "log", "reuse"}


def _measured(command: list[str], data: Path, peers: Path | None) -> dict[str, Any]:
    module, *arguments = command
    if find_spec(f"benchmarks.{module}") is None:
        return {"failed": "there is no such benchmark"}
    if module in _WITH_DATA:
        arguments += ["--data", str(data)]
    if module == "client" and peers is not None:
        arguments += ["--peers", str(peers)]
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", *arguments], cwd=ROOT, stdout=subprocess.PIPE, check=False
    )
    if done.returncode:
        return {"failed": f"`python -m benchmarks.{' '.join(command)}` ended with {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--only", nargs="+", choices=list(_STEPS), help="some of the benchmarks")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--data", type=Path, help="a folder for the data, kept; left out, a temporary one")
    parser.add_argument("--peers", type=Path, help="where the peers' environments are")
    parser.add_argument("--results", type=Path, default=_HERE / "results.json", help="what was measured")
    parser.add_argument("--readme", type=Path, default=_HERE / "README.md", help="where the report goes")
    parser.add_argument("--note", help="what else whoever reads the report should know of the run")
    given = parser.parse_args()
    for path in (given.results, given.readme):
        path.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = json.loads(given.results.read_text()) if given.results.exists() else {}
    if not given.report:
        if given.only is None:
            results = {}
        results |= {"quick": given.quick, "machine": machine(given.data)}
        with data_folder(given.data) as data:
            for name in given.only or _STEPS:
                print(f"== {name}", file=sys.stderr)
                results[name] = _measured(_STEPS[name][given.quick], data, given.peers)
                given.results.write_text(json.dumps(results, indent=1) + "\n")
    if given.note is not None:
        results["note"] = given.note
        given.results.write_text(json.dumps(results, indent=1) + "\n")
    given.readme.write_text(report(results))


if __name__ == "__main__":
    main()
