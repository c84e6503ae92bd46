"""Who goes on next: actors as greenlets over one simulated clock, which the seed alone decides.

An actor gives way before each I/O takes effect and before it learns of it, so every order of effects
and replies can happen, and it may die at either point. A dead actor dies again at each further I/O:
no `finally` does what a dead machine could not.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from greenlet import getcurrent, greenlet

__all__ = ["START", "Actor", "Chances", "Died", "Scheduler", "StuckError"]

START = 1_800_000_000.0

T = TypeVar("T")


class Died(BaseException):
    """The machine under an actor is gone."""


class StuckError(AssertionError):
    """Something is open and stays open."""


@dataclass(slots=True)
class Chances:
    """How likely each misfortune is; per I/O where nothing else is said."""

    die: float = 0.0
    stall: float = 0.0
    """The machine is suspended for minutes, and goes on as if nothing had happened."""
    jump: float = 0.0
    """The machine's clock is set, by up to half an hour."""
    skew: float = 0.0
    """Seconds by which clocks differ at most."""


@dataclass(slots=True, eq=False)
class Actor:
    """One process on one machine."""

    name: str
    greenlet: greenlet
    wake: float
    skew: float
    process: str
    dead: bool = False


@dataclass
class Scheduler:
    """The clock, the actors, and the dice."""

    random: Random
    chances: Chances
    now: float = START
    counts: Counter[str] = field(default_factory=Counter)
    trace: list[str] | None = None
    steps: int = 0
    one_clock: bool = False
    """Whether all actors are on one machine."""

    def __post_init__(self) -> None:
        self.current: Actor | None = None
        self._actors: list[Actor] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = iter(range(1 << 60))
        self._hub = getcurrent()

    # -- what the stage does ----------------------------------------------------------------------

    def spawn(self, name: str, run: Callable[[], None], *, after: float = 0.0) -> None:
        """A new process, which starts after so many seconds."""

        def live() -> None:
            with suppress(Died):
                run()

        skew = self.random.uniform(-self.chances.skew, self.chances.skew)
        if self.one_clock and self._actors:
            skew = self._actors[0].skew
        actor = Actor(name, greenlet(live, self._hub), self.now + after, skew, f"process-{next(self._numbers)}")
        self._actors.append(actor)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Do something that is no actor's, later."""
        heapq.heappush(self._timers, (self.now + seconds, next(self._numbers), call))

    def run(self, until: Callable[[], bool], *, limit: int) -> None:
        """Let actors go on, one at a time, until it is enough.

        Raises:
            StuckError: It is not enough after so many steps, or nobody is left to go on.
        """
        end = self.steps + limit
        while not until():
            if self.steps >= end:
                raise StuckError(f"not done after {limit} steps")
            self.steps += 1
            self._next()

    def _next(self) -> None:
        while self._timers and self._timers[0][0] <= self.now:
            heapq.heappop(self._timers)[2]()
        ready = [actor for actor in self._actors if actor.wake <= self.now]
        if not ready:
            times = [actor.wake for actor in self._actors] + [timer[0] for timer in self._timers[:1]]
            if not times:
                raise StuckError("nobody is left to go on")
            self.now = min(times)
            return
        actor = ready[int(self.random.random() * len(ready))]
        self.now += 0.01
        self.current = actor
        actor.greenlet.switch()
        self.current = None
        if actor.greenlet.dead:
            self._actors.remove(actor)

    def close(self) -> None:
        """End what is left of the actors."""
        for actor in self._actors:
            actor.dead = True
            if actor.greenlet:
                actor.greenlet.throw(Died)
        self._actors.clear()

    def right_clocks(self) -> None:
        """All machines have the time again."""
        for actor in self._actors:
            actor.skew = 0.0

    def note(self, what: str) -> None:
        """A line for whoever reads the trace."""
        if self.trace is not None:
            name = self.current.name if self.current else "world"
            self.trace.append(f"{self.now - START:9.1f}  {name:<14} {what}")

    def happens(self, chance: float, what: str) -> bool:
        """Throw the dice for a misfortune, and count it if it comes."""
        if chance <= 0 or self.random.random() >= chance:
            return False
        self.counts[what] += 1
        return True

    # -- what actors do ---------------------------------------------------------------------------

    def clock(self) -> float:
        """The time on the acting machine's own clock."""
        return self.now + (self.current.skew if self.current else 0.0)

    def process(self) -> str:
        """The acting process, by a name that no other ever has."""
        return self._alive().process

    def has_ended(self, process: str) -> bool:
        """Whether a process is no more, as others on its machine can tell."""
        return all(actor.dead for actor in self._actors if actor.process == process)

    def sleep(self, seconds: float) -> None:
        """Wait."""
        me = self._alive()
        self._give_way(me, max(seconds, 0.0))

    def io(self, what: str, effect: Callable[[], T]) -> T:
        """One I/O: others may go on, and the machine may die, before its effect and before its reply."""
        me = self._alive()
        self._pause(me)
        self._dies(me, f"before {what}")
        result = effect()
        self._pause(me)
        self._dies(me, f"after {what}")
        return result

    def die(self) -> None:
        """The acting machine dies now."""
        me = self._alive()
        me.dead = True
        raise Died

    def _alive(self) -> Actor:
        me = self.current
        if me is None or me.dead or me.greenlet is not getcurrent():
            raise Died
        return me

    def _pause(self, me: Actor) -> None:
        if self.happens(self.chances.jump, "clock jumps"):
            by = self.random.choice((-1500.0, -300.0, 200.0, 1500.0))
            for actor in self._actors if self.one_clock else [me]:
                actor.skew += by
            self.note(f"CLOCK now {me.skew:+.0f} s")
        seconds = self.random.random() * 0.5
        if self.happens(self.chances.stall, "stalls"):
            seconds = self.random.choice((90.0, 400.0, 700.0, 1500.0))
            self.note(f"STALLED for {seconds:.0f} s")
        self._give_way(me, seconds)

    def _give_way(self, me: Actor, seconds: float) -> None:
        me.wake = self.now + seconds
        self._hub.switch()
        if me.dead:
            raise Died

    def _dies(self, me: Actor, where: str) -> None:
        if self.happens(self.chances.die, "crashes"):
            self.note(f"DIED {where}")
            me.dead = True
            raise Died
