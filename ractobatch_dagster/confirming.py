"""How we know that a table has landed: Dagster shows a materialisation that carries its submission's id."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping

import dagster as dg
import msgspec

from ractobatch_dagster.spec import SUBMISSION
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.state import TableState

__all__ = ["confirm_landed", "mark_landed"]

_CLOCK_SLACK = 86_400.0
_PAGE = 1_000


def confirm_landed(
    instance: dg.DagsterInstance, table: TableFiles, enough: Callable[[], bool] = lambda: False
) -> TableState | None:
    """Commit which open partitions have landed: those with a materialisation that carries their submission's id.

    A table run returns before its IO manager has written, so nothing else proves that the table is there.

    Args:
        instance: Whom to ask.
        table: Whose partitions.
        enough: Whether to stop here, asked before each page; the newest materialisations come first.

    Returns:
        The table's state afterwards, or `None` if nothing was ever submitted.
    """
    version = table.log.load()
    if version is None:
        return None
    waiting = {one.key: one.submission for one in version.state.partitions if one.landed != one.submission}
    landed = _materialised(instance, dg.AssetKey(table.asset.split("/")), waiting, enough)
    return mark_landed(table, landed) if landed else version.state


def mark_landed(table: TableFiles, landed: Mapping[str | None, str]) -> TableState | None:
    """Commit that these partitions need nothing more of these submissions."""

    def mark(state: TableState | None) -> TableState | None:
        return state and msgspec.structs.replace(
            state,
            partitions=tuple(
                msgspec.structs.replace(one, landed=one.submission) if landed.get(one.key) == one.submission else one
                for one in state.partitions
            ),
        )

    return table.log.update(mark)


def _materialised(
    instance: dg.DagsterInstance, asset: dg.AssetKey, waiting: Mapping[str | None, str], enough: Callable[[], bool]
) -> dict[str | None, str]:
    """Of the partitions waiting, those that were materialised with the submission waited for."""
    if not waiting:
        return {}
    since = min(map(_opened_at, waiting.values())) - _CLOCK_SLACK
    keys = [key for key in waiting if key is not None]
    wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=keys or None, after_timestamp=since)
    landed: dict[str | None, str] = {}
    cursor: str | None = None
    while True:
        page = instance.fetch_materializations(wanted, limit=_PAGE, cursor=cursor)
        for record in page.records:
            event = record.asset_materialization
            value = event.metadata.get(SUBMISSION) if event else None
            if value is not None and waiting.get(record.partition_key) == value.value:
                landed[record.partition_key] = str(value.value)
        cursor = page.cursor
        if not page.has_more or len(landed) == len(waiting) or enough():
            return landed


def _opened_at(submission: str) -> float:
    """When a submission was sealed, which its id begins with."""
    return dt.datetime.strptime(f"{submission[:15]}+0000", "%Y%m%dT%H%M%S%z").timestamp()
