"""The whole client, from a frame to a landed table, against the local server in a process of its own.

    python -m benchmarks.client --peers FOLDER --rows 20000 --rounds 5

What is compared is the CPU time of the client's process for each row. Every client gets the same prompts, asks for the
same three fields, and is answered with the same constant; each is warmed up with a small run in the same process; a
server is started anew for each run. `--peers` names the folder of `python -m benchmarks.peers.install`. A client that
fails, takes too long (or would, by its time for 20,000 rows) or takes too much memory is tried with fewer rows: half as
many, and so on.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.data import data_folder, rows_folder
from benchmarks.measure import ROOT, parser
from benchmarks.peers.install import HERE, PEERS, python_of
from benchmarks.server import running

_FEWEST = 20_000
_LOOK = 0.5


def _run(python: str, name: str, rows: Path, folder: Path, patience: float, memory: float) -> dict[str, Any]:
    """One run of one client; `failed` says why where there is no result."""
    with running() as server, tempfile.TemporaryDirectory(dir=folder) as work:
        command = [python, str(ROOT / "benchmarks" / "peers" / name / "driver.py"), "--rows", str(rows)]
        command += ["--folder", work, "--base-url", server.base_url, "--api-key", server.api_key]
        said, complained = Path(work) / "said", Path(work) / "complained"
        with said.open("wb") as out, complained.open("wb") as err:
            process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=out, stderr=err)
            problem = _watch(process, patience, memory)
        if problem is None and process.returncode:
            lines = complained.read_text(errors="replace").strip().splitlines() or [f"exit {process.returncode}"]
            problem = lines[-1][:300]
        if problem is not None:
            return {"failed": problem}
        sample: dict[str, Any] = json.loads(said.read_text(errors="replace").splitlines()[-1])
        return {**sample, "cpu_us_per_row": sample["cpu"] / sample["rows"] * 1e6}


def _watch(process: subprocess.Popen[bytes], patience: float, memory: float) -> str | None:
    """Wait for a client; one that takes too long or too much is ended, and why is told."""
    end, status = time.monotonic() + patience, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        problem = None
        if time.monotonic() > end:
            problem = f"not done after {patience:g} s"
        try:
            held = [line for line in status.read_text().splitlines() if line.startswith("VmRSS:")]
        except OSError:  # it has just ended
            continue
        if held and int(held[0].split()[1]) * 1024 > memory * 1e9:
            problem = f"more than {memory:g} GB of memory"
        if problem is not None:
            process.kill()
            process.wait()
            return problem
        time.sleep(_LOOK)
    return None


def _prompts(folder: Path, rows: int) -> Path:
    """The two columns that a client needs, in one file."""
    import pyarrow.parquet as pq

    target = folder / f"prompts-{rows}.parquet"
    if not target.exists():
        table = pq.ParquetDataset(rows_folder(folder, rows)).read(columns=["id", "user_message"])
        pq.write_table(table.replace_schema_metadata(None), target)
    return target


def main() -> None:
    """Measure, and print the samples."""
    options = parser(__doc__, rows=20_000)
    options.add_argument("--peers", type=Path, help="where their environments are; left out, none is measured")
    options.add_argument("--only", nargs="+", choices=(*HERE, *PEERS), help="some of the clients")
    options.add_argument("--patience", type=float, default=7_200, help="seconds that one run may take")
    options.add_argument("--memory", type=float, default=16.0, help="gigabytes that one run may take")
    given = options.parse_args()
    pythons = dict.fromkeys(HERE, sys.executable)
    if given.peers is not None:
        pythons |= {peer: str(python) for peer in PEERS if (python := python_of(given.peers, peer))}
    names = [name for name in pythons if given.only is None or name in given.only]
    most = dict.fromkeys(names, given.rows)
    draw, samples = random.Random(0), []
    with data_folder(given.data) as folder:

        def tried(name: str, round_: int, rows: int) -> dict[str, Any]:
            taken = _run(pythons[name], name, _prompts(folder, rows), folder, given.patience, given.memory)
            print(f"client round {round_ + 1} of {given.rounds}: {name}, {rows} rows: {taken}", file=sys.stderr)
            return {"candidate": name, "round": round_, "asked": rows, **taken}

        if given.rows > _FEWEST:
            for name in names:
                few = tried(name, -1, _FEWEST)
                while (expected := few.get("wall", 0.0) * most[name] / _FEWEST) > given.patience:
                    problem = f"it would take {expected:.0f} s by its {few['wall']:.0f} s for {_FEWEST} rows"
                    samples.append({"candidate": name, "round": 0, "asked": most[name], "failed": problem})
                    most[name] //= 2
        for round_ in range(given.rounds):
            draw.shuffle(names)
            for name in names:
                samples.append(tried(name, round_, most[name]))
                while "failed" in samples[-1] and most[name] // 2 >= _FEWEST:
                    most[name] //= 2
                    samples.append(tried(name, round_, most[name]))
    print(json.dumps({"rows": given.rows, "absent": sorted({*HERE, *PEERS} - {*names}), "samples": samples}))


if __name__ == "__main__":
    main()
