"""What the numbers should be, and whether they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Sample, ratios, spread
from benchmarks.peers.install import HERE
from benchmarks.reuse import reuse_cost


@dataclass(frozen=True)
class Goal:
    """One goal: a bound that a value should not be under, or not over.

    Attributes:
        what: Which value.
        bound: The bound.
        unit: The unit of both.
        value: What was measured.
        at_least: Whether the value should not be under it.
        bare: The same value of the bare steps, where they were measured: what the libraries allow.
    """

    what: str
    bound: float
    unit: str
    value: float | None
    at_least: bool = False
    bare: float | None = None

    @property
    def text(self) -> str:
        """The bound in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}{self.unit}"

    @property
    def shown(self) -> str:
        """The value in words."""
        return "" if self.value is None else f"{self.value:.3g}{self.unit}"

    @property
    def allowed(self) -> str:
        """The value of the bare steps in words."""
        return "" if self.bare is None else f"{self.bare:.3g}{self.unit}"

    @property
    def verdict(self) -> str:
        """Whether it is met."""
        if self.value is None:
            return ""
        return "yes" if (self.value >= self.bound if self.at_least else self.value <= self.bound) else "no"


def goals(results: Mapping[str, Any]) -> Iterator[Goal]:
    """Every goal, with what was measured where it was."""
    well = {name: one for name, one in results.items() if isinstance(one, Mapping) and "failed" not in one}
    yield from _files(well)
    yield from _clients(well)
    yield from _memory(well)
    yield from _reuse(well)
    yield from _transfer(well)
    yield from _many(well)
    yield from _small(well)


def _files(well: Mapping[str, Any]) -> Iterator[Goal]:
    encode, decode = (well.get(f"{name}_million", {}).get("samples", ()) for name in ("encode", "decode"))
    loop = "encoding against the loop, "
    most = _ratio(encode, "loop", "bare", "cpu")
    yield Goal(f"{loop}one process, CPU", 5, "x", _ratio(encode, "loop", "ours", "cpu"), at_least=True, bare=most)
    most = _ratio(encode, "loop", "bare", "wall", times=2)
    yield Goal(f"{loop}two processes, wall", 9, "x", _ratio(encode, "loop", "ours-2", "wall"), at_least=True, bare=most)
    limit = "encoding against writing the same bytes, "
    least = _ratio(encode, "bare", "write", "wall")
    yield Goal(f"{limit}one process, wall", 4.5, "x", _ratio(encode, "ours", "write", "wall"), bare=least)
    least = _ratio(encode, "bare", "write", "wall", times=0.5)
    yield Goal(f"{limit}two processes, wall", 2, "x", _ratio(encode, "ours-2", "write", "wall"), bare=least)
    table = "decoding against json and pandas, "
    most = _ratio(decode, "pandas", "bare", "cpu")
    yield Goal(f"{table}one process, CPU", 2.5, "x", _ratio(decode, "pandas", "ours", "cpu"), at_least=True, bare=most)
    most = _ratio(decode, "pandas", "bare", "wall", times=2)
    yield Goal(
        f"{table}two processes, wall", 4, "x", _ratio(decode, "pandas", "ours-2", "wall"), at_least=True, bare=most
    )
    yield Goal("decoding with broken lines against without, CPU", 1.1, "x", _ratio(decode, "broken", "ours", "cpu"))


def _clients(well: Mapping[str, Any]) -> Iterator[Goal]:
    for name, size in (("client", "small"), ("client_million", "large")):
        samples = [one for one in well.get(name, {}).get("samples", ()) if "failed" not in one]
        count = f"{well[name]['rows']:,} rows" if name in well else size
        taken = {name: [one["cpu_us_per_row"] for one in samples if one["candidate"] == name] for name in HERE}
        mine, least = (spread(taken[name])["median"] if taken[name] else None for name in HERE)
        yield Goal(f"whole client, {count}, CPU per row", 20, " µs", mine, bare=least)
        best, most = (_best_peer(samples, name) for name in HERE)
        yield Goal(f"whole client, {count}, the best peer's CPU against ours", 4, "x", best, at_least=True, bare=most)


def _best_peer(samples: list[Sample], candidate: str) -> float | None:
    """How many times as much as this one the peer took that took least."""
    peers = {one["candidate"] for one in samples}.difference(HERE)
    found = [_ratio(samples, peer, candidate, "cpu_us_per_row") for peer in peers]
    return min((one for one in found if one is not None), default=None)


