"""Answers that an earlier submission paid for, taken over by request hash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.requests.frame import CUSTOM_ID
from ractobatch_dagster.results.outcomes import OUTCOMES, answers
from ractobatch_dagster.submission.files import SubmissionFiles, read_parquet, write_parquet

__all__ = ["Reuse"]

if TYPE_CHECKING:
    import pyarrow as pa


class Reuse:
    """The answers of earlier submissions, each of which one request takes over.

    Where identical rows were samples of their own, there are several answers to one question, and each goes to another
    request.

    Args:
        submissions: Whose answers; those included that they had taken over themselves.
    """

    def __init__(self, submissions: Iterable[SubmissionFiles] = ()) -> None:
        self._left: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._taken: dict[str, dict[str, Any]] = {}
        for files in submissions:
            rows = read_parquet(files.store, files.rows)
            for path in (files.reused, files.results):
                outcomes = read_parquet(files.store, path)
                if rows is not None and outcomes is not None:
                    self._learn(rows, outcomes)

    def _learn(self, rows: pa.Table, outcomes: pa.Table) -> None:
        for hash_, answer in answers(rows, outcomes):
            self._left[hash_].append(answer)

    def take(self, hash_: str, custom_id: str) -> bool:
        """Whether the request of this id has an answer already; it is then taken over."""
        if custom_id in self._taken:
            return True
        if not self._left.get(hash_):
            return False
        self._taken[custom_id] = {**self._left[hash_].pop(0), CUSTOM_ID: custom_id}
        return True

    def store(self, files: SubmissionFiles) -> int:
        """Write down what was taken over by a submission; how many answers they are."""
        if self._taken:
            import pyarrow as pa

            table = pa.Table.from_pylist(list(self._taken.values()), schema=OUTCOMES())
            write_parquet(files.store, files.reused, table)
        return len(self._taken)
