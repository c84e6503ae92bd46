"""Does the steps that `plan` decides, and records what happened. The only place where a submission meets the world."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property

import msgspec

from ractobatch_dagster.errors import (
    ConfigurationError,
    ProviderError,
    ProviderNotFoundError,
)
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.absorbing import absorb
from ractobatch_dagster.submission.budget import Limit, Purse
from ractobatch_dagster.submission.collecting import collect
from ractobatch_dagster.submission.creating import Creator, take_in
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.looking import Looked, look
from ractobatch_dagster.submission.parallel import Workers
from ractobatch_dagster.submission.plan import (
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
    plan,
    requeued,
)
from ractobatch_dagster.submission.quota import Quota
from ractobatch_dagster.submission.resolving import resolve
from ractobatch_dagster.submission.rounds import settle
from ractobatch_dagster.submission.state import BatchState, SubmissionState
from ractobatch_dagster.submission.uploading import tidy, upload
from ractobatch_dagster.submission.validating import Validator
from ractobatch_dagster.submission.writers import is_dead

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
        enqueued: How many input tokens of a model the provider takes into its queue, by model; where not given, a
            refusal tells.
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
        enqueued: Mapping[str, int] | None = None,
    ) -> None:
        self._store = store
        self._enqueued = dict(enqueued or {})
        self._purse = Purse(store, budgets, now)
        self._provider = provider
        self._limits = limits
        self._metadata = dict(metadata or {})
        self._now = now
        self._log = log
        self._enough = enough
        self._largest_upload = largest_upload
        self._workers = workers or Workers()

    @cached_property
    def _quota(self) -> Quota:
        hourly = self._provider.profile.batches_per_hour
        return Quota(self._store, self.identity, self._enqueued, hourly, self._now)

    @cached_property
    def _creator(self) -> Creator:
        return Creator(self._provider, self._purse, self._quota, metadata=self._metadata,
                       now=self._now, log=self._log, enough=self._enough, largest=self._largest_upload)  # fmt: skip

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
                        state = absorb(files, state, self._limits, self._log, self.advance, steps, validate)
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
        self._quota.settle(began, state, files)
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
            return self._creator.create(files, state, step.batches, problems)
        if isinstance(step, Poll):
            return self._poll(files, state, step, looked, problems)
        if isinstance(step, Collect):
            judge = validate if state.repairs else None
            return collect(provider, files, state, set(step.batches), log, now, problems, self._workers, judge)
        return self._cancel(files, state, step, problems) if isinstance(step, Cancel) else state

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
        for batch in state.batches:
            remote = found.get(batch.batch_id or "") if batch.stage == "running" else None
            for issue in remote.issues if remote else ():
                self._quota.learn(batch.model or state.model, issue.message, state)

        def watch(newest: SubmissionState) -> Changes:
            return {
                batch.number: after_look(batch, found[batch.batch_id], now)
                for batch in newest.batches
                if batch.stage == "running" and batch.batch_id is not None and batch.batch_id in found
            }

        state = files.change(watch, known=state)
        return take_in(self._provider, files, state, looked.others, now, self._log)

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


def _abandoned(batch: BatchState) -> BatchState:
    if batch.intent is not None:  # it may have been created, and be billed
        return msgspec.structs.replace(requeued(batch), intended_at=batch.intent.at)
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
