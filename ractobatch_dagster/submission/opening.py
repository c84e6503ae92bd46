"""From a frame to an open submission: seal the rows and the request files first, then open with one commit.

Until that commit nothing was spent and nobody else sees the submission. A partition whose open
submission holds the very same rows is attached to, not sent again.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import CutFile, Cutter, Limits
from ractobatch_dagster.requests.encode import Encoder, request_hash
from ractobatch_dagster.requests.frame import CUSTOM_ID, PROMPT, REQUEST_HASH, digest
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles, write_parquet
from ractobatch_dagster.submission.meeting import Meeting, meet, withdraw
from ractobatch_dagster.submission.reusing import Reuse
from ractobatch_dagster.submission.state import (
    BatchState,
    Owner,
    PartitionRows,
    PartitionState,
    SubmissionState,
    TableState,
    held_batch,
)

if TYPE_CHECKING:
    import pyarrow as pa

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
        reuse: Take over answers that the partition's last submission already paid for.
        key: The column that identifies a row, for messages.
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
    reuse: bool = True
    key: str | None = None
    on_change: OnChange = "fail"
    run_id: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of what all requests share: any change of model, prompt, parameters, schema or provider changes it."""
        return request_hash(self.provider, self.template.endpoint, self.template.body(""))

    @property
    def parts(self) -> dict[str, str]:
        """Hashes of what the fingerprint is made of, by the name that a person knows."""
        body = self.template.body("")
        named = {"provider": self.provider, "endpoint": self.template.endpoint, "model": body.pop("model", None)}
        named |= {"prompt": body.pop("messages", None), "output schema": body.pop("response_format", None)}
        return {name: request_hash("", name, {"": value}) for name, value in (*named.items(), ("parameters", body))}


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of the frame's partitions.

    Attributes:
        submissions: Each partition's submission.
        new: The one that is new, if any.
        attached: Those that were open already and are gone on with.
        replaced: Those that the new one replaces, once they have ended.
        withdrawn: Those that gave way before any batch of them was created.
    """

    submissions: dict[str | None, str] = field(default_factory=dict)
    new: str | None = None
    attached: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()


def open_submission(
    table: TableFiles,
    owner: Owner,
    partitions: Mapping[str | None, pa.Table],
    terms: Terms,
    *,
    now: Callable[[], float],
    progress: Callable[[str], None] = lambda _: None,
) -> Opened:
    """Seal these partitions' rows and open one submission for those that are not open already.

    Args:
        table: Where.
        owner: Who will step it.
        partitions: The rows of each partition; the key is `None` where the asset has none. Checked before.
        terms: What the requests share.
        now: The clock, in seconds since 1970.
        progress: Told what is happening.

    Raises:
        InvalidInputError: A row cannot be sent.
        SubmissionConflictError: An open submission of one of the partitions holds other rows.
        ConfigurationError: The store overwrites what it should keep.
    """
    table.store.prove()
    encoder = Encoder(terms.provider, terms.template)
    hashed = {key: _with_hashes(rows, encoder, key) for key, rows in partitions.items()}
    digests = {key: digest(rows) for key, rows in hashed.items()}
    while True:
        version = table.log.load()
        state = version.state if version else TableState(owner=owner)
        met = meet(table, state, hashed, digests, terms, progress)
        fresh = {key: rows for key, rows in hashed.items() if key not in met.attached}
        attached = tuple(sorted(set(met.attached.values())))
        if not fresh:
            return Opened(dict(met.attached), None, attached)
        sealed = _seal(table, owner, fresh, digests, terms, encoder, state, met, now, progress)
        if not all(withdraw(table.submission(id_)) for id_ in met.giving_way):
            continue  # one of them was created meanwhile
        opened = {
            one.key: PartitionState(
                key=one.key, submission=sealed.id, digest=one.digest, landed=_landed(state, one.key)
            )
            for one in sealed.partitions
        }
        kept = tuple(one for one in state.partitions if one.key not in opened)
        changed = TableState(owner=owner, partitions=(*kept, *opened.values()))
        if table.log.commit(version, changed) is not None:
            submissions = {**met.attached, **dict.fromkeys(opened, sealed.id)}
            return Opened(submissions, sealed.id, attached, met.replaced, met.giving_way)
        progress("another run opened a submission at the same moment; looking again")


def _landed(state: TableState, key: str | None) -> str | None:
    there = state.partition(key)
    return there.landed if there else None


def _with_hashes(rows: pa.Table, encoder: Encoder, key: str | None) -> pa.Table:
    """The rows with the hash of each one's request; null where there is nothing to ask."""
    import pyarrow as pa

    hashes: list[str | None] = []
    for index, prompt in enumerate(_prompts(rows)):
        if not prompt or not prompt.strip():
            hashes.append(None)
            continue
        try:
            hashes.append(encoder.hash(encoder.escaped(prompt)))
        except InvalidInputError as error:
            where = f"row {index}" + (f" of partition {key!r}" if key is not None else "")
            raise InvalidInputError(f"{where}: {error}", row=index) from error
    return rows.append_column(REQUEST_HASH, pa.array(hashes, pa.string()))


