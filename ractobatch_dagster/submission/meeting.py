"""What a run that submits meets: partitions whose submission is still open. Go on with it, replace it, or refuse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from ractobatch_dagster.errors import SubmissionConflictError
from ractobatch_dagster.requests.frame import PROMPT, REQUEST_HASH
from ractobatch_dagster.submission.changes import describe_change
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.rows import read_rows
from ractobatch_dagster.submission.state import PartitionRows, SubmissionState, TableState

if TYPE_CHECKING:
    import pyarrow as pa

    from ractobatch_dagster.submission.opening import Terms

__all__ = ["Meeting", "meet", "withdraw"]


@dataclass(slots=True)
class Meeting:
    """What becomes of the open submissions that the partitions meet.

    Attributes:
        attached: By partition, those that are gone on with.
        replaced: Those that are cancelled, and whose answers are waited for.
        giving_way: Those of which nothing was created yet.
    """

    attached: dict[str | None, str] = field(default_factory=dict)
    replaced: tuple[str, ...] = ()
    giving_way: tuple[str, ...] = ()


def meet(
    table: TableFiles,
    state: TableState,
    mine: SubmissionFiles,
    shares: Sequence[PartitionRows],
    terms: Terms,
    progress: Callable[[str], None],
) -> Meeting:
    """Decide, and change nothing yet.

    The very same rows are gone on with. Other rows take the place of a submission of which nothing was created, or
    which was cancelled; for the rest the policy decides.

    Raises:
        SubmissionConflictError: An open submission holds other rows, batches of it exist, and it is not to be replaced.
    """
    met = Meeting()
    open_, keys = state.open, {share.key for share in shares}
    for share in shares:
        key = share.key
        there = state.partition(key)
        if there is None or there.landed == there.submission or there.submission in met.replaced + met.giving_way:
            continue
        one = _Met(table.asset, table.submission(there.submission), key, open_[there.submission])
        old, same, alone = one.files.state(), there.digest == share.digest, set(one.keys) <= keys
        if same and not (old.cancelled and alone):
            if old.cancelled:
                progress(f"{one} was cancelled and lands with what it answered; submit again afterwards for the rest")
            met.attached[key] = there.submission
        elif alone and _untouched(old):
            met.giving_way = (*met.giving_way, there.submission)
        elif old.provider != terms.provider:
            raise one.conflict(
                f"was sent to {old.provider}, and the resource now talks to {terms.provider}", alone=True
            )
        elif (old.cancelled or terms.on_change == "replace") and alone:
            what = "it was cancelled" if same else _changed(one.files, old, mine, share, terms)
            progress(f"{one} is replaced: {what}")
            met.replaced = (*met.replaced, there.submission)
        elif terms.on_change == "attach":
            progress(f"{one} goes on as it is, although {_changed(one.files, old, mine, share, terms)}")
            met.attached[key] = there.submission
        else:
            changed = _changed(one.files, old, mine, share, terms)
            raise one.conflict(f"is still open, and {changed}", alone=alone or terms.on_change == "fail")
    left = met.replaced + met.giving_way
    met.attached = {key: submission for key, submission in met.attached.items() if submission not in left}
    return met


def withdraw(files: SubmissionFiles) -> bool:
    """Stop a submission if still nothing of it was created; once that is committed, nothing ever will be."""

    def stop(state: SubmissionState | None) -> SubmissionState | None:
        untouched = state is not None and _untouched(state)
        return msgspec.structs.replace(state, cancelled=True) if state is not None and untouched else state

    state = files.log.update(stop)
    return state is not None and state.cancelled and _untouched(state)


@dataclass(frozen=True, slots=True)
class _Met:
    """One open submission: where it is, the partition that met it, and all its partitions that have not landed."""

    asset: str
    files: SubmissionFiles
    key: str | None
    keys: list[str | None]

    def __str__(self) -> str:
        return f"submission {self.files.id}" + (f" of partition {self.key!r}" if self.key is not None else "")

    def conflict(self, why: str, *, alone: bool) -> SubmissionConflictError:
        """What to raise, with what to do."""
        what_to_do = (
            f"Wait until its table has landed, or cancel it with the job {self.asset.replace('/', '__')}_cancel, after "
            "which what it answered is kept; or set `on_change` to `attach` or `replace`."
            if alone
            else f"It holds {len(self.keys)} open partitions and can only be replaced by a run over all of them."
        )
        return SubmissionConflictError(f"{self} {why}. Nothing was sent. {what_to_do}", submission=self.files.id)


def _untouched(state: SubmissionState) -> bool:
    return not state.predecessors and all(batch.stage in ("planned", "uploaded") for batch in state.batches)


def _changed(
    files: SubmissionFiles, old: SubmissionState, mine: SubmissionFiles, share: PartitionRows, terms: Terms
) -> str:
    there = old.partition(share.key)
    if there is None or max(there.rows, share.rows) > _COMPARED:
        return describe_change(old.parts, terms.parts, None, None, terms.rules.key)
    before, now = (_named(one, rows, terms.rules.key) for one, rows in ((files, there), (mine, share)))
    return describe_change(old.parts, terms.parts, before, now, terms.rules.key)


def _named(files: SubmissionFiles, share: PartitionRows, key: str | None) -> pa.Table:
    """What tells rows apart: key, prompt and hash."""
    import pyarrow as pa

    columns = [PROMPT, REQUEST_HASH, *([key] if key and key != PROMPT else [])]
    batches = list(read_rows(files, share.start, share.start + share.rows, columns))
    return pa.Table.from_batches(batches) if batches else pa.table({name: pa.nulls(0) for name in columns})


_COMPARED = 200_000
"""Of larger partitions it is not said which rows changed."""
