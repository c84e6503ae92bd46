"""Does the steps that `plan` decides, and records what happened. The only place where a submission meets the world."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import msgspec

from ractobatch_dagster.errors import ProviderAPIError, ProviderError, ProviderNotFoundError, QueueFullError
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import Issue, RemoteBatch
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.collecting import download, settle
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.plan import Collect, Create, Poll, Resolve, Settle, Step, plan, requeued, seen
from ractobatch_dagster.submission.state import BatchState, Intent, SubmissionState

__all__ = ["HEAVY", "LIGHT", "SUBMIT", "Engine", "look"]

SUBMIT: frozenset[type] = frozenset({Resolve, Create})
"""What a submission run does."""

LIGHT: frozenset[type] = SUBMIT | {Poll}
"""Steps that only talk to the provider: what a sensor tick does."""

HEAVY: frozenset[type] = LIGHT | {Collect, Settle}
"""All steps: what a table run does."""

_QUEUE_PAUSE = 60.0
"""Seconds before a batch that the quota turned away is tried again."""

_MAX_SCAN_PAGES = 100


class Engine:
    """Drives submissions of one provider.

    Args:
        store: Where the submissions are.
        provider: Whom to send them to.
        limits: How the next round's files are cut.
        metadata: Pairs put into each batch's metadata beside ours, where the provider takes metadata.
        now: The clock, in seconds since 1970.
        log: Told what is happening, one line each.
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
    ) -> None:
        self._store = store
        self._provider = provider
        self._limits = limits
        self._metadata = dict(metadata or {})
        self._now = now
        self._log = log
        self._writer = secrets.token_hex(8)

    def advance(
        self,
        files: SubmissionFiles,
        *,
        steps: Collection[type] = HEAVY,
        looked: Mapping[str, RemoteBatch] | None = None,
    ) -> SubmissionState:
        """Do every step of the given kinds that makes sense now, once.

        Args:
            files: The submission.
            steps: Which kinds of steps to do: `LIGHT` or `HEAVY`.
            looked: Batches already looked at, by id, instead of asking the provider again.

        Raises:
            ProviderError: A step failed; what the others did is recorded, and calling again goes on.
            StoreError: The state could not be read or written.
        """
        state = files.state()
        # a settled round may have left a next one to create
        for kind in (Resolve, Create, Poll, Collect, Settle, Create):
            if kind not in steps:
                continue
            for step in plan(state, self._now()):
                if isinstance(step, kind):
                    state = self._do(files, state, step, looked)
        return state

    def _do(
        self, files: SubmissionFiles, state: SubmissionState, step: Step, looked: Mapping[str, RemoteBatch] | None
    ) -> SubmissionState:
        if isinstance(step, Resolve):
            return self._resolve(files, state, step)
        if isinstance(step, Create):
            return self._create(files, step)
        if isinstance(step, Poll):
            return self._poll(files, state, step, looked)
        if isinstance(step, Collect):
            return self._collect(files, state, step)
        return settle(files, state, self._limits, self._log)

    # -- creating -------------------------------------------------------------------------------

    def _create(self, files: SubmissionFiles, step: Create) -> SubmissionState:
        """Intent, upload, create, record. A crash between the commits is healed by `_resolve`."""
        intent = Intent(writer=self._writer, at=self._now())

        def intend(state: SubmissionState | None) -> SubmissionState | None:
            if state is None or state.cancelled:
                return state
            return state.with_batches(
                {
                    batch.number: msgspec.structs.replace(batch, intent=intent, attempt=batch.attempt + 1)
                    for batch in state.batches
                    if batch.number in step.batches and batch.stage == "planned"
                }
            )

        intended = _there(files.log.update(intend), files)
        mine = [batch for batch in intended.batches if batch.intent == intent]
        done: dict[int, BatchState] = {}
        try:
            for batch in mine:
                # whatever stops this loop, the batches it did not reach were certainly not created
                done[batch.number] = batch
                done[batch.number] = self._create_one(files, intended, batch)
                if done[batch.number].batch_id is None:
                    self._log(
                        f"batch {batch.number}: the provider's queue is full, trying again in {_QUEUE_PAUSE:.0f} s"
                    )
                    break
        finally:
            unreached = {b.number: requeued(b, 0.0) for b in mine if b.number not in done}
            state = self._record(files, {**unreached, **done})
        return state

    def _create_one(self, files: SubmissionFiles, state: SubmissionState, batch: BatchState) -> BatchState:
        name = file_name(state, batch)
        try:
            with files.store.open(files.requests(batch.number)) as source:
                file_id = self._provider.upload(source, name).id
        except ProviderError:
            self._record(files, {batch.number: requeued(batch, 0.0)})  # nothing was created: no doubt is left
            raise
        metadata = {**self._metadata, **_our_metadata(state, batch)}
        try:
            remote = self._provider.create(
                input_file_id=file_id,
                endpoint=state.endpoint,
                completion_window=state.completion_window,
                metadata=metadata if self._provider.profile.supports_metadata else None,
            )
        except QueueFullError:
            self._provider.delete_file(file_id)
            return requeued(batch, self._now() + _QUEUE_PAUSE)
        except ProviderError as error:
            if error.refused:
                self._record(
                    files, {batch.number: requeued(batch, self._now() + _QUEUE_PAUSE)}
                )  # certainly not created
                self._provider.delete_file(file_id)
            raise
        self._log(f"created batch {batch.number} of {len(state.batches)}: {remote.id}, {batch.requests:,} requests")
        return seen(msgspec.structs.replace(batch, file_id=file_id), remote)

    def _resolve(self, files: SubmissionFiles, state: SubmissionState, step: Resolve) -> SubmissionState:
        """Find the batches whose create was never reported back; plan anew those that surely do not exist.

        The input file is the fencing token: it is deleted between two scans, so a create that
        arrives late is refused for want of its file.
        """
        found: dict[int, BatchState] = {}
        for batch in (one for one in state.batches if one.number in step.batches):
            name = file_name(state, batch)
            uploaded = [file.id for file in self._provider.find_files(name)]
            remote = self._scan(state, batch, uploaded)
            if remote is None:
                for file_id in uploaded:
                    self._provider.delete_file(file_id)
                remote = self._scan(state, batch, uploaded)
            found[batch.number] = seen(batch, remote) if remote else requeued(batch, 0.0)
            what = f"found as {remote.id}" if remote else "was never created, planned again"
            self._log(f"batch {batch.number}, whose create was interrupted, {what}")
        return self._record(files, found)

    def _scan(self, state: SubmissionState, batch: BatchState, uploaded: Collection[str]) -> RemoteBatch | None:
        """The batch made from this attempt's file, or `None` once the provider's whole list was read."""
        key = _our_metadata(state, batch)["ractobatch"]
        after: str | None = None
        for _ in range(_MAX_SCAN_PAGES):
            page = self._provider.list_batches(after=after)
            for remote in page.batches:
                if remote.metadata.get("ractobatch") == key or remote.input_file_id in uploaded:
                    return remote
            after = page.next_after
            if after is None:
                return None
        raise ProviderAPIError(
            f"Batch {batch.number} of submission {state.id} may or may not exist: it is not among the newest "
            f"{_MAX_SCAN_PAGES * 100:,} batches of the account, and there are more. Look for metadata ractobatch={key} "
            "in the provider's dashboard; nothing was sent again."
        )

    def _record(self, files: SubmissionFiles, changed: Mapping[int, BatchState]) -> SubmissionState:
        """Commit what became of our own creates."""

        def record(state: SubmissionState | None) -> SubmissionState | None:
            # only over a batch that is still being created: anything else is newer than what we know
            return state and state.with_batches(
                {b.number: changed[b.number] for b in state.batches if b.number in changed and b.stage == "creating"}
            )

        return _there(files.log.update(record), files)

    # -- watching -------------------------------------------------------------------------------

    def _poll(
        self, files: SubmissionFiles, state: SubmissionState, step: Poll, looked: Mapping[str, RemoteBatch] | None
    ) -> SubmissionState:
        if looked is None:
            wanted = {b.batch_id for b in state.batches if b.number in step.batches and b.batch_id}
            looked, failures = look(self._provider, wanted)
            if failures:
                raise next(iter(failures.values()))
        now = self._now()

        def watch(newest: SubmissionState | None) -> SubmissionState | None:
            return newest and newest.with_batches(
                {
                    batch.number: _after_look(batch, looked[batch.batch_id], now)
                    for batch in newest.batches
                    if batch.stage == "running" and batch.batch_id is not None and batch.batch_id in looked
                }
            )

        return _there(files.log.update(watch), files)

    # -- collecting -----------------------------------------------------------------------------

    def _collect(self, files: SubmissionFiles, state: SubmissionState, step: Collect) -> SubmissionState:
        with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
            for batch in (one for one in state.batches if one.number in step.batches):
                download(self._provider, files, batch, Path(folder), self._log)

        def collected(newest: SubmissionState | None) -> SubmissionState | None:
            return newest and newest.with_batches(
                {
                    batch.number: msgspec.structs.replace(batch, collected=True)
                    for batch in newest.batches
                    if batch.number in step.batches and batch.stage == "ended"
                }
            )

        return _there(files.log.update(collected), files)

    def cancel(self, files: SubmissionFiles) -> SubmissionState:
        """Create nothing more and cancel what runs. What was answered is still collected and lands."""

        def stop(state: SubmissionState | None) -> SubmissionState | None:
            return state and msgspec.structs.replace(state, cancelled=True)

        state = _there(files.log.update(stop), files)
        remotes: dict[str, RemoteBatch] = {}
        for batch in state.batches:
            if batch.stage == "running" and batch.batch_id:
                remotes[batch.batch_id] = self._provider.cancel(batch.batch_id)
                self._log(f"cancelled batch {batch.number}: {batch.batch_id}")
        return self._poll(files, state, Poll(tuple(b.number for b in state.batches)), remotes)


