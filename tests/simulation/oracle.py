"""The four promises, held against a schedule that is over. Every finding is one sentence."""

from __future__ import annotations

import gzip
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import msgspec
import pyarrow as pa

from ractobatch_dagster.io_manager import table_path
from ractobatch_dagster.models import ROW_STATUSES
from ractobatch_dagster.results.cost import answers_cost
from ractobatch_dagster.submission.files import read_parquet
from tests.simulation.actors import Play, submissions, version_in
from tests.simulation.answers import Request, Verdict, answer_to
from tests.simulation.setting import COMMON, MODEL, frame_of, model_of
from tests.simulation.stage import A_REQUEST_USD, ASSET, MOST_TOKENS
from tests.simulation.world import ENDED, Batch

__all__ = ["Tally", "judge"]

_ANSWERED = {Verdict.OK: "ok", Verdict.REFUSAL: "refusal", Verdict.TRUNCATED: "truncated"}
_ENDED = ("completed", "failed", "expired", "cancelled")
_MOST_IDLE = 5
"""How many trials that came to nothing, through no fault of its own, a question is granted."""

_NOTHING_RAN = ("poisoned", "refused", "queue", "missing file")


@dataclass(slots=True)
class Tally:
    """What a schedule came to, for the summary."""

    rows: int = 0
    billed: int = 0
    doubles: int = 0
    losses: int = 0


@dataclass(slots=True)
class Sent:
    """One question on its way in one batch."""

    batch: Batch
    request: Request

    @property
    def lost(self) -> bool:
        """Whether the provider lost what it had to tell about it."""
        return self.batch.answers_lost and self.request.told_in != "errors"

    @property
    def usable(self) -> bool:
        """Whether its answer was there to be collected."""
        return self.request.served and self.request.verdict.answered and not self.lost

    @property
    def failed(self) -> bool:
        """Whether it used up one of its question's attempts."""
        return self.lost or (self.request.served and self.request.verdict.worth_retrying and not self.idle)

    @property
    def idle(self) -> bool:
        """Whether it came to nothing, as far as anybody can tell who only sees what the provider tells."""
        if self.lost:
            return False
        cut_short = self.batch.status != "completed" and self.request.verdict in (Verdict.MISSING, Verdict.GARBLED)
        return not self.request.served or cut_short


def judge(play: Play) -> tuple[list[str], Tally]:
    """Every promise that was broken, and the tally."""
    return _Judge(play).all()


_AN_ANSWER_USD = answers_cost(MODEL, MOST_TOKENS) or 0.0
"""What a request may cost, without its prompt."""


def _ended_at(batch: Batch) -> float:
    return next((at for at, status in batch.history if status in ENDED), float("inf"))


