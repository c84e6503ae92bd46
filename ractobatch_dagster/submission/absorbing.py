"""Replacing an open submission: wait until it has ended, take its answers over, send only what it did not answer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from ractobatch_dagster.errors import ProviderError, StoreError
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.frame import CUSTOM_ID, REQUEST_HASH
from ractobatch_dagster.submission.files import SubmissionFiles, read_parquet
from ractobatch_dagster.submission.plan import Settle
from ractobatch_dagster.submission.reusing import Reuse
from ractobatch_dagster.submission.rounds import cut_batches, request_lines
from ractobatch_dagster.submission.state import SubmissionState, held_batch

__all__ = ["absorb"]


def absorb(
    files: SubmissionFiles,
    state: SubmissionState,
    limits: Limits,
    log: Callable[[str], None],
    advance: Callable[..., SubmissionState],
    steps: Collection[type],
) -> SubmissionState:
    """See that the predecessors end; once all are collected, plan this submission's own batches.

    Raises:
        ProviderError: A predecessor cannot go on.
    """
    predecessors = [files.sibling(id_) for id_ in state.predecessors]
    for predecessor in predecessors:
        predecessor.replace(lambda _: {"cancelled": True})
    ended, problems = True, []
    for predecessor in predecessors:
        try:
            before = advance(predecessor, steps=steps)
            ended = ended and (before.collected or (before.ready and Settle not in steps))
        except ProviderError as error:
            ended = False
            problems.append(error)
    if problems:
        raise problems[0]
    if Settle in steps and ended:
        return _planned(files, state, limits, log)
    return files.replace(lambda newest: {"predecessors_ended": ended and bool(newest.predecessors)})


def _planned(
    files: SubmissionFiles, state: SubmissionState, limits: Limits, log: Callable[[str], None]
) -> SubmissionState:
    """Take over what was answered and cut the rest into batches."""
    rows = read_parquet(files.store, files.rows)
    if rows is None:
        raise StoreError(f"Submission {state.id} has no rows at {files.store.uri(files.rows)}. Were they deleted?")
    # its own first: what it took over when it was sealed
    reuse = Reuse([files, *(files.sibling(id_) for id_ in state.predecessors)])
    hashes = dict(zip(rows[CUSTOM_ID].to_pylist(), rows[REQUEST_HASH].to_pylist(), strict=True))
    answered = {custom_id for custom_id, hash_ in hashes.items() if custom_id and reuse.take(hash_, custom_id)}
    reuse.store(files)
    planned = cut_batches(files, state, _left(files, answered), limits, round_=0)
    log(f"{len(answered):,} answers were paid for already and are taken over")

    def start(newest: SubmissionState) -> dict[str, object]:
        if not newest.predecessors:  # another run was quicker
            return {}
        return {
            "batches": planned,
            "requests": sum(batch.requests for batch in planned),
            "predecessors": (),
            "predecessors_ended": False,
        }

    return files.replace(start)


def _left(files: SubmissionFiles, answered: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The lines that were held back and are not answered."""
    number = 0
    while files.store.exists(files.requests(held := held_batch(number))):
        for custom_id, line in request_lines(files, held):
            if custom_id not in answered:
                yield custom_id, line
        number += 1
