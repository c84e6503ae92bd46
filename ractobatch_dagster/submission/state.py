"""What the logs hold: a table's submissions, and a submission's batches. Plain data, no behaviour but views."""

from __future__ import annotations

from functools import cached_property
from typing import Literal

import msgspec

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.remote import Issue
from ractobatch_dagster.results.cost import Price

__all__ = [
    "BatchState",
    "Intent",
    "Owner",
    "PartitionRows",
    "PartitionState",
    "SubmissionState",
    "TableState",
    "Takes",
]

Stage = Literal["planned", "uploaded", "creating", "running", "ended", "collected"]


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """Whose table it is.

    `ranges` says that one run may land several partitions; `submission_asset` is `None` where one asset
    submits, waits and lands.
    """

    asset: str
    submission_asset: str | None = None
    ranges: bool = True


class PartitionRows(msgspec.Struct, frozen=True, kw_only=True):
    """One partition's share of a submission: a run of its rows.

    `key` is `None` where the asset has no partitions. `digest` is over the rows and their request
    hashes: equal digests mean that sending again would ask the same questions about the same rows. `asked`
    is how many of them are in batches, once those are planned.
    """

    key: str | None
    start: int
    rows: int
    digest: str
    asked: int | None = None


class PartitionState(msgspec.Struct, frozen=True, kw_only=True):
    """One partition of a table: its newest submission, and the newest that landed."""

    key: str | None
    submission: str
    digest: str
    landed: str | None = None


