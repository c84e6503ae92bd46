"""From a frame to an open submission: seal the rows and the request files first, then open with one commit.

Until that commit nothing was spent and nobody else sees the submission. A partition whose open
submission holds the very same rows is attached to, not sent again.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ractobatch_dagster.errors import InvalidInputError, SubmissionConflictError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import CutFile, Cutter, Limits
from ractobatch_dagster.requests.encode import encode_line, request_hash
from ractobatch_dagster.requests.frame import CUSTOM_ID, PROMPT, REQUEST_HASH, digest
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles, read_parquet, write_parquet
from ractobatch_dagster.submission.state import (
    BatchState,
    Owner,
    PartitionRows,
    PartitionState,
    SubmissionState,
    TableState,
)

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Opened", "Terms", "open_submission"]


@dataclass(frozen=True, slots=True)
class Terms:
    """What all requests of a submission share, and how they are cut.

    Attributes:
        provider: The provider's identity: kind and address, never the key.
        dedupe: Ask identical requests once and give every row its answer.
        reuse: Take over answers that the partition's last submission already paid for.
    """

    provider: str
    template: RequestTemplate
    limits: Limits
    completion_window: str = "24h"
    max_rounds: int = 1
    dedupe: bool = True
    reuse: bool = True
    run_id: str | None = None

    @property
    def fingerprint(self) -> str:
        """Hash of what all requests share: any change of model, prompt, parameters, schema or provider changes it."""
        return request_hash(self.provider, self.template.endpoint, self.template.body(""))


@dataclass(frozen=True, slots=True)
class Opened:
    """What became of the frame's partitions: each one's submission, and which of those are new."""

    submissions: dict[str | None, str] = field(default_factory=dict)
    new: str | None = None
    attached: tuple[str, ...] = ()


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
    """
    hashed = {key: _with_hashes(rows, terms, key) for key, rows in partitions.items()}
    digests = {key: digest(rows) for key, rows in hashed.items()}
    while True:
        version = table.log.load()
        state = version.state if version else TableState(owner=owner)
        attached = _attached(table, state, digests)
        fresh = {key: rows for key, rows in hashed.items() if key not in attached}
        if not fresh:
            return Opened(dict(attached), None, tuple(sorted(set(attached.values()))))
        sealed = _seal(table, owner, fresh, digests, terms, state, now, progress)
        opened = {
            one.key: PartitionState(
                key=one.key, submission=sealed.id, digest=one.digest, landed=_landed(state, one.key)
            )
            for one in sealed.partitions
        }
        kept = tuple(one for one in state.partitions if one.key not in opened)
        changed = TableState(owner=owner, partitions=(*kept, *opened.values()))
        if table.log.commit(version, changed) is not None:
            submissions = {**attached, **dict.fromkeys(opened, sealed.id)}
            return Opened(submissions, sealed.id, tuple(sorted(set(attached.values()))))
        progress("another run opened a submission at the same moment; looking again")


def _attached(table: TableFiles, state: TableState, digests: Mapping[str | None, str]) -> dict[str | None, str]:
    """The partitions whose open submission holds these very rows.

    One that holds other rows gives way if nothing of it was created yet.

    Raises:
        SubmissionConflictError: One holds other rows, and batches of it exist.
    """
    found: dict[str | None, str] = {}
    for key, rows_digest in digests.items():
        there = state.partition(key)
        if there is None or there.landed == there.submission:
            continue
        if there.digest != rows_digest:
            alone = set(state.open[there.submission]) <= set(digests)
            if alone and _withdrawn(table.submission(there.submission)):
                continue
            where = f"partition {key!r} of {state.owner.asset!r}" if key is not None else f"{state.owner.asset!r}"
            raise SubmissionConflictError(
                f"Submission {there.submission} of {where} is still open and holds other rows, prompts or parameters. "
                "Nothing was sent. Wait until its table has landed, or cancel it with the job "
                f"{state.owner.asset.replace('/', '__')}_cancel, after which the table keeps what was answered.",
                submission=there.submission,
            )
        found[key] = there.submission
    return found


