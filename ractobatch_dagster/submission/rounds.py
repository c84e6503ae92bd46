"""When every batch is collected: which rows are asked again, and the outcomes of those that are not."""

from __future__ import annotations

import json
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.requests.cut import CutFile, Cutter, Limits
from ractobatch_dagster.requests.encode import json_line
from ractobatch_dagster.results.classify import Outcome, no_line
from ractobatch_dagster.results.join import join_lines, refused
from ractobatch_dagster.results.lines import raw_lines
from ractobatch_dagster.results.outcomes import outcomes_table
from ractobatch_dagster.results.quick import answer_lines
from ractobatch_dagster.submission.files import SubmissionFiles, write_parquet
from ractobatch_dagster.submission.state import BatchState, SubmissionState

__all__ = ["Validator", "request_lines", "settle"]

Validator = Callable[[str | None], str | None]
"""What is wrong with an answer's text, or `None`."""

_MAX_FREE = 5
"""How many times a row that never ran goes out again. It costs nothing, but no row may circle for ever."""

_MAX_ODD_LINES = 10_000
"""How many odd lines are kept to be looked at; all are counted."""


@dataclass(slots=True)
class _History:
    """What became of one request over all rounds."""

    best: tuple[Outcome, str | None, int]
    last: Outcome
    failures: int = 0
    never_run: int = 0
    invalid: int = 0
    problem: str | None = None


@dataclass(slots=True)
class _Odd:
    """Lines of the provider's files that belong to no request, counted and kept."""

    path: Path
    counts: Counter[str] = field(default_factory=Counter)

    def keep(self, batch: BatchState, what: str, line: bytes) -> None:
        """Count one line and keep it, to be looked at."""
        self.counts[what] += 1
        if self.counts.total() <= _MAX_ODD_LINES:
            record = {"batch": batch.batch_id, "what": what, "line": line.decode("utf-8", "backslashreplace")}
            with self.path.open("ab") as file:
                file.write(msgspec.json.encode(record) + b"\n")


def settle(
    files: SubmissionFiles,
    state: SubmissionState,
    limits: Limits,
    log: Callable[[str], None],
    validate: Validator | None = None,
) -> SubmissionState:
    """Decode every response. Rows worth asking again go on as the next round; otherwise the outcomes are final."""
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        odd = _Odd(Path(folder) / "odd_lines.jsonl")
        histories = _histories(files, state, odd, validate if state.repairs else None)
        for what, count in odd.counts.items():
            log(f"{count} {what} in the provider's files; they are kept in {files.store.uri(files.odd)}")
        again = {} if state.cancelled else _again(state, histories)
        if again:
            log(f"round {state.round + 1}: {len(again):,} of {len(histories):,} requests are asked again")
            return _next_round(files, state, again, limits)
        if odd.counts:
            files.store.write(files.odd, odd.path)
        write_parquet(files.store, files.results, outcomes_table(one.best for one in histories.values()))
    return files.replace(lambda _: {"collected": True, "anomalies": dict(odd.counts)})


def _histories(
    files: SubmissionFiles, state: SubmissionState, odd: _Odd, validate: Validator | None
) -> dict[str, _History]:
    histories: dict[str, _History] = {}
    for batch in state.batches:
        for custom_id, outcome in _judge(files, batch, odd).items():
            judged = (outcome, batch.batch_id, batch.round)
            history = histories.setdefault(custom_id, _History(judged, outcome))
            history.last = outcome
            # an answer, if only an invalid one, is better than none
            if outcome.status == "ok" or history.best[0].status != "ok":
                history.best = judged
            if outcome.retryable:
                history.never_run += outcome.never_run
                history.failures += not outcome.never_run
            if validate is not None and outcome.status == "ok":
                history.problem = validate(outcome.text)
                history.invalid += history.problem is not None
    return histories


