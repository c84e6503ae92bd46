"""One look at everything that is open: where the batches stand, what now fits the quota, and what is ready.

Each submission is on its own: what goes wrong with one is told, and the others go on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ractobatch_dagster.errors import ProviderAuthError, ProviderError, ProviderNotFoundError, RactobatchError
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.submission.alarms import Patience, alarms
from ractobatch_dagster.submission.engine import LIGHT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.looking import Looked, look
from ractobatch_dagster.submission.plan import (
    KEY,
    Collect,
    Poll,
    Progress,
    Settle,
    after_look,
    plan,
    progress,
    strays,
    together,
)
from ractobatch_dagster.submission.reading import newest_states
from ractobatch_dagster.submission.state import Owner, SubmissionState, TableState

__all__ = ["Open", "Watch", "is_quiet", "open_submissions"]

_NOT_LIGHT = Collect | Settle

_CALLS = 50
"""Batches asked for by id in one look, at most; where there are more, each look begins somewhere else."""


@dataclass(frozen=True, slots=True)
class Open:
    """One open submission: where it is, how it stands, and its partitions that have not landed."""

    owner: Owner
    files: SubmissionFiles
    state: SubmissionState
    keys: Sequence[str | None]


def open_submissions(
    table: TableFiles, state: TableState | None, notes: list[str], enough: Callable[[], bool] = lambda: False
) -> Iterator[Open]:
    """The open submissions of one table, oldest first. One that cannot be read, or not in time, is noted."""
    open_ = state.open if state else {}
    found = newest_states(table, list(open_), enough)
    for submission, keys in open_.items():
        there = found.get(submission)
        if isinstance(there, SubmissionState):
            yield Open(state.owner, table.submission(submission), there, keys)  # type: ignore[union-attr]
        elif there is not None:
            notes.append(f"{table.asset}: {there}")
    if len(found) < len(open_):
        notes.append(f"{table.asset}: the store is slow; {len(open_) - len(found)} submissions are for the next look")


def is_quiet(state: SubmissionState, looked: Looked, now: float, list_lag: float) -> bool:
    """Whether a tick would change nothing about this submission: nothing is due, and the look brought nothing new.

    The state may be a moment old. Whatever was committed since is for the next look, as if this one had been earlier.
    """
    if any(batch.intent is not None for batch in state.batches):
        return False  # its writer may have died
    if not all(isinstance(step, _NOT_LIGHT | Poll) for step in plan(state, now, list_lag=list_lag)):
        return False
    for batch in state.batches:
        remote = looked.found.get(batch.batch_id) if batch.batch_id and batch.stage == "running" else None
        if remote is not None and after_look(batch, remote, now) != batch:
            return False
    return not looked.others or strays(state, looked.others) == ({}, [])


def _by_submission(others: Iterable[RemoteBatch]) -> dict[str, list[RemoteBatch]]:
    """Batches with a key of ours, by the submission that it names."""
    found: dict[str, list[RemoteBatch]] = {}
    for remote in others:
        found.setdefault(remote.metadata[KEY].partition("/")[0], []).append(remote)
    return found


@dataclass(slots=True)
class Watch:
    """One look.

    Attributes:
        provider: Whom to ask.
        engine: Steps the submissions.
        patience: When a delay is an alarm.
        now: Seconds since 1970.
        enough: Whether the time is up.
        half: Whether half of it is.
        turn: Which of many batches are asked for first.
        notes: What happened, a sentence each.
        alarms: By table, what a person should look at.
        far: By table, how far it is.
    """

    provider: Provider
    engine: Engine
    patience: Patience
    now: float
    enough: Callable[[], bool] = lambda: False
    half: Callable[[], bool] = lambda: False
    turn: int = 0
    notes: list[str] = field(default_factory=list)
    alarms: dict[str, list[str]] = field(default_factory=dict)
    far: dict[str, str] = field(default_factory=dict)

    def step(self, found: Collection[Open]) -> list[Open]:
        """Look at these submissions, do what is light, and return them as they are then."""
        mine = [one for one in found if self._is_ours(one)]
        if mine:  # whoever is not reached this time is not always the same
            first = random.Random(self.turn).randrange(len(mine))
            mine = mine[first:] + mine[:first]
        looked = self._look(mine)
        others = _by_submission(looked.others)
        stepped: list[Open] = []
        for number, one in enumerate(mine):
            if self.enough():
                self.notes.append(f"the time is up; {len(mine) - number} submissions are for the next look")
                break
            stepped.append(self._one(one, Looked(looked.found, looked.failed, others.get(one.state.id, []))))
        self._tell(stepped)
        return stepped

    def _tell(self, stepped: Iterable[Open]) -> None:
        """Note how far each table is."""
        far: dict[str, list[Progress]] = {}
        for one in stepped:
            far.setdefault(one.owner.asset, []).append(progress(one.state))
        for asset, parts in far.items():
            which = f", in {len(parts):,} submissions" if len(parts) > 1 else ""
            self.far[asset] = f"{together(parts)}{which}"

    def _is_ours(self, one: Open) -> bool:
        if one.state.provider == self.provider.identity:
            return True
        self.alarm(
            one,
            f"submission {one.state.id} was sent to {one.state.provider}, and the resource now talks to "
            f"{self.provider.identity}. Nobody collects it; set the resource back, or cancel the submission.",
        )
        return False

    def _look(self, found: Sequence[Open]) -> Looked:
        wanted = {b.batch_id for one in found for b in one.state.batches if b.stage == "running" and b.batch_id}
        try:
            looked = look(self.provider, wanted, calls=_CALLS, turn=self.turn, enough=self.half)
        except RactobatchError as error:
            self.notes.append(str(error))
            return Looked()
        for one in found:
            for batch in one.state.batches:
                if batch.batch_id in looked.failed:
                    self._failed(one, looked.failed[batch.batch_id])
        return looked

    def _failed(self, one: Open, error: ProviderError) -> None:
        """A batch that could not be looked at: an alarm if it will not be there in the next tick either."""
        text = f"submission {one.state.id}: {error}"
        if isinstance(error, (ProviderNotFoundError, ProviderAuthError)):
            self.alarm(one, f"{text}. Was it created with another key or project?")
        else:
            self.notes.append(text)

    def _one(self, one: Open, looked: Looked) -> Open:
        state = one.state
        try:
            if not is_quiet(state, looked, self.now, self.provider.profile.list_lag):
                state = self.engine.advance(one.files, steps=LIGHT, looked=looked)
        except RactobatchError as error:
            self.notes.append(f"{one.owner.asset}: {error}")
            try:
                state = one.files.state()  # what was done all the same
            except RactobatchError as unreadable:
                self.notes.append(f"{one.owner.asset}: {unreadable}")
        for text in self._alarms(one.files, state):
            self.alarm(one, text)
        return Open(one.owner, one.files, state, one.keys)

    def _alarms(self, files: SubmissionFiles, state: SubmissionState) -> list[str]:
        """What is wrong with a submission, and with those that it replaces and waits for."""
        found = alarms(state, self.now, self.patience)
        for predecessor in (files.sibling(id_) for id_ in state.predecessors):
            try:
                found += self._alarms(predecessor, predecessor.state())
            except RactobatchError as error:
                found.append(f"submission {state.id}: {error}")
        return found

    def alarm(self, one: Open, text: str) -> None:
        """Note what a person should look at."""
        self.alarms.setdefault(one.owner.asset, []).append(text)
