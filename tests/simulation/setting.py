"""What a seed decides before anything happens: the shape of the work, the chances of misfortune, the rows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from zlib import crc32

import pyarrow as pa

from tests.simulation.answers import Lines, Verdict
from tests.simulation.scheduler import Chances
from tests.simulation.store import StoreChances
from tests.simulation.wire import WireChances
from tests.simulation.world import WorldChances

__all__ = ["COMMON", "MODEL", "Setting", "draw", "frame_of", "model_of"]


@dataclass
class Setting:
    """What a seed decides before anything happens."""

    keys: list[str | None]
    packed: bool
    alone: bool
    """Whether some partition of a pack is submitted by itself as well."""
    rows: int
    data: int
    """Which rows."""
    per_batch: int
    max_rounds: int
    dedupe: bool
    sensor_every: float
    sensors: int
    changes: int
    reruns: int
    cancels: bool
    by_hand: int
    on_disk: bool
    """Whether the store's clock is the machine's."""
    on_change: str
    max_retries: int
    small_parts: bool
    """Whether a few rows make a file, a row group or a block, for which it otherwise takes thousands."""
    own_storage: bool
    """Whether it is our IO manager that writes the tables."""
    chaos: float
    """Seconds until the misfortunes end."""
    budget: float = 0.0
    """For how many requests there is money until the misfortunes end; no limit where it is nothing."""
    quota_given: bool = False
    """Whether the package is told how many tokens the queue takes; otherwise it learns that from a refusal."""
    models: int = 0
    """How many models the rows name, each its own; none where all ask the same."""


def draw(random: Random) -> tuple[Setting, Chances, StoreChances, WireChances, WorldChances]:
    """A setting and the chances of one schedule: most misfortunes are absent from most schedules."""

    def some(most: float, share: float = 0.4) -> float:
        return random.uniform(0, most) if random.random() < share else 0.0

    def maybe(chance: float) -> bool:
        return random.random() < chance

    keys: list[str | None] = [None] if maybe(0.4) else [f"p{i}" for i in range(random.randint(1, 3))]
    setting = Setting(
        keys=keys,
        packed=maybe(0.6),
        alone=maybe(0.4),
        rows=random.randint(1, 5) if len(keys) > 1 else random.randint(1, 9),
        data=random.randrange(1_000),
        per_batch=random.randint(1, 4),
        max_rounds=random.choice((0, 1, 1, 2)),
        dedupe=maybe(0.7),
        sensor_every=random.choice((30.0, 60.0, 120.0, 240.0)),
        sensors=2 if maybe(0.2) else 1,
        changes=random.choice((0, 0, 1, 2)),
        reruns=random.choice((0, 1, 2)),
        cancels=maybe(0.15),
        by_hand=random.choice((0, 0, 1)),
        on_disk=maybe(0.3),
        on_change=random.choice(("fail", "attach", "replace", "replace")),
        max_retries=random.choice((0, 2)),
        small_parts=maybe(0.25),
        own_storage=maybe(0.8),
        chaos=random.uniform(500, 4000),
    )
    chances = Chances(die=some(0.02, 0.6), stall=some(0.02), jump=some(0.005, 0.2), skew=random.choice((0.0, 60.0)))
    store = StoreChances(fail=some(0.03, 0.3), fail_after=some(0.02), repeated=some(0.1))
    wire = WireChances(
        refused=some(0.05),
        gateway=some(0.08),
        limited=some(0.15),
        lost=some(0.1),
        gateway_after=some(0.1),
        late=some(0.5, 0.5),
        twice=some(0.1, 0.1),
        cut=some(0.3),
        no_length=maybe(0.1),
        list_fails=some(0.3, 0.2),
    )
    verdicts = {
        verdict: some(0.2, 0.25)
        for verdict in (
            Verdict.SERVER_ERROR,
            Verdict.RATE_LIMITED,
            Verdict.GHOST,
            Verdict.BODY_ERROR,
            Verdict.GARBLED,
            Verdict.MISSING,
        )
    }
    world = WorldChances(
        queue_full=some(0.4, 0.25),
        queue_failed=some(0.5, 0.3),
        not_found_yet=some(0.3, 0.2),
        expire=some(0.4, 0.25),
        refuse=some(0.2, 0.1),
        outsider_cancels=some(0.3, 0.15),
        output_lost=some(0.3, 0.15),
        output_vanishes=some(0.5, 0.15),
        slow=some(0.2, 0.1),
        lag=some(100.0, 0.6),
        stale_states=maybe(0.3),
        keeps_metadata=maybe(0.85),
        has_list=maybe(0.97),
        accepts_missing_files=maybe(0.1),
        page=random.choice((2, 5, 100)),
        verdicts=verdicts,
        lines=Lines(
            duplicates=some(0.3, 0.2),
            unknown=some(0.3, 0.2),
            silent_end=maybe(0.4),
            errors_in_output=maybe(0.2),
            empty_files=maybe(0.2),
            empty_ids=maybe(0.3),
            upper_case=maybe(0.1),
            lying_counts=maybe(0.3),
            no_last_feed=maybe(0.3),
        ),
    )
    setting.models = random.randint(1, 3) if maybe(0.35) else 0
    setting.budget = random.uniform(0, 12) if maybe(0.3) and not setting.models else 0.0
    if maybe(0.3):
        world.queue_tokens = int(setting.per_batch * 100 * random.uniform(1, 3))
        setting.quota_given = maybe(0.5)
    return setting, chances, store, wire, world


def frame_of(setting: Setting, key: str | None, version: int) -> pa.Table:
    """A partition's rows in one version: each version asks some new questions, and an old one never comes back."""
    return _frame(setting.rows, setting.data, key, version, setting.models)


def model_of(question: str, models: int) -> str:
    """The model that a question is for, which is always the same."""
    return f"model-{crc32(question.encode()) % models}" if models else MODEL


MODEL = "gpt-4o-mini"
COMMON = "question of all partitions:"

_KINDS = (*[""] * 6, "400", "refusal", "truncated", "poison", None)
"""What a question begins with decides its lot; most are left to chance, and some rows ask nothing."""


@lru_cache(maxsize=512)
def _frame(rows: int, data: int, key: str | None, version: int, models: int) -> pa.Table:
    questions: list[str | None] = []
    for row in range(rows):
        dice = Random(f"{data}/{key}/{row}")
        changed = version if dice.random() < 0.4 else 0
        kind = dice.choice(_KINDS)
        if kind is None:
            questions.append(None if dice.random() < 0.5 else "   ")
            continue
        if row and dice.random() < 0.15:
            questions.append(questions[dice.randrange(row)])
        elif dice.random() < 0.1:
            questions.append(f"{kind} {COMMON} {dice.randrange(3)}")
        else:
            questions.append(f"{kind} question {row} of {key}, version {changed}")
    if version:
        questions.append(f"question new in version {version} of {key}")
    columns = {
        "number": pa.array(range(len(questions)), pa.int64()),
        "version": pa.array([version] * len(questions), pa.int64()),
        "user_message": pa.array(questions, pa.string()),
    }
    if models:
        columns["model"] = pa.array([one and model_of(one, models) for one in questions], pa.string())
    return pa.table(columns)
