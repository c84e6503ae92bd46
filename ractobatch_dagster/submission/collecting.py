"""From ended batches to their answers in the store: the files as they came, and the outcome of each request."""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ractobatch_dagster.errors import ProviderError, ProviderNotFoundError, StoreError
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.requests.body import is_raw
from ractobatch_dagster.requests.encode import custom_ids
from ractobatch_dagster.results.classify import Outcome, no_line
from ractobatch_dagster.results.cost import Prices, outcomes_cost
from ractobatch_dagster.results.join import join_files, refused
from ractobatch_dagster.results.outcomes import Columns, as_values
from ractobatch_dagster.submission.asking import asked_rows
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.parallel import Workers
from ractobatch_dagster.submission.plan import COMMIT_EVERY
from ractobatch_dagster.submission.state import BatchState, SubmissionState
from ractobatch_dagster.submission.validating import Validator

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Reading", "collect", "new_reader", "read_answers"]

_MAX_FAILURES = 3

_MAX_ODD_LINES = 10_000
"""How many odd lines of a batch are kept to be looked at; all are counted."""

_CHUNK = 1 << 17
"""How much of a file is cut into lines at a time: as much as a processor's cache holds twice."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What of a submission matters for reading the answers of its batches.

    Attributes:
        prices: Those that are given.
        model: The model of batches that name none.
        raw: Whether of an answer nothing is known, so that all of it is kept.
    """

    prices: Prices
    model: str = ""
    raw: bool = False


def collect(
    provider: Provider,
    files: SubmissionFiles,
    state: SubmissionState,
    numbers: Collection[int],
    log: Callable[[str], None],
    now: Callable[[], float],
    problems: list[ProviderError],
    workers: Workers,
    validate: Validator | None = None,
) -> SubmissionState:
    """Store what these ended batches returned, and read it. One that fails is told in `problems` and stops no other.

    Both files exist in every terminal state: an expired batch's finished requests were paid for.
    """
    done: dict[int, BatchState] = {}
    failures, since = 0, now()

    def fetch(batch: BatchState) -> BatchState:
        with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
            reading = Reading(state.prices, state.model, is_raw(state.endpoint))
            return _fetched(provider, files, batch, Path(folder) / "answers.jsonl", log, workers, validate, reading)

    wanted = (batch for batch in state.batches if batch.number in numbers and failures < _MAX_FAILURES)
    try:
        for batch, result in workers.each(fetch, wanted):
            if isinstance(result, ProviderError):
                problems.append(result)
                failures += not result.refused  # what is refused is one file's trouble, the rest everybody's
                continue
            done[batch.number] = result
            if now() - since > COMMIT_EVERY:
                _record(files, done)
                since = now()
    finally:
        state = _record(files, done)
    return state


def _record(files: SubmissionFiles, done: dict[int, BatchState]) -> SubmissionState:
    return files.change(
        lambda newest: {
            batch.number: done[batch.number]
            for batch in newest.batches
            if batch.number in done and batch.stage == "ended"
        }
    )


def _fetched(
    provider: Provider,
    files: SubmissionFiles,
    batch: BatchState,
    path: Path,
    log: Callable[[str], None],
    workers: Workers,
    validate: Validator | None,
    reading: Reading,
) -> BatchState:
    """The batch as collected. Its answers are complete on this disk before they go into the store in one piece."""
    if not batch.file_ids and batch.status is not BatchStatus.FAILED and batch.batch_id and not batch.gone:
        # an ended batch without any file is odd enough to ask once more
        batch = _with_files(batch, provider.retrieve(batch.batch_id))
    there, gone = _download(provider, batch, path, log)
    batch = msgspec.structs.replace(batch, gone=batch.gone or gone, reader=new_reader())
    if validate is None:
        read = workers.apart(read_answers, files, batch, path if there else None, None, reading)
    else:  # the user's own code, which other processes may not find
        read = workers.in_turn(read_answers, files, batch, path if there else None, validate, reading)
    if there:
        files.store.take(files.responses(batch), path)
    return read


def _download(provider: Provider, batch: BatchState, path: Path, log: Callable[[str], None]) -> tuple[bool, bool]:
    """Download a batch's files; whether anything is there, and whether anything is gone."""
    gone: list[str] = []
    try:
        with path.open("wb") as target:
            for file_id in batch.file_ids:
                try:
                    size = provider.download(file_id, target)
                except ProviderNotFoundError:
                    if not batch.gone:
                        provider.retrieve(str(batch.batch_id))  # raises where the key is another than at submission
                    gone.append(file_id)
                    log(f"batch {batch.number}: {file_id} is no longer there; its rows count as missing")
                    continue
                target.write(b"\n")  # a file without a last line feed must not run into the next one
                log(f"batch {batch.number}: downloaded {file_id}, {size / 1e6:.1f} MB")
    except ProviderError:  # a time-out is an OSError as well
        raise
    except (OSError, StoreError) as error:
        raise StoreError(f"Could not write what batch {batch.batch_id} returned to {path}: {error}") from error
    return len(gone) < len(batch.file_ids), bool(gone)


