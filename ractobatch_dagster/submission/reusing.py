"""Answers that an earlier submission paid for, taken over by request hash."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.requests.frame import CUSTOM_ID, REQUEST_HASH
from ractobatch_dagster.results.outcomes import OUTCOMES, answers
from ractobatch_dagster.submission.files import SubmissionFiles, read_parquet, write_parquet

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["known_answers", "store_reused"]

Answers = dict[str, dict[str, Any]]


def known_answers(files: SubmissionFiles) -> Answers:
    """A submission's answers by request hash, those included that it had taken over itself."""
    found: Answers = {}
    rows = read_parquet(files.store, files.rows)
    for path in (files.reused, files.results):
        outcomes = read_parquet(files.store, path)
        if rows is not None and outcomes is not None:
            found.update(answers(rows, outcomes))
    return found


def store_reused(files: SubmissionFiles, known: Mapping[str, dict[str, Any]], rows: pa.Table) -> int:
    """Store, for a submission's own `custom_id`s, which answers it takes over; how many they are."""
    import pyarrow as pa

    taken: Answers = {}
    for custom_id, hash_ in zip(rows[CUSTOM_ID].to_pylist(), rows[REQUEST_HASH].to_pylist(), strict=True):
        if hash_ in known:
            taken[custom_id] = {**known[hash_], CUSTOM_ID: custom_id}
    if taken:
        write_parquet(files.store, files.reused, pa.Table.from_pylist(list(taken.values()), schema=OUTCOMES()))
    return len(taken)