class TableState(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Every partition of one table that was ever submitted. A submission is open until all its partitions land."""

    owner: Owner
    partitions: tuple[PartitionState, ...] = ()

    def partition(self, key: str | None) -> PartitionState | None:
        """The state of one partition, if it was ever submitted."""
        return self._by_key.get(key)

    @cached_property
    def _by_key(self) -> dict[str | None, PartitionState]:
        return {one.key: one for one in self.partitions}

    @property
    def open(self) -> dict[str, list[str | None]]:
        """The open submissions, oldest first, each with its partitions that have not landed."""
        found: dict[str, list[str | None]] = {}
        for one in self.partitions:
            if one.landed != one.submission:
                found.setdefault(one.submission, []).append(one.key)
        return dict(sorted(found.items()))


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """That a writer is about to create a batch, committed before it does.

    Attributes:
        writer: Who.
        at: When, in seconds since 1970.
        given_up: Its writer will not report back: it does not know what came of it, or its process has ended.
        fenced_at: When the input file was deleted, so that no create that arrives later can succeed.
    """

    writer: str
    at: float
    given_up: bool = False
    fenced_at: float | None = None


class BatchState(msgspec.Struct, frozen=True, kw_only=True):
    """One batch: planned, uploaded, being created, running, ended, collected.

    Attributes:
        number: Its place in the submission, counted from 0 over all rounds.
        round: 0 is the first try.
        model: The model that it asks; empty where that is the submission's.
        requests: How many lines its input file has.
        size: How many bytes.
        token: Tells what it asks from what another writer planned under the same number.
        group: Its place among the batches of its round.
        start: The number of the first row that it asks.
        stop: The number behind the last.
        attempt: How many times its input file was uploaded. Each attempt at creating it has a file of its own.
        not_before: When a batch that the provider's quota turned away may be tried again (seconds since 1970).
        refusals: How many times in a row the quota turned it away.
        file_created_at: When its input file was uploaded, by the provider's clock.
        intended_at: When a writer set out to create it, by the store's clock, where it may have come to that.
        fenced: It was found after its input file had been deleted, so that it may fail for want of it.
        collected: Its answers are in the store.
        reader: Tells what the run that collected it read from what others did, which may be less.
        doubtful: For how many of its requests asking again may help.
        anomalies: What its files held that belongs to no request, counted.
        gone: The provider no longer has its answers.
        ended_at: When it was first seen to have ended without showing its files.
        usd: What its answers cost, once collected; `None` where the model's price is not known.
        lost: How many of its requests may have been billed without that anybody can know for what.
        tokens: How many input tokens its answers were billed for, once collected.
        answer_tokens: How many output tokens.
        told_tokens: How many of both the provider says that it billed; 0 where it says nothing.
        seen_at: When its status or its count of answers last changed, by our clock.
        status: Where it stands at the provider, as last seen; never moves backwards.
    """

    number: int
    round: int = 0
    model: str = ""
    requests: int
    size: int
    token: str = ""
    group: int = 0
    start: int = 0
    stop: int = 0
    attempt: int = 0
    not_before: float = 0.0
    refusals: int = 0
    intent: Intent | None = None
    file_id: str | None = None
    file_created_at: float = 0.0
    batch_id: str | None = None
    intended_at: float = 0.0
    fenced: bool = False
    status: BatchStatus | None = None
    created_at: float | None = None
    completed: int = 0
    failed: int = 0
    output_file_id: str | None = None
    error_file_id: str | None = None
    issues: tuple[Issue, ...] = ()
    collected: bool = False
    reader: str = ""
    doubtful: int = 0
    anomalies: dict[str, int] = {}
    gone: bool = False
    ended_at: float = 0.0
    usd: float | None = None
    lost: int = 0
    tokens: int = 0
    answer_tokens: int = 0
    told_tokens: int = 0
    seen_at: float = 0.0

    @property
    def file_ids(self) -> list[str]:
        """The files with its answers: output first, then errors."""
        return [file_id for file_id in (self.output_file_id, self.error_file_id) if file_id]

    @property
    def stage(self) -> Stage:
        """Where the batch stands for us."""
        if self.collected:
            return "collected"
        if self.batch_id is None:
            if self.intent is not None:
                return "creating"
            return "planned" if self.file_id is None else "uploaded"
        return "ended" if self.status is not None and self.status.terminal else "running"


class Takes(msgspec.Struct, frozen=True, kw_only=True):
    """Which answers of its sources a submission may take over.

    Attributes:
        since: Of batches that were created then or later, in seconds since 1970.
        own: Only what the source asked itself, and has not taken over.
        samples: Each row is a sample of its own, so that no answer counts twice, or for another partition.
    """

    since: float = 0.0
    own: bool = False
    samples: bool = False


class SubmissionState(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """All batches that one DataFrame became.

    Attributes:
        provider: The provider's identity: kind and address, never the key.
        fingerprint: Hash of what all its requests share.
        parts: Hashes of what the fingerprint is made of, by name, to tell a person what changed.
        models: The models that its rows ask, where each names its own; `model` is that of those that name none.
        most_tokens: How many output tokens a request may take at most; `None` where that is not limited.
        tokens_per_byte: Input tokens that the table's last answers were billed for, for each byte of the input files.
        expected_usd: What its first round will probably cost, by what the table's last answers did; `None` if unknown.
        prices: Prices that were given, by model.
        held: What of a budget stops it from creating more batches, if anything does.
        held_for_good: Time will not change that.
        queued: What of the account's quota does.
        rows: How many rows its partitions have.
        sealed: How many rows were sealed; some may belong to partitions that another submission goes on with.
        max_rounds: How many times a row is asked again after failures that are worth it.
        repairs: How many times the model is shown an answer that its output model refuses, with the reason.
        sources: Submissions whose answers it may take over once it plans its batches; of another table after its name.
        takes: What it may take over of their answers.
        reused: When the batches were created whose answers it has taken over, by their ids.
        predecessors: Submissions that this one replaces and whose answers it waits for before it plans any batch.
        predecessors_ended: All of those have ended, so that a run can take their answers over.
        collected: Every row has its outcome in the store.
        cancelled: Nothing more is created; what was answered still lands.
        strays: Batches that were created beside the one we know, and were cancelled.
        anomalies: What the provider's files held that belongs to no row, counted.
        run_id: The Dagster run that opened it, where one did.
    """

    id: str
    asset: str
    provider: str
    endpoint: str
    model: str
    completion_window: str
    fingerprint: str
    created_at: float
    rows: int
    sealed: int
    models: tuple[str, ...] = ()
    most_tokens: int | None = None
    expected_usd: float | None = None
    tokens_per_byte: float | None = None
    prices: dict[str, Price] = {}
    held: str = ""
    held_for_good: bool = False
    queued: str = ""
    requests: int
    max_rounds: int
    repairs: int = 0
    parts: dict[str, str] = {}
    partitions: tuple[PartitionRows, ...]
    batches: tuple[BatchState, ...] = ()
    sources: tuple[str, ...] = ()
    takes: Takes = Takes()
    reused: dict[str, float] = {}
    predecessors: tuple[str, ...] = ()
    predecessors_ended: bool = False
    collected: bool = False
    cancelled: bool = False
    anomalies: dict[str, int] = {}
    strays: int = 0
    run_id: str | None = None

    @property
    def asks(self) -> str:
        """The model that it asks, or all of them."""
        return ", ".join(self.models) or self.model

    @property
    def round(self) -> int:
        """The round it is in."""
        return max((batch.round for batch in self.batches), default=0)

    @property
    def unexplained_tokens(self) -> int:
        """How many tokens the provider says that it billed beyond those of the answers that were collected."""
        told = [one for one in self.batches if one.collected and one.told_tokens]
        return sum(one.told_tokens - one.tokens - one.answer_tokens for one in told)

    @property
    def ready(self) -> bool:
        """Whether there is work that only a run does: download, read, plan the next round."""
        if self.collected or self.predecessors:
            return not self.collected and self.predecessors_ended
        stages = {batch.stage for batch in self.batches}
        if stages <= {"ended", "collected", *(("planned", "uploaded") if self.cancelled else ())}:
            return True
        # what the answers did cost may leave room in the budget for more
        return bool(self.held) and "ended" in stages and not stages & {"creating", "running"}

    def with_batches(self, changed: dict[int, BatchState]) -> SubmissionState:
        """The same submission with some of its batches replaced, by number."""
        batches = tuple(changed.get(batch.number, batch) for batch in self.batches)
        return msgspec.structs.replace(self, batches=batches)

    def partition(self, key: str | None) -> PartitionRows | None:
        """One partition's share, if the submission holds it."""
        return self._by_key.get(key)

    @cached_property
    def _by_key(self) -> dict[str | None, PartitionRows]:
        return {one.key: one for one in self.partitions}
