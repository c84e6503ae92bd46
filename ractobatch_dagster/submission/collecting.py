"""From ended batches to their answers in the store: output file and error file, byte for byte."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from ractobatch_dagster.errors import ProviderError, ProviderNotFoundError, StoreError
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.plan import COMMIT_EVERY
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["collect"]

_MAX_FAILURES = 3


def collect(
    provider: Provider,
    files: SubmissionFiles,
    state: SubmissionState,
    numbers: Collection[int],
    log: Callable[[str], None],
    now: Callable[[], float],
    problems: list[ProviderError],
) -> SubmissionState:
    """Store what these ended batches returned. One that fails is told in `problems` and stops no other.

    Both files exist in every terminal state: an expired batch's finished requests were paid for.
    """
    done: dict[int, BatchState] = {}
    failures, since = 0, now()
    try:
        with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
            for batch in (one for one in state.batches if one.number in numbers):
                try:
                    done[batch.number] = _download(provider, files, batch, Path(folder), log)
                except ProviderError as error:
                    problems.append(error)
                    failures += not error.refused  # what is refused is one file's trouble, the rest everybody's
                    if failures == _MAX_FAILURES:
                        break
                if now() - since > COMMIT_EVERY:
                    _record(files, done)
                    since = now()
    finally:
        state = _record(files, done)
    return state


def _record(files: SubmissionFiles, done: dict[int, BatchState]) -> SubmissionState:
    return files.change(
        lambda newest: {
            batch.number: done[batch.number]
            for batch in newest.batches
            if batch.number in done and batch.stage == "ended"
        }
    )


def _download(
    provider: Provider, files: SubmissionFiles, batch: BatchState, folder: Path, log: Callable[[str], None]
) -> BatchState:
    """The batch as collected. Its answers are complete on this disk before they go into the store in one piece."""
    if not batch.file_ids and batch.status is not BatchStatus.FAILED and batch.batch_id and not batch.gone:
        # an ended batch without any file is odd enough to ask once more
        batch = _with_files(batch, provider.retrieve(batch.batch_id))
    gone: list[str] = []
    path = folder / f"{batch.number:05d}.part"
    try:
        with path.open("wb") as target:
            for file_id in batch.file_ids:
                try:
                    size = provider.download(file_id, target)
                except ProviderNotFoundError:
                    if not batch.gone:
                        provider.retrieve(str(batch.batch_id))  # raises where the key is another than at submission
                    gone.append(file_id)
                    log(f"batch {batch.number}: {file_id} is no longer there; its rows count as missing")
                    continue
                target.write(b"\n")  # a file without a last line feed must not run into the next one
                log(f"batch {batch.number}: downloaded {file_id}, {size / 1e6:.1f} MB")
        if not gone or len(gone) < len(batch.file_ids):
            files.store.write(files.responses(batch.number), path)
    except OSError as error:
        raise StoreError(f"Could not write what batch {batch.batch_id} returned to {path}: {error}") from error
    finally:
        path.unlink(missing_ok=True)
    return msgspec.structs.replace(batch, collected=True, gone=batch.gone or bool(gone))


def _with_files(batch: BatchState, remote: RemoteBatch) -> BatchState:
    return msgspec.structs.replace(
        batch, output_file_id=remote.output_file_id, error_file_id=remote.error_file_id, issues=tuple(remote.issues)
    )
