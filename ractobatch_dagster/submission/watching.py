"""One look at everything that is open: where the batches stand, what now fits the quota, and what is ready.

Each submission is on its own: what goes wrong with one is told, and the others go on.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import unquote

from ractobatch_dagster.errors import ProviderAuthError, ProviderError, ProviderNotFoundError, RactobatchError
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.alarms import Patience, alarms
from ractobatch_dagster.submission.engine import LIGHT, Engine
from ractobatch_dagster.submission.files import ROOT, SubmissionFiles, TableFiles
from ractobatch_dagster.submission.looking import Looked, look
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import Owner, SubmissionState, TableState

__all__ = ["Open", "Watch", "open_submissions", "tables"]

_CALLS = 50
"""Batches asked for by id in one look, at most; where there are more, each look begins somewhere else."""


@dataclass(frozen=True, slots=True)
class Open:
    """One open submission: where it is, how it stands, and its partitions that have not landed."""

    owner: Owner
    files: SubmissionFiles
    state: SubmissionState
    keys: Sequence[str | None]


def tables(store: Store) -> list[TableFiles]:
    """Every table of which anything was ever submitted."""
    return [TableFiles(store, unquote(name)) for name in store.folders(ROOT)]


def open_submissions(table: TableFiles, state: TableState | None, notes: list[str]) -> Iterator[Open]:
    """The open submissions of one table, oldest first. One that cannot be read is noted."""
    for submission, keys in (state.open if state else {}).items():
        files = table.submission(submission)
        try:
            yield Open(state.owner, files, files.state(), keys)  # type: ignore[union-attr]
        except RactobatchError as error:
            notes.append(f"{table.asset}: {error}")


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

    def step(self, found: Collection[Open]) -> list[Open]:
        """Look at these submissions, do what is light, and return them as they are then."""
        mine = [one for one in found if self._is_ours(one)]
        if mine:  # whoever is not reached this time is not always the same
            first = random.Random(self.turn).randrange(len(mine))
            mine = mine[first:] + mine[:first]
        looked = self._look(mine)
        stepped = []
        for number, one in enumerate(mine):
            if self.enough():
                self.notes.append(f"the time is up; {len(mine) - number} submissions are for the next look")
                break
            stepped.append(self._one(one, looked))
        return stepped

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
            state = self.engine.advance(one.files, steps=LIGHT, looked=looked)
            self.notes.append(f"{one.owner.asset}: {progress(state)}")
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
