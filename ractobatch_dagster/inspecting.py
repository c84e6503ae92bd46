"""What the command line shows of a root: its submissions, one of them, and their progress. Reads, changes nothing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ractobatch_dagster.errors import InvalidInputError, StoreError
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.alarms import Patience, alarms
from ractobatch_dagster.submission.files import TableFiles, tables
from ractobatch_dagster.submission.plan import Progress, progress
from ractobatch_dagster.submission.state import BatchState, SubmissionState, TableState

__all__ = ["Listed", "described", "one_submission", "shown", "submissions", "watch"]

_BATCHES = 50


@dataclass(frozen=True, slots=True)
class Listed:
    """One submission in a list.

    Attributes:
        table: Its table's corner of the store.
        id: Its own id.
        standing: `open`, `landed`, or `superseded`: a newer one stands for its partitions, or it was never opened.
        state: Its state; `None` where it cannot be read.
        problem: Why it cannot be read.
    """

    table: TableFiles
    id: str
    standing: str
    state: SubmissionState | None = None
    problem: str = ""

    def as_data(self) -> dict[str, Any]:
        """It for machines."""
        data: dict[str, Any] = {"asset": self.table.asset, "submission": self.id, "standing": self.standing}
        if self.state is None:
            return data | {"problem": self.problem}
        now = progress(self.state)
        return data | {
            "created_at": _time(self.state.created_at),
            "partitions": len(self.state.partitions),
            "rows": self.state.rows,
            "requests": self.state.requests,
            "batches": len(self.state.batches),
            "round": now.round,
            "answered": now.answered,
            "cancelled": self.state.cancelled,
            "model": self.state.asks,
            "provider": self.state.provider,
        }

    def __str__(self) -> str:
        if self.state is None:
            return f"{self.table.asset}  {self.id}  {self.standing}  {self.problem}"
        return (
            f"{self.table.asset}  {self.id}  {self.standing}{' (cancelled)' if self.state.cancelled else ''}  "
            f"{self.state.rows:,} rows, {self.state.asks}: {progress(self.state)}"
        )


def submissions(store: Store, *, asset: str | None = None, everything: bool = False) -> Iterator[Listed]:
    """The submissions of a root, by table and age: those that are open, or all that are still there.

    Args:
        store: The root.
        asset: Those of this table only.
        everything: Also those that have landed or were superseded.

    Raises:
        StoreError: A table's log cannot be read. A submission that cannot be read says so itself.
    """
    for table in [TableFiles(store, asset)] if asset else tables(store):
        version = table.log.load()
        state = version.state if version else None
        open_ = state.open if state else {}
        for id_ in table.submissions() if everything else open_:
            yield _listed(table, id_, state)


def _listed(table: TableFiles, id_: str, state: TableState | None) -> Listed:
    standing = "superseded"
    if state is not None and id_ in state.open:
        standing = "open"
    elif state is not None and any(id_ in (one.submission, one.landed) for one in state.partitions):
        standing = "landed"
    try:
        return Listed(table, id_, standing, table.submission(id_).state())
    except StoreError as error:
        return Listed(table, id_, standing, problem=str(error))


def one_submission(store: Store, name: str) -> Listed:
    """The submission of this id, or the newest of this table.

    Raises:
        InvalidInputError: There is neither.
    """
    for table in tables(store):
        version = table.log.load()
        state = version.state if version else None
        ids = table.submissions()
        if table.asset == name and ids:
            return _listed(table, ids[-1], state)
        if name in ids:
            return _listed(table, name, state)
    raise InvalidInputError(f"{store.url} holds no submission {name!r}, and no table of that name.")


def shown(one: Listed, now: float) -> dict[str, Any]:
    """All that a person may want to know of one submission, for machines.

    Args:
        one: The submission.
        now: Seconds since 1970.

    Raises:
        StoreError: It cannot be read.
    """
    state = one.state
    if state is None:
        raise StoreError(one.problem)
    return one.as_data() | {
        "partition_keys": [share.key for share in state.partitions if share.key is not None],
        "endpoint": state.endpoint,
        "fingerprint": state.fingerprint,
        "run_id": state.run_id,
        "collected": state.collected,
        "strays": state.strays,
        "anomalies": state.anomalies,
        "stored_at": one.table.store.uri(one.table.submission(one.id).prefix),
        "batch_list": [_batch(batch) for batch in state.batches],
        "alarms": alarms(state, now, Patience()),
    }


def _batch(batch: BatchState) -> dict[str, Any]:
    return {
        "number": batch.number,
        "round": batch.round,
        "stage": batch.stage,
        "status": batch.status.value if batch.status else None,
        "batch_id": batch.batch_id,
        "requests": batch.requests,
        "completed": batch.completed,
        "failed": batch.failed,
        "bytes": batch.size,
        "input_file_id": batch.file_id,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "issues": [str(issue) for issue in batch.issues],
    }


def described(data: dict[str, Any]) -> str:
    """What `shown` gives, for people."""
    lines = [f"{name:>15}  {value}" for name, value in data.items() if not isinstance(value, list)]
    lines += [f"{'partitions':>15}  {', '.join(map(repr, data['partition_keys'][:10]))}"] * bool(data["partition_keys"])
    for batch in data["batch_list"][:_BATCHES]:
        answered = f"{batch['completed'] + batch['failed']:,} of {batch['requests']:,} answered"
        lines.append(f"{'batch':>15}  {batch['number']}  {batch['batch_id'] or '-'}  {batch['stage']}, {answered}")
        lines += [f"{'':>15}    {issue}" for issue in batch["issues"]]
    if len(data["batch_list"]) > _BATCHES:
        lines.append(f"{'':>15}  and {len(data['batch_list']) - _BATCHES:,} more")
    return "\n".join([*lines, *(f"! {alarm}" for alarm in data["alarms"])])


def watch(
    store: Store,
    tell: Callable[[str, Progress], None],
    pause: Callable[[], None],
    *,
    asset: str | None = None,
    submission: str | None = None,
) -> int:
    """Follow what is open until nothing is, as the sensor and the runs write it down.

    Args:
        store: The root.
        tell: Told of each open submission, and how far it is, whenever that has changed.
        pause: Waits between two looks.
        asset: Those of this table only.
        submission: This one only.

    Returns:
        How many were followed.
    """
    told: dict[str, Progress] = {}
    before: dict[str, Listed] = {}
    while True:
        open_ = {one.id: one for one in submissions(store, asset=asset) if submission in (None, one.id)}
        gone = [_listed(before[id_].table, id_, None) for id_ in before.keys() - open_]
        for one in (*open_.values(), *gone):
            now = progress(one.state) if one.state is not None else None
            if now is not None and now != told.get(one.id):
                told[one.id] = now
                tell(f"{one.table.asset} {one.id}", now)
        if not open_:
            return len(told)
        before = open_
        pause()


def _time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat(timespec="seconds")
