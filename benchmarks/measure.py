"""How everything here is measured.

A candidate is a function that prepares (imports, loading, none of it measured) and returns the work. Each measurement
is a process of its own: prepare, collect garbage, give back what Arrow keeps of freed memory, reset the kernel's mark
of the most memory ever held (`/proc/self/clear_refs`), then do the work once and read the clocks. The candidates of a
round are shuffled, so that a busy minute of the machine hits them all alike, and a ratio is the median of the ratios
within each round.

wall    seconds on the clock
cpu     seconds of processor time, user and system, of the process and of the children that it waited for
peak_mb the most memory that the process held during the work, less what it held when the work began
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Work = Callable[[], Mapping[str, Any] | None]
Candidate = Callable[[Mapping[str, Any]], Work]
Sample = dict[str, Any]

ROOT = Path(__file__).parent.parent
SCRATCH: list[Path] = []


def rounds(
    module: str, candidates: Iterable[str], arguments: Mapping[str, Any], number: int, *, seed: int = 0
) -> list[Sample]:
    """Measure these candidates of a module's `CANDIDATES`, so many rounds of them."""
    shuffled, draw, samples = list(candidates), random.Random(seed), []
    for round_ in range(number):
        draw.shuffle(shuffled)
        for name in shuffled:
            samples.append({"candidate": name, "round": round_, **once(module, name, arguments)})
            print(f"{module} round {round_ + 1} of {number}: {samples[-1]}", file=sys.stderr)
    return samples


def once(module: str, candidate: str, arguments: Mapping[str, Any]) -> Sample:
    """Measure one candidate once, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.one", module, candidate, json.dumps(arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{module}: {candidate} failed")
    sample: Sample = json.loads(done.stdout.splitlines()[-1])
    return sample


def measure(work: Work) -> Sample:
    """Do the work in this process and say what it took."""
    import pyarrow as pa

    gc.collect()
    pa.default_memory_pool().release_unused()  # or what the preparation left there would count as held before
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    held, cpu, wall = _memory("VmRSS"), _cpu(), time.perf_counter()
    said = work()
    taken = {"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu, "peak_mb": _memory("VmHWM") - held}
    return {**taken, **(said or {})}


def scratch(folder: str) -> Path:
    """A new folder below `folder` to write into; it is removed when the clocks have been read."""
    SCRATCH.append(Path(tempfile.mkdtemp(dir=folder)))
    return SCRATCH[-1]


def ratios(samples: Iterable[Sample], base: str, candidate: str, metric: str) -> dict[str, float] | None:
    """How many times as much `base` took as `candidate`, round by round."""
    found: dict[int, dict[str, float]] = {}
    for sample in samples:
        found.setdefault(sample["round"], {})[sample["candidate"]] = sample[metric]
    each = [one[base] / max(one[candidate], 1e-9) for one in found.values() if base in one and candidate in one]
    return spread(each) if each else None


def spread(values: Iterable[float]) -> dict[str, float]:
    """The median of some values, the least and the most."""
    found = list(values)
    return {"median": statistics.median(found), "least": min(found), "most": max(found)}


def parser(description: str | None, *, rows: int, number: int = 5) -> argparse.ArgumentParser:
    """The options that most benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", type=int, default=rows, help="rows of the frame (default: %(default)s)")
    made.add_argument("--rounds", type=int, default=number, help="rounds (default: %(default)s)")
    made.add_argument("--data", type=Path, help="a folder for the data, kept; left out, a temporary one")
    return made


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _memory(name: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"/proc/self/status has no {name}")
