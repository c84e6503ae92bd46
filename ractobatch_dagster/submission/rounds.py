"""When every batch is collected: which rows are asked again, each within its own number of attempts."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.requests.cut import Limits, cut
from ractobatch_dagster.requests.encode import Encoder, custom_id
from ractobatch_dagster.results.forms import raw_text, read_more
from ractobatch_dagster.submission.asking import LATER, AskedRows, asked_rows, plan_batches
from ractobatch_dagster.submission.collecting import new_reader, read_answers
from ractobatch_dagster.submission.files import SubmissionFiles, parquet_file
from ractobatch_dagster.submission.lines import read_encoder
from ractobatch_dagster.submission.rows import PROMPT_BYTES, read_rows
from ractobatch_dagster.submission.state import BatchState, SubmissionState

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["settle"]

_MAX_FREE = 5
"""How many times a row that never ran goes out again. It costs nothing, but no row may circle for ever."""


def settle(
    files: SubmissionFiles, state: SubmissionState, limits: Limits, log: Callable[[str], None]
) -> SubmissionState:
    """Rows worth asking again go on as the next round; otherwise the outcomes are final."""
    open_ = {b.number: b for b in state.batches if not b.collected}
    left = {number: _closed(files, batch) for number, batch in open_.items()}
    state = state.with_batches(left)
    for what, count in _anomalies(state).items():
        log(f"{count} {what} in the provider's files; they are kept in {files.store.uri(files.odd_lines)}")
    planned = () if state.cancelled else _next_round(files, state, limits)
    if planned:
        again = sum(batch.requests for batch in planned)
        log(f"round {state.round + 1}: {again:,} of {state.requests:,} requests are asked again")
        return files.replace(lambda newest: _extended(state, newest, planned))
    return files.replace(lambda newest: _finished(newest, state, open_, left))


def _finished(
    newest: SubmissionState, state: SubmissionState, open_: dict[int, BatchState], left: dict[int, BatchState]
) -> dict[str, Any]:
    # a batch that was found meanwhile, although it was to be no more, is waited for
    if newest.collected or any(open_.get(batch.number, batch) != batch for batch in newest.batches):
        return {}
    return {"collected": True, "anomalies": _anomalies(state), "batches": newest.with_batches(left).batches}


def _extended(state: SubmissionState, newest: SubmissionState, planned: tuple[BatchState, ...]) -> dict[str, Any]:
    # another run may have planned this round already, with rows of its own
    if newest.round != state.round or newest.collected or len(newest.batches) != len(state.batches):
        return {}
    return {"batches": (*newest.batches, *planned)}


def _closed(files: SubmissionFiles, batch: BatchState) -> BatchState:
    """A batch that was cancelled before it was created."""
    cancelled = msgspec.structs.replace(batch, status=BatchStatus.CANCELLED, reader=new_reader())
    return msgspec.structs.replace(read_answers(files, cancelled, None), status=batch.status)


def _anomalies(state: SubmissionState) -> dict[str, int]:
    counts: dict[str, int] = {}
    for batch in state.batches:
        for what, count in batch.anomalies.items():
            counts[what] = counts.get(what, 0) + count
    return counts


def _next_round(files: SubmissionFiles, state: SubmissionState, limits: Limits) -> tuple[BatchState, ...]:
    """Plan the batches of the next round, if there is any."""
    import pyarrow as pa

    later: dict[str, list[pa.Table]] = {}
    for batch in state.batches:
        again = _again(files, state, batch) if batch.round == state.round and batch.doubtful else None
        if again is not None:
            later.setdefault(batch.model, []).append(again)
    if not later:
        return ()
    by_model = {model: pa.concat_tables(tables) for model, tables in later.items()}
    encoder = read_encoder(files)
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        return plan_batches(
            files,
            (one for model, rows in by_model.items() for one in cut(_sized(files, rows, encoder), limits, model)),
            Path(folder),
            round_=state.round + 1,
            first=len(state.batches),
            more=pa.concat_tables(by_model.values()).select([name for name, _ in LATER()]),
        )


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One outcome of a row that may be asked again."""

    row: int
    ok: bool
    retryable: bool
    never_run: bool
    text: str | None
    problem: str | None


def _again(files: SubmissionFiles, state: SubmissionState, batch: BatchState) -> pa.Table | None:
    """The rows of a batch that are worth another round, with what is known of each."""
    import pyarrow as pa

    asked = asked_rows(files, batch)
    found = [known for one in _doubtful(files, batch) if (known := _known(one, asked, state)) is not None]
    schema = pa.schema([("row", pa.int64()), *LATER()])
    return pa.Table.from_pylist(found, schema=schema) if found else None


def _known(one: _Outcome, asked: AskedRows, state: SubmissionState) -> dict[str, Any] | None:
    """What is known of a row that is asked again; `None` if it is not."""
    failures, never_run, invalid = asked.counts.get(one.row, (0, 0, 0))
    if one.retryable:
        never_run += one.never_run
        failures += not one.never_run
    repaired = one.ok and one.problem is not None
    invalid += repaired
    worth = (
        invalid <= state.repairs
        if repaired
        else one.retryable and failures <= state.max_rounds and never_run <= _MAX_FREE
    )
    if not worth:
        return None
    answer, problem = (one.text, one.problem) if repaired else asked.answers.get(one.row, (None, None))
    counts = {"failures": failures, "never_run": never_run, "invalid": invalid}
    return {"row": one.row, **counts, "answer": answer, "problem": problem}


def _doubtful(files: SubmissionFiles, batch: BatchState) -> Iterator[_Outcome]:
    """The outcomes of a batch that are not final by themselves."""
    import pyarrow.compute as pc

    columns = ["row", "status", "retryable", "never_run", "text", "problem", "more"]
    with parquet_file(files.store, files.results(batch)) as file:
        for part in file.iter_batches(8_192, columns=columns, use_threads=False):
            some = part.filter(pc.or_(part.column("retryable"), pc.is_valid(part.column("problem"))))
            for row in some.to_pylist():
                text = raw_text(row["text"], read_more(row.get("more")).calls, whole=True)
                yield _Outcome(
                    row["row"], row["status"] == "ok", row["retryable"], row["never_run"], text, row["problem"]
                )


def _sized(files: SubmissionFiles, later: pa.Table, encoder: Encoder) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The rows of the next round, and the bytes of the line of each."""
    import numpy as np

    rows = later["row"].to_numpy()
    repairs = _repairs(later)
    place = int(rows[0])
    for batch in read_rows(files, place, int(rows[-1]) + 1, [PROMPT_BYTES]):
        low, high = np.searchsorted(rows, [place, place + len(batch)])
        some = rows[low:high]
        prompts = batch.column(0).to_numpy()[some - place]
        place += len(batch)
        yield (
            some,
            np.array(
                [
                    _line_bytes(encoder, row, size, repairs.get(row))
                    for row, size in zip(some.tolist(), prompts.tolist(), strict=True)
                ],
                dtype=np.int64,
            ),
        )


def _repairs(later: pa.Table) -> Mapping[int, tuple[str, str]]:
    columns = (later[name].to_pylist() for name in ("row", "answer", "problem"))
    return {row: (answer or "", problem) for row, answer, problem in zip(*columns, strict=True) if problem}


def _line_bytes(encoder: Encoder, row: int, prompt: int, shown: tuple[str, str] | None) -> int:
    id_ = custom_id(row).encode()
    around = encoder.line(id_, b"") if shown is None else encoder.repaired(id_, b"", *shown)
    return len(around) + prompt
