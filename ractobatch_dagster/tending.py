"""What the command line looks after: whether all is well, what nobody knows of, and what is no longer needed."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from ractobatch_dagster.errors import ProviderError, ProviderNotFoundError, RactobatchError
from ractobatch_dagster.inspecting import Listed, submissions
from ractobatch_dagster.operating import standing
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.store import Store, StoreClock
from ractobatch_dagster.submission.budget import budget_log
from ractobatch_dagster.submission.heartbeat import heartbeats
from ractobatch_dagster.submission.log import Log
from ractobatch_dagster.submission.looking import pages_of
from ractobatch_dagster.submission.plan import KEY
from ractobatch_dagster.submission.quota import queue_lines, quota_logs
from ractobatch_dagster.submission.state import BatchState

__all__ = ["Finding", "doctor", "gc", "reconcile"]

_PAGES = 100
"""Pages of a hundred batches that are read of the provider's list."""

_SKEW = 60.0
"""Seconds by which this machine's clock may differ from the store's."""

_DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: whether it is well, and what there is to say."""

    what: str
    well: bool
    text: str

    def __str__(self) -> str:
        return f"{'✓' if self.well else '✗'} {self.what:<10} {self.text}"


def doctor(store: Store, connect: Callable[[], Provider]) -> Iterator[Finding]:
    """Look at everything that has to be well for answers to come: store, clock, key, queue, sensor, open submissions.

    Args:
        store: The root.
        connect: Makes the provider; may raise.
    """
    yield _tried("store", lambda: _store(store))
    now = StoreClock(store)()
    skew = now - time.time()
    text = f"this machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the store's"
    yield Finding("clock", abs(skew) <= _SKEW, text)
    yield _tried("key", lambda: _key(connect()))
    found = standing(store, now)
    batches = [batch for _, state in found.open for batch in state.batches]
    refused = sum(1 for batch in batches if batch.refusals and batch.batch_id is None)
    told = f"{refused} batches were turned away by the provider's queue" if refused else "nothing was turned away"
    yield Finding("quota", True, told)
    for provider in sorted({state.provider for _, state in found.open}):
        for text in queue_lines(store, provider, now):
            yield Finding("queue", True, text)
    for name, beat in sorted(heartbeats(store).items()):
        text = f"{name} looked {max(now - beat.at, 0):,.0f} s ago, after {len(beat.assets)} tables"
        yield Finding("sensor", True, text)
    for what, problems in (("sensor", found.unwatched), ("unreadable", found.unreadable), ("late", found.late)):
        for text in problems:
            yield Finding(what, False, text)
    if not found.late:
        yield Finding("late", True, f"{len(found.open)} submissions are open, none of them late")


def _tried(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except RactobatchError as error:
        return Finding(what, False, str(error))


def _store(store: Store) -> str:
    store.prove()
    return f"{store.url} can be read and written, and refuses to write a name twice"


def _key(provider: Provider) -> str:
    page = provider.list_batches()
    return f"{provider.identity} answers; {len(page.batches)} batches on the first page of its list"


def reconcile(store: Store, provider: Provider) -> Iterator[Finding]:
    """Hold the provider's list against the store: batches that only one of them knows.

    A batch that carries our key and that its submission does not know is one too many, and costs money. A batch of a
    submission that the store does not have belongs to another root, or to one that was deleted.
    """
    everyone = [one for one in submissions(store, everything=True) if one.state is not None]
    known = {one.id: one for one in everyone if one.state and one.state.provider == provider.identity}
    if others := len(everyone) - len(known):
        yield Finding("others", True, f"{others:,} submissions are of other providers; look there with their keys")
    ours = {batch.batch_id: one for one in known.values() if one.state for batch in one.state.batches if batch.batch_id}
    oldest = min((one.state.created_at for one in known.values() if one.state), default=0.0)
    seen, foreign, pages = set[str](), 0, 0
    for page in pages_of(provider, _PAGES):
        pages += 1
        for remote in page:
            seen.add(remote.id)
            if remote.anonymous and remote.status.terminal and remote.id not in ours and remote.created_at >= oldest:
                remote = _claimed(provider, remote)  # noqa: PLW2901
            id_ = remote.metadata.get(KEY, "").partition("/")[0]
            if id_ in known and remote.id not in ours:
                yield _unknown(known[id_], remote)
            foreign += bool(id_) and id_ not in known
    if pages == _PAGES:
        yield Finding("list", True, f"only the newest {len(seen):,} batches of the provider's list were read")
    for batch_id in sorted(set(ours) - seen):
        if (gone := _gone(provider, batch_id, ours[batch_id])) is not None:
            yield gone
    yield Finding("known", True, f"{len(seen & set(ours)):,} batches are known to both")
    if foreign:
        yield Finding("foreign", True, f"{foreign:,} batches are of submissions that this root does not have")


def _claimed(provider: Provider, remote: RemoteBatch) -> RemoteBatch:
    """A batch with its key, if its results still show it."""
    try:
        return provider.whose(remote)
    except ProviderNotFoundError:
        return remote


def _unknown(one: Listed, remote: RemoteBatch) -> Finding:
    """What to say of a batch that carries the key of a submission which does not know it."""
    text = f"batch {remote.id} carries the key of submission {one.id}, which does not know it"
    number = remote.metadata[KEY].split("/")[1:2]
    made = [batch for batch in one.state.batches if [str(batch.number)] == number] if one.state else []
    if any(batch.batch_id is None for batch in made):
        return Finding("being made", True, f"{text} yet: whoever creates it, or looks next, writes it down")
    if remote.status.terminal:
        return Finding("one more", True, f"{text}; it has ended")
    return Finding("one more", False, f"{text}; it is {remote.status.value}: cancel it there")


def _gone(provider: Provider, batch_id: str, one: Listed) -> Finding | None:
    """What to say of a batch of ours that is not in the list."""
    stages = {batch.batch_id: batch.stage for batch in one.state.batches} if one.state else {}
    if stages.get(batch_id) == "collected":
        return None  # its answers are here
    try:
        provider.retrieve(batch_id)
    except ProviderNotFoundError:
        return Finding("gone", False, f"batch {batch_id} of {one.table.asset}, submission {one.id}, is not there")
    return None


def gc(store: Store, provider: Provider | None, *, days: float, really: bool, now: float) -> Iterator[Finding]:
    """Delete what is older than so many days and no longer needed; say what it is.

    In the store, submissions of at least a day that were superseded, or never opened. At the provider, the files of
    submissions that have landed: the answers are in the store, as they came. Nothing that is open goes, nothing that a
    table stands for, and nothing at all where an open submission cannot be read, which may need the others' answers.
    Of the ledgers of budgets and queues, whatever their age, all versions but the last hundred.

    Args:
        store: The root.
        provider: Where files are deleted; `None` leaves them there.
        days: The age.
        really: Whether to delete; otherwise it is only said.
        now: Seconds since 1970.
    """
    verb = "deleted" if really else "would delete"
    found = list(submissions(store, everything=True))
    unreadable = [one for one in found if one.standing == "open" and one.state is None]
    for one in unreadable:
        yield Finding("unreadable", False, f"nothing is deleted: {one.problem}")
    if unreadable:
        return
    needed = _needed(found)
    for one in found:
        created = one.state.created_at if one.state else _stamp(one.id)
        # one that is superseded somebody may be about to open
        least = max(days, 1) if one.standing == "superseded" else days
        if created is None or now - created < least * _DAY or one.id in needed:
            continue
        if one.standing == "superseded":
            if really:
                store.delete(one.table.submission(one.id).prefix)
            yield Finding(one.standing, True, f"{verb} {store.uri(one.table.submission(one.id).prefix)}")
        elif one.standing == "landed" and one.state is not None and provider is not None:
            if one.state.provider != provider.identity:
                continue  # its files are elsewhere, and here they would seem to be gone
            files = [(batch.number, name, file_id) for batch in one.state.batches for name, file_id in _files(batch)]
            if files:
                yield _files_deleted(provider, one, files, really, verb)
    yield from _ledgers(store, really, verb)


def _ledgers(store: Store, really: bool, verb: str) -> Iterator[Finding]:
    """What budgets and queues were written down as, long ago."""
    logs: list[Log[Any]] = [budget_log(store), *quota_logs(store)]
    for log in logs:
        outdated = log.prune() if really else log.outdated()
        if outdated:
            yield Finding("ledger", True, f"{verb} {outdated:,} old versions in {log.uri}")


def _needed(found: Collection[Listed]) -> set[str]:
    """The submissions whose answers an open one takes over or waits for; those may wait themselves."""
    states = {one.id: one.state for one in found if one.state is not None}
    needed, left = set[str](), [one.id for one in found if one.standing == "open"]
    while left:
        if (state := states.get(left.pop())) is not None:
            sources = {source.rpartition("/")[2] for source in state.sources}  # some are of other tables
            more = {*sources, *state.predecessors} - needed
            needed |= more
            left += more
    return needed


def _files(batch: BatchState) -> list[tuple[str, str]]:
    """A batch's files at the provider, by the name of the field that says so."""
    found = [(name, getattr(batch, name)) for name in ("file_id", "output_file_id", "error_file_id")]
    return [(name, file_id) for name, file_id in found if file_id]


def _files_deleted(
    provider: Provider, one: Listed, files: list[tuple[int, str, str]], really: bool, verb: str
) -> Finding:
    what = f"{len(files)} files of {one.table.asset}, submission {one.id}, at the provider"
    gone: dict[int, dict[str, None]] = {}
    try:
        for number, name, file_id in files if really else ():
            provider.delete_file(file_id)
            gone.setdefault(number, {})[name] = None
    except ProviderError as error:
        return Finding("landed", False, f"could not delete {what}: {error}")
    finally:
        if gone:  # so that nobody asks for them again
            one.table.submission(one.id).change(
                lambda state: {
                    batch.number: msgspec.structs.replace(batch, **gone[batch.number])
                    for batch in state.batches
                    if batch.number in gone
                }
            )
    return Finding("landed", True, f"{verb} {what}")


def _stamp(id_: str) -> float | None:
    """When a submission was begun, by its id."""
    try:
        return dt.datetime.strptime(id_[:18], "%Y%m%dT%H%M%S%f").replace(tzinfo=dt.UTC).timestamp()
    except ValueError:
        return None
