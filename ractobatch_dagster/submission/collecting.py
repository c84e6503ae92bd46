"""From ended batches to outcomes: download verbatim, decode, and either another round or the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.requests.cut import Cutter, Limits
from ractobatch_dagster.results.classify import Outcome, no_line
from ractobatch_dagster.results.join import join_lines, refused
from ractobatch_dagster.results.lines import raw_lines, read_lines
from ractobatch_dagster.results.outcomes import outcomes_table
from ractobatch_dagster.submission.files import SubmissionFiles, write_parquet
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["download", "settle"]

Judged = tuple[Outcome, str | None, int]


def download(
    provider: Provider, files: SubmissionFiles, batch: BatchState, folder: Path, log: Callable[[str], None]
) -> None:
    """Store what an ended batch returned, output file and error file in one, byte for byte.

    Both exist in every terminal state: an expired batch's finished requests were paid for.
    """
    path = folder / f"{batch.number:05d}.part"
    with path.open("wb") as target:
        for file_id in batch.file_ids:
            size = provider.download(file_id, target)
            target.write(b"\n")  # a file without a last line feed must not run into the next one
            log(f"batch {batch.number}: downloaded {file_id}, {size / 1e6:.1f} MB")
    files.store.write(files.responses(batch.number), path)
    path.unlink()


def settle(
    files: SubmissionFiles, state: SubmissionState, limits: Limits, log: Callable[[str], None]
) -> SubmissionState:
    """Decode every response. Rows worth retrying go on as the next round; otherwise the outcomes are final."""
    anomalies: Counter[str] = Counter()
    judged: dict[str, Judged] = {}
    for batch in state.batches:
        judged.update(_judge(files, batch, anomalies))
    for what, count in anomalies.items():
        log(f"{count} {what} in the provider's files")

    retry = {custom_id for custom_id, (outcome, *_) in judged.items() if outcome.retryable}
    if retry and state.round < state.max_rounds and not state.cancelled:
        log(f"round {state.round + 1}: {len(retry):,} of {len(judged):,} requests failed in a way worth retrying")
        return _next_round(files, state, retry, limits)

    write_parquet(files.store, files.results, outcomes_table(judged.values()))

    def close(newest: SubmissionState | None) -> SubmissionState | None:
        return newest and msgspec.structs.replace(newest, collected=True, anomalies=dict(anomalies))

    return files.log.update(close) or files.state()


def _judge(files: SubmissionFiles, batch: BatchState, anomalies: Counter[str]) -> dict[str, Judged]:
    """One outcome for each request that the batch held, whatever the provider returned."""
    asked = _custom_ids(files, batch)
    if batch.batch_id is None:  # cancelled before it was created
        outcomes = {custom_id: no_line(custom_id, BatchStatus.CANCELLED) for custom_id in asked}
    elif batch.status is BatchStatus.FAILED and not batch.file_ids:
        outcomes = refused(asked, batch.issues)
    else:
        lines = read_lines(files.store.chunks(files.responses(batch.number)))
        outcomes, found = join_lines(asked, lines, batch.status or BatchStatus.COMPLETED)
        anomalies.update(found)
    return {custom_id: (outcome, batch.batch_id, batch.round) for custom_id, outcome in outcomes.items()}


def _custom_ids(files: SubmissionFiles, batch: BatchState) -> Iterator[str]:
    for line in raw_lines(files.store.chunks(files.requests(batch.number))):
        yield msgspec.json.decode(line, type=_Named).custom_id


def _next_round(files: SubmissionFiles, state: SubmissionState, retry: set[str], limits: Limits) -> SubmissionState:
    """Write the input files of the next round and plan its batches."""
    round_, first = state.round + 1, len(state.batches)

    with Cutter(limits, lambda cut, path: files.store.write(files.requests(cut.number), path), first=first) as cutter:
        left = set(retry)
        for batch in state.batches:
            for line in raw_lines(files.store.chunks(files.requests(batch.number))):
                custom_id = msgspec.json.decode(line, type=_Named).custom_id
                if custom_id in left:
                    left.discard(custom_id)
                    cutter.add(line + b"\n", what=custom_id)
    planned = tuple(BatchState(number=c.number, round=round_, requests=c.requests, size=c.size) for c in cutter.files)

    def extend(newest: SubmissionState | None) -> SubmissionState | None:
        # another run may have planned this round already; its files hold the same requests
        if newest is None or newest.round != state.round or newest.collected:
            return newest
        return msgspec.structs.replace(newest, batches=(*newest.batches, *planned))

    return files.log.update(extend) or files.state()


class _Named(msgspec.Struct):
    custom_id: str