def _memory(well: Mapping[str, Any]) -> Iterator[Goal]:
    sizes = well.get("memory", {}).get("sizes", ())
    for name, bound in (("encode", 100), ("collect", 250)):
        peaks = [
            max(one["peak_mb"] for one in size["samples"] if one["candidate"] == name)
            for size in sorted(sizes, key=lambda size: size["rows"])
        ]
        yield Goal(f"memory above imports, {name}, the most of all sizes", bound, " MB", max(peaks, default=None))
        flat = peaks[-1] / peaks[0] if len(peaks) > 1 and peaks[0] else None
        yield Goal(f"memory above imports, {name}, the largest size against the smallest", 1.25, "x", flat)


def _reuse(well: Mapping[str, Any]) -> Iterator[Goal]:
    result = well.get("reuse_million", {})
    samples = result.get("samples", ())
    for name in ("again", "later"):
        what = f"submitting {name} with one row in a hundred changed"
        yield Goal(f"{what}, CPU against sending all anew", 1, "x", _ratio(samples, name, "anew", "cpu"))
        cost = reuse_cost(result, name)
        yield Goal(f"{what}, CPU per row of the reuse", 3, " µs", None if cost is None else cost["median"])
    peaks = [one["peak_mb"] for one in samples if one["candidate"] != "anew"]
    yield Goal("submitting again, memory", 250, " MB", max(peaks, default=None))


def _transfer(well: Mapping[str, Any]) -> Iterator[Goal]:
    result = well.get("transfer", {})
    samples = result.get("samples", ())
    for way, quickest in (("up", "up-handle"), ("down", "down-stream")):
        peaks = [one["peak_mb"] for one in samples if one["candidate"] == f"{way}-ours"]
        yield Goal(f"{way}load, memory", 16, " MB", max(peaks, default=None))
        yield Goal(
            f"{way}load against the client's quickest, wall", 1.3, "x", _ratio(samples, f"{way}-ours", quickest, "wall")
        )
    unnoticed = [cut for cut in result.get("cuts", {}).values() if "unnoticed" in cut["ours"]]
    yield Goal("downloads cut short and not noticed", 0, "", len(unnoticed) if "cuts" in result else None)


def _many(well: Mapping[str, Any]) -> Iterator[Goal]:
    for name, bound in (("ticks_thousand", 1), ("ticks_ten_thousand", 5)):
        ticks = well.get(name, {}).get("ticks", ())
        count = f"{well[name]['open']:,}" if name in well else name.removeprefix("ticks_").replace("_", " ")
        yield Goal(
            f"a tick, {count} open, the longest", bound, " s", max((one["wall_s"] for one in ticks), default=None)
        )
        calls = max((sum(one["provider_calls"].values()) for one in ticks), default=None)
        each = None if calls is None else calls * 100 / well[name]["open"]
        yield Goal(f"a tick, {count} open, calls to the provider for 100 batches", 1, "", each)
    found = [one for name, one in well.get("hashes", {}).items() if name.startswith("pairs_")]
    yield Goal("new hashes against known ones", 1, " s", max((one["seconds"] for one in found), default=None))
    yield Goal("the same, memory", 400, " MB", max((one["memory_mb"] for one in found), default=None))


def _small(well: Mapping[str, Any]) -> Iterator[Goal]:
    commits = [one["wall"] * 1e3 for one in well.get("log", {}).get("samples", ()) if one["candidate"] == "all"]
    yield Goal("a commit of the log with 2,000 batches", 50, " ms", spread(commits)["median"] if commits else None)
    found: dict[str, dict[int, float]] = {}
    for one in well.get("imports", {}).get("samples", ()):
        found.setdefault(one["candidate"], {})[one["round"]] = one["wall"] * 1e3
    added = [ours - found["dagster"][round_] for round_, ours in found.get("ours", {}).items()]
    yield Goal("importing the package over importing dagster", 60, " ms", spread(added)["median"] if added else None)
    shown = list(found.get("help", {}).values())
    yield Goal("`ractobatch --help`", 250, " ms", spread(shown)["median"] if shown else None)


def _ratio(samples: Iterable[Sample], base: str, candidate: str, metric: str, times: float = 1.0) -> float | None:
    found = ratios(samples, base, candidate, metric)
    return None if found is None else found["median"] * times
