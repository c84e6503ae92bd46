"""The engine broken on purpose, in ways that a hurried hand might break it. The simulation must notice each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from ractobatch_dagster import confirming, requesting, submitting, ticking
from ractobatch_dagster.errors import ProviderError, StoreError
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.results import classify
from ractobatch_dagster.results.join import join_files
from ractobatch_dagster.results.lines import read_lines
from ractobatch_dagster.results.table import ResultTable
from ractobatch_dagster.submission import (
    answered,
    collecting,
    creating,
    engine,
    opening,
    plan,
    resolving,
    reusing,
    rounds,
)
from ractobatch_dagster.submission.asking import Asking, asked_rows
from ractobatch_dagster.submission.budget import Purse, Stop
from ractobatch_dagster.submission.creating import Creator
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.log import Log, Version
from ractobatch_dagster.submission.quota import Quota
from ractobatch_dagster.submission.state import BatchState

__all__ = ["MUTANTS", "Mutant"]

Patches = list[tuple[Any, str, Any]]


@dataclass(frozen=True)
class Mutant:
    """One way to break it: what would be put in place of what."""

    name: str
    patches: Callable[[], Patches]
    stress: Mapping[str, Any]
    """The misfortunes under which it is noticed soon; the others are left to the seed."""

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """The package, broken in this way."""
        with ExitStack() as undo:
            for owner, name, value in self.patches():
                undo.callback(setattr, owner, name, owner.__dict__[name])
                setattr(owner, name, value)
            yield


MUTANTS: list[Mutant] = []


def _mutant(**stress: Any) -> Callable[[Callable[[], Patches]], Callable[[], Patches]]:
    """Enlist a mutant; of the names of chances the first `_` stands for a dot."""

    def enlist(patches: Callable[[], Patches]) -> Callable[[], Patches]:
        chances = {name.replace("_", ".", 1): value for name, value in stress.items()}
        MUTANTS.append(Mutant(patches.__name__.replace("_", " "), patches, chances))
        return patches

    return enlist


# -- creating -------------------------------------------------------------------------------------


@_mutant()
def creates_without_a_committed_intent() -> Patches:
    def create(self: Any, files: Any, state: Any, numbers: Any, problems: list[ProviderError]) -> Any:
        state = files.state()
        done: dict[int, BatchState] = {}
        for batch in state.batches:
            if batch.number in numbers and batch.stage == "uploaded":
                try:
                    self._create_one(state, batch, done, files.store)
                except ProviderError as error:
                    problems.append(error)
        return files.change(lambda newest: {b.number: done[b.number] for b in newest.batches if b.number in done})

    return [(Creator, "create", create)]


@_mutant(setting_budget=3.0, setting_models=0)
def creates_whatever_the_budget_is() -> Patches:
    fitting = lambda _, state, numbers: (list(numbers), Stop())  # noqa: E731
    return [(Purse, "fitting", fitting), (Purse, "reserve", lambda *_: "")]


@_mutant(setting_budget=3.0, setting_models=0, setting_reruns=2, setting_packed=False)
def only_looks_at_the_budget_and_reserves_nothing() -> Patches:
    return [(Purse, "reserve", lambda *_: "")]


@_mutant(setting_quota_given=True, world_queue_tokens=250, setting_per_batch=2)
def creates_whatever_is_enqueued() -> Patches:
    fitting = lambda _, state, numbers, most: (list(numbers)[:most], "")  # noqa: E731
    return [(Quota, "fitting", fitting), (Quota, "reserve", lambda *_: "")]


@_mutant(setting_quota_given=True, world_queue_tokens=250, setting_reruns=2, setting_packed=False, setting_per_batch=2)
def only_looks_at_the_queue_and_counts_nothing() -> Patches:
    return [(Quota, "reserve", lambda *_: "")]


@_mutant()
def creates_again_after_a_5xx() -> Patches:
    create = Provider.create

    def twice(self: Provider, **arguments: Any) -> Any:
        try:
            return create(self, **arguments)
        except ProviderError as error:
            if error.refused:
                raise
            return create(self, **arguments)

    return [(Provider, "create", twice)]


@_mutant()
def plans_an_aged_intent_anew_without_looking() -> Patches:
    def resolve(provider: Any, files: Any, state: Any, numbers: Any, *_: Any) -> Any:
        return files.change(
            lambda newest: {b.number: plan.requeued(b) for b in newest.batches if b.number in numbers and b.intent}
        )

    return [(engine, "resolve", resolve)]


@_mutant(world_lag=100.0, wire_gateway_after=0.3, setting_sensor_every=30.0)
def looks_once_although_lists_lag() -> Patches:
    resolve = resolving.resolve

    def at_once(provider: Any, files: Any, state: Any, numbers: Any, *rest: Any) -> Any:
        state = resolve(provider, files, state, numbers, *rest)
        fenced = [b.number for b in state.batches if b.number in numbers and b.intent and b.intent.fenced_at]
        return resolve(provider, files, state, fenced, *rest) if fenced else state

    return [(engine, "resolve", at_once)]


@_mutant(wire_late=0.6)
def takes_over_without_deleting_the_file() -> Patches:
    return [(resolving, "_fence", lambda *_: None)]


@_mutant(wire_late=0.6, wire_limited=0.3, setting_max_retries=0)
def takes_a_429_on_deletion_for_a_fence() -> Patches:
    fence = resolving._fence

    def lax(*arguments: Any) -> None:
        try:
            fence(*arguments)
        except ProviderError as error:
            if not error.refused:
                raise

    return [(resolving, "_fence", lax)]


@_mutant(world_queue_failed=0.6, wire_lost=0.2)
def attaches_to_a_dead_batch() -> Patches:
    return [(resolving, "after_look", plan.seen)]


@_mutant()
def takes_a_full_queue_for_a_refusal() -> Patches:
    return [(module, "after_look", plan.seen) for module in (engine, creating, resolving)]


@_mutant()
def records_over_another_writers_intent() -> Patches:
    def record(self: Any, files: Any, known: Mapping[int, BatchState], *_: Any) -> Any:
        return files.change(lambda newest: dict(known))

    return [(Creator, "_record", record)]


# -- the log --------------------------------------------------------------------------------------


@_mutant(setting_sensors=2)
def overwrites_when_it_loses_a_race() -> Patches:
    commit = Log.commit

    def overwrite(self: Any, previous: Any, state: Any) -> Any:
        there = commit(self, previous, state)
        if there is not None:
            return there
        number = 0 if previous is None else previous.number + 1
        again: Log[Any] = Log(_Overwriting(self._store), self._prefix, type(state))  # type: ignore[arg-type]
        return commit(again, previous, state) or Version(number, state)

    return [(Log, "commit", overwrite)]


class _Overwriting:
    def __init__(self, store: Any) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def create(self, path: str, data: bytes) -> bool:
        self._store.write(path, data)
        return True


@_mutant(store_fail=0.03)
def takes_unreadable_state_for_none() -> Patches:
    load, commit = Log.load, Log.commit

    def lenient(self: Any) -> Any:
        try:
            return load(self)
        except StoreError:
            return None

    def anywhere(self: Any, previous: Any, state: Any) -> Any:
        free = len(self._store.names(self._prefix))
        return commit(self, previous or (Version(free - 1, state) if free else None), state)

    return [(Log, "load", lenient), (Log, "commit", anywhere)]


# -- answers --------------------------------------------------------------------------------------


@_mutant()
def reads_only_the_output_file() -> Patches:
    return [(BatchState, "file_ids", property(lambda self: [one for one in (self.output_file_id,) if one]))]


@_mutant()
def trusts_the_counts() -> Patches:
    def trusted(self: BatchState) -> list[str]:
        files = ((self.output_file_id, self.completed), (self.error_file_id, self.failed))
        return [file_id for file_id, count in files if file_id and count]

    return [(BatchState, "file_ids", property(trusted))]


@_mutant(world_output_vanishes=0.8, setting_by_hand=4, setting_sensors=2, machines_stall=0.02)
def overwrites_what_another_run_collected() -> Patches:
    return [(SubmissionFiles, "results", lambda self, batch: f"{self.prefix}/results/{batch.number:05d}.parquet")]


@_mutant()
def throws_an_expired_batchs_answers_away() -> Patches:
    whole = BatchState.file_ids.fget  # type: ignore[attr-defined]

    def kept(self: BatchState) -> list[str]:
        return [] if self.status is BatchStatus.EXPIRED else whole(self)

    return [(BatchState, "file_ids", property(kept))]


@_mutant()
def joins_answers_by_their_place() -> Patches:
    def by_place(asked: Any, chunks: Any, *arguments: Any) -> Any:
        renamed = (
            msgspec.json.encode({**line, "custom_id": custom_id}) + b"\n"
            for custom_id, line in zip(asked, read_lines(chunks), strict=False)
            if isinstance(line, dict)
        )
        return join_files(asked, renamed, *arguments)

    return [(collecting, "join_files", by_place)]


@_mutant(setting_max_rounds=0, world_output_lost=0.5)
def drops_rows_without_a_line() -> Patches:
    whole = ResultTable.block

    def block(*arguments: Any) -> Any:
        import pyarrow.compute as pc

        made = whole(*arguments)
        return made.filter(pc.invert(pc.equal(made["llm_status"].cast("string"), "missing")))

    return [(ResultTable, "block", block)]


@_mutant()
def status_goes_backwards() -> Patches:
    def after_look(batch: BatchState, remote: Any, now: float) -> BatchState:
        fresh = plan.seen(msgspec.structs.replace(batch, status=None), remote, now)
        return fresh if batch.batch_id in (None, remote.id) else batch

    def in_any_stage(self: BatchState) -> str:
        stage = _stage(self)
        return "running" if stage == "ended" else stage

    return [
        (engine, "after_look", after_look),
        (creating, "after_look", after_look),
        (BatchState, "stage", property(in_any_stage)),
    ]


_stage: Callable[[BatchState], str] = BatchState.stage.fget  # type: ignore[attr-defined]


# -- asking again ---------------------------------------------------------------------------------


@_mutant()
def asks_again_what_failed_for_good() -> Patches:
    failed = classify._failed

    def retried(*arguments: Any) -> Any:
        outcome = failed(*arguments)
        outcome.retryable = True
        return outcome

    return [(classify, "_failed", retried)]


@_mutant()
def sends_everything_again_in_the_next_round() -> Patches:
    def everything(files: Any, batch: Any) -> Any:
        for row in asked_rows(files, batch).rows.tolist():
            yield rounds._Outcome(row, False, True, False, None, None)

    return [(rounds, "_doubtful", everything)]


@_mutant()
def never_asks_again() -> Patches:
    return [(rounds, "_again", lambda *_: None)]


@_mutant(setting_max_rounds=0, world_expire=0.5)
def asks_again_without_end() -> Patches:
    known = rounds._known

    def endless(one: Any, asked: Any, state: Any) -> Any:
        return known(one, asked, msgspec.structs.replace(state, max_rounds=1 << 14))

    return [(rounds, "_known", endless), (rounds, "_MAX_FREE", 1 << 14)]


@_mutant(setting_keys=["p0", "p1", "p2"], setting_packed=True, setting_alone=True)
def asks_the_rows_of_partitions_that_it_attached_to() -> Patches:
    return [(Asking, "_own", lambda self, rows: np.ones(len(rows), dtype=bool))]


@_mutant()
def reuses_nothing() -> Patches:
    return [(opening, "sources_of", lambda *_, **__: [])]


@_mutant()
def takes_over_the_answer_of_another_row() -> Patches:
    whole = reusing._taken

    def shifted(rows: Any, files: Any, state: Any, theirs: Any, path: Any) -> Any:
        return whole(rows, files, state, np.roll(theirs, 1), path)

    return [(reusing, "_taken", shifted)]


@_mutant(setting_dedupe=True)
def copies_the_answer_of_another_row() -> Patches:
    whole = answered.Copies.between

    def shifted(self: Any, *arguments: Any) -> Any:
        found, rows, firsts = whole(self, *arguments)
        texts = found["text"].to_pylist()
        text = pa.array([*texts[1:], *texts[:1]] if len(set(texts)) > 1 else ["another's"] * len(texts), pa.string())
        return found.set_column(found.schema.get_field_index("text"), "text", text), rows, firsts

    return [(answered.Copies, "between", shifted)]


# -- landing --------------------------------------------------------------------------------------


@_mutant()
def uses_a_run_key_again() -> Patches:
    attempt = requesting.next_attempt
    return [(requesting, "next_attempt", lambda *arguments: (1, *attempt(*arguments)[1:]))]


@_mutant()
def assumes_that_what_is_collected_has_landed() -> Patches:
    def assume(instance: Any, of: Any, enough: Any = None) -> Any:
        version = of.log.load()
        if version is None:
            return None
        done = {
            one.key: one.submission
            for one in version.state.partitions
            if of.submission(one.submission).state().collected
        }
        return confirming.mark_landed(of, done)

    return [(module, "confirm_landed", assume) for module in (ticking, submitting)]


@_mutant()
def lands_before_all_is_collected() -> Patches:
    settle = rounds.settle

    def early(files: Any, state: Any, *arguments: Any) -> Any:
        return settle(files, msgspec.structs.replace(state, cancelled=True), *arguments)

    return [(engine, "settle", early)]