class _Judge:
    def __init__(self, play: Play) -> None:
        self.play = play
        self.states = {id_: play.table.submission(id_).state() for id_ in submissions(play)}
        known = {batch.batch_id: batch for state in self.states.values() for batch in state.batches if batch.batch_id}
        self.strays = [batch for batch in play.world.batches.values() if batch.id not in known]
        self.sent: dict[str, dict[str, list[Sent]]] = defaultdict(lambda: defaultdict(list))
        for batch in play.world.batches.values():
            if batch.id in known:
                if batch.vanished:  # whoever collected first had the answers, or had them not
                    batch.answers_lost = known[batch.id].gone
                submission = self._submission(batch)
                for request in batch.requests:
                    self.sent[submission][request.question].append(Sent(batch, request))
        self.tally = Tally()

    def all(self) -> tuple[list[str], Tally]:
        """Everything there is to find."""
        found = [
            *self.play.broken,
            *self.play.orchestrator.odd,
            *self._models(),
            *self._budget(),
            *self._quota(),
            *self._strays(),
            *self._paid_twice(),
            *self._attempts(),
            *self._backwards(),
            *self._tables(),
            *self._final(),
        ]
        return found, self.tally

    def _models(self) -> Iterator[str]:
        """Every question goes to its own model, and a batch has one."""
        for batch in self.play.world.batches.values():
            if len({request.model for request in batch.requests}) > 1:
                yield f"batch {batch.id} asks several models"
            for request in batch.requests:
                if request.model != model_of(request.question, self.play.setting.models):
                    yield f"batch {batch.id} asks {request.model} for {request.question!r}"

    def _budget(self) -> Iterator[str]:
        """What batches that are open together may cost is never more than the budget, until that is raised."""
        if not self.play.setting.budget:
            return
        strays = {batch.id for batch in self.strays}
        mine = [one for one in self.play.world.batches.values() if one.id not in strays and not one.doubled]
        for batch in mine:
            if batch.created_at >= self.play.calm_at:
                continue
            together = [one for one in mine if one.created_at <= batch.created_at < _ended_at(one)]
            requests = sum(len(one.requests) for one in together)
            if requests * _AN_ANSWER_USD > self.play.setting.budget * A_REQUEST_USD:
                money = self.play.setting.budget
                yield f"with {batch.id} {requests} requests are open, and there is money for {money:.1f}"

    def _quota(self) -> Iterator[str]:
        """Where it is told, no more is ever enqueued than the queue takes."""
        limit = self.play.world.chances.queue_tokens
        if not self.play.setting.quota_given:
            return
        strays = {batch.id for batch in self.strays}
        mine = [one for one in self.play.world.batches.values() if one.id not in strays and not one.doubled]
        for batch in mine:
            together = [one for one in mine if one.created_at <= batch.created_at < _ended_at(one)]
            for model in {one.requests[0].model for one in together if one.requests}:
                enqueued = [one for one in together if one.requests and one.requests[0].model == model]
                tokens = sum(request.tokens for one in enqueued for request in one.requests)
                if tokens > limit and len(enqueued) > 1:
                    yield f"with {batch.id} {tokens} tokens of {model} are enqueued, and there is room for {limit}"

    # -- money ------------------------------------------------------------------------------------

    def _strays(self) -> Iterator[str]:
        """No batch runs that no state knows."""
        for batch in self.strays:
            billed = sum(request.served and request.verdict.billed for request in batch.requests)
            if billed and not batch.doubled and not self._in_doubt(batch):
                self.tally.doubles += billed
                yield f"batch {batch.id} of {batch.file_name} ran, {billed} requests were billed, and no state knows it"

    def _in_doubt(self, batch: Batch) -> bool:
        """Whether the engine says of itself that it cannot know of this batch: its create is still unresolved."""
        return any(
            one.stage == "creating" and f"{state.id}-{one.number:05d}-{one.attempt}-" in batch.file_name
            for state in self.states.values()
            for one in state.batches
        )

    def _paid_twice(self) -> Iterator[str]:
        """A question whose answer was collected, or could be, is not asked again."""
        everywhere: dict[str, list[Sent]] = defaultdict(list)
        for questions in self.sent.values():
            for question, sent in questions.items():
                everywhere[question] += sent
        for question, sent in everywhere.items():
            sent.sort(key=lambda one: one.batch.created_at)
            self.tally.billed += sum(one.request.served and one.request.verdict.billed for one in sent)
            for first, second in pairwise(sent):
                if first.usable and first.request.verdict is Verdict.OK and second.batch.fate not in _NOTHING_RAN:
                    if not self.play.setting.dedupe and self._samples(question, first, second):
                        continue
                    if self._forgotten(question, first, second):
                        continue
                    if first.batch.doubled and first.batch.input_file_id == second.batch.input_file_id:
                        continue
                    self.tally.doubles += second.request.served
                    yield f"{question!r} was answered in {first.batch.id} and asked again in {second.batch.id}"

    def _samples(self, question: str, first: Sent, second: Sent) -> bool:
        """Whether without `dedupe` these are two samples: no more are asked for than rows are left without an answer.

        Which of a question's rows takes over an earlier answer does not matter.
        """
        before, mine = self._submission(first.batch), self._submission(second.batch)
        if before == mine:
            return first.request.custom_id != second.request.custom_id
        key = next((key for key in self.play.setting.keys if f" of {key}" in question), None)
        version = version_in(self.play.table.submission(mine), key)
        if version is None:
            return False
        rows = frame_of(self.play.setting, key, version)["user_message"].to_pylist().count(question)
        answered = {one.request.custom_id for one in self.sent[before][question] if one.usable}
        asked = {one.request.custom_id for one in self.sent[mine][question]}
        return len(answered) + len(asked) <= rows

    def _forgotten(self, question: str, first: Sent, second: Sent) -> bool:
        """Whether other rows were submitted in between: only the answers of the last rows are reused."""
        mine = self._submission(second.batch)
        if COMMON in question:  # and each partition has its own last rows
            return self._submission(first.batch) != mine
        key = next((key for key in self.play.setting.keys if f" of {key}" in question), None)
        order = self.order[key]
        if mine not in order or order.index(mine) == 0 or self._submission(first.batch) == mine:
            return False
        before = order[order.index(mine) - 1]
        version = version_in(self.play.table.submission(before), key)
        return version is None or question not in frame_of(self.play.setting, key, version)["user_message"].to_pylist()

    def _submission(self, batch: Batch) -> str:
        return next((id_ for id_ in self.states if id_ in batch.file_name), "")

    @cached_property
    def order(self) -> dict[str | None, list[str]]:
        """The submissions of each partition, in the order in which they were opened."""
        found: dict[str | None, list[str]] = {key: [] for key in self.play.setting.keys}
        for state in self._versions(f"submissions/{ASSET}/log/"):
            for one in state["partitions"]:
                if one["submission"] not in found[one["key"]]:
                    found[one["key"]].append(one["submission"])
        return found

    def _attempts(self) -> Iterator[str]:
        """Within a submission: what failed for good is not asked again, and nothing more often than allowed."""
        most = 1 + self.play.setting.max_rounds
        for submission, questions in self.sent.items():
            for question, sent in questions.items():
                for custom_id in {one.request.custom_id for one in sent}:
                    mine = [one for one in sent if one.request.custom_id == custom_id]
                    final = [one for one in mine if one.request.served and not one.request.verdict.worth_retrying]
                    if len([one for one in final if not one.lost]) > 1:
                        yield f"{question!r} had its final answer in {final[0].batch.id} and was asked again"
                    if sum(one.failed for one in mine) > most:
                        yield f"{question!r} was tried {len(mine)} times in {submission}, and {most} are allowed"

    def _backwards(self) -> Iterator[str]:
        """No batch that is known becomes another one or goes back to an earlier state, save into the queue."""
        for id_ in self.states:
            before: dict[int, dict[str, Any]] = {}
            for state in self._versions(f"submissions/{ASSET}/{id_}/log/"):
                for batch in state["batches"]:
                    was, number = before.get(batch["number"], {}), batch["number"]
                    before[number] = batch
                    if was.get("batch_id") and batch.get("batch_id") not in (None, was["batch_id"]):
                        yield f"batch {number} of {id_} was {was['batch_id']} and became {batch['batch_id']}"
                    elif was.get("status") in _ENDED and batch.get("status") not in (None, was["status"]):
                        yield f"batch {number} of {id_} was {was['status']} and became {batch['status']}"

    def _versions(self, prefix: str) -> Iterator[dict[str, Any]]:
        """Every state that was ever committed to a log, in order."""
        objects = self.play.store.objects
        for path in sorted(path for path in objects if path.startswith(prefix)):
            yield msgspec.json.decode(gzip.decompress(objects[path]))["state"]

    # -- rows -------------------------------------------------------------------------------------

    def _tables(self) -> Iterator[str]:
        """Every table ever written holds its submission's rows, each once and in order, with its own answer."""
        judged: dict[tuple[str | None, str], pa.Table] = {}
        for one in self.play.written:
            key, submission, table = one.key, one.submission, one.table
            earlier = judged.get((key, submission))
            if earlier is not None:
                if not earlier.equals(table):
                    yield f"{submission} landed twice for {key!r}, and not with the same table"
                continue
            judged[key, submission] = table
            yield from self._table(key, submission, table)

    def _table(self, key: str | None, submission: str, table: pa.Table) -> Iterator[str]:
        versions = set(table["version"].to_pylist())
        expected = frame_of(self.play.setting, key, next(iter(versions), 0))
        self.tally.rows += len(expected)
        if len(versions) > 1 or not table.select(expected.column_names).equals(expected):
            self.tally.losses += max(len(expected) - len(table), 1)
            yield f"{submission} of {key!r}: the rows that came back are not the rows that went in"
            return
        for row in table.to_pylist():
            for problem in self._row(submission, row):
                yield f"{submission} of {key!r}, row {row['number']} ({row['user_message']!r}): {problem}"

    def _row(self, submission: str, row: dict[str, Any]) -> Iterator[str]:
        """One row against what the provider knows to have done about it."""
        status, question = row["llm_status"], row["user_message"]
        if status not in ROW_STATUSES:
            yield f"{status!r} is none of the ten statuses"
        if question is None or not question.strip():
            if status != "skipped":
                yield f"nothing was to be asked, and its status is {status}"
            return
        if status == "ok" and row["llm_text"] != answer_to(question):
            yield f"its answer is another's: {row['llm_text']!r}"
        if status == "ok" and row["llm_model"] != model_of(question, self.play.setting.models):
            yield f"its answer is of another model: {row['llm_model']}"
        sent = [one for one in self.sent[submission].get(question, []) if one.request.custom_id == row["custom_id"]]
        answers = {_ANSWERED[one.request.verdict] for one in sent if one.usable}
        if answers and status not in answers:
            yield f"{answers} was answered, and its status is {status}"
        if not answers:
            yield from self._without_answer(submission, row, sent)

    def _without_answer(self, submission: str, row: dict[str, Any], sent: list[Sent]) -> Iterator[str]:
        status, state = row["llm_status"], self.states[submission]
        if status in _ANSWERED.values():
            earlier = [one for questions in self.sent.values() for one in questions.get(row["user_message"], [])]
            if not any(one.usable and _ANSWERED[one.request.verdict] == status for one in earlier):
                yield f"its status is {status}, and nobody answered it"
            return
        causes: Counter[str] = Counter()
        for one in sent:
            causes[self._cause(one)] += 1
        if status == "cancelled" and state.cancelled:
            return
        if not causes[status]:
            yield f"its status is {status} without cause: {dict(causes)}"
        if not state.cancelled:
            verdicts = {one.request.verdict for one in sent}
            final = verdicts & {Verdict.PERMANENT, Verdict.POISON} or any(one.batch.fate == "refused" for one in sent)
            tried = sum(one.failed for one in sent)
            idle = sum(one.idle for one in sent)
            if not final and tried != 1 + state.max_rounds and idle <= _MOST_IDLE:
                yield f"given up as {status} after {tried} of {1 + state.max_rounds} tries, {idle} more without a run"

    @staticmethod
    def _cause(one: Sent) -> str:
        """The status that this trial by itself would lead to."""
        if one.batch.fate in _NOTHING_RAN and one.batch.status == "failed":  # or it was cancelled before
            return "error"
        if one.lost:
            return "missing"
        if one.idle:
            return one.batch.status
        return "missing" if one.request.verdict in (Verdict.MISSING, Verdict.GARBLED) else "error"

    def _final(self) -> Iterator[str]:
        """What lies in the store at the end is the newest version of each partition."""
        if not self.play.over:
            return
        version = self.play.setting.changes
        for key in self.play.setting.keys:
            table = read_parquet(self.play.quiet, table_path([ASSET], key))
            expected = frame_of(self.play.setting, key, version)
            if table is None or not table.select(expected.column_names).equals(expected):
                if table is not None and self._overtaken(key):
                    self.play.scheduler.counts["tables overtaken"] += 1
                    continue
                self.tally.losses += len(expected)
                yield f"the table of {key!r} at the end is not of version {version}"

    def _overtaken(self, key: str | None) -> bool:
        """Whether the last to write was a run that had begun before the newest rows landed, and was slow."""
        writes = [one for one in self.play.written if one.key == key]
        newest = [one.at for one in writes if one.submission == self.order[key][-1]]
        return bool(newest) and writes[-1].began < newest[0]
