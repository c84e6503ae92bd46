"""Which open submissions are to be cancelled, and cancelling them: one that fails stops no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ractobatch_dagster.errors import InvalidInputError, RactobatchError
from ractobatch_dagster.submission.engine import Engine
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.plan import progress

__all__ = ["ANY", "Chosen", "cancel", "choose"]

ANY = object()
"""Every partition."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """One open submission, its partitions that have not landed, and whether a sensor is to look after it."""

    table: TableFiles
    submission: str
    keys: list[str | None]
    watched: bool = True

    def __str__(self) -> str:
        shown = ", ".join(map(repr, self.keys[:3])) + (", …" if len(self.keys) > 3 else "")
        return f"submission {self.submission} of {self.table.asset!r}" + (f" ({shown})" if self.keys != [None] else "")


def choose(
    tables: Iterable[TableFiles],
    *,
    submission: str | None = None,
    partition: object = ANY,
    unreadable: list[str] | None = None,
) -> list[Chosen]:
    """The open submissions of these tables, or the one of this id or those of this partition.

    Args:
        tables: Where to look.
        submission: Only the one of this id.
        partition: Only those of this partition.
        unreadable: Told why a table cannot be read, instead of raising that.

    Raises:
        InvalidInputError: A submission holds further partitions, which would be cancelled as well.
        StoreError: A table cannot be read.
    """
    chosen = [one for one in _open(tables, unreadable) if submission in (None, one.submission)]
    if partition is ANY:
        return chosen
    chosen = [one for one in chosen if partition in one.keys]
    for one in chosen:
        if len(one.keys) > 1 and submission is None:
            raise InvalidInputError(
                f"{one} holds {len(one.keys)} open partitions in the same batches, which can only be cancelled "
                f"together: name the submission itself ({one.submission})."
            )
    return chosen


def _open(tables: Iterable[TableFiles], unreadable: list[str] | None) -> Iterator[Chosen]:
    for table in tables:
        try:
            version = table.log.load()
        except RactobatchError as error:
            if unreadable is None:
                raise
            unreadable.append(f"{table.asset}: {error}")
            continue
        if version is not None:
            watched = version.state.owner.submission_asset is not None
            for submission, keys in version.state.open.items():
                yield Chosen(table, submission, keys, watched)


def cancel(
    engine: Engine, chosen: Iterable[Chosen], log: Callable[[str], None], *, abandon: bool = False
) -> list[RactobatchError]:
    """Cancel these submissions at the provider; what was answered is collected and lands as usual.

    Returns:
        What went wrong. Cancelling again goes on with it, and so does the sensor.
    """
    failed: list[RactobatchError] = []
    for one in chosen:
        try:
            state = engine.cancel(one.table.submission(one.submission), abandon=abandon)
            log(f"cancelled {one}: {progress(state)}")
        except RactobatchError as error:
            log(f"{one} is not cancelled yet: {error}")
            failed.append(error)
    return failed
