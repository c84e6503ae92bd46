"""What batches will probably cost, told from what the table's last ones did."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ractobatch_dagster.requests.cut import BYTES_PER_TOKEN
from ractobatch_dagster.results.cost import Prices, answers_cost, prompts_cost
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.state import BatchState, PartitionRows, SubmissionState, TableState

__all__ = ["Expected", "expected", "last_landed", "prompt_ratio", "prompt_tokens", "typical_answer"]


class Expected(NamedTuple):
    """What the table's last answers tell of new batches.

    Attributes:
        usd: US dollars that they will cost if prompts and answers are as long as before; `None` if nobody can know.
        tokens_per_byte: Input tokens that were billed for each byte of an input file; `None` if none were yet.
    """

    usd: float | None = None
    tokens_per_byte: float | None = None


def expected(batches: Sequence[BatchState], model: str, past: Iterable[SubmissionState], prices: Prices) -> Expected:
    """What these batches will probably come to.

    Args:
        batches: What is to be created.
        model: The model of those that name none.
        past: Submissions of the same table, the newest first: the first of which answers were collected counts.
        prices: Those that are given.
    """
    if not batches:
        return Expected(0.0)
    ratio = answer = None
    for state in past:
        ratio, answer = prompt_ratio(state), typical_answer(state)
        if ratio is not None and answer is not None:
            break
    if ratio is None or answer is None:
        return Expected()
    usd = 0.0
    for batch in batches:
        asked = batch.model or model
        prompts = prompts_cost(asked, round(batch.size * ratio), prices)
        parts = (prompts, answers_cost(asked, round(batch.requests * answer), prices))
        if None in parts:
            return Expected(None, ratio)
        usd += sum(part or 0.0 for part in parts)
    return Expected(usd, ratio)


def last_landed(
    table: TableFiles, state: TableState | None, shares: Sequence[PartitionRows]
) -> Iterator[SubmissionState]:
    """The submissions that landed last, the newest first: of these partitions, then of others."""
    if state is None:
        return
    keys = {share.key for share in shares}
    ours = {one.landed for one in state.partitions if one.landed and one.key in keys}
    others = {one.landed for one in state.partitions if one.landed} - ours
    for id_ in [*sorted(ours, reverse=True)[:_LOOKED_AT], *sorted(others, reverse=True)[:_LOOKED_AT]]:
        version = table.submission(id_).log.load()
        if version is not None:
            yield version.state


_LOOKED_AT = 2


def prompt_ratio(state: SubmissionState) -> float | None:
    """Input tokens that were billed, for each byte of the input files."""
    told = [batch for batch in state.batches if batch.collected and batch.tokens]
    size = sum(batch.size for batch in told)
    return sum(batch.tokens for batch in told) / size if size else None


def typical_answer(state: SubmissionState) -> float | None:
    """Output tokens that were billed, for each request."""
    told = [batch for batch in state.batches if batch.collected and batch.tokens]
    requests = sum(batch.requests for batch in told)
    return sum(batch.answer_tokens for batch in told) / requests if requests else None


def prompt_tokens(state: SubmissionState, batch: BatchState) -> int:
    """Input tokens of a batch by its bytes: as the last answers were billed, else by a rule that is seldom too low."""
    ratio = state.tokens_per_byte
    return round(batch.size * ratio) if ratio else batch.size // BYTES_PER_TOKEN
