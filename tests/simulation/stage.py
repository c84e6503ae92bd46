"""Everything of one schedule: what the seed decided about it, its world, its store, and who acts when."""

from __future__ import annotations

import logging
import random as random_module
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from types import ModuleType, SimpleNamespace
from typing import Any

import dagster as dg
import pyarrow as pa

from ractobatch_dagster import landing, requesting, submitting, ticking
from ractobatch_dagster.provider.client import Account, Provider
from ractobatch_dagster.requests import frame
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.results.cost import Price
from ractobatch_dagster.reuse import Reuse
from ractobatch_dagster.spec import RESOURCE, BatchSpec
from ractobatch_dagster.store import StoreClock
from ractobatch_dagster.submission import answered, creating, engine, reusing, rows
from ractobatch_dagster.submission.alarms import Patience
from ractobatch_dagster.submission.budget import Limit
from ractobatch_dagster.submission.engine import Engine
from ractobatch_dagster.submission.files import TableFiles
from tests.simulation.orchestrator import Orchestrator, Run
from tests.simulation.scheduler import Scheduler
from tests.simulation.setting import MODEL, draw
from tests.simulation.store import SimulatedStore, StoreChances
from tests.simulation.wire import Wire, client_over
from tests.simulation.world import World

__all__ = ["ASSET", "Resource", "Stage", "Written", "simulated_time"]

ASSET = "answers"


class Resource:
    """What the package takes for its `OpenAIBatchResource`, over the simulated store and wire."""

    require_sensor = False
    patience = Patience()
    hive_column = None
    budgets: tuple[()] = ()

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.now = StoreClock(stage.store, local=stage.scheduler.clock)

    @property
    def store(self) -> SimulatedStore:
        """The store."""
        return self._stage.store

    def get_provider(self) -> Provider:
        """The provider, as real as can be."""
        return self._stage.provider

    def price_list(self) -> dict[str, Price]:
        """None are given."""
        return {}

    def limits(self) -> Limits:
        """Few requests to a batch."""
        return Limits(max_requests=self._stage.setting.per_batch, max_bytes=1_000_000)

    def engine(self, *, log: Any, provider: Provider | None = None, **options: Any) -> Engine:
        """As `OpenAIBatchResource.engine`."""
        stage = self._stage
        return Engine(
            stage.store,
            provider or stage.provider,
            limits=self.limits(),
            now=self.now,
            log=log,
            enqueued=stage.quota,
            budgets=[Limit(usd=stage.budget_usd, per="total")] if stage.setting.budget else [],
            **options,
        )


@dataclass(slots=True)
class Written:
    """A table that an IO manager wrote."""

    key: str | None
    submission: str
    table: pa.Table
    began: float
    """When its run began."""
    at: float


