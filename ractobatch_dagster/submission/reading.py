"""The newest states of many submissions of one table, for a price that does not grow with each of them.

On local disk each log is read as it is. Elsewhere one listing of the table tells the newest version of every log, and
only those are read that this process does not know yet. What is known is told by the store's own tag of the object, so
that a commit of anybody else is always seen.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from ractobatch_dagster.errors import RactobatchError
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.log import newest
from ractobatch_dagster.submission.state import SubmissionState

__all__ = ["newest_states"]

_FEW = 8
"""So many logs are rather read one by one than by a listing of everything of the table since the oldest of them."""

_AT_ONCE = 16
"""Reads under way at once, where each takes as long as the network."""


State = SubmissionState | RactobatchError
Tag = tuple[int, str | None]
"""A log's newest version, and the store's tag of that object."""

_known: dict[tuple[str, str], dict[str, tuple[Tag, SubmissionState]]] = {}
"""By store and table, what this process last read of its open submissions: a sensor's process outlives the tick."""


def newest_states(
    table: TableFiles, submissions: Sequence[str], enough: Callable[[], bool] = lambda: False
) -> dict[str, State]:
    """The states of these submissions as last committed, or why they cannot be read.

    Args:
        table: Whose they are.
        submissions: Their ids.
        enough: Whether to stop here; those that were not reached are left out.
    """
    if table.store.local_path is None and len(submissions) > _FEW:
        return _by_listing(table, submissions, enough)
    order = list(submissions)
    if len(order) > _FEW:
        random.shuffle(order)  # whoever is not reached in time is not always the same
    found: dict[str, State] = {}
    for id_ in order:
        if enough():
            break
        found[id_] = _attempt(table.submission(id_).state)
    return found


def _by_listing(table: TableFiles, submissions: Sequence[str], enough: Callable[[], bool]) -> dict[str, State]:
    try:
        tags = _tags(table, min(submissions))
    except RactobatchError as error:
        return dict.fromkeys(submissions, error)
    name = (table.store.url, table.asset)
    before = _known.get(name, {})
    known = {id_: before[id_] for id_ in submissions if id_ in before and _same(before[id_][0], tags.get(id_))}
    found: dict[str, State] = {id_: state for id_, (_, state) in known.items()}
    left = [id_ for id_ in submissions if id_ not in known]
    random.shuffle(left)

    def read(id_: str) -> State:
        log = table.submission(id_).log
        there = tags.get(id_)
        return _attempt(lambda: log.version(there[0]).state if there else table.submission(id_).state())

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for start in range(0, len(left), 10 * _AT_ONCE):
            if enough():
                break
            some = left[start : start + 10 * _AT_ONCE]
            found.update(zip(some, pool.map(read, some), strict=True))
    for id_ in left:
        state, tag = found.get(id_), tags.get(id_)
        if isinstance(state, SubmissionState) and tag is not None:
            known[id_] = (tag, state)
    if not table.store.url.startswith("memory:"):  # two of those share their address and nothing else
        _known[name] = known
    return found


def _same(before: Tag, now: Tag | None) -> bool:
    return before == now and before[1] is not None


def _attempt(read: Callable[[], SubmissionState]) -> State:
    try:
        return read()
    except RactobatchError as error:
        return error


def _tags(table: TableFiles, oldest: str) -> dict[str, Tag]:
    """The newest version of each submission's log, from this one on: ids sort by age."""
    start = table.submission(oldest).prefix
    root = start.rpartition("/")[0]
    found: dict[str, Tag] = {}
    for path, tag in table.store.below(root, start):
        id_, _, rest = path.removeprefix(f"{root}/").partition("/")
        folder, _, name = rest.partition("/")
        number = newest([name]) if folder == "log" else None
        if number is not None and number > found.get(id_, (-1, None))[0]:
            found[id_] = (number, tag)
    return found
