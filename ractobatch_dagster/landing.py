"""Between a submission and Dagster's event log: which partitions have landed, and their tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import dagster as dg
import msgspec
from pydantic import BaseModel

from ractobatch_dagster.results.table import result_table
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles, read_parquet
from ractobatch_dagster.submission.state import SubmissionState, TableState

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SUBMISSION", "confirm_landed", "partition_tables"]

SUBMISSION = "ractobatch/submission"
"""Run tag and metadata key that carry the submission's id."""

_CHUNK = 200


def confirm_landed(instance: dg.DagsterInstance, table: TableFiles) -> TableState | None:
    """Commit which open partitions have landed: those whose newest materialisation carries their submission's id.

    A table run returns before its IO manager has written, so nothing else proves that the table is there.

    Returns:
        The table's state afterwards, or `None` if nothing was ever submitted.
    """
    version = table.log.load()
    if version is None:
        return None
    waiting = {one.key: one.submission for one in version.state.partitions if one.landed != one.submission}
    landed = _materialised(instance, dg.AssetKey(table.asset.split("/")), waiting)
    if not landed:
        return version.state

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
    instance: dg.DagsterInstance, asset: dg.AssetKey, waiting: Mapping[str | None, str]
) -> dict[str | None, str]:
    """Of the partitions waiting, those whose newest materialisation carries the submission waited for."""
    newest: dict[str | None, str | None] = {}
    keys = list(waiting)
    for start in range(0, len(keys), _CHUNK):
        chunk = [key for key in keys[start : start + _CHUNK] if key is not None]
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=asset, asset_partitions=chunk or None), limit=max(4 * len(chunk), 1)
        ).records
        for record in records:  # newest first
            event = record.asset_materialization
            value = event.metadata.get(SUBMISSION) if event else None
            newest.setdefault(record.partition_key, str(value.value) if value else None)
    return {key: id_ for key, id_ in newest.items() if id_ is not None and waiting.get(key) == id_}


def partition_tables(
    files: SubmissionFiles,
    state: SubmissionState,
    keys: Sequence[str | None],
    output_type: type[BaseModel] | None,
) -> dict[str | None, pa.Table]:
    """The result table of each of these partitions of a collected submission."""
    rows = read_parquet(files.store, files.rows)
    outcomes = [table for path in (files.reused, files.results) if (table := read_parquet(files.store, path)) is not None]
    made: dict[str | None, pa.Table] = {}
    for key in keys:
        share = state.partition(key)
        if rows is None or share is None:
            raise KeyError(key)
        made[key] = result_table(
            rows.slice(share.start, share.rows), outcomes, output_type=output_type, fingerprint=state.fingerprint
        )
    return made
