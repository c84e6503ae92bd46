"""What became of creates whose writer never reported back: a batch nobody knows of, or none."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from ractobatch_dagster.errors import ProviderError
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.looking import scan, suspects
from ractobatch_dagster.submission.plan import after_look, batch_key, requeued
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["resolve"]


def resolve(
    provider: Provider,
    files: SubmissionFiles,
    state: SubmissionState,
    numbers: Collection[int],
    now: Callable[[], float],
    log: Callable[[str], None],
    enough: Callable[[], bool] = lambda: False,
) -> SubmissionState:
    """Find the batches whose create was never reported back; plan anew those that surely do not exist.

    The input file is the fencing token. The first look deletes it, so that a create which arrives later is
    refused for want of its file; the second, once the provider's list has had time to show what was created
    before, proves that there is none.

    Raises:
        ProviderError: Nobody knows. Nothing is sent again before somebody does.
    """
    unsure = [batch for batch in state.batches if batch.number in numbers]
    keys = {batch.number: batch_key(state.id, batch.number, batch.attempt) for batch in unsure}
    ages = {str(batch.file_id): batch.file_created_at for batch in unsure}
    found = scan(provider, set(keys.values()), ages, enough, suspects(state, unsure, files.store))
    known: dict[int, BatchState] = {}
    for batch in unsure:
        remote = found.get(keys[batch.number]) or found.get(str(batch.file_id))
        if remote is not None:
            known[batch.number] = after_look(batch, remote, now())
            log(f"batch {batch.number}, whose create was interrupted, is {remote.id}")
        elif batch.intent is not None and batch.intent.fenced_at is None:
            _fence(provider, batch, log)
            known[batch.number] = msgspec.structs.replace(
                batch, intent=msgspec.structs.replace(batch.intent, fenced_at=now())
            )
            log(f"batch {batch.number}, whose create was interrupted, is not there; looking again soon")
        else:
            known[batch.number] = requeued(batch)
            log(f"batch {batch.number}, whose create was interrupted, was never created: it is sent now")

    def record(newest: SubmissionState) -> dict[int, BatchState]:
        before = {batch.number: batch for batch in unsure}
        return {
            batch.number: known[batch.number]
            for batch in newest.batches
            if batch.number in known and batch.intent == before[batch.number].intent
        }

    return files.change(record)


def _fence(provider: Provider, batch: BatchState, log: Callable[[str], None]) -> None:
    """Delete the input file, so that no create of this attempt can succeed any more."""
    try:
        provider.delete_file(str(batch.file_id))
    except ProviderError as error:
        if not error.unsupported:
            raise
        log(f"the provider does not delete {batch.file_id} ({error}); relying on its list alone")
