"""A table of which one row in a hundred changed, submitted again: what is asked, and what finding that out costs.

    python -m benchmarks.reuse --rows 100000 --rounds 5

anew     all rows sealed, all request files made, nothing taken over
again    one row in a hundred changed since the table landed; the other answers are taken over
later    the same a day later, when nearly all answers of the landed table had been taken over themselves

Each opens a submission from a Parquet data set in a store that holds the landed one, and makes the request files of
what is left to ask, each removed once it is complete, as after an upload. `opening_cpu` is the CPU time of the first
half alone: `again` less `anew` is what looking for answers and writing them down costs, less the planning it saves.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import ours
from benchmarks.data import data_folder, rows_folder, write_answers
from benchmarks.measure import Candidate, Work, parser, rounds, scratch, spread
from ractobatch_dagster.submission.state import BatchState

_FEW = 1_000
"""Rows that each candidate submits before it is measured, so that all it imports is there."""

_DAYS = (1, 2)


def prepare(folder: Path, rows: int) -> Path:
    """For each day the frame, and the store in which the one of the day before has landed."""
    target = folder / f"reuse-{rows}"
    done = target / "_done"
    if done.exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    store, frame = target / "store-0", rows_folder(folder, rows)
    for day in _DAYS:
        _land(frame, store)
        changed, following = target / f"rows-{day}", target / f"store-{day}"
        _change(frame, changed, day)
        _link(store, following)
        store, frame = following, changed
    done.touch()
    return target


def _land(frame: Path, store: Path) -> None:
    """Submit a frame, answer everything that it asks, and say that it has landed."""
    files, answers = ours.seal(frame, store), store.parent / "answers"
    answers.mkdir()

    def answer(batch: BatchState, requests: Path) -> None:
        # without faults: a row that has no answer would be asked again, and only those that changed should be
        write_answers(requests, answers / f"{batch.number:05d}.jsonl", seed=batch.number, faultless=True)

    ours.write_batches(files, answers, answer)
    ours.settle(files, answers)
    shutil.rmtree(answers)


def _change(frame: Path, target: Path, day: int) -> None:
    """The same data set, but for the prompt of one row in a hundred."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    target.mkdir()
    for path in sorted(frame.glob("*.parquet")):
        with pq.ParquetFile(path) as file, pq.ParquetWriter(target / path.name, file.schema_arrow) as writer:
            for batch in file.iter_batches(columns=file.schema_arrow.names):
                changes = pa.array(batch["id"].to_numpy() % 100 == day)
                other = pc.binary_join_element_wise(f"On day {day}:", batch["user_message"], " ")
                prompts = pc.if_else(changes, other, batch["user_message"])
                writer.write_batch(
                    batch.set_column(batch.schema.get_field_index("user_message"), "user_message", prompts)
                )


def _link(store: Path, target: Path) -> None:
    """A copy of a store that takes no space: its files are never written into, only replaced."""
    shutil.copytree(store, target, copy_function=os.link)


def _submitted(arguments: Mapping[str, Any], day: int, *, reuse: bool) -> Work:
    def prepared(data: Path) -> Work:
        folder = scratch(arguments["folder"])
        _link(data / f"store-{day - 1}", folder / "store")

        def work() -> Mapping[str, Any]:
            began = time.process_time()
            files = ours.seal(data / f"rows-{day}", folder / "store", reuse=reuse)
            opening = time.process_time() - began
            return {**ours.write_batches(files, folder), "opening_cpu": opening}

        return work

    prepared(Path(arguments["few"]))()
    return prepared(Path(arguments["data"]))


CANDIDATES: dict[str, Candidate] = {
    "anew": partial(_submitted, day=1, reuse=False),
    "again": partial(_submitted, day=1, reuse=True),
    "later": partial(_submitted, day=2, reuse=True),
}


def reuse_cost(result: Mapping[str, Any], candidate: str) -> dict[str, float] | None:
    """Microseconds of CPU a row by which opening took longer than without reuse, round by round."""
    found: dict[int, dict[str, float]] = {}
    for sample in result.get("samples", ()):
        found.setdefault(sample["round"], {})[sample["candidate"]] = sample["opening_cpu"]
    each = [(one[candidate] - one["anew"]) / result["rows"] * 1e6 for one in found.values()]
    return spread(each) if each else None


def main() -> None:
    """Measure, and print the samples."""
    options = parser(__doc__, rows=100_000).parse_args()
    with data_folder(options.data) as folder:
        arguments = {
            "folder": str(folder),
            "data": str(prepare(folder, options.rows)),
            "few": str(prepare(folder, _FEW)),
        }
        samples = rounds("reuse", CANDIDATES, arguments, options.rounds)
    print(json.dumps({"rows": options.rows, "samples": samples}))


if __name__ == "__main__":
    main()
