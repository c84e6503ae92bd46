"""Replacing an open submission: wait until it has ended, take its answers over, send only what it did not answer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from ractobatch_dagster.errors import ProviderError
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.submission.asking import Asking
from ractobatch_dagster.submission.expecting import expected, last_landed
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.lines import read_encoder
from ractobatch_dagster.submission.plan import Settle
from ractobatch_dagster.submission.reusing import Known
from ractobatch_dagster.submission.state import SubmissionState
from ractobatch_dagster.submission.validating import Validator

__all__ = ["absorb"]


def absorb(
    files: SubmissionFiles,
    state: SubmissionState,
    limits: Limits,
    log: Callable[[str], None],
    advance: Callable[..., SubmissionState],
    steps: Collection[type],
    validate: Validator | None,
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
        return _planned(files, state, limits, log, validate if state.repairs else None)
    return files.replace(lambda newest: {"predecessors_ended": ended and bool(newest.predecessors)})


def _planned(
    files: SubmissionFiles,
    state: SubmissionState,
    limits: Limits,
    log: Callable[[str], None],
    validate: Validator | None,
) -> SubmissionState:
    """Take over what was answered and cut the rest into batches."""
    newest_first = dict.fromkeys([*sorted(state.predecessors, reverse=True), *state.sources])
    sources = [files.sibling(source) for source in newest_first]
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        keys = [share.key for share in state.partitions]
        known = Known(files, sources, Path(folder), takes=state.takes, keys=keys, validate=validate)
        asking = Asking(files, [(one.start, one.start + one.rows) for one in state.partitions], state.sealed,
                        read_encoder(files), state.models)  # fmt: skip
        planned = asking.plan(known, limits, Path(folder))
    table = TableFiles(files.store, state.asset)
    version = table.log.load()
    past = last_landed(table, version.state if version is not None else None, state.partitions)
    likely = expected(planned, state.model, past, state.prices)
    log(f"{known.answers:,} answers were paid for already and are taken over")

    def start(newest: SubmissionState) -> dict[str, object]:
        if not newest.predecessors:  # another run was quicker
            return {}
        return {
            "batches": planned,
            "partitions": tuple(asking.counted(newest.partitions)),
            "reused": known.created,
            "expected_usd": likely.usd,
            "tokens_per_byte": likely.tokens_per_byte,
            "requests": sum(batch.requests for batch in planned),
            "predecessors": (),
            "predecessors_ended": False,
        }

    return files.replace(start)