def _judge(files: SubmissionFiles, batch: BatchState, odd: _Odd) -> dict[str, Outcome]:
    """One outcome for each request that the batch held, whatever the provider returned."""
    asked = (custom_id for custom_id, _ in request_lines(files, batch))
    if batch.batch_id is None:  # cancelled before it was created
        return {custom_id: no_line(custom_id, BatchStatus.CANCELLED) for custom_id in asked}
    if batch.status is BatchStatus.FAILED and not batch.file_ids:
        return refused(asked, batch.issues)
    status = batch.status or BatchStatus.COMPLETED
    there = batch.file_ids and (not batch.gone or files.store.exists(files.responses(batch.number)))
    lines = answer_lines(files.store.chunks(files.responses(batch.number)) if there else ())
    outcomes = join_lines(asked, lines, status, lambda what, line: odd.keep(batch, what, line))
    if batch.gone:
        for outcome in outcomes.values():
            if outcome.line is None:
                outcome.status, outcome.never_run, outcome.error_code = "missing", False, "answers_gone"
                outcome.error = "The provider no longer has the file with the answers, or no longer knows the batch."
    return outcomes


def _again(state: SubmissionState, histories: Mapping[str, _History]) -> dict[str, _History]:
    """The requests worth another round, each within its own number of attempts."""

    def worth(one: _History) -> bool:
        if one.problem is not None and one.last.status == "ok":
            return one.invalid <= state.repairs
        return one.last.retryable and one.failures <= state.max_rounds and one.never_run <= _MAX_FREE

    return {custom_id: one for custom_id, one in histories.items() if worth(one)}


def request_lines(files: SubmissionFiles, batch: BatchState) -> Iterator[tuple[str, bytes]]:
    """The lines of a batch's input file, each with its `custom_id`."""
    for line in raw_lines(files.store.chunks(files.requests(batch))):
        end = line.find(b'"', len(_START))
        if line.startswith(_START) and b"\\" not in line[:end]:
            yield line[len(_START) : end].decode(), line
        else:
            yield msgspec.json.decode(line, type=_Named).custom_id, line


def _next_round(
    files: SubmissionFiles, state: SubmissionState, again: Mapping[str, _History], limits: Limits
) -> SubmissionState:
    """Write the input files of the next round and plan its batches."""
    planned = cut_batches(files, state, _lines(files, state, again), limits, round_=state.round + 1)

    def extend(newest: SubmissionState) -> dict[str, object]:
        # another run may have planned this round already, with files of its own
        if newest.round != state.round or newest.collected or len(newest.batches) != len(state.batches):
            return {}
        return {"batches": (*newest.batches, *planned)}

    return files.replace(extend)


def _lines(
    files: SubmissionFiles, state: SubmissionState, again: Mapping[str, _History]
) -> Iterator[tuple[str, bytes]]:
    """The lines of the next round, as they were sent first, or with the answer that is to be repaired."""
    left = set(again)
    for batch in state.batches:
        for custom_id, line in request_lines(files, batch):
            if custom_id in left:
                left.discard(custom_id)
                one = again[custom_id]
                wrong = one.problem if one.last.status == "ok" else None
                yield custom_id, line if wrong is None else _repair(line, one.last.text or "", wrong)


def _repair(line: bytes, answer: str, problem: str) -> bytes:
    """The request with the answer that was refused, and why."""
    request = json.loads(line)
    request["body"]["messages"] += [
        {"role": "assistant", "content": answer},
        {"role": "user", "content": f"This answer is not valid: {problem}\nGive the corrected answer, and only that."},
    ]
    return json_line(request)


def cut_batches(
    files: SubmissionFiles,
    state: SubmissionState,
    lines: Iterator[tuple[str, bytes]],
    limits: Limits,
    *,
    round_: int,
) -> tuple[BatchState, ...]:
    """Write lines as input files of batches yet to be planned, under names that no other writer uses."""
    token = secrets.token_hex(4)

    def planned(cut: CutFile) -> BatchState:
        return BatchState(number=cut.number, round=round_, requests=cut.requests, size=cut.size, token=token)

    def store(cut: CutFile, path: Path) -> None:
        files.store.write(files.requests(planned(cut)), path)

    with Cutter(limits, store, first=len(state.batches)) as cutter:
        for custom_id, line in lines:
            cutter.add(line + b"\n", what=custom_id)
    return tuple(map(planned, cutter.files))


_START = b'{"custom_id":"'


class _Named(msgspec.Struct):
    custom_id: str
