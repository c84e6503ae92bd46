"""From ended batches to outcomes: download verbatim, decode, and either another round or the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.requests.cut import Cutter, Limits
from ractobatch_dagster.results.classify import Outcome, classify, no_line
from ractobatch_dagster.results.lines import BadLine, read_lines
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
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            size = provider.download(file_id, target.write)
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
    asked = dict.fromkeys(_custom_ids(files, batch))
    answered: dict[str, Outcome] = {}
    if batch.batch_id is not None and batch.status is not BatchStatus.FAILED:
        for line in read_lines(files.store.lines(files.responses(batch.number))):
            if isinstance(line, BadLine):
                anomalies["lines that are not JSON objects"] += 1
                continue
            outcome = classify(line)
            if outcome.custom_id not in asked:
                anomalies["lines for a custom_id that was not asked"] += 1
            elif outcome.custom_id not in answered:
                answered[outcome.custom_id] = outcome
            else:
                anomalies["further lines for the same custom_id"] += 1
                if answered[outcome.custom_id].status != "ok":
                    answered[outcome.custom_id] = outcome
    return {
        custom_id: (answered.get(custom_id) or _unanswered(custom_id, number, batch), batch.batch_id, batch.round)
        for number, custom_id in enumerate(asked, start=1)
    }


def _unanswered(custom_id: str, number: int, batch: BatchState) -> Outcome:
    """The outcome of a request without a line. A refused batch says which line was to blame."""
    if batch.batch_id is None:
        return no_line(custom_id, BatchStatus.CANCELLED)
    outcome = no_line(custom_id, batch.status or BatchStatus.COMPLETED)
    if batch.status is BatchStatus.FAILED:
        own = [issue for issue in batch.issues if issue.startswith(f"line {number}:")]
        general = [issue for issue in batch.issues if not issue.startswith("line ")]
        why = "; ".join(own or general or batch.issues[:3]) or "the provider gave no reason"
        outcome.status, outcome.retryable = "error", False
        outcome.error_code, outcome.error = "batch_failed", f"The provider refused the batch: {why}"
    return outcome


def _custom_ids(files: SubmissionFiles, batch: BatchState) -> Iterator[str]:
    for line in read_lines(files.store.lines(files.requests(batch.number))):
        if not isinstance(line, BadLine):
            yield line["custom_id"]


def _next_round(files: SubmissionFiles, state: SubmissionState, retry: set[str], limits: Limits) -> SubmissionState:
    """Write the input files of the next round and plan its batches."""
    round_, first = state.round + 1, len(state.batches)

    with Cutter(limits, lambda cut, path: files.store.write(files.requests(cut.number), path), first=first) as cutter:
        left = set(retry)
        for batch in state.batches:
            for line in _raw_lines(files, batch):
                custom_id = msgspec.json.decode(line, type=_Named).custom_id
                if custom_id in left:
                    left.discard(custom_id)
                    cutter.add(line, what=custom_id)
    planned = tuple(BatchState(number=c.number, round=round_, requests=c.requests, size=c.size) for c in cutter.files)

    def extend(newest: SubmissionState | None) -> SubmissionState | None:
        # another run may have planned this round already; its files hold the same requests
        if newest is None or newest.round != state.round or newest.collected:
            return newest
        return msgspec.structs.replace(newest, batches=(*newest.batches, *planned))

    return files.log.update(extend) or files.state()


class _Named(msgspec.Struct):
    custom_id: str


def _raw_lines(files: SubmissionFiles, batch: BatchState) -> Iterator[bytes]:
    """The lines as they were sent, line feed included."""
    rest = b""
    for chunk in files.store.lines(files.requests(batch.number)):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line + b"\n" for line in lines)
    if rest:
        yield rest + b"\n"