@dataclass
class Stage:
    """One schedule."""

    seed: int
    trace: list[str] | None = None
    stress: Mapping[str, Any] = field(default_factory=dict)
    """What is not left to the seed, such as `{"wire.late": 0.5}`."""
    written: list[Written] = field(default_factory=list)
    """Every table that an IO manager wrote."""
    newest: dict[str | None, int] = field(default_factory=dict)
    """The newest version of its rows that anybody set out to submit, by partition."""
    broken: list[str] = field(default_factory=list)
    """Errors that no run should end with."""

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.setting, chances, store, wire, world = draw(self.random)
        drawn = {"setting": self.setting, "machines": chances, "store": store, "wire": wire, "world": world}
        for name, value in self.stress.items():
            owner, _, what = name.partition(".")
            setattr(drawn[owner], what, value)
        self.scheduler = Scheduler(self.random, chances, trace=self.trace, one_clock=self.setting.on_disk)
        self.store = SimulatedStore(self.scheduler, store, on_disk=self.setting.on_disk)
        self.world = World(self.random, world, self.scheduler.happens)
        self.world.settle(self.scheduler.now)
        self.wire = Wire(self.scheduler, self.world, wire)
        self.orchestrator = Orchestrator(self.scheduler, self._execute, self.setting.keys)
        self.over = self.calm = False
        self.calm_at = float("inf")
        self._store_chances, self._wire_chances, self._world_chances = store, wire, world

    def _execute(self, run: Run) -> None:
        raise NotImplementedError

    @cached_property
    def provider(self) -> Provider:
        """The real provider over the simulated wire; it waits and throws its dice here."""
        return Provider(
            Account(kind="openai", max_retries=self.setting.max_retries),
            client=client_over(self.wire),
            sleep=self.scheduler.sleep,
            random=self.random.random,
            now=self.scheduler.clock,
        )

    @cached_property
    def spec(self) -> BatchSpec:
        """The one batch asset."""
        return BatchSpec(
            asset=dg.AssetKey([ASSET]),
            submission_asset=dg.AssetKey([f"{ASSET}_submission"]),
            template=RequestTemplate(MODEL, max_tokens=MOST_TOKENS),
            overrides=Overrides({"model": "model"}) if self.setting.models else None,
            resource_key="openai_batch",
            key=None,
            partition_by=None,
            carry=None,
            on_null="skip",
            dedupe=self.setting.dedupe,
            reuse=Reuse(),
            max_rounds=self.setting.max_rounds,
            completion_window="24h",
            ranges=True,
            own_storage=self.setting.own_storage,
            poll_seconds=60.0,
            repairs=0,
            on_change=self.setting.on_change,  # type: ignore[arg-type]
            on_terminate="keep",
        )

    @property
    def quota(self) -> dict[str, int]:
        """How many tokens may be enqueued, by model, where that is given."""
        models = [f"model-{number}" for number in range(self.setting.models)] or [MODEL]
        return dict.fromkeys(models, self._world_chances.queue_tokens) if self.setting.quota_given else {}

    @property
    def budget_usd(self) -> float:
        """What all batches may cost; as much as anybody wants once nothing goes wrong any more."""
        return 1_000.0 if self.calm else self.setting.budget * A_REQUEST_USD

    @property
    def definition_metadata(self) -> dict[str, Any]:
        """By which the sensor knows the asset."""
        return {RESOURCE: "openai_batch"}

    @property
    def table(self) -> TableFiles:
        """The table, read without anybody noticing."""
        return TableFiles(self.quiet, ASSET)

    @cached_property
    def quiet(self) -> SimulatedStore:
        """The same objects, without I/O."""
        quiet = SimulatedStore(self.scheduler, StoreChances())
        quiet.objects = self.store.objects
        quiet._io = lambda what, effect, effective=False: effect()  # type: ignore[method-assign]
        return quiet

    def becomes_calm(self) -> None:
        """No misfortune from now on; what is under way stays so. Budgets are raised."""
        self.calm, self.calm_at = True, self.scheduler.now
        clear(self.scheduler.chances)
        self.scheduler.right_clocks()
        clear(self._store_chances)
        clear(self._wire_chances)
        for name in ("queue_full", "queue_failed", "not_found_yet", "expire", "refuse", "outsider_cancels"):
            setattr(self._world_chances, name, 0.0)
        self._world_chances.verdicts.clear()
        self._world_chances.output_lost = self._world_chances.output_vanishes = self._world_chances.slow = 0.0
        self.scheduler.note("-- from here on nothing goes wrong --")


MOST_TOKENS = 1_000

A_REQUEST_USD = 0.00032
"""What a request may cost, about: that of its answer, and a little for the prompt."""


def clear(chances: Any) -> None:
    """Set every chance to nothing, and leave ways of behaving as they are."""
    for name in chances.__slots__:
        if isinstance(getattr(chances, name), float):
            setattr(chances, name, 0.0)


_FEW: dict[ModuleType, dict[str, int]] = {
    frame: {"BLOCK": 2},
    rows: {"PART_ROWS": 4, "_GROUP_ROWS": 2},
    answered: {"_READ_ROWS": 2},
    reusing: {"_AT_ONCE": 3},
}
"""How many rows go together where parts are small."""


@contextmanager
def simulated_time(stage: Stage) -> Iterator[None]:
    """The modules that read the machine's clock or make up names do so by this schedule's."""
    scheduler = stage.scheduler
    clock = SimpleNamespace(time=scheduler.clock, monotonic=lambda: scheduler.now, sleep=scheduler.sleep)
    modules = [module for module in (landing, requesting, ticking, submitting) if hasattr(module, "time")]
    names, folder = secrets.token_hex, tempfile.tempdir
    logger = logging.getLogger("ractobatch_dagster")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    dice = random_module.Random(stage.seed)
    for module in modules:
        module.time = clock  # type: ignore[attr-defined]
    sizes = {owner: {name: getattr(owner, name) for name in few} for owner, few in _FEW.items()}
    for owner, few in _FEW.items() if stage.setting.small_parts else ():
        vars(owner).update(few)
    new_writer, is_dead = creating.new_writer, engine.is_dead
    creating.new_writer = lambda: f"{scheduler.process()} {secrets.token_hex(8)}"
    # processes know of each other on one machine only
    engine.is_dead = lambda writer: stage.setting.on_disk and scheduler.has_ended(writer.partition(" ")[0])
    secrets.token_hex = lambda size=8: f"{dice.getrandbits(8 * (size or 8)):0{2 * (size or 8)}x}"  # type: ignore[assignment]
    if Path("/dev/shm").is_dir():
        tempfile.tempdir = "/dev/shm"
    try:
        yield
    finally:
        secrets.token_hex, tempfile.tempdir = names, folder
        logger.setLevel(level)
        creating.new_writer, engine.is_dead = new_writer, is_dead
        for owner, few in sizes.items():
            vars(owner).update(few)
        for module in modules:
            module.time = sys.modules["time"]  # type: ignore[attr-defined]
        with suppress(Exception):
            stage.scheduler.close()
