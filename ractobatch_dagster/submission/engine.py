"""Does the steps that `plan` decides, and records what happened. The only place where a submission meets the world."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from ractobatch_dagster.errors import (
    ConfigurationError,
    ProviderAuthError,
    ProviderError,
    ProviderNotFoundError,
    QueueFullError,
)
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.provider.translate import misses_file
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.absorbing import absorb
from ractobatch_dagster.submission.budget import Limit, Purse
from ractobatch_dagster.submission.collecting import Validator, collect
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.looking import Looked, look, scan
from ractobatch_dagster.submission.parallel import Workers
from ractobatch_dagster.submission.plan import (
    COMMIT_EVERY,
    KEY,
    Absorb,
    Cancel,
    Collect,
    Create,
    Poll,
    Resolve,
    Settle,
    Step,
    Upload,
    after_look,
    batch_key,
    plan,
    requeued,
    seen,
    strays,
    turned_away,
)
from ractobatch_dagster.submission.resolving import resolve
from ractobatch_dagster.submission.rounds import settle
from ractobatch_dagster.submission.state import BatchState, Intent, SubmissionState
from ractobatch_dagster.submission.uploading import tidy, upload
from ractobatch_dagster.submission.writers import is_dead, new_writer

__all__ = ["HEAVY", "LIGHT", "SUBMIT", "Engine"]

SUBMIT: frozenset[type] = frozenset({Absorb, Resolve, Upload, Create, Cancel})
"""What a submission run does."""

LIGHT: frozenset[type] = SUBMIT | {Poll}
"""Steps that download nothing: what a sensor tick does."""

HEAVY: frozenset[type] = LIGHT | {Collect, Settle}
"""All steps: what a table run does."""

# a round that was settled, or a submission that was absorbed, may have left batches to create
_ORDER = (Absorb, Resolve, Upload, Create, Cancel, Poll, Collect, Settle, Upload, Create)

Changes = dict[int, BatchState]


class Engine:
    """Drives submissions of one provider.

    Args:
        store: Where the submissions are.
        provider: Whom to send them to.
        limits: How the next round's files are cut.
        metadata: Pairs put into each batch's metadata beside ours, where the provider takes metadata.
        now: The clock, in seconds since 1970; the store's own, so that all machines agree.
        log: Told what is happening, one line each.
        enough: Whether to stop here, asked before each batch and page; what is left is for the next time.
        largest_upload: Input files of more bytes are left for somebody with more time.
        workers: How many transfers, and processes, are under way at a time; one after the other where not given.
        budgets: What batches may cost.
    """

    def __init__(
        self,
        store: Store,
        provider: Provider,
        *,
        limits: Limits,
        metadata: Mapping[str, str] | None = None,
        now: Callable[[], float] = time.time,
        log: Callable[[str], None] = lambda _: None,
        enough: Callable[[], bool] = lambda: False,
        largest_upload: float = float("inf"),
        workers: Workers | None = None,
        budgets: Sequence[Limit] = (),
    ) -> None:
        self._store = store
        self._purse = Purse(store, budgets, now)
        self._provider = provider
        self._limits = limits
        self._metadata = dict(metadata or {})
        self._now = now
        self._log = log
        self._enough = enough
        self._largest_upload = largest_upload
        self._workers = workers or Workers()
        self._writer = new_writer()

    @property
    def identity(self) -> str:
        """Whose batches it steps: kind and address of the provider."""
        return self._provider.identity

    def advance(
        self,
        files: SubmissionFiles,
        *,
        steps: Collection[type] = HEAVY,
        looked: Looked | None = None,
        validate: Validator | None = None,
        batches: Collection[int] | None = None,
    ) -> SubmissionState:
        """Do every step of the given kinds that makes sense now, once.

        Args:
            files: The submission.
            steps: Which kinds of steps to do: `SUBMIT`, `LIGHT` or `HEAVY`.
            looked: What a look at the provider brought, instead of looking again.
            validate: Says what is wrong with an answer, or `None`; needed for repairs.
            batches: Of which batches to upload or collect; all where not given.

        Raises:
            ProviderError: A step failed; all others were done and recorded, and calling again goes on.
            ConfigurationError: The submission was sent to another provider.
            StoreError: The state could not be read or written.
        """
        state = began = self._released(files, self._ours(files))
        problems: list[ProviderError] = []
        for kind in _ORDER:
            going = kind in steps
            while going and (step := self._next(state, kind)):
                before, known = state, len(problems)
                if batches is not None and isinstance(step, Upload | Collect):
                    step = type(step)(tuple(number for number in step.batches if number in batches))
                try:
                    if isinstance(step, Absorb):
                        state = absorb(files, state, self._limits, self._log, self.advance, steps)
                    elif isinstance(step, Settle):
                        state = settle(files, state, self._limits, self._log)
                        if state.collected:
                            tidy(self._provider, state, self._log)
                    else:
                        state = self._talk(files, state, step, looked, problems, validate)
                except ProviderError as error:
                    problems.append(error)
                    state = files.state()
                # creates go wave after wave for as long as they succeed
                going = kind is Create and state != before and len(problems) == known
        self._purse.settle(began, state, files)
        if problems:
            raise _summed_up(problems)
        return state

    def _ours(self, files: SubmissionFiles) -> SubmissionState:
        """The submission, if it is this provider's: elsewhere its batches are neither found nor cancelled."""
        state = files.state()
        if state.provider != self.identity and not state.collected:
            raise ConfigurationError(
                f"Submission {state.id} was sent to {state.provider}, and this is {self.identity}. Nothing was done; "
                "lead the resource, or the command, back to where it was sent."
            )
        return state

    def _released(self, files: SubmissionFiles, state: SubmissionState) -> SubmissionState:
        """Where a writer's process is known to be gone, nobody waits for it to report back."""
        dead = {b.intent for b in state.batches if b.intent and not b.intent.given_up and is_dead(b.intent.writer)}
        if not dead:
            return state
        return files.change(
            lambda newest: {
                b.number: msgspec.structs.replace(b, intent=msgspec.structs.replace(b.intent, given_up=True))
                for b in newest.batches
                if b.intent in dead
            }
        )

    def _next(self, state: SubmissionState, kind: type) -> Step | None:
        lag = self._provider.profile.list_lag
        return next((step for step in plan(state, self._now(), list_lag=lag) if isinstance(step, kind)), None)

    def _talk(
        self,
        files: SubmissionFiles,
        state: SubmissionState,
        step: Step,
        looked: Looked | None,
        problems: list[ProviderError],
        validate: Validator | None,
    ) -> SubmissionState:
        """Do a step that is a talk with the provider."""
        provider, now, log = self._provider, self._now, self._log
        if isinstance(step, Resolve):
            return resolve(provider, files, state, step.batches, now, log, self._enough)
        if isinstance(step, Upload):
            wanted = set(step.batches)
            small = {b.number for b in state.batches if b.number in wanted and b.size <= self._largest_upload}
            if not small:
                return state
            return upload(provider, files, state, small, now, log, self._enough, problems, self._workers)
        if isinstance(step, Create):
            return self._create(files, state, step, problems)
        if isinstance(step, Poll):
            return self._poll(files, state, step, looked, problems)
        if isinstance(step, Collect):
            judge = validate if state.repairs else None
            return collect(provider, files, state, set(step.batches), log, now, problems, self._workers, judge)
        return self._cancel(files, state, step, problems) if isinstance(step, Cancel) else state

    # -- creating -------------------------------------------------------------------------------

    def _create(
        self, files: SubmissionFiles, state: SubmissionState, step: Create, problems: list[ProviderError]
    ) -> SubmissionState:
        """Intent, budget, create, record. A crash between the commits is healed by `resolve`."""
        now = self._now()
        intent = Intent(writer=self._writer, at=now)
        wanted, held = self._purse.fitting(state, step.batches)
        if held != state.held:
            state = files.replace(lambda _: {"held": held})
            self._log(f"waiting for the budget: {held}" if held else "the budget admits batches again")
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
        if held := self._purse.reserve(files):
            self._log(f"waiting for the budget: {held}")
            files.replace(lambda _: {"held": held})
            return self._record(files, {b.number: msgspec.structs.replace(b, intent=None) for b in mine}, (), 0.0)
        done: Changes = {}
        created: list[RemoteBatch] = []
        paused = 0.0
        try:
            for batch in mine:
                if self._enough() or self._now() - now > COMMIT_EVERY:
                    break
                # whatever stops this loop, the batches it did not reach were certainly not created
                done[batch.number] = msgspec.structs.replace(
                    batch, intent=msgspec.structs.replace(intent, given_up=True)
                )
                try:
                    created.append(self._create_one(state, batch, done))
                except QueueFullError as error:
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

    def _create_one(self, state: SubmissionState, batch: BatchState, done: Changes) -> RemoteBatch:
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
            elif there := self._sought(state, batch):
                done[batch.number] = after_look(batch, there, self._now())
                return there
            raise
        done[batch.number] = seen(batch, remote, self._now())
        self._log(f"created batch {batch.number} of {len(state.batches)}: {remote.id}, {batch.requests:,} requests")
        return remote

    def _sought(self, state: SubmissionState, batch: BatchState) -> RemoteBatch | None:
        """A batch whose create had no clear reply, if it can be seen already; if not, that proves nothing yet."""
        key = batch_key(state.id, batch.number, batch.attempt)
        try:
            found = scan(self._provider, [key], {str(batch.file_id): batch.file_created_at}, self._enough)
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

        return self._strays(files, files.change(record), created)

    def _our_metadata(self, state: SubmissionState, batch: BatchState) -> dict[str, str]:
        return {
            **self._metadata,
            KEY: batch_key(state.id, batch.number, batch.attempt),
            "ractobatch_asset": state.asset[:512],
            "ractobatch_batch": f"{batch.number + 1} of {len(state.batches)}",
            "ractobatch_fingerprint": state.fingerprint,
            **({"dagster_run_id": state.run_id} if state.run_id else {}),
        }

    # -- watching -------------------------------------------------------------------------------

    def _poll(
        self,
        files: SubmissionFiles,
        state: SubmissionState,
        step: Poll,
        looked: Looked | None,
        problems: list[ProviderError],
    ) -> SubmissionState:
        if looked is None:
            numbers = set(step.batches)
            wanted = {b.batch_id for b in state.batches if b.number in numbers and b.batch_id}
            looked = look(self._provider, wanted, enough=self._enough)
            problems.extend(looked.failed.values())
        found, now = looked.found, self._now()

        def watch(newest: SubmissionState) -> Changes:
            return {
                batch.number: after_look(batch, found[batch.batch_id], now)
                for batch in newest.batches
                if batch.stage == "running" and batch.batch_id is not None and batch.batch_id in found
            }

        return self._strays(files, files.change(watch, known=state), looked.others)

    def _strays(self, files: SubmissionFiles, state: SubmissionState, others: Iterable[RemoteBatch]) -> SubmissionState:
        """Take in batches of ours that nobody recorded; cancel those that are one too many."""
        others = tuple(others)
        now = self._now()

        def adopt(newest: SubmissionState) -> Changes:
            adopted, _ = strays(newest, others)
            return {b.number: after_look(b, adopted[b.number], now) for b in newest.batches if b.number in adopted}

        adopted, surplus = strays(state, others)
        if adopted:
            self._log(f"found batches that nobody had recorded: {', '.join(one.id for one in adopted.values())}")
            state = files.change(adopt)
        for remote in surplus:
            self._provider.cancel(remote.id)
            self._log(f"cancelled {remote.id}: it was created beside the batch that is known")
        if surplus:
            state = files.replace(lambda newest: {"strays": newest.strays + len(surplus)})
        return state

    # -- ending ---------------------------------------------------------------------------------

    def cancel(self, files: SubmissionFiles, *, abandon: bool = False) -> SubmissionState:
        """Create nothing more and cancel what runs. What was answered is still collected and lands.

        Args:
            files: The submission.
            abandon: Give up what does not end by itself: batches that may or may not have been created, that the
                provider does not know, or that were cancelled before and have still not ended. What they answer later
                is lost, and may be billed.
        """
        self._ours(files)
        before = files.replace(lambda _: {"cancelled": True})
        for predecessor in before.predecessors if abandon else ():
            self.cancel(files.sibling(predecessor), abandon=True)
        try:
            state = self.advance(files, steps={Absorb, Resolve, Cancel, Poll})
        except ProviderError:
            if not abandon:
                raise
            state = files.state()
        if not abandon:
            return state
        asked = {b.number for b in before.batches if b.status is BatchStatus.CANCELLING}
        lost = {
            b.number
            for b in state.batches
            if b.stage == "creating" or (b.stage in ("running", "ended") and (b.number in asked or self._is_unknown(b)))
        }
        if lost:
            self._log(f"submission {state.id}: giving up {len(lost)} batches that have not ended")
        return files.change(lambda newest: {b.number: _abandoned(b) for b in newest.batches if b.number in lost})

    def _is_unknown(self, batch: BatchState) -> bool:
        """Whether the provider does not know a batch that should run."""
        try:
            self._provider.retrieve(str(batch.batch_id))
        except ProviderNotFoundError:
            return True
        return False

    def discard(self, files: SubmissionFiles) -> None:
        """Delete what a submission uploaded that gave way before any batch of it was created."""
        tidy(self._provider, files.state(), self._log)

    def _cancel(
        self, files: SubmissionFiles, state: SubmissionState, step: Cancel, problems: list[ProviderError]
    ) -> SubmissionState:
        cancelled = Looked()
        numbers = set(step.batches)
        for batch in (one for one in state.batches if one.number in numbers):
            if batch.batch_id is None or self._enough():
                continue
            try:
                cancelled.found[batch.batch_id] = self._provider.cancel(batch.batch_id)
                self._log(f"cancelled batch {batch.number}: {batch.batch_id}")
            except ProviderError as error:
                problems.append(error)
        return self._poll(files, state, Poll(step.batches), cancelled, problems)


def _recorded(newest: BatchState, known: BatchState) -> BatchState:
    """A batch that is still our intent, with what came of it. Somebody may have fenced it off meanwhile."""
    if newest.attempt != known.attempt:
        return newest
    if newest.intent is None or newest.intent.fenced_at is None:
        return known
    if known.batch_id:
        return msgspec.structs.replace(known, fenced=True)
    return newest if known.stage == "creating" else requeued(known, known.not_before)


def _abandoned(batch: BatchState) -> BatchState:
    if batch.stage == "creating":
        return requeued(batch)
    if batch.stage == "running":
        return msgspec.structs.replace(batch, status=BatchStatus.CANCELLED, gone=True)
    if batch.stage == "ended":
        return msgspec.structs.replace(batch, gone=True)
    return batch


def _summed_up(problems: list[ProviderError]) -> ProviderError:
    first, *others = dict.fromkeys(problems)
    for other in others[:5]:
        first.add_note(f"and: {other}")
    return first
