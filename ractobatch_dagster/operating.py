"""What the command line does with open submissions: show them, cancel them. Needs no Dagster."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from ractobatch_dagster.errors import ConfigurationError, RactobatchError
from ractobatch_dagster.provider.account import Account
from ractobatch_dagster.provider.connecting import connect, profile_of
from ractobatch_dagster.provider.profile import Kind
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.store import Store, StoreClock
from ractobatch_dagster.submission.alarms import Patience, alarms
from ractobatch_dagster.submission.cancelling import ANY, Chosen, cancel, choose
from ractobatch_dagster.submission.engine import Engine
from ractobatch_dagster.submission.files import TableFiles, tables
from ractobatch_dagster.submission.heartbeat import heartbeats, watched
from ractobatch_dagster.submission.plan import progress
from ractobatch_dagster.submission.state import SubmissionState

__all__ = ["Standing", "account", "cancel_open", "standing", "status"]

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Standing:
    """What is open in a root, and what of it needs a person.

    Attributes:
        open: The open submissions that can be read.
        unreadable: What cannot be read.
        late: What is stuck, uncollected or about to be lost.
        unwatched: The tables that no sensor looks after.
    """

    open: list[tuple[Chosen, SubmissionState]]
    unreadable: list[str]
    late: list[str]
    unwatched: list[str]


def standing(store: Store, now: float) -> Standing:
    """How a root stands, as far as the store tells.

    Args:
        store: The root.
        now: Seconds since 1970.
    """
    unreadable: list[str] = []
    open_: list[tuple[Chosen, SubmissionState]] = []
    for one in choose(tables(store), unreadable=unreadable):
        try:
            open_.append((one, one.table.submission(one.submission).state()))
        except RactobatchError as error:
            unreadable.append(f"{one}: {error}")
    beats = heartbeats(store).values()
    assets = sorted({one.table.asset for one, _ in open_ if one.watched})
    return Standing(
        open_,
        unreadable,
        [text for _, state in open_ for text in alarms(state, now, Patience())],
        [f"{asset}: {why}" for asset in assets if (why := watched(asset, beats, now))],
    )


def status(store: Store, say: Say) -> int:
    """Show what is open; how many things need a person."""
    now = standing(store, StoreClock(store)())
    for one, state in now.open:
        say(f"{one}: {progress(state)}" + (" (cancelled)" if state.cancelled else ""))
    problems = [*now.unreadable, *now.late, *now.unwatched]
    if not now.open and not now.unreadable:
        say("Nothing is open.")
    for problem in problems:
        say(f"! {problem}")
    return len(problems)


def account(store: Store | None, base_url: str | None, kind: Kind | None) -> Account:
    """The account that the resource would use."""
    if kind == "local" and base_url is None:
        if store is None or store.local_path is None:
            raise ConfigurationError("Give the local server's address as --base-url: the root is no local directory.")
        from ractobatch_dagster.local import ensure_server

        server = ensure_server(store.local_path / "local-server")
        return Account(api_key=server.api_key, base_url=server.base_url, kind=kind)
    variable = f"{profile_of(kind, base_url).environ}_API_KEY"
    if not os.environ.get(variable):
        raise ConfigurationError(f"Set {variable} to the key with which the batches were created.")
    return Account(base_url=base_url, kind=kind)


def cancel_open(
    store: Store,
    at: Account,
    say: Say,
    *,
    asset: str | None = None,
    partition: str | None = None,
    submission: str | None = None,
    abandon: bool = False,
) -> int:
    """Cancel what is open of this table, partition or submission, or everything; how many are not cancelled yet."""
    unreadable: list[str] = []
    chosen = choose(
        [TableFiles(store, asset)] if asset else tables(store),
        submission=submission,
        partition=ANY if partition is None else partition,
        unreadable=unreadable,
    )
    for problem in unreadable:
        say(f"! {problem}")
    provider = connect(at, lambda: store)
    profile = provider.profile
    limits = Limits(max_requests=profile.max_requests, max_bytes=profile.max_bytes)
    engine = Engine(store, provider, limits=limits, now=StoreClock(store), log=say)
    failed = cancel(engine, chosen, say, abandon=abandon)
    now, beats = StoreClock(store)(), heartbeats(store).values()
    if not chosen:
        say("No such submission is open.")
    for name in sorted({one.table.asset for one in chosen if one.watched}):
        why = watched(name, beats, now)
        say(
            f"{name}: what was answered is not collected, since {why}."
            if why
            else f"{name}: what was answered is collected and lands by itself."
        )
    return len(failed) + len(unreadable)
