"""How long a tick of the sensor takes with so many submissions open, of which nothing has finished.

    python -m benchmarks.ticks --open 1000               one table, each partition in a submission of its own
    python -m benchmarks.ticks --open 1000 --tables 100  the same spread over a hundred tables
    python -m benchmarks.ticks --open 1 --batches 2000   one submission of many batches

Prints one JSON object. The store is a folder on disk (or, with `--s3`, an S3 on this machine), the instance is a real
one with SQLite on disk, and the provider is the local batch server in a process of its own, talked to by the `openai`
client. Store calls are counted at obstore and, for files that are read straight, by Python's own audit events.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import msgspec
import obstore
import pandas as pd

from ractobatch_dagster import OpenAIBatchResource, batch_asset, build_batch_sensor
from ractobatch_dagster.local.background import ensure_server, stop_server
from ractobatch_dagster.local.disk import Batch, Disk
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.calls import Calls
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.state import (
    BatchState,
    Intent,
    Owner,
    PartitionRows,
    PartitionState,
    SubmissionState,
    TableState,
)

_LONG = 1e8
"""Seconds that a batch takes: none ends while we look."""

_STORE_CALLS = ("get", "put", "head", "list", "list_with_delimiter")


class Counts:
    """What was asked of the store and of the provider since the last reset."""

    def __init__(self, root: Path) -> None:
        self.store: Counter[str] = Counter()
        self.provider: Counter[str] = Counter()
        self._root = str(root)

    def reset(self) -> None:
        """Begin anew."""
        self.store.clear()
        self.provider.clear()

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count for as long as the `with` block lasts."""
        sys.addaudithook(self._audit)
        with ExitStack() as stack:
            for name in _STORE_CALLS:
                stack.enter_context(patch.object(obstore, name, self._counted(name)))
            once = Calls._once

            def counted_once(calls: Calls, doing: str, *arguments: Any, **options: Any) -> Any:
                self.provider[" ".join(doing.split()[:2])] += 1
                return once(calls, doing, *arguments, **options)

            stack.enter_context(patch.object(Calls, "_once", counted_once))
            yield

    def _counted(self, name: str) -> Any:
        real = getattr(obstore, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if name != "list":
                self.store[name] += 1
                return real(*arguments, **options)
            return self._pages(real(*arguments, **options))

        return call

    def _pages(self, listing: Any) -> Iterator[Any]:
        for page in listing:
            self.store["list page"] += 1
            yield page

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.scandir", "os.listdir") and arguments and self._root in str(arguments[0]):
            self.store[f"local {event.removeprefix('os.')}"] += 1


def _asset(number: int, keys: list[str]) -> Any:
    partitions = dg.StaticPartitionsDefinition(keys) if len(keys) > 1 else None

    @batch_asset(name=f"table_{number}", model="gpt-4o-mini", partitions_def=partitions)
    def answers() -> pd.DataFrame:
        """Never run here."""
        return pd.DataFrame({"user_message": ["a"]})

    return answers.assets


def _fill_server(folder: Path, batches: list[str]) -> list[dict[str, Any]]:
    """Put running batches of one request each into a server's folder, as it would have written them itself."""
    disk, now = Disk(folder), time.time()
    source = folder / "uploads" / "input"
    source.write_bytes(b'{"custom_id":"row-00000000","method":"POST","url":"/v1/chat/completions","body":{}}\n')
    shared = disk.add_file(source, filename="input.jsonl", purpose="batch", lifetime=None)
    made = []
    for number, key in enumerate(batches):
        shown = {
            "id": disk.new_id("batch_"),
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "model": "gpt-4o-mini",
            "errors": None,
            "input_file_id": shared["id"],
            "completion_window": "24h",
            "status": "in_progress",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": int(now),
            "in_progress_at": int(now),
            "expires_at": int(now + 86_400),
            **dict.fromkeys(f"{word}_at" for word in ("finalizing", "completed", "failed", "expired")),
            **dict.fromkeys(("cancelling_at", "cancelled_at", "usage")),
            "request_counts": {"total": 1, "completed": 0, "failed": 0},
            "metadata": {"ractobatch": key, "ractobatch_asset": "table", "ractobatch_batch": "1 of 1"},
        }
        disk.add_batch(Batch(shown=shown, started=now, number=number))
        made.append(shown)
    return made


def _states(shape: argparse.Namespace) -> Iterator[tuple[str, str | None, SubmissionState]]:
    """Every open submission, with its table and its partition; all batches planned."""
    now, each = time.time(), shape.open // shape.tables
    for table in range(shape.tables):
        for number in range(each):
            key = f"p{number:05d}" if each > 1 else None
            batches = tuple(BatchState(number=batch, requests=1, size=100) for batch in range(shape.batches))
            name = f"20260101T{number:09d}-{table:08x}"
            yield (
                f"table_{table}",
                key,
                SubmissionState(
                    id=name,
                    asset=f"table_{table}",
                    provider=shape.identity,
                    endpoint="/v1/chat/completions",
                    model="gpt-4o-mini",
                    completion_window="24h",
                    fingerprint="f" * 64,
                    parts=dict.fromkeys(("provider", "endpoint", "model", "prompt", "parameters"), "f" * 64),
                    created_at=now,
                    rows=shape.batches,
                    sealed=shape.batches,
                    requests=shape.batches,
                    max_rounds=1,
                    partitions=(PartitionRows(key=key, start=0, rows=shape.batches, digest="d" * 64),),
                    batches=batches,
                    run_id="r" * 36,
                ),
            )


def _fill_store(
    resource: OpenAIBatchResource, states: list[tuple[str, str | None, SubmissionState]], shown: list[dict[str, Any]]
) -> None:
    """Commit what a submission run commits: sealed, uploaded, about to create, created; then open all at once."""
    remotes = iter(shown)
    opened: dict[str, list[PartitionState]] = {}
    for asset, key, sealed in states:
        files = TableFiles(resource.store, asset).submission(sealed.id)
        resource.store.write(files.rows(0), b"rows")
        uploaded, intended, running = [], [], []
        for batch in sealed.batches:
            remote = next(remotes)
            resource.store.write(files.asked(0, f"{batch.number:08x}"), b"asked")
            up = msgspec.structs.replace(batch, attempt=1, file_id=remote["input_file_id"], file_created_at=1.0)
            uploaded.append(up)
            intended.append(msgspec.structs.replace(up, intent=Intent(writer="w", at=1.0)))
            seen = {"created_at": float(remote["created_at"]), "seen_at": time.time()}
            running.append(msgspec.structs.replace(up, batch_id=remote["id"], status=BatchStatus.IN_PROGRESS, **seen))
        version = files.log.commit(None, sealed)
        for batches in (uploaded, intended, running):
            version = files.log.commit(version, msgspec.structs.replace(sealed, batches=tuple(batches)))
        opened.setdefault(asset, []).append(PartitionState(key=key, submission=sealed.id, digest="d" * 64))
    for asset, partitions in opened.items():
        owner = Owner(asset=asset, submission_asset=f"{asset}_submission")
        TableFiles(resource.store, asset).log.commit(None, TableState(owner=owner, partitions=tuple(partitions)))


def _tick(defs: dg.Definitions, instance: dg.DagsterInstance, resource: OpenAIBatchResource, counts: Counts) -> Any:
    """One tick, measured."""
    with dg.build_sensor_context(
        instance=instance,
        instance_ref=instance.get_ref(),
        definitions=defs,
        resources={"openai_batch": resource},
    ) as context:
        _ = context.repository_def
        sensor = defs.resolve_sensor_def("openai_batch_sensor")
        counts.reset()
        wall, cpu = time.perf_counter(), time.process_time()
        result = sensor.evaluate_tick(context)
        return {
            "wall_s": round(time.perf_counter() - wall, 3),
            "cpu_s": round(time.process_time() - cpu, 3),
            "provider_calls": dict(counts.provider),
            "store_calls": dict(counts.store),
            "said": (result.skip_message or f"{len(result.run_requests or ())} run requests")[:160],
        }


def _measure(shape: argparse.Namespace, folder: Path, root: str, options: dict[str, str]) -> dict[str, Any]:
    server_folder = folder / "server"
    shape.identity = ""
    keys = [f"{state.id}/{batch.number}/1" for _, _, state in _states(shape) for batch in state.batches]
    shown = _fill_server(server_folder, keys)
    address = ensure_server(server_folder, seconds=_LONG)
    try:
        given = {"api_key": address.api_key, "base_url": address.base_url, "root": root, "store_options": options}
        resource = OpenAIBatchResource(**given)
        shape.identity = resource.get_provider().identity
        with patch.object(os, "fsync", lambda _: None):  # only while the store is filled
            _fill_store(resource, list(_states(shape)), shown)
        each = shape.open // shape.tables
        names = [f"p{number:05d}" for number in range(each)]
        defs = dg.Definitions(
            assets=[asset for number in range(shape.tables) for asset in _asset(number, names)],
            sensors=[build_batch_sensor()],
            resources={"openai_batch": resource},
        )
        counts = Counts(folder / "store")
        with dg.DagsterInstance.local_temp(str(folder / "dagster")) as instance, counts.counting():
            ticks = []
            for _ in range(shape.ticks):
                # each tick has a resource of its own, as Dagster makes one
                fresh = OpenAIBatchResource(**given)
                if shape.profile and len(ticks) == shape.ticks - 1:
                    import cProfile

                    profile = cProfile.Profile()
                    ticks.append(profile.runcall(_tick, defs, instance, fresh, counts))
                    profile.dump_stats(shape.profile)
                else:
                    ticks.append(_tick(defs, instance, fresh, counts))
            commit = _commit(resource, next(_states(shape)))
    finally:
        stop_server(server_folder)
    return {
        "open": shape.open,
        "tables": shape.tables,
        "batches_each": shape.batches,
        "instance": "DagsterInstance.local_temp (SQLite on disk)",
        "ticks": ticks,
        "load_and_commit_s": commit,
    }


def _commit(resource: OpenAIBatchResource, one: tuple[str, str | None, SubmissionState]) -> float:
    """Seconds to load the first submission's log and commit one change of one batch, the best of five."""
    asset, _, state = one
    files = TableFiles(resource.store, asset).submission(state.id)
    best = float("inf")
    for completed in range(1, 6):
        began = time.perf_counter()
        files.change(
            lambda newest, completed=completed: {0: msgspec.structs.replace(newest.batches[0], completed=completed)}
        )
        best = min(best, time.perf_counter() - began)
    return round(best, 4)


def main() -> None:
    """Measure one shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--open", type=int, default=1000, help="open submissions")
    parser.add_argument("--tables", type=int, default=1, help="tables over which they are spread")
    parser.add_argument("--batches", type=int, default=1, help="batches of each submission")
    parser.add_argument("--ticks", type=int, default=3, help="ticks to measure; the first is cold")
    parser.add_argument("--s3", action="store_true", help="an S3 on this machine instead of a folder (needs moto)")
    parser.add_argument("--profile", help="write a cProfile of the last tick here")
    shape = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ticks-")))
        (folder / "dagster").mkdir()
        root, options = str(folder / "store"), {}
        if shape.s3:
            from tests.integration.s3 import BUCKET, moto
            from tests.integration.s3 import options as s3_options

            options = s3_options(stack.enter_context(moto()))
            root = f"s3://{BUCKET}/root"
        print(json.dumps(_measure(shape, folder, root, options), indent=1))


if __name__ == "__main__":
    main()