def _prompts(rows: pa.Table) -> Any:
    import pyarrow as pa

    column = rows[PROMPT].cast(pa.string())
    for chunk in column.iterchunks():
        for start in range(0, len(chunk), 512):
            yield from chunk.slice(start, 512).to_pylist()


def _seal(
    table: TableFiles,
    owner: Owner,
    partitions: Mapping[str | None, pa.Table],
    digests: Mapping[str | None, str],
    terms: Terms,
    encoder: Encoder,
    state: TableState,
    met: Meeting,
    now: Callable[[], float],
    progress: Callable[[str], None],
) -> SubmissionState:
    """Write rows, request files and the submission's first state. Costs nothing, and nobody looks here yet."""
    import pyarrow as pa

    created_at = now()
    stamp = dt.datetime.fromtimestamp(created_at, dt.UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]  # ids sort by age
    files = table.submission(f"{stamp}-{secrets.token_hex(4)}")
    reuse = Reuse(_paid(table, state, partitions, met.giving_way) if terms.reuse else ())
    held = bool(met.replaced)  # no batch is planned before what is replaced has ended

    starts: list[PartitionRows] = []
    first_of: dict[str, str] = {}
    ids: list[str | None] = []
    start = 0
    with Cutter(terms.limits, lambda cut, path: _store_requests(files, cut, path, held, progress)) as cutter:
        for key, rows in partitions.items():
            starts.append(PartitionRows(key=key, start=start, rows=len(rows), digest=digests[key]))
            for index, (prompt, hash_) in enumerate(zip(_prompts(rows), rows[REQUEST_HASH].to_pylist(), strict=True)):
                if hash_ is None:
                    ids.append(None)
                    continue
                custom_id = f"row-{start + index:08d}"
                if terms.dedupe:
                    custom_id = first_of.setdefault(hash_, custom_id)
                ids.append(custom_id)
                if custom_id == f"row-{start + index:08d}" and not reuse.take(hash_, custom_id):
                    line = encoder.line(custom_id, encoder.escaped(prompt))
                    cutter.add(line, what=f"row {index}" + (f" of partition {key!r}" if key is not None else ""))
            start += len(rows)

    everything = pa.concat_tables(list(partitions.values())).append_column(CUSTOM_ID, pa.array(ids, pa.string()))
    write_parquet(table.store, files.rows, everything)
    reuse.store(files)
    sealed = SubmissionState(
        id=files.id,
        asset=owner.asset,
        provider=terms.provider,
        endpoint=terms.template.endpoint,
        model=terms.template.model,
        completion_window=terms.completion_window,
        fingerprint=terms.fingerprint,
        created_at=created_at,
        rows=len(everything),
        requests=sum(cut.requests for cut in cutter.files),
        max_rounds=terms.max_rounds,
        repairs=terms.repairs,
        parts=terms.parts,
        partitions=tuple(starts),
        batches=() if held else tuple(_planned(cut, held=False) for cut in cutter.files),
        predecessors=met.replaced,
        run_id=terms.run_id,
    )
    files.log.commit(None, sealed)
    return sealed


def _planned(cut: CutFile, *, held: bool) -> BatchState:
    make = held_batch if held else BatchState
    return make(number=cut.number, requests=cut.requests, size=cut.size)


def _store_requests(
    files: SubmissionFiles, cut: CutFile, path: Path, held: bool, progress: Callable[[str], None]
) -> None:
    files.store.write(files.requests(_planned(cut, held=held)), path)
    progress(f"sealed batch {cut.number}: {cut.requests:,} requests, {cut.size / 1e6:.1f} MB")


def _paid(
    table: TableFiles, state: TableState, partitions: Mapping[str | None, pa.Table], withdrawn: Sequence[str]
) -> list[SubmissionFiles]:
    """The submissions whose answers may be taken over: the last that landed, and those that give way."""
    landed = {there.landed for key in partitions if (there := state.partition(key)) and there.landed}
    return [table.submission(submission) for submission in sorted({*landed, *withdrawn})]
