"""Play many schedules and say what they came to: `python -m tests.simulation.run --seeds 10000`.

A seed that fails replays alone, with everything that happened in it: `--seed 92 --trace`.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.actors import Play
from tests.simulation.oracle import judge
from tests.simulation.scheduler import StuckError
from tests.simulation.stage import simulated_time

__all__ = ["Played", "play", "play_many"]

_BLOCK = 25
_ENOUGH = 100
_SUMMED_APART = ("schedules", "rows", "requests billed", "doubles", "losses", "crashes", "HTTP calls", "steps")


@dataclass
class Played:
    """What one schedule came to."""

    seed: int
    found: list[str]
    counts: Counter[str]
    trace: list[str] = field(default_factory=list)


def play(seed: int, *, trace: bool = False, stress: Mapping[str, Any] | None = None) -> Played:
    """Play one schedule, with some chances given if need be, and hold it against the promises."""
    stage = Play(seed, trace=[] if trace else None, stress=stress or {})
    found = []
    with simulated_time(stage):
        try:
            stage.run()
        except StuckError as stuck:
            found.append(f"something stays open though nothing goes wrong any more: {stuck}")
        broken, tally = judge(stage)
    counts = Counter(stage.scheduler.counts)
    counts.update(
        {
            "schedules": 1,
            "rows": tally.rows,
            "requests billed": tally.billed,
            "doubles": tally.doubles,
            "losses": tally.losses,
            "HTTP calls": stage.wire.calls,
            "steps": stage.scheduler.steps,
        }
    )
    return Played(seed, found + broken, counts, stage.trace or [])


def play_many(seeds: Sequence[int]) -> tuple[list[Played], Counter[str]]:
    """Play several schedules; those that broke a promise, and what all came to."""
    failed: list[Played] = []
    counts: Counter[str] = Counter()
    for seed in seeds:
        played = play(seed)
        counts += played.counts
        if played.found:
            failed.append(played)
    gc.collect()
    return failed, counts


def _blocks(first: int, seeds: int) -> Iterator[range]:
    for start in range(first, first + seeds, _BLOCK):
        yield range(start, min(start + _BLOCK, first + seeds))


def _summary(counts: Counter[str], failed: int, seconds: float) -> str:
    faults = {name: count for name, count in counts.most_common() if name not in (*_SUMMED_APART, "runs failed")}
    lines = [
        f"{counts['schedules']:,} schedules in {seconds:.0f} s, {failed} of them broke a promise",
        f"  crashes {counts['crashes']:,}, faults injected {sum(faults.values()):,}, "
        f"HTTP calls {counts['HTTP calls']:,}",
        f"  rows {counts['rows']:,}, requests billed {counts['requests billed']:,}, "
        f"doubles {counts['doubles']:,}, losses {counts['losses']:,}",
        "  " + ", ".join(f"{name} {count:,}" for name, count in faults.items()),
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--trace", action="store_true", help="with everything that happened")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        played = play(given.seed, trace=given.trace)
        print(*played.trace, *(f"BROKEN: {one}" for one in played.found), sep="\n")
        print(_summary(played.counts, bool(played.found), 0.0))
        return bool(played.found)
    began, counts, failed = time.monotonic(), Counter[str](), 0
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        for broken, some in pool.imap_unordered(play_many, _blocks(given.first, given.seeds)):
            counts += some
            failed += len(broken)
            for one in broken:
                print(f"seed {one.seed}:", *one.found[:5], sep="\n    ", flush=True)
            if failed >= _ENOUGH:
                print(f"stopping after {failed} broken schedules")
                break
    print(_summary(counts, failed, time.monotonic() - began))
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
