"""Input files at the provider: one for each attempt at creating a batch, and none that is left over."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Callable, Collection, Mapping
from itertools import takewhile
from pathlib import Path

import msgspec

from ractobatch_dagster.errors import ProviderAuthError, ProviderError
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import UploadedFile
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.lines import read_encoder, write_input
from ractobatch_dagster.submission.parallel import Workers
from ractobatch_dagster.submission.plan import COMMIT_EVERY, turned_away
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["file_name", "tidy", "upload"]

_PREFIX = "ractobatch-"


def file_name(submission: str, number: int, attempt: int) -> str:
    """A name for one upload of one attempt's input file: an upload whose reply was lost is found again by it.

    No two are the same: runs that upload the same batch at once must not take each other's file for their own.
    """
    return f"{_PREFIX}{submission}-{number:05d}-{attempt}-{secrets.token_hex(4)}.jsonl"


def upload(
    provider: Provider,
    files: SubmissionFiles,
    state: SubmissionState,
    numbers: Collection[int],
    now: Callable[[], float],
    log: Callable[[str], None],
    enough: Callable[[], bool],
    problems: list[ProviderError],
    workers: Workers,
) -> SubmissionState:
    """Make these batches' input files, upload them and record their ids.

    One that is refused is told, and the others go on.
    """
    uploaded: dict[int, UploadedFile] = {}
    refused: dict[int, BatchState] = {}
    before = {batch.number: batch for batch in state.batches if batch.number in numbers}
    since, stopped = now(), False
    encoder = read_encoder(files)

    def send(batch: BatchState) -> UploadedFile:
        with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
            path = Path(folder) / "input.jsonl"
            workers.apart(write_input, files, batch, encoder, path)
            with path.open("rb") as source:
                return provider.upload(source, file_name(state.id, batch.number, batch.attempt + 1))

    wanted = takewhile(lambda _: not stopped and not enough(), before.values())
    try:
        for batch, result in workers.each(send, wanted):
            if isinstance(result, ProviderError):
                problems.append(result)
                if not result.refused or isinstance(result, ProviderAuthError):
                    stopped = True  # what is under way by now is still recorded
                else:
                    refused[batch.number] = turned_away(batch, now(), result.retry_after)
                continue
            uploaded[batch.number] = result
            log(f"uploaded batch {batch.number}: {batch.requests:,} requests, {batch.size / 1e6:.1f} MB")
            if now() - since > COMMIT_EVERY:
                done, uploaded, since = uploaded, {}, now()
                _record(provider, files, done)
    finally:
        state = _record(provider, files, uploaded)
    if refused:
        state = files.change(
            lambda newest: {
                b.number: refused[b.number] for b in newest.batches if b.number in refused and b == before[b.number]
            }
        )
    return state


def _record(provider: Provider, files: SubmissionFiles, uploaded: Mapping[int, UploadedFile]) -> SubmissionState:
    """Of two that upload the same batch the first to record wins; the other's file goes."""

    def record(state: SubmissionState) -> dict[int, BatchState]:
        return {
            batch.number: msgspec.structs.replace(
                batch, file_id=file.id, file_created_at=file.created_at, attempt=batch.attempt + 1
            )
            for batch in state.batches
            if batch.stage == "planned" and (file := uploaded.get(batch.number))
        }

    state = files.change(record)
    for batch in state.batches:
        file = uploaded.get(batch.number)
        if file is not None and file.id != batch.file_id:
            provider.delete_file(file.id)
    return state


def tidy(provider: Provider, state: SubmissionState, log: Callable[[str], None]) -> None:
    """Delete input files that no batch was made from: of interrupted uploads, and of batches never created."""
    used = {batch.file_id for batch in state.batches if batch.batch_id}
    try:
        for file in provider.find_files(f"{_PREFIX}{state.id}-"):
            if file.id not in used:
                provider.delete_file(file.id)
                log(f"deleted {file.name}, an input file that no batch was made from")
    except ProviderError as error:
        log(f"input files that no batch was made from, if there are any, stay at the provider: {error}")