def _with_files(batch: BatchState, remote: RemoteBatch) -> BatchState:
    return msgspec.structs.replace(
        batch, output_file_id=remote.output_file_id, error_file_id=remote.error_file_id, issues=tuple(remote.issues)
    )


def new_reader() -> str:
    """A name for what one run reads of a batch's answers: another that collects it as well may find less of them."""
    return secrets.token_hex(4)


def read_answers(
    files: SubmissionFiles,
    batch: BatchState,
    path: Path | None,
    validate: Validator | None = None,
    reading: Reading | None = None,
) -> BatchState:
    """Write down one outcome for each request that the batch held, whatever the provider returned.

    Args:
        files: The submission.
        batch: The batch.
        path: What it returned; `None` where there is nothing.
        validate: Says what is wrong with an answer; needed for repairs.
        reading: What else of the submission matters for that.

    Returns:
        The batch as collected.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    reading, rows = reading or Reading({}), asked_rows(files, batch).rows
    asked = custom_ids(pa.array(rows)).to_pylist()
    odd = _Odd(batch)
    if path is None:
        outcomes = _without_files(batch, asked)
    else:
        outcomes = join_files(asked, _chunks(path), lambda id_: _absent(batch, id_), odd.keep, reading.raw)
    problems = _problems(outcomes, validate)
    _write(files, batch, rows, outcomes, problems)
    if odd.kept:
        files.store.write(files.odd(batch), b"".join(odd.kept))
    again = sum(outcomes["retryable"].to_pylist()) + sum(problem is not None for problem in problems)
    tokens, made = (pc.sum(outcomes[name]).as_py() or 0 for name in ("prompt_tokens", "completion_tokens"))
    return msgspec.structs.replace(
        batch,
        collected=True,
        doubtful=again,
        anomalies=dict(odd.counts),
        usd=outcomes_cost(outcomes, reading.prices, batch.model or reading.model),
        lost=outcomes["status"].to_pylist().count("missing"),
        tokens=tokens,
        answer_tokens=made,
    )


class _Odd:
    """Lines of the provider's files that belong to no request, counted and kept."""

    def __init__(self, batch: BatchState) -> None:
        self._batch = batch
        self.counts: Counter[str] = Counter()
        self.kept: list[bytes] = []

    def keep(self, what: str, line: bytes) -> None:
        """Count one line and keep it, to be looked at."""
        self.counts[what] += 1
        if len(self.kept) < _MAX_ODD_LINES:
            text = line.decode("utf-8", "backslashreplace")
            self.kept.append(msgspec.json.encode({"batch": self._batch.batch_id, "what": what, "line": text}) + b"\n")


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        while chunk := source.read(_CHUNK):
            yield chunk


def _without_files(batch: BatchState, asked: Sequence[str]) -> pa.Table:
    if batch.status is BatchStatus.FAILED and not batch.gone:
        found = refused(asked, batch.issues)
    else:
        found = {id_: _absent(batch, id_) for id_ in asked}
    columns = Columns()
    for outcome in found.values():
        columns.add(as_values(outcome))
    return columns.table()


def _absent(batch: BatchState, id_: str) -> Outcome:
    """The outcome of a request without a line."""
    if not batch.gone:
        return no_line(id_, batch.status or BatchStatus.COMPLETED)
    error = "The provider no longer has the file with the answers, or no longer knows the batch."
    return Outcome(id_, "missing", retryable=True, error_code="answers_gone", error=error)


def _problems(outcomes: pa.Table, validate: Validator | None) -> list[str | None]:
    """What is wrong with each answer, where that matters."""
    if validate is None:
        return [None] * len(outcomes)
    told = zip(*(outcomes[name].to_pylist() for name in ("status", "text", "more")), strict=True)
    return [validate(text, more) if status == "ok" else None for status, text, more in told]


def _write(
    files: SubmissionFiles, batch: BatchState, rows: object, outcomes: pa.Table, problems: Sequence[str | None]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = outcomes.add_column(0, "row", pa.array(rows)).append_column("problem", pa.array(problems, pa.string()))
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        path = Path(folder) / "results.parquet"
        try:
            with pq.ParquetWriter(path, table.schema, compression="lz4", write_statistics=False) as writer:
                writer.write_table(table, row_group_size=8_192)
        except OSError as error:
            raise StoreError(f"Could not write {path}: {error}. Is the disk full?") from error
        files.store.take(files.results(batch), path)
