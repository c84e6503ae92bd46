"""The log of a submission with many batches: what a commit takes, and what loading it takes.

    python -m benchmarks.log --batches 2000 --rounds 20

Each commit is as a tick makes it: the newest state is loaded, some batches change, and the whole is written and synced.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.data import data_folder
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.state import BatchState, PartitionRows, SubmissionState


def _filled(root: Path, batches: int) -> SubmissionFiles:
    files = TableFiles(Store(root), "table").submission("20260101T000000000-00000000")
    running = tuple(
        BatchState(
            number=number,
            requests=50_000,
            size=145_000_000,
            attempt=1,
            file_id=f"file-{number:024x}",
            batch_id=f"batch_{number:024x}",
            status=BatchStatus.IN_PROGRESS,
            created_at=1_760_000_000.0 + number,
            seen_at=1_760_000_000.0 + number,
            completed=number * 7 % 50_000,
        )
        for number in range(batches)
    )
    state = SubmissionState(
        id=files.id,
        asset="table",
        provider="openai:https://api.openai.com/v1",
        endpoint="/v1/chat/completions",
        model="gpt-4o-mini",
        completion_window="24h",
        fingerprint="f" * 32,
        created_at=1_760_000_000.0,
        rows=batches * 50_000,
        sealed=batches * 50_000,
        requests=batches * 50_000,
        max_rounds=1,
        partitions=(PartitionRows(key=None, start=0, rows=batches * 50_000, digest="d" * 32),),
        batches=running,
    )
    files.log.commit(None, state)
    return files


def _commit(files: SubmissionFiles, changed: int, turn: int) -> float:
    began = time.perf_counter()
    files.change(
        lambda newest: {
            batch.number: msgspec.structs.replace(batch, completed=batch.completed + turn + 1)
            for batch in newest.batches[:changed]
        }
    )
    return time.perf_counter() - began


def main() -> None:
    """Measure, and print the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--data", type=Path, help="a folder on the disk to be measured; left out, a temporary one")
    options = parser.parse_args()
    samples = []
    with data_folder(options.data) as folder, tempfile.TemporaryDirectory(dir=folder) as root:
        files = _filled(Path(root), options.batches)
        _commit(files, 1, 0)
        for round_ in range(options.rounds):
            began = time.perf_counter()
            files.state()
            samples.append({"candidate": "load", "round": round_, "wall": time.perf_counter() - began})
            samples += [
                {"candidate": name, "round": round_, "wall": _commit(files, changed, round_)}
                for name, changed in (("one", 1), ("all", options.batches))
            ]
    print(json.dumps({"batches": options.batches, "samples": samples}))


if __name__ == "__main__":
    main()
