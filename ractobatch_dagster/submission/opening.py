"""From a frame to an open submission: seal the rows and the request files first, then open with one commit.

Until that commit nothing was spent and nobody else sees the submission. A partition whose open
submission holds the very same rows is attached to, not sent again.
"""

from __future__ import annotations

import datetime as dt
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.encode import request_hash
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.requests.rendering import Requests
from ractobatch_dagster.results.cost import Prices
from ractobatch_dagster.reuse import Reuse
from ractobatch_dagster.submission.asking import Asking
from ractobatch_dagster.submission.expecting import Expected, expected, last_landed
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.lines import write_encoder
from ractobatch_dagster.submission.meeting import Meeting, meet, withdraw
from ractobatch_dagster.submission.reusing import Known, sources_of
from ractobatch_dagster.submission.sealing import Rules, seal_rows
from ractobatch_dagster.submission.state import (
    BatchState,
    Owner,
    PartitionRows,
    PartitionState,
    SubmissionState,
    TableState,
    Takes,
)
from ractobatch_dagster.submission.validating import Validator, validator

__all__ = ["OnChange", "Opened", "Terms", "open_submission"]


OnChange = Literal["fail", "attach", "replace"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What all requests of a submission share, and how they are cut.

    Attributes:
        provider: The provider's identity: kind and address, never the key.
        max_rounds: How many times a row is asked again after failures that are worth it.
        repairs: How many times the model is shown an answer that its output model refuses.
        dedupe: Ask identical requests once and give every row its answer.
        reuse: Which answers that were paid for are taken over; none where it is `None`.
        rules: What the frames must keep to.
        overrides: The columns by which rows say something of their own requests, if there are any.
        prices: Prices that go before those of the list.
        on_change: What to do where an open submission of a partition holds other rows, prompts or parameters:
            `fail`; `attach`, which goes on with the open one as it is; or `replace`, which cancels it and sends what
            it did not answer.
    """

    provider: str
    template: RequestTemplate
    limits: Limits
    completion_window: str = "24h"
    max_rounds: int = 1
    repairs: int = 0
    dedupe: bool = True
    reuse: Reuse | None = field(default_factory=Reuse)
    rules: Rules = field(default_factory=Rules)
    overrides: Overrides | None = None
    on_change: OnChange = "fail"
    prices: Prices = field(default_factory=dict)
    run_id: str | None = None

    @property
    def validate(self) -> Validator | None:
        """What is wrong with an answer, where that is worth another try."""
        return validator(self.template) if self.repairs else None

    @property
    def fingerprint(self) -> str:
        """Hash of what all requests share: any change of model, prompt, parameters, schema or provider changes it."""
        return request_hash(self.provider, self.template.endpoint, self.template.body(""))

    @property
    def parts(self) -> dict[str, str]:
        """Hashes of what the fingerprint is made of, by the name that a person knows."""
        body = self.template.body("")
        named = {"provider": self.provider, "endpoint": self.template.endpoint, "model": body.pop("model", None)}
        said = {name: body.pop(name, None) for name in ("messages", "instructions", "system", "input")}
        schema = {name: body.pop(name, None) for name in ("response_format", "text", "output_config")}
        prompt = {name: part for name, part in said.items() if part is not None}
        if "tools" in body:
            named["tools"] = body.pop("tools")
        named |= {"prompt": prompt, "output schema": [part for part in schema.values() if part is not None]}
        return {name: request_hash("", name, {"": value}) for name, value in (*named.items(), ("parameters", body))}


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of the frame's partitions.

    Attributes:
        submissions: Each partition's submission.
        new: Those that are new.
        attached: Those that were open already and are gone on with.
        replaced: Those that the new one replaces, once they have ended.
        withdrawn: Those that gave way before any batch of them was created.
    """

    submissions: dict[str | None, str] = field(default_factory=dict)
    new: tuple[str, ...] = ()
    attached: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()

    def __add__(self, other: Opened) -> Opened:
        """What became of other partitions as well."""
        return Opened(
            {**self.submissions, **other.submissions},
            self.new + other.new,
            tuple(dict.fromkeys(self.attached + other.attached)),
            self.replaced + other.replaced,
            self.withdrawn + other.withdrawn,
        )


def open_submission(
    table: TableFiles,
    owner: Owner,
    frames: Mapping[str | None, Any],
    terms: Terms,
    *,
    now: Callable[[], float],
    progress: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Seal the rows of these partitions and open one submission for those that are not open already.

    Args:
        table: Where.
        owner: Who will step it.
        frames: By partition, its rows: whatever `open_frame` takes. The key is `None` where the asset has none.
        terms: What the requests share.
        now: The clock, in seconds since 1970.
        progress: Told what is happening.

    Raises:
        InvalidInputError: A row or a column cannot be sent.
        SubmissionConflictError: An open submission of one of the partitions holds other rows.
        ConfigurationError: The store overwrites what it should keep.
    """
    table.store.prove()
    created_at = now()
    stamp = dt.datetime.fromtimestamp(created_at, dt.UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]  # ids sort by age
    files = table.submission(f"{stamp}-{secrets.token_hex(4)}")
    requests = Requests(terms.provider, terms.template, terms.overrides)
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        with _forgotten_on_failure(files):
            shares = seal_rows(files, frames, terms.rules, requests, Path(folder), now, progress)
            write_encoder(files, requests.encoder)
        sealing = _Sealing(table, owner, files, requests, terms, shares, created_at, Path(folder))
        while True:
            opened = sealing.open(progress)
            if opened is not None:
                return opened


@contextmanager
def _forgotten_on_failure(files: SubmissionFiles) -> Iterator[None]:
    """Delete what was sealed where something goes wrong inside, which is before anybody can know of it."""
    try:
        yield
    except BaseException as why:  # the user's own generator may raise anything, and runs are interrupted
        try:
            files.store.delete(files.prefix)
        except StoreError as error:
            why.add_note(f"What was sealed in vain stays: {error}")
        raise


@dataclass(frozen=True, slots=True)
class _Sealing:
    """Sealed rows that are to become a submission."""

    table: TableFiles
    owner: Owner
    files: SubmissionFiles
    made: Requests
    terms: Terms
    shares: Sequence[PartitionRows]
    created_at: float
    folder: Path

    def open(self, progress: Callable[[str], None]) -> Opened | None:
        """Open a submission for what is not open already; `None` if another run was quicker, and all is to be seen
        again."""
        table, files = self.table, self.files
        with _forgotten_on_failure(files):
            version = table.log.load()
            state = version.state if version else TableState(owner=self.owner)
            met = meet(table, state, files, self.shares, self.terms, progress)
            fresh = [share for share in self.shares if share.key not in met.attached]
            attached = tuple(sorted(set(met.attached.values())))
            if not fresh:
                table.store.delete(files.prefix)
                return Opened(dict(met.attached), (), attached)
            sealed = self._planned(fresh, state, met, progress)
            files.log.update(lambda _: sealed)  # nobody looks here before the table's log tells of it
            if not all(withdraw(table.submission(id_)) for id_ in met.giving_way):
                return None  # one of them was created meanwhile
        opened = {
            one.key: PartitionState(
                key=one.key, submission=sealed.id, digest=one.digest, landed=_landed(state, one.key)
            )
            for one in fresh
        }
        kept = tuple(one for one in state.partitions if one.key not in opened)
        # where this fails it may have been written all the same: what was sealed stays
        if table.log.commit(version, TableState(owner=self.owner, partitions=(*kept, *opened.values()))) is None:
            progress("another run opened a submission at the same moment; looking again")
            return None
        submissions = {**met.attached, **dict.fromkeys(opened, sealed.id)}
        return Opened(submissions, (sealed.id,), attached, met.replaced, met.giving_way)

    def _planned(
        self, fresh: Sequence[PartitionRows], state: TableState, met: Meeting, progress: Callable[[str], None]
    ) -> SubmissionState:
        """The submission's first state: which rows it asks, in which batches."""
        table, terms, files = self.table, self.terms, self.files
        sources = list(met.giving_way) if terms.reuse else []
        if terms.reuse is not None:
            sources += sources_of(table, state, fresh, terms.reuse, dedupe=terms.dedupe)
        since = terms.reuse.since(self.created_at) if terms.reuse else 0.0
        takes = Takes(since=since, own=terms.reuse is None, samples=not terms.dedupe)
        asking = Asking(
            files,
            [(share.start, share.start + share.rows) for share in fresh],
            max((share.start + share.rows for share in self.shares), default=0),
            self.made.encoder,
            self.made.models,
        )
        asking.write_copies(dedupe=terms.dedupe)
        batches: tuple[BatchState, ...] = ()
        reused: dict[str, float] = {}
        likely = Expected()
        if not met.replaced:  # no batch is planned before what is replaced has ended
            paid = [files.sibling(source) for source in dict.fromkeys(sources)]
            keys = [share.key for share in fresh]
            known = Known(files, paid, self.folder, takes=takes, keys=keys, validate=terms.validate)
            batches = asking.plan(known, terms.limits, self.folder)
            reused = known.created
            past = last_landed(table, state, fresh)
            likely = expected(batches, terms.template.model, past, terms.prices)
            if known.answers:
                progress(f"{known.answers:,} answers were paid for already and are taken over")
        requests = sum(batch.requests for batch in batches)
        word = "batch" if len(batches) == 1 else "batches"
        progress(f"sealed {asking.rows:,} rows: {requests:,} requests in {len(batches):,} {word}")
        return SubmissionState(
            id=files.id,
            asset=self.owner.asset,
            provider=terms.provider,
            endpoint=terms.template.endpoint,
            model=terms.template.model,
            completion_window=terms.completion_window,
            fingerprint=terms.fingerprint,
            created_at=self.created_at,
            rows=sum(share.rows for share in fresh),
            sealed=asking.rows,
            models=self.made.models,
            most_tokens=self.made.most_tokens,
            requests=requests,
            max_rounds=terms.max_rounds,
            repairs=terms.repairs,
            parts=terms.parts,
            partitions=tuple(asking.counted(fresh)),
            batches=batches,
            sources=tuple(dict.fromkeys(sources)),
            takes=takes,
            reused=reused,
            expected_usd=likely.usd,
            tokens_per_byte=likely.tokens_per_byte,
            prices=dict(terms.prices),
            predecessors=met.replaced,
            run_id=terms.run_id,
        )


def _landed(state: TableState, key: str | None) -> str | None:
    there = state.partition(key)
    return there.landed if there else None
