"""How we find our batches among all of an account's: where they stand, and whether one exists at all."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ractobatch_dagster.errors import ProviderAPIError, ProviderError, ProviderTimeoutError
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import open_states
from ractobatch_dagster.submission.plan import KEY
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["Looked", "look", "pages_of", "scan", "suspects"]

_MAX_SCAN_PAGES = 100
_OLD_PAGES = 2
_CLOCK_SLACK = 60.0

_ARRIVES_WITHIN = 1_800.0
"""Seconds after the intent within which a create arrives, if it does: a wave of them, each with its requests."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What one look at the provider brought.

    Attributes:
        found: The batches asked for, by id.
        failed: Why some could not be looked at, by id.
        others: Batches that were not asked for but stood beside them, with a key of ours in their metadata.
    """

    found: dict[str, RemoteBatch] = field(default_factory=dict)
    failed: dict[str, ProviderError] = field(default_factory=dict)
    others: list[RemoteBatch] = field(default_factory=list)


def look(
    provider: Provider,
    wanted: Collection[str],
    *,
    calls: int = 10_000,
    turn: int = 0,
    enough: Callable[[], bool] = lambda: False,
) -> Looked:
    """Where these batches stand: pages of the provider's list while that is cheaper, the rest by id.

    Args:
        provider: Whom to ask.
        wanted: The ids of the batches.
        calls: How many batches may be asked for by id.
        turn: Seeds which of them come first, if they are more.
        enough: Whether to stop here; what was not reached is neither found nor failed.
    """
    looked = Looked()
    missing = set(wanted)
    try:
        _read_pages(provider, looked, missing, enough)
    except ProviderError as error:
        if not error.unsupported:  # a server without a list is asked batch by batch
            looked.failed.update(dict.fromkeys(missing, error))
            return looked
    left = sorted(missing)
    start = random.Random(turn).randrange(len(left)) if len(left) > calls else 0
    for batch_id in (left[start:] + left[:start])[:calls]:
        if enough():
            break
        try:
            looked.found[batch_id] = provider.retrieve(batch_id)
        except ProviderError as error:
            looked.failed[batch_id] = error
    return looked


def _read_pages(provider: Provider, looked: Looked, missing: set[str], enough: Callable[[], bool]) -> None:
    """Read pages of the list for as long as that is cheaper; what is found is no longer missing."""
    pages = 2 + len(missing) // 50 if len(missing) > 3 else min(len(missing), 1)
    for page in pages_of(provider, pages):
        for remote in page:
            if remote.id in missing:
                looked.found[remote.id] = remote
            elif KEY in remote.metadata:
                looked.others.append(remote)
        missing.difference_update(looked.found)
        if not missing or enough():
            return


def scan(
    provider: Provider,
    keys: Collection[str],
    files: Mapping[str, float],
    enough: Callable[[], bool] = lambda: False,
    suspect: Callable[[RemoteBatch], bool] = lambda _: True,
) -> dict[str, RemoteBatch]:
    """Which of these batches exist: by their key, or by their input file where the provider forgets metadata.

    Where neither is shown, a batch that may be one of them must have ended before its results tell; until then nobody
    knows.

    A batch is only taken for absent once the provider's whole list was read, or several pages in a row that are
    wholly older than the input file, by the provider's own clock.

    Args:
        provider: Whom to ask.
        keys: What their metadata would say.
        files: The ids of their input files, and when each was uploaded by the provider's clock; 0 where unknown.
        enough: Whether to stop here.
        suspect: Whether a batch that does not show whose it is may be one of them.

    Returns:
        Those that exist, each under its key and under its input file's id.

    Raises:
        ProviderError: Nobody knows: the list cannot be read, or not far enough.
    """
    try:
        found, anonymous = _scan(pages_of(provider, _MAX_SCAN_PAGES + 1), keys, files, enough)
    except ProviderError as error:
        if not error.unsupported:
            raise
        raise _unknown(keys, f"the provider has no list of batches ({error})") from error
    return found | _claimed(provider, keys, [one for one in anonymous if suspect(one)], enough)


def _scan(
    pages: Iterable[list[RemoteBatch]], keys: Collection[str], files: Mapping[str, float], enough: Callable[[], bool]
) -> tuple[dict[str, RemoteBatch], list[RemoteBatch]]:
    """Those that are found, and those since the files were made that do not show whose they are."""
    since = min(files.values(), default=0.0) - _CLOCK_SLACK
    found: dict[str, RemoteBatch] = {}
    anonymous: list[RemoteBatch] = []
    older, first, last, falling = 0, 0.0, float("inf"), True
    for number, page in enumerate(pages):
        for remote in page:
            key = remote.metadata.get(KEY)
            if key in keys:
                found[str(key)] = remote
            if remote.input_file_id in files:
                found[str(remote.input_file_id)] = remote
            if remote.anonymous and remote.created_at >= since:
                anonymous.append(remote)
            # only a list that begins with the newest need not be read to its end
            falling = falling and 0 < remote.created_at <= last
            first, last = first or remote.created_at, remote.created_at
        older = older + 1 if page and all(remote.created_at < since for remote in page) else 0
        if falling and last < first and older >= _OLD_PAGES:
            break
        if number == _MAX_SCAN_PAGES:
            raise _unknown(keys, f"it is not among the newest {_MAX_SCAN_PAGES * 100:,} batches, and there are more")
        if enough():
            raise ProviderTimeoutError("The time was up before the provider's list of batches was read; looking again.")
    return found, anonymous


def _claimed(
    provider: Provider, keys: Collection[str], anonymous: Iterable[RemoteBatch], enough: Callable[[], bool]
) -> dict[str, RemoteBatch]:
    """Those of the batches that carry one of these keys.

    Raises:
        ProviderAPIError: One that has not ended may be the one that is missing.
        ProviderTimeoutError: The time was up.
    """
    running: list[RemoteBatch] = []
    found: dict[str, RemoteBatch] = {}
    for remote in anonymous:
        if not remote.status.terminal:
            running.append(remote)
        elif enough():
            raise ProviderTimeoutError("The time was up before it was known whose batches these are; looking again.")
        elif (key := (claimed := provider.whose(remote)).metadata.get(KEY)) in keys:
            found[str(key)] = claimed
    if running and len(found) < len(keys):
        raise ProviderAPIError(
            f"Whether {', '.join(sorted(set(keys) - set(found)))} was created is known once batch {running[0].id} has "
            "ended, whose results tell whose it is. Nothing was sent again, and it is looked at again by itself."
        )
    return found


def suspects(state: SubmissionState, batches: Collection[BatchState], store: Store) -> Callable[[RemoteBatch], bool]:
    """Tells which batches that do not show whose they are may be one of these.

    As large, created while that could still happen, and not recorded, by this submission or another of the root.
    """
    sizes = {0, *(batch.requests for batch in batches)}
    until = max((batch.intent.at for batch in batches if batch.intent), default=0.0) + _ARRIVES_WITHIN + _CLOCK_SLACK
    known: set[str | None] = {batch.batch_id for batch in state.batches}
    looked: list[bool] = []

    def suspect(remote: RemoteBatch) -> bool:
        if remote.id in known or remote.total not in sizes or remote.created_at > until:
            return False
        if not looked:
            looked.append(True)
            known.update(batch.batch_id for one in open_states(store) for batch in one.batches)
        return remote.id not in known

    return suspect


def _unknown(keys: Collection[str], why: str) -> ProviderAPIError:
    return ProviderAPIError(
        f"Whether a batch exists at the provider is not known: {why}. Nothing was sent again. Look for the metadata "
        f"{KEY}={min(keys)} in the provider's dashboard; if no batch has it, cancel the submission with `ractobatch "
        "cancel --abandon`, and submit again."
    )


def pages_of(provider: Provider, most: int) -> Iterator[list[RemoteBatch]]:
    """The pages of the provider's list of batches, newest first, so many at most."""
    after: str | None = None
    for _ in range(most):
        page = provider.list_batches(after=after)
        yield list(page.batches)
        after = page.next_after
        if after is None:
            return
