"""`README.md` from what was measured: every number in it comes from the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.goals import goals
from benchmarks.measure import Sample, ratios, spread
from benchmarks.reuse import reuse_cost

Results = Mapping[str, Any]

_HEAD = """\
# Benchmarks

What the package costs beside ordinary ways of doing the same, and beside other clients. `make bench` measures it all
again and writes this page; `make bench-quick` does so with small sizes, to see that it works.{quick}

{machine}

Each measurement is a process of its own that prepares first (imports, loading, a small piece of the same work) and then
does the work once. Wall time and CPU time (user and system, children included) are of the work alone; memory is the
most that the process held during the work, by the kernel's mark reset just before (`/proc/self/clear_refs`), less what
it held when the work began. The candidates of a round are shuffled, and a ratio is the median of the ratios within each
round. Numbers are medians, with the least and the most in brackets. The data is made by `benchmarks/data.py`, the same
each time: reviews of 600 characters in the median in several scripts, and answers in an order of their own of which 1 %
are errors and 0.5 % refused, cut off or no JSON. Random words compress better than real ones.
"""

_BARE = """
The bare steps are one loop around the libraries that the package rests on, and nothing else (`bare.py`, put together in
`encode.py`, `decode.py` and `peers/bare`); for two processes, half of their wall time, as if two cost nothing. A goal
far beyond them is out of reach for Python with these libraries.
"""

_CLIENTS = {
    "ours": "this package: a store on disk with its log, the engine, the table as Parquet",
    "bare": "no client, but the steps that none can leave out, with the libraries that ours rests on: each row kept "
    "with the hash of its request, the rows written as a file, uploaded, waited for, downloaded, read, written as a "
    "table; nothing is checked, limited, recorded or tried again",
    "ractogateway": "the batches of 50,000 are cut by the driver, as it does not cut by itself",
    "llm_batch_py": "with its catalog on disk and real token counts; one run submits, a second one collects",
    "gpt_batch_api": "with real token counts, without wandb, and with its caps on cost lifted",
    "steadybatch": "with its checkpoint on disk, each answer checked against the schema",
    "curator": "in batch mode, without viewer, telemetry and display",
}


_PARTS = {
    "sealed": "rows and hashes on the disk, before anything is sent",
    "sent": "files made and uploaded, batches created",
    "watched": "asked whether they have ended",
    "landed": "answers downloaded, read, and written as a table",
}


def report(results: Results) -> str:
    """The page."""
    quick = "\n\n**These are the numbers of a quick run: the sizes are too small to mean anything.**"
    note = f" {results['note']}" if results.get("note") else ""
    parts = [
        _HEAD.format(quick=quick if results.get("quick") else "", machine=_machine(results.get("machine", {})) + note),
        _goals(results),
    ]
    for title, render, names in _SECTIONS:
        parts.append(f"## {title}\n")
        for name in names:
            result = results.get(name)
            if result is None or "failed" in result:
                parts.append(f"Not measured{': ' + result['failed'] if result else ''}.\n")
            else:
                parts.append(render(result))
    return "\n".join(parts).rstrip() + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    if not machine:
        return "The machine is not known."
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"Measured on {machine['date']} on {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gb']} GB of memory, {machine['system']}, {machine['file_system']}, at a load of "
        f"{machine['load']} when it began; Python {machine['python']}, {versions}."
    )


def _goals(results: Results) -> str:
    rows = [
        [goal.what, goal.text, "not measured" if goal.value is None else goal.shown, goal.verdict, goal.allowed]
        for goal in goals(results)
    ]
    return "## Goals\n\n" + _table(["what", "goal", "measured", "met", "the bare steps"], rows) + _BARE


def _rates(result: Mapping[str, Any], base: str, names: Mapping[str, str]) -> str:
    samples, rows = result["samples"], []
    for name, what in names.items():
        mine = [sample for sample in samples if sample["candidate"] == name]
        if not mine:
            continue
        count = result["rows"]
        rows.append(
            [
                what,
                _shown(spread(sample["wall"] for sample in mine), "{:.3g} s"),
                _shown(spread(sample["cpu"] for sample in mine), "{:.3g} s"),
                _shown(spread(sample["cpu"] / count * 1e6 for sample in mine), "{:.3g} µs"),
                _shown(ratios(samples, base, name, "wall"), "{:.2f}x"),
                _shown(ratios(samples, base, name, "cpu"), "{:.2f}x"),
                _shown(spread(sample["peak_mb"] for sample in mine), "{:.0f} MB"),
            ]
        )
    heads = ["", "wall", "CPU", "CPU per row", f"against {base}: wall", "CPU", "memory"]
    rounds = len({sample["round"] for sample in samples})
    return f"{result['rows']:,} rows, {rounds} rounds.\n\n" + _table(heads, rows)


def _encode(result: Mapping[str, Any]) -> str:
    sizes = {sample["candidate"]: sample["bytes"] for sample in result["samples"] if "bytes" in sample}
    names = {
        "loop": "loop: `itertuples` and `json.dumps`, no hashes",
        "ours": "ours, one process, request hashes included (`write_inputs`)",
        "ours-2": "ours, two processes",
        "bare": "the bare steps: to Python's text, escaped, hashed, put together, written",
        "write": "writing as many bytes from one small buffer",
    }
    said = ", ".join(f"{name} {size / 1e6:,.0f} MB" for name, size in sorted(sizes.items()))
    return _rates(result, "loop", names) + f"\nBytes written: {said}.\n"


def _decode(result: Mapping[str, Any]) -> str:
    names = {
        "pandas": "pandas: `json.loads`, a frame, `merge`, `to_parquet`",
        "ours": "ours, one process",
        "ours-2": "ours, two processes",
        "bare": "the bare steps: parsed, to Arrow, in order, written beside the rows",
        "broken": "ours, one line in a hundred cut in half",
    }
    counts = {sample["candidate"]: sample for sample in result["samples"]}
    lines = [
        f"{name}: {one['rows']:,} rows, {one['odd_lines']:,} lines set aside" for name, one in sorted(counts.items())
    ]
    return _rates(result, "pandas", names) + "\n" + "; ".join(lines) + ".\n"


def _parts(result: Mapping[str, Any]) -> str:
    rows: list[list[str]] = []
    for name, steps in result["steps"].items():
        rows += [[name, step, _shown(spread(values), "{:.2f} µs")] for step, values in steps.items()]
        together = sum(spread(values)["median"] for values in steps.values())
        rows.append([name, "**together**", f"**{together:.2f} µs**"])
    return (
        f"{result['rows']:,} rows. Each step is a loop around one library call, with nothing of the package in it, and "
        "with what the step before it made at hand.\n\n" + _table(["", "step", "CPU per row"], rows)
    )


def _client(result: Mapping[str, Any]) -> str:
    rows, samples = [], result["samples"]
    for name in _CLIENTS:
        mine = [sample for sample in samples if sample["candidate"] == name]
        well = [sample for sample in mine if "failed" not in sample]
        failed = [f"{sample['asked']:,} rows: {sample['failed']}" for sample in mine if "failed" in sample]
        if name in result["absent"]:
            failed = ["not run"]
        rows.append(
            [
                name,
                f"{max(sample['rows'] for sample in well):,}" if well else "",
                _shown(spread(one["cpu_us_per_row"] for one in well), "{:.3g} µs") if well else "",
                _shown(ratios(_well(samples), name, "ours", "cpu_us_per_row"), "{:.2f}x"),
                _shown(spread(one["wall"] for one in well), "{:.3g} s") if well else "",
                _shown(spread(one["peak_mb"] for one in well), "{:.0f} MB") if well else "",
                "; ".join(dict.fromkeys(failed)),
            ]
        )
    heads = ["client", "rows", "CPU per row", "times ours", "wall, the server's time included", "memory in all", "not"]
    about = "\n".join(f"- **{name}**{_version(name)}: {what}." for name, what in _CLIENTS.items())
    return f"{result['rows']:,} rows.\n\n" + _table(heads, rows) + f"\n{about}\n" + _client_parts(_well(samples))


def _client_parts(samples: Iterable[Sample]) -> str:
    """What the clients that tell it spend their time on."""
    told = [sample for sample in samples if sample.get("parts")]
    names = [name for name in _CLIENTS if any(sample["candidate"] == name for sample in told)]
    rows = []
    for part, what in _PARTS.items():
        found = [
            spread(one["parts"][part] / one["rows"] * 1e6 for one in told if one["candidate"] == name) for name in names
        ]
        rows.append([f"{part}: {what}", *(_shown(one, "{:.3g} µs") for one in found)])
    return f"\nCPU per row of the parts of the work:\n\n{_table(['', *names], rows)}" if names else ""


def _version(peer: str) -> str:
    """What is installed of a peer."""
    requirements = Path(__file__).parent / "peers" / peer / "requirements.txt"
    return f" ({requirements.read_text().splitlines()[0]})" if requirements.exists() else ""


def _well(samples: Iterable[Sample]) -> list[Sample]:
    """The samples of what did not fail."""
    return [sample for sample in samples if "failed" not in sample]


def _memory(result: Mapping[str, Any]) -> str:
    rows = []
    for size in result["sizes"]:
        for name in ("encode", "collect"):
            mine = [sample for sample in size["samples"] if sample["candidate"] == name]
            shown = (
                (spread(one["peak_mb"] for one in mine), "{:.0f} MB"),
                (spread(one["wall"] for one in mine), "{:.3g} s"),
                (spread(one["cpu"] / size["rows"] * 1e6 for one in mine), "{:.3g} µs"),
            )
            rows.append([f"{name}, {size['rows']:,} rows", *(_shown(*one) for one in shown)])
    return _table(["", "memory above imports", "wall", "CPU per row"], rows)


def _reuse(result: Mapping[str, Any]) -> str:
    names = {
        "anew": "anew: all rows asked",
        "again": "again: the answers of the landed table taken over",
        "later": "later: the same a day later, where nearly all of those had been taken over",
    }
    samples, count = result["samples"], result["rows"]
    rows, costs = [], []
    for name, what in names.items():
        mine = [sample for sample in samples if sample["candidate"] == name]
        rows.append(
            [
                what,
                f"{mine[0]['requests']:,}",
                f"{mine[0]['bytes'] / 1e6:,.3g} MB",
                _shown(spread(one["wall"] for one in mine), "{:.3g} s"),
                _shown(spread(one["cpu"] for one in mine), "{:.3g} s"),
                _shown(spread(one["cpu"] / count * 1e6 for one in mine), "{:.3g} µs"),
                _shown(ratios(samples, "anew", name, "cpu"), "{:.2f}x"),
                _shown(spread(one["peak_mb"] for one in mine), "{:.0f} MB"),
            ]
        )
        if name != "anew":
            costs.append(f"{name} {_shown(reuse_cost(result, name), '{:.2g} µs')}")
    heads = ["", "requests", "to upload", "wall", "CPU", "CPU per row", "against anew: CPU", "memory"]
    rounds = len({sample["round"] for sample in samples})
    return (
        f"{count:,} rows, one in a hundred of them changed since the table landed; sealed, and the request files made; "
        f"{rounds} rounds.\n\n"
        + _table(heads, rows)
        + f"\nCPU per row of looking for answers and taking them over: {', '.join(costs)}.\n"
    )


def _transfer(result: Mapping[str, Any]) -> str:
    names = {
        "up-ours": "up: ours",
        "up-handle": "up: `files.create` with an open file",
        "up-path": "up: `files.create` with a path",
        "down-ours": "down: ours",
        "down-stream": "down: `with_streaming_response`, `stream_to_file`",
        "down-content": "down: `files.content`",
    }
    rows = []
    for name, what in names.items():
        mine = [sample for sample in result["samples"] if sample["candidate"] == name]
        walls = spread(result["megabytes"] / sample["wall"] for sample in mine)
        peaks = spread(sample["peak_mb"] for sample in mine)
        rows.append([what, _shown(walls, "{:.0f} MB/s"), _shown(peaks, "{:.0f} MB")])
    cuts = [[cut, *(found[name] for name in ("ours", "stream", "content"))] for cut, found in result["cuts"].items()]
    heads = ["a download that", "ours", "`stream_to_file`", "`files.content`"]
    return (
        f"{result['megabytes']} MB to the local server and back.\n\n"
        + _table(["", "rate", "memory"], rows)
        + "\nWhat becomes of a download that is cut short once:\n\n"
        + _table(heads, cuts)
    )


def _ticks(result: Mapping[str, Any]) -> str:
    rows = [
        [
            str(number),
            f"{tick['wall_s']:.3g} s",
            f"{tick['cpu_s']:.3g} s",
            str(sum(tick["provider_calls"].values())),
            str(sum(tick["store_calls"].values())),
        ]
        for number, tick in enumerate(result["ticks"], 1)
    ]
    heads = ["tick", "wall", "CPU", "calls to the provider", "calls to the store"]
    return f"{result['open']:,} open submissions.\n\n" + _table(heads, rows)


def _log(result: Mapping[str, Any]) -> str:
    names = {"one": "a commit that changes one batch", "all": "a commit that changes all", "load": "loading"}
    rows = [
        [what, _shown(spread(one["wall"] * 1e3 for one in result["samples"] if one["candidate"] == name), "{:.3g} ms")]
        for name, what in names.items()
    ]
    return f"A submission of {result['batches']:,} batches.\n\n" + _table(["", "wall"], rows)


def _imports(result: Mapping[str, Any]) -> str:
    names = {
        "python": "`python -c pass`",
        "dagster": "`import dagster`",
        "ours": "`import dagster, ractobatch_dagster`",
        "names": "`import dagster` and every name of the package",
        "help": "`ractobatch --help`",
    }
    rows = []
    for name, what in names.items():
        mine = [sample for sample in result["samples"] if sample["candidate"] == name]
        shown = (spread(one[metric] * 1e3 for one in mine) for metric in ("wall", "cpu"))
        rows.append([what, *(_shown(one, "{:.0f} ms") for one in shown)])
    return _table(["", "wall", "CPU"], rows)


def _plain(result: Mapping[str, Any], prefix: str = "") -> str:
    """A result of any shape, name by name."""
    rows: list[list[str]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{name}, {key}" if name else str(key), inner)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            rows.append([name, f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"])
        elif isinstance(value, str):
            rows.append([name, value])

    add(prefix, result)
    return _table(["", ""], rows)


_SECTIONS: list[tuple[str, Callable[[Mapping[str, Any]], str], tuple[str, ...]]] = [
    ("From a frame to request files", _encode, ("encode", "encode_million")),
    ("From output files to tables", _decode, ("decode", "decode_million")),
    ("Where the time goes", _parts, ("parts",)),
    ("The whole client, beside others", _client, ("client", "client_million")),
    ("Memory", _memory, ("memory",)),
    ("Submitting again", _reuse, ("reuse", "reuse_million")),
    ("Upload and download", _transfer, ("transfer",)),
    ("A tick of the sensor", _ticks, ("ticks_thousand", "ticks_ten_thousand")),
    ("The log", _log, ("log",)),
    ("New request hashes against known ones", _plain, ("hashes",)),
    ("Imports", _imports, ("imports",)),
]


def _shown(values: Mapping[str, float] | None, form: str) -> str:
    if values is None:
        return ""
    median, least, most = (form.format(values[name]) for name in ("median", "least", "most"))
    return median if least == most else f"{median} ({least} to {most})"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines) + "\n"