def _withdrawn(files: SubmissionFiles) -> bool:
    """Stop a submission if none of its batches was created; once that is committed, none ever will be."""

    def stop(state: SubmissionState | None) -> SubmissionState | None:
        untouched = state is not None and all(batch.stage == "planned" for batch in state.batches)
        return msgspec.structs.replace(state, cancelled=True) if state is not None and untouched else state

    state = files.log.update(stop)
    return state is not None and state.cancelled and all(batch.stage == "planned" for batch in state.batches)


def _landed(state: TableState, key: str | None) -> str | None:
    there = state.partition(key)
    return there.landed if there else None


def _with_hashes(rows: pa.Table, terms: Terms, key: str | None) -> pa.Table:
    """The rows with the hash of each one's request; null where there is nothing to ask."""
    import pyarrow as pa

    hashes: list[str | None] = []
    for index, prompt in enumerate(_prompts(rows)):
        if not prompt or not prompt.strip():
            hashes.append(None)
            continue
        try:
            hashes.append(request_hash(terms.provider, terms.template.endpoint, terms.template.body(prompt)))
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
    state: TableState,
    now: Callable[[], float],
    progress: Callable[[str], None],
) -> SubmissionState:
    """Write rows, request files and the submission's first state. Costs nothing, and nobody looks here yet."""
    import pyarrow as pa

    created_at = now()
    stamp = dt.datetime.fromtimestamp(created_at, dt.UTC).strftime("%Y%m%dT%H%M%S%f")[:-3]  # ids sort by age
    files = table.submission(f"{stamp}-{secrets.token_hex(4)}")
    known = _known(table, state, partitions) if terms.reuse else {}

    starts: list[PartitionRows] = []
    first_of: dict[str, str] = {}
    ids: list[str | None] = []
    start = 0
    with Cutter(terms.limits, lambda cut, path: _store_requests(files, cut, path, progress)) as cutter:
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
                if custom_id == f"row-{start + index:08d}" and hash_ not in known:
                    line = encode_line(custom_id, terms.template.body(prompt), endpoint=terms.template.endpoint)
                    cutter.add(line, what=f"row {index}" + (f" of partition {key!r}" if key is not None else ""))
            start += len(rows)

    everything = pa.concat_tables(list(partitions.values())).append_column(CUSTOM_ID, pa.array(ids, pa.string()))
    write_parquet(table.store, files.rows, everything)
    _store_reused(files, known, everything)
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
        partitions=tuple(starts),
        batches=tuple(BatchState(number=c.number, requests=c.requests, size=c.size) for c in cutter.files),
        run_id=terms.run_id,
    )
    files.log.commit(None, sealed)
    return sealed


def _store_requests(files: SubmissionFiles, cut: CutFile, path: Path, progress: Callable[[str], None]) -> None:
    files.store.write(files.requests(cut.number), path)
    progress(f"sealed batch {cut.number}: {cut.requests:,} requests, {cut.size / 1e6:.1f} MB")


def _known(
    table: TableFiles, state: TableState, partitions: Mapping[str | None, pa.Table]
) -> dict[str, dict[str, Any]]:
    """Answers by request hash from the last landed submissions of these partitions."""
    from ractobatch_dagster.results.outcomes import answers

    landed = {there.landed for key in partitions if (there := state.partition(key)) and there.landed}
    found: dict[str, dict[str, Any]] = {}
    for submission in sorted(landed):
        files = table.submission(submission)
        rows = read_parquet(table.store, files.rows)
        for path in (files.reused, files.results):
            outcomes = read_parquet(table.store, path)
            if rows is not None and outcomes is not None:
                found.update(answers(rows, outcomes))
    return found


def _store_reused(files: SubmissionFiles, known: Mapping[str, dict[str, Any]], rows: pa.Table) -> None:
    import pyarrow as pa

    from ractobatch_dagster.results.outcomes import OUTCOMES

    taken: dict[str, dict[str, Any]] = {}
    for custom_id, hash_ in zip(rows[CUSTOM_ID].to_pylist(), rows[REQUEST_HASH].to_pylist(), strict=True):
        if hash_ in known:
            taken[custom_id] = {**known[hash_], CUSTOM_ID: custom_id}
    if taken:
        write_parquet(files.store, files.reused, pa.Table.from_pylist(list(taken.values()), schema=OUTCOMES()))
