"""Which table runs to ask for, and under which run keys: Dagster never launches a used key again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import dagster as dg

from ractobatch_dagster.confirming import mark_landed
from ractobatch_dagster.spec import SUBMISSION
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.watching import Open, Watch

__all__ = ["contiguous", "next_attempt", "run_requests"]

FIRST = "ractobatch/first_partition"
LAST = "ractobatch/last_partition"
RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"

RUNS_PER_TICK = 25
_TOGETHER = 100
"""Submissions whose runs are asked for in one query."""

_MAX_ATTEMPTS = 10
_FIRST_PAUSE = 30.0
_LONGEST_PAUSE = 3600.0
_LONG_HOURS = 3.0

Range = tuple[str | None, str | None]
"""The first and the last partition of a run; `(None, None)` where the asset has no partitions."""


@dataclass(frozen=True, slots=True)
class _Run:
    """An earlier run for the same submission."""

    covers: Range
    finished: bool
    failed: bool
    ended_at: float
    began_at: float = 0.0


def run_requests(context: dg.SensorEvaluationContext, ready: Sequence[Open], watch: Watch) -> list[dg.RunRequest]:
    """The runs to ask for now. What has to wait is told in the notes of `watch`, what is given up in its alarms."""
    requests: list[dg.RunRequest] = []
    known = _Known(context, [one.state.id for one in ready])
    broken: set[str] = set()
    for number, one in enumerate(ready):
        if len(requests) >= RUNS_PER_TICK or watch.enough():
            watch.notes.append(f"{len(ready) - number} submissions that are ready are for the next tick")
            break
        if one.owner.asset in broken:
            continue  # said once
        try:
            requests += _of_submission(known, one, watch)
        except Exception as error:  # partitions may be the user's code, and one asset must not stop the others
            broken.add(one.owner.asset)
            watch.notes.append(f"{one.owner.asset}: no run can be asked for: {type(error).__name__}: {error}")
            context.log.warning(f"{one.owner.asset}: no run can be asked for", exc_info=error)
    return requests[:RUNS_PER_TICK]


def _of_submission(known: _Known, one: Open, watch: Watch) -> list[dg.RunRequest]:
    asset = dg.AssetKey(one.owner.asset.split("/"))
    order = known.order(asset)
    gone = [key for key in one.keys if key not in order]
    if gone and one.state.collected:
        mark_landed(TableFiles(one.files.store, one.owner.asset), dict.fromkeys(gone, one.state.id))
        watch.notes.append(
            f"{one.owner.asset}: {len(gone)} partitions of submission {one.state.id} do not exist any more "
            f"({gone[0]!r}); its answers are kept for when they come back"
        )
    elif gone and len(gone) == len(one.keys):
        watch.alarm(
            one,
            f"submission {one.state.id}: none of its partitions exists any more ({gone[0]!r}), so nothing collects its "
            "answers. Bring one back, or cancel the submission.",
        )
    elif gone:
        watch.notes.append(f"{one.owner.asset}: partition {gone[0]!r} of submission {one.state.id} is gone")
    ranges = contiguous([key for key in one.keys if key in order], order, together=one.owner.ranges)
    if not one.state.collected:
        ranges = ranges[:1]  # the first run collects for all of them
    earlier = known.earlier(one.state.id) if ranges else []
    requests = []
    for each in ranges:
        attempt, why_not, given_up = next_attempt(each, earlier, order, time.time())
        if given_up:
            watch.alarm(one, f"submission {one.state.id}{_shown(each)}: {given_up}")
        elif why_not:
            watch.notes.append(f"{one.owner.asset}{_shown(each)}: {why_not}")
        else:
            requests.append(_request(asset, each, one.state.id, attempt))
    return requests


def contiguous(keys: Sequence[str | None], order: Mapping[str | None, int], *, together: bool) -> list[Range]:
    """Partitions as runs of neighbours; each by itself where one run lands one partition."""
    ranges: list[Range] = []
    for key in sorted(keys, key=order.__getitem__):
        if together and ranges and order[key] == order[ranges[-1][1]] + 1:
            ranges[-1] = (ranges[-1][0], key)
        else:
            ranges.append((key, key))
    return ranges


def next_attempt(
    wanted: Range, earlier: Sequence[_Run], order: Mapping[str | None, int], now: float
) -> tuple[int, str | None, str | None]:
    """The number of the next attempt at a run, why it has to wait, if it has to, and why it is given up, if it is.

    It is 1 + the number of runs that the submission has had, so that a run which failed, or ended before its IO manager
    wrote, is asked for again under a new key, with a pause that grows with the failures of its own partitions.
    """
    low, high = order[wanted[0]], order[wanted[1]]
    mine = [
        run
        for run in earlier
        if run.covers[0] in order and run.covers[1] in order
        if order[run.covers[0]] <= high and low <= order[run.covers[1]]
    ]
    attempt = 1 + len(earlier)  # not of these partitions alone: whichever are gone, no key comes again
    if going := [run for run in mine if not run.finished]:
        hours = (now - going[0].began_at) / 3600
        if hours >= _LONG_HOURS:
            # a run whose machine is gone looks the same, and Dagster may never end it
            return (
                attempt,
                None,
                "its table run has been under way for hours; if its process is gone, terminate it in Dagster",
            )
        return attempt, "its table run is under way", None
    failures = [run for run in mine if run.failed]
    if len(failures) >= _MAX_ATTEMPTS:
        return attempt, None, f"{len(failures)} table runs failed; materialise the table once the cause is mended"
    if failures:
        pause = min(_FIRST_PAUSE * 2 ** (len(failures) - 1), _LONGEST_PAUSE)
        left = min(max(run.ended_at for run in failures) + pause - now, pause)  # a clock may have been set back
        if left > 0:
            failed = "1 table run" if len(failures) == 1 else f"{len(failures)} table runs"
            return attempt, f"{failed} failed, the next is asked for in {left:.0f} s", None
    return attempt, None, None


class _Known:
    """What Dagster knows of partitions and runs, asked once in a tick and for many submissions together."""

    def __init__(self, context: dg.SensorEvaluationContext, submissions: Sequence[str]) -> None:
        self._context = context
        self._left = list(submissions)
        self._orders: dict[dg.AssetKey, dict[str | None, int]] = {}
        self._runs: dict[str, list[_Run]] = {}

    def order(self, asset: dg.AssetKey) -> dict[str | None, int]:
        """The place of each partition that exists."""
        if asset not in self._orders:
            self._orders[asset] = _order(self._context, asset)
        return self._orders[asset]

    def earlier(self, submission: str) -> list[_Run]:
        """The runs that a submission has had."""
        if submission not in self._runs:
            start = self._left.index(submission)  # those before it had no use for theirs
            end = start + _TOGETHER
            self._runs = _earlier(self._context.instance, self._left[start:end])
            self._left = self._left[end:]
        return self._runs[submission]


def _order(context: dg.SensorEvaluationContext, asset: dg.AssetKey) -> dict[str | None, int]:
    """The place of each partition that exists."""
    graph = context.repository_def.assets_defs_by_key if context.repository_def else {}
    partitions_def = graph[asset].partitions_def
    if partitions_def is None:
        return {None: 0}
    keys = partitions_def.get_partition_keys(dynamic_partitions_store=context.instance)
    return {key: place for place, key in enumerate(keys)}


def _earlier(instance: dg.DagsterInstance, submissions: Sequence[str]) -> dict[str, list[_Run]]:
    """The runs that each of these submissions has had."""
    found: dict[str, list[_Run]] = {submission: [] for submission in submissions}
    for record in instance.get_run_records(dg.RunsFilter(tags={SUBMISSION: list(submissions)})):
        run = record.dagster_run
        covers = (run.tags.get(FIRST), run.tags.get(LAST))
        found[run.tags[SUBMISSION]].append(
            _Run(
                covers,
                run.is_finished,
                run.status == dg.DagsterRunStatus.FAILURE,
                record.end_time or 0.0,
                record.create_timestamp.timestamp(),
            )
        )
    return found


def _request(asset: dg.AssetKey, wanted: Range, submission: str, attempt: int) -> dg.RunRequest:
    first, last = wanted
    tags = {SUBMISSION: submission}
    if first is not None and last is not None:
        tags |= {FIRST: first, LAST: last}
        if first != last:
            tags |= {RANGE_START: first, RANGE_END: last}
    return dg.RunRequest(
        run_key=f"{submission}{_shown(wanted)} #{attempt}",
        asset_selection=[asset],
        partition_key=first if first == last else None,
        tags=tags,
    )


def _shown(wanted: Range) -> str:
    first, last = wanted
    if first is None:
        return ""
    return f" [{first}]" if first == last else f" [{first}...{last}]"
