"""Creates batches: intent, budget and quota, create, record. A crash between the commits is healed by `resolve`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec

from ractobatch_dagster.errors import ProviderAuthError, ProviderError, QueueFullError, RactobatchError
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.provider.translate import misses_file
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.budget import Purse, Stop
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.looking import scan, suspects
from ractobatch_dagster.submission.plan import (
    COMMIT_EVERY,
    KEY,
    WAVE,
    after_look,
    batch_key,
    requeued,
    seen,
    strays,
    turned_away,
)
from ractobatch_dagster.submission.quota import Quota
from ractobatch_dagster.submission.state import BatchState, Intent, SubmissionState
from ractobatch_dagster.submission.writers import new_writer

__all__ = ["Creator", "take_in"]

Changes = dict[int, BatchState]


class Creator:
    """Creates the batches of one provider's submissions.

    Args:
        provider: Whom to ask.
        purse: What batches may cost.
        quota: How many tokens may be enqueued.
        metadata: Pairs put into each batch's metadata beside ours, where the provider takes metadata.
        now: Seconds since 1970, by the store's clock.
        log: Told what is happening, one line each.
        enough: Whether to stop here, asked before each batch.
        largest: How many bytes a create may send, where it sends the requests themselves.
    """

    def __init__(
        self,
        provider: Provider,
        purse: Purse,
        quota: Quota,
        *,
        metadata: Mapping[str, str],
        now: Callable[[], float],
        log: Callable[[str], None],
        enough: Callable[[], bool],
        largest: float,
    ) -> None:
        self._provider = provider
        self._purse = purse
        self._quota = quota
        self._metadata = dict(metadata)
        self._now = now
        self._log = log
        self._enough = enough
        self._largest = largest
        self._writer = new_writer()

    def create(
        self, files: SubmissionFiles, state: SubmissionState, numbers: Sequence[int], problems: list[ProviderError]
    ) -> SubmissionState:
        """Create a wave of these batches, as many as budgets and quota admit; what fails is added to `problems`."""
        now = self._now()
        intent = Intent(writer=self._writer, at=now)
        here = {batch.number for batch in state.batches if not self._is_too_large(batch)}
        fitting, queued = self._quota.fitting(state, [number for number in numbers if number in here], WAVE)
        wanted, stop = self._purse.fitting(state, fitting)
        state = self._waiting(files, state, stop, queued)
        if not wanted:
            return state

        def intend(state: SubmissionState) -> Changes:
            return {
                batch.number: msgspec.structs.replace(batch, intent=intent)
                for batch in state.batches
                if batch.number in wanted and batch.stage == "uploaded" and batch.not_before <= now
                if not state.cancelled
            }

        state = files.change(intend)
        mine = [batch for batch in state.batches if batch.intent == intent]
        try:
            held = self._purse.reserve(files)
            queued = "" if held else self._quota.reserve(files, len(mine))
        except RactobatchError:
            self._withdrawn(files, mine)
            raise
        if held or queued:
            self._waiting(files, state, Stop(held) if held else _stop(state), queued or state.queued)
            return self._withdrawn(files, mine)
        return self._each(files, state, mine, problems)

    def _withdrawn(self, files: SubmissionFiles, mine: Sequence[BatchState]) -> SubmissionState:
        """Take back the intent to create these, of which none was created."""
        return self._record(files, {b.number: msgspec.structs.replace(b, intent=None) for b in mine}, (), 0.0)

    def _is_too_large(self, batch: BatchState) -> bool:
        """Whether creating it sends more than there is time for: where there are no input files, it sends them all."""
        return self._provider.profile.sends_to_create and batch.size > self._largest

    def _waiting(self, files: SubmissionFiles, state: SubmissionState, stop: Stop, queued: str) -> SubmissionState:
        """Say what keeps batches from being created, where that is something else than before."""
        if (stop, queued) == (_stop(state), state.queued):
            return state
        for what, before, why in (("budget", state.held, stop.why), ("quota", state.queued, queued)):
            if why != before:
                self._log(f"waiting for the {what}: {why}" if why else f"the {what} admits batches again")
        return files.replace(lambda _: {"held": stop.why, "held_for_good": stop.for_good, "queued": queued})

    def _each(
        self, files: SubmissionFiles, state: SubmissionState, mine: Sequence[BatchState], problems: list[ProviderError]
    ) -> SubmissionState:
        """Create those that we intend, one after the other, and write down what came of it."""
        began = self._now()
        done: Changes = {}
        created: list[RemoteBatch] = []
        paused = 0.0
        try:
            for batch in mine:
                if self._enough() or self._now() - began > COMMIT_EVERY:
                    break
                # whatever stops this loop, the batches it did not reach were certainly not created
                done[batch.number] = _given_up(batch)
                try:
                    created.append(self._create_one(state, batch, done, files.store))
                except QueueFullError as error:
                    self._quota.learn(batch.model or state.model, str(error), state)
                    paused = done[batch.number].not_before
                    self._log(f"batch {batch.number}: the provider's queue is full, trying again later ({error})")
                    break
                except ProviderError as error:
                    problems.append(error)
                    if not error.refused or isinstance(error, ProviderAuthError):
                        break  # it is not the batch's fault, and others would fail as well
        finally:
            unreached = {b.number: msgspec.structs.replace(b, intent=None) for b in mine if b.number not in done}
            state = self._record(files, {**unreached, **done}, created, paused)
        return state

    def _create_one(self, state: SubmissionState, batch: BatchState, done: Changes, store: Store) -> RemoteBatch:
        """Create one batch and put into `done` what is known of it afterwards, also where this fails."""
        try:
            remote = self._provider.create(
                input_file_id=str(batch.file_id),
                endpoint=state.endpoint,
                completion_window=state.completion_window,
                metadata=self._our_metadata(state, batch) if self._provider.profile.supports_metadata else None,
            )
        except ProviderError as error:
            waiting = turned_away(batch, self._now(), error.retry_after)
            if misses_file(error):
                done[batch.number] = requeued(waiting, waiting.not_before)
            elif error.refused:  # certainly not created
                done[batch.number] = waiting
            elif there := self._sought(state, batch, store):
                done[batch.number] = after_look(batch, there, self._now())
                return there
            raise
        done[batch.number] = seen(batch, remote, self._now())
        self._log(f"created batch {batch.number} of {len(state.batches)}: {remote.id}, {batch.requests:,} requests")
        return remote

    def _sought(self, state: SubmissionState, batch: BatchState, store: Store) -> RemoteBatch | None:
        """A batch whose create had no clear reply, if it can be seen already; if not, that proves nothing yet."""
        key = batch_key(state.id, batch.number, batch.attempt)
        try:
            ages = {str(batch.file_id): batch.file_created_at}
            found = scan(self._provider, [key], ages, self._enough, suspects(state, [batch], store))
        except ProviderError:
            return None  # the caller raises the create's own error
        return found.get(key) or found.get(str(batch.file_id))

    def _record(
        self, files: SubmissionFiles, known: Changes, created: Iterable[RemoteBatch], paused: float
    ) -> SubmissionState:
        """Commit what became of our own creates.

        Only over our own intents: whatever else stands there is newer than what we know. A batch of ours for
        which there is no place any more is one too many. A full queue is full for all until `paused`.
        """

        def record(state: SubmissionState) -> Changes:
            changes: Changes = {}
            for batch in state.batches:
                after = batch
                if batch.number in known and batch.intent and batch.intent.writer == self._writer:
                    after = _recorded(batch, known[batch.number])
                if after.stage == "uploaded":
                    after = msgspec.structs.replace(after, not_before=max(after.not_before, paused))
                changes[batch.number] = after
            return changes

        return take_in(self._provider, files, files.change(record), created, self._now(), self._log)

    def _our_metadata(self, state: SubmissionState, batch: BatchState) -> dict[str, str]:
        return {
            **self._metadata,
            KEY: batch_key(state.id, batch.number, batch.attempt),
            "ractobatch_asset": state.asset[:512],
            "ractobatch_batch": f"{batch.number + 1} of {len(state.batches)}",
            "ractobatch_fingerprint": state.fingerprint,
            **({"dagster_run_id": state.run_id} if state.run_id else {}),
        }


def take_in(
    provider: Provider,
    files: SubmissionFiles,
    state: SubmissionState,
    others: Iterable[RemoteBatch],
    now: float,
    log: Callable[[str], None],
) -> SubmissionState:
    """Take in batches of ours that nobody recorded; cancel those that are one too many."""
    others = tuple(others)

    def adopt(newest: SubmissionState) -> Changes:
        adopted, _ = strays(newest, others)
        return {b.number: after_look(b, adopted[b.number], now) for b in newest.batches if b.number in adopted}

    adopted, surplus = strays(state, others)
    if adopted:
        log(f"found batches that nobody had recorded: {', '.join(one.id for one in adopted.values())}")
        state = files.change(adopt)
    for remote in surplus:
        provider.cancel(remote.id)
        log(f"cancelled {remote.id}: it was created beside the batch that is known")
    if surplus:
        state = files.replace(lambda newest: {"strays": newest.strays + len(surplus)})
    return state


def _stop(state: SubmissionState) -> Stop:
    return Stop(state.held, state.held_for_good)


def _given_up(batch: BatchState) -> BatchState:
    """A batch whose create will not be reported."""
    given_up = batch.intent and msgspec.structs.replace(batch.intent, given_up=True)
    return msgspec.structs.replace(batch, intent=given_up)


def _recorded(newest: BatchState, known: BatchState) -> BatchState:
    """A batch that is still our intent, with what came of it. Somebody may have fenced it off meanwhile."""
    if newest.attempt != known.attempt:
        return newest
    if newest.intent is None or newest.intent.fenced_at is None:
        return known
    if known.batch_id:
        return msgspec.structs.replace(known, fenced=True)
    return newest if known.stage == "creating" else requeued(known, known.not_before)
