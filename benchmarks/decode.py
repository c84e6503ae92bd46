"""From output files to tables: classified, typed, joined to the rows in their order, as Parquet.

    python -m benchmarks.decode --rows 100000 --rounds 5

pandas   batch by batch: `json.loads` for each line, what is in it flattened into a frame, `merge`, `to_parquet`; a
         broken line is skipped
bare     the steps that none can leave out, with the libraries that the package rests on: lines and answers parsed into
         fixed structs, as Arrow columns, in the order of the rows, written beside them
ours     the package; `ours-2` with two processes
broken   the package, where one line in a hundred is cut in half
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.bare import beside, read_answers
from benchmarks.data import data_folder, rows_folder, write_answers
from benchmarks.measure import Candidate, Work, parser, rounds, scratch
from benchmarks.peers.driving import Label

_FEW = 1_000
"""Rows that each candidate decodes before it is measured, so that all it imports is there."""


def prepare(folder: Path, rows: int, broken: float) -> Path:
    """A sealed submission of so many rows, the output file of each batch, and the rows of each for those without us."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from ractobatch_dagster.submission.rows import read_rows

    target = folder / f"answers-{rows}-{broken:g}"
    done = target / "_done"
    if done.exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    files = ours.seal(rows_folder(folder, rows), target / "store")
    requests = target / "requests.jsonl"
    for batch in files.state().batches:
        ids = [f"row-{row:08d}" for row in range(batch.start, batch.stop)]
        requests.write_text("".join(f'{{"custom_id":"{one}"}}\n' for one in ids))
        answers = target / f"{batch.number:05d}.jsonl"
        write_answers(requests, answers, seed=batch.number, broken=broken)
        table = pa.Table.from_batches(list(read_rows(files, batch.start, batch.stop)))
        known = table.append_column("custom_id", pa.array(ids))
        pq.write_table(known, answers.with_suffix(".parquet"), compression="zstd", compression_level=1)
    requests.unlink(missing_ok=True)
    done.touch()
    return target


def batches(folder: Path) -> list[tuple[Path, Path]]:
    """Each batch's output file and its rows."""
    return [(path, path.with_suffix(".parquet")) for path in sorted(folder.glob("*.jsonl"))]


def pandas(arguments: Mapping[str, Any]) -> Work:
    """What one writes without a library: well-behaved, but for lines that are broken."""
    import pandas as pd

    def flat(line: bytes) -> dict[str, Any]:
        record = json.loads(line)
        response = record.get("response") or {}
        body = response.get("body") or {}
        choice = (body.get("choices") or [{}])[0]
        message, usage = choice.get("message") or {}, body.get("usage") or {}
        error = record.get("error") or body.get("error") or {}
        text = message.get("content")
        try:
            label = json.loads(text) if text and choice.get("finish_reason") == "stop" else {}
        except ValueError:
            label = {}
        status = "ok" if label else "error" if error else "refusal" if message.get("refusal") else "invalid"
        return {
            "custom_id": record["custom_id"],
            **{name: label.get(name) for name in Label.model_fields},
            "status": status,
            "text": text,
            "finish_reason": choice.get("finish_reason"),
            "model": body.get("model"),
            "error_code": error.get("code"),
            "error": error.get("message"),
            "request_id": response.get("request_id"),
            "prompt_tokens": usage.get("prompt_tokens"),
            "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
            "completion_tokens": usage.get("completion_tokens"),
            "reasoning_tokens": (usage.get("completion_tokens_details") or {}).get("reasoning_tokens"),
        }

    def work(folder: str = arguments["clean"]) -> dict[str, int]:
        counts = {"rows": 0, "odd_lines": 0}
        target = scratch(arguments["folder"])
        for answers, rows in batches(Path(folder)):
            records = []
            with answers.open("rb") as lines:
                for line in lines:
                    try:
                        records.append(flat(line))
                    except ValueError:
                        counts["odd_lines"] += 1
            joined = pd.read_parquet(rows).merge(pd.DataFrame.from_records(records), on="custom_id", how="left")
            joined.to_parquet(target / rows.name, compression="zstd")
            counts["rows"] += len(joined)
        return counts

    work(arguments["few"])
    return work


def bare(arguments: Mapping[str, Any]) -> Work:
    """The package's libraries alone: a batch is held whole, every line must be well, nothing is kept for a crash."""
    import pyarrow.parquet as pq

    def work(folder: str = arguments["clean"]) -> dict[str, int]:
        target, count = scratch(arguments["folder"]), 0
        for path, rows in batches(Path(folder)):
            with path.open("rb") as lines:
                found = read_answers(lines)
            joined = beside(pq.ParquetFile(rows, pre_buffer=False).read(use_threads=False), found)
            pq.write_table(joined, target / rows.name, compression="zstd", compression_level=1)
            count += len(joined)
        return {"rows": count, "odd_lines": 0}

    work(arguments["few"])
    return work


def _ours(processes: int, which: str = "clean") -> Candidate:
    def candidate(arguments: Mapping[str, Any]) -> Work:
        def work(answers: str = arguments[which]) -> dict[str, int]:
            folder, target = Path(answers), scratch(arguments["folder"]) / "labels.parquet"
            return ours.land(ours.sealed(folder / "store"), folder, target, processes=processes)

        work(arguments["few"])
        return work

    return candidate


CANDIDATES = {"pandas": pandas, "bare": bare, "ours": _ours(1), "ours-2": _ours(2), "broken": _ours(1, "broken")}


def main() -> None:
    """Measure, and print the samples."""
    options = parser(__doc__, rows=100_000).parse_args()
    with data_folder(options.data) as folder:
        arguments = {
            "folder": str(folder),
            "clean": str(prepare(folder, options.rows, 0.0)),
            "broken": str(prepare(folder, options.rows, 0.01)),
            "few": str(prepare(folder, _FEW, 0.0)),
        }
        candidates = ["pandas", "bare", "broken", *(f"ours-{n}".removesuffix("-1") for n in ours.DECODES)]
        samples = rounds("decode", candidates, arguments, options.rounds)
    print(json.dumps({"rows": options.rows, "samples": samples}))


if __name__ == "__main__":
    main()