def look(provider: Provider, wanted: Collection[str]) -> tuple[dict[str, RemoteBatch], dict[str, ProviderError]]:
    """Where these batches stand: pages of the provider's list while that is cheaper, the rest by id.

    Returns:
        The batches by id, and the errors by id of those that could not be looked at.
    """
    found: dict[str, RemoteBatch] = {}
    failed: dict[str, ProviderError] = {}
    missing = set(wanted)
    after: str | None = None
    for _ in range(2 + len(missing) // 50 if len(missing) > 3 else 0):
        try:
            page = provider.list_batches(after=after)
        except ProviderNotFoundError:
            break  # a server without a list
        for remote in page.batches:
            if remote.id in missing:
                found[remote.id] = remote
        missing -= found.keys()
        after = page.next_after
        if not missing or after is None:
            break
    for batch_id in sorted(missing):
        try:
            found[batch_id] = provider.retrieve(batch_id)
        except ProviderError as error:
            failed[batch_id] = error
    return found, failed


def file_name(state: SubmissionState, batch: BatchState) -> str:
    """The name of one attempt's input file at the provider."""
    return f"ractobatch-{state.id}-{batch.number:05d}-{batch.attempt}.jsonl"


def _our_metadata(state: SubmissionState, batch: BatchState) -> dict[str, str]:
    return {
        "ractobatch": f"{state.id}/{batch.number}/{batch.attempt}",
        "ractobatch_asset": state.asset[:512],
        "ractobatch_batch": f"{batch.number + 1} of {len(state.batches)}",
        "ractobatch_fingerprint": state.fingerprint,
        **({"dagster_run_id": state.run_id} if state.run_id else {}),
    }


def _after_look(batch: BatchState, remote: RemoteBatch, now: float) -> BatchState:
    after = seen(batch, remote)
    if after.status is BatchStatus.FAILED and any(map(_is_queue_full, after.issues)):
        return requeued(after, now + _QUEUE_PAUSE)
    return after


def _is_queue_full(issue: Issue) -> bool:
    return issue.code == "token_limit_exceeded" or "nqueued token" in issue.message


def _there(state: SubmissionState | None, files: SubmissionFiles) -> SubmissionState:
    return files.state() if state is None else state
