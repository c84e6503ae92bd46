"""What a submission would ask and cost, before anything is sent: sealed and planned in a folder that is thrown away."""

from __future__ import annotations

import math
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.requests.cut import BYTES_PER_TOKEN
from ractobatch_dagster.requests.encode import Encoder, body_of, custom_id, escape
from ractobatch_dagster.requests.frame import PROMPT
from ractobatch_dagster.requests.rendering import Requests
from ractobatch_dagster.requests.tokens import counter, encoding_name
from ractobatch_dagster.results.cost import answers_cost, named, prompts_cost
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.asking import Asking, asked_rows
from ractobatch_dagster.submission.expecting import last_landed, typical_answer
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles, parquet_file
from ractobatch_dagster.submission.lines import write_input
from ractobatch_dagster.submission.opening import Terms
from ractobatch_dagster.submission.reusing import Known, sources_of
from ractobatch_dagster.submission.rows import REQUEST, read_rows
from ractobatch_dagster.submission.sealing import seal_rows
from ractobatch_dagster.submission.state import BatchState, TableState, Takes

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Estimate", "estimate"]

_SURE = 1.96
"""Standard errors to both sides within which the truth lies in 95 of 100 cases."""

_FROM_BATCHES = 20
"""Of so many batches requests are looked at; of more, of those that are spread evenly."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a submission would ask and cost.

    Attributes:
        rows: How many rows there are.
        requests: How many of them would be asked.
        reused: How many have an answer that was paid for before.
        repeated: How many ask what another row asks.
        skipped: How many ask nothing, or more than one input file can hold.
        batches: How many batches that makes, by model.
        bytes: Of all input files.
        prompt_tokens: Input tokens.
        prompt_tokens_error: By how many tokens that may be off in either direction, in 95 of 100 cases, as far as the
            requests that were looked at tell; `None` where tokens were not counted but guessed from the bytes.
        counted: How the tokens were counted.
        completion_tokens: Output tokens, if answers are as long as those of the last table; `None` where there is none.
        completion_tokens_at_most: What `max_tokens` admits, if each request took as many as the row that is admitted
            most; `None` where it is not set, 0 for embeddings.
        prompt_cost_usd: What the input tokens cost at the batch rate; `None` where a model's price is not known.
        cost_usd: With the output tokens; `None` where either is not known.
        cost_usd_at_most: With the most output tokens that are admitted.
        waves: How many times the provider's queue has to take what it holds, each time for as long as batches take;
            `None` where nobody knows how much that is.
    """

    rows: int
    requests: int
    reused: int
    repeated: int
    skipped: int
    batches: dict[str, int]
    bytes: int
    prompt_tokens: int
    prompt_tokens_error: int | None
    counted: str
    completion_tokens: int | None
    completion_tokens_at_most: int | None
    prompt_cost_usd: float | None
    cost_usd: float | None
    cost_usd_at_most: float | None
    waves: int | None = None

    def __str__(self) -> str:
        batches = sum(self.batches.values())
        lines = [
            f"{self.rows:,} rows: {self.requests:,} to ask in {batches:,} {'batch' if batches == 1 else 'batches'} "
            f"({self.bytes / 1e6:,.1f} MB); {self.reused:,} answered before, {self.repeated:,} repeated, "
            f"{self.skipped:,} without anything to ask",
            f"input: {self.prompt_tokens:,} tokens{self._error()} ({self.counted}), {_usd(self.prompt_cost_usd)}",
        ]
        if self.completion_tokens is not None:
            lines.append(
                f"with answers as long as the last ones: {self.completion_tokens:,} tokens more, "
                f"{_usd(self.cost_usd)} in all"
            )
        if self.completion_tokens_at_most:
            lines.append(
                f"with answers of the most tokens: {self.completion_tokens_at_most:,} more, "
                f"{_usd(self.cost_usd_at_most)} in all"
            )
        if self.completion_tokens is None and self.completion_tokens_at_most is None:
            lines.append("answers come on top: preview a few, or set `max_tokens`")
        if self.waves is not None and self.waves > 1:
            lines.append(
                f"the provider's queue has to be filled {self.waves:,} times; each time may take the completion window"
            )
        return "\n".join(lines)

    def _error(self) -> str:
        return "" if self.prompt_tokens_error is None else f" ± {self.prompt_tokens_error:,}"


def _usd(cost: float | None) -> str:
    if cost is None:
        return "at a price that is not known"
    return f"{cost:{'.2g' if cost < 1 else ',.2f'}} USD"


def estimate(
    frames: Mapping[str | None, Any],
    terms: Terms,
    *,
    table: TableFiles | None = None,
    sample: int = 500,
    inputs: Path | None = None,
    queue: Mapping[str, int] | None = None,
    now: Callable[[], float],
    progress: Callable[[str], None] = lambda _: None,
) -> Estimate:
    """Seal and plan these rows as a submission would, and count what it would ask.

    Args:
        frames: By partition, whatever `open_frame` takes.
        terms: What the requests share.
        table: Whose answers may be taken over, and whose last answers tell how long answers are.
        sample: Of so many requests the tokens are counted.
        inputs: A folder for the input files, as they would be sent.
        queue: How many tokens of a model the provider's queue takes, where that is known.
        now: The clock, in seconds.
        progress: Told how far it is.

    Raises:
        InvalidInputError: A row or a column cannot be sent.
        ConfigurationError: The folder is none, or not empty.
    """
    if inputs is not None:
        _empty(inputs)
    with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
        files = SubmissionFiles(Store(Path(folder) / "store"), "estimate", "estimate")
        requests = Requests(terms.provider, terms.template, terms.overrides)
        shares = seal_rows(files, frames, terms.rules, requests, Path(folder), now, progress)
        rows = sum(share.rows for share in shares)
        asking = Asking(files, [(one.start, one.start + one.rows) for one in shares], rows, requests.encoder,
                        requests.models)  # fmt: skip
        asking.write_copies(dedupe=terms.dedupe)
        state = _state(table)
        paid = []
        if table is not None and terms.reuse is not None:
            paid = sources_of(table, state, shares, terms.reuse, dedupe=terms.dedupe)
        sources = [table.submission("").sibling(source) for source in paid] if table is not None else []
        since = terms.reuse.since(now()) if terms.reuse else 0.0
        takes = Takes(since=since, samples=not terms.dedupe)
        keys = [share.key for share in shares]
        known = Known(files, sources, Path(folder), takes=takes, keys=keys, validate=terms.validate)
        batches = asking.plan(known, terms.limits, Path(folder))
        if inputs is not None:
            for batch in batches:
                write_input(files, batch, requests.encoder, inputs / f"{batch.number:05d}.jsonl")
        past = last_landed(table, state, shares) if table is not None else ()
        typical = next((tokens for one in past if (tokens := typical_answer(one)) is not None), None)
        return _summed(files, requests, terms, batches, rows, known, sample, typical, queue or {})


def _empty(folder: Path) -> None:
    """Make a folder, or see that there is nothing in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        full = any(folder.iterdir())
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be a folder for the input files: {error}") from error
    if full:
        raise ConfigurationError(f"{folder} is not empty, so that nobody could tell which files are of now.")


def _state(table: TableFiles | None) -> TableState | None:
    version = table.log.load() if table is not None else None
    return version.state if version is not None else None


def _summed(
    files: SubmissionFiles,
    made: Requests,
    terms: Terms,
    batches: Sequence[BatchState],
    rows: int,
    known: Known,
    sample: int,
    typical: float | None,
    queue: Mapping[str, int],
) -> Estimate:
    with parquet_file(files.store, files.copies) as copies:
        repeated = copies.metadata.num_rows
    by_model: dict[str, list[BatchState]] = {}
    for batch in batches:
        by_model.setdefault(batch.model or terms.template.model, []).append(batch)
    asked = {model: sum(batch.requests for batch in some) for model, some in by_model.items()}
    requests = sum(asked.values())
    tokens = {
        model: _tokens(files, made.encoder, model, some, round(sample * asked[model] / max(requests, 1)))
        for model, some in by_model.items()
    }
    errors = [error for _, error, _ in tokens.values()]
    inputs = _total([prompts_cost(model, count, terms.prices) for model, (count, _, _) in tokens.items()])

    def with_answers(each: float | None) -> tuple[int | None, float | None]:
        if each is None:
            return None, None
        outputs = _total([answers_cost(model, round(count * each), terms.prices) for model, count in asked.items()])
        return round(requests * each), None if inputs is None or outputs is None else inputs + outputs

    likely, at_most = with_answers(typical), with_answers(made.most_tokens)
    return Estimate(
        rows=rows,
        requests=requests,
        reused=known.answers,
        repeated=repeated,
        skipped=rows - requests - known.answers - repeated,
        batches={model: len(some) for model, some in by_model.items()},
        bytes=sum(batch.size for batch in batches),
        prompt_tokens=sum(count for count, _, _ in tokens.values()),
        prompt_tokens_error=None if None in errors else round(math.hypot(*(error or 0.0 for error in errors))),
        counted="; ".join(dict.fromkeys(how for _, _, how in tokens.values())) or "nothing to count",
        completion_tokens=likely[0],
        completion_tokens_at_most=at_most[0],
        prompt_cost_usd=inputs,
        cost_usd=likely[1],
        cost_usd_at_most=at_most[1],
        waves=max(_waves(tokens, queue), default=None),
    )


def _waves(tokens: Mapping[str, tuple[int, Any, str]], queue: Mapping[str, int]) -> Iterator[int]:
    """How often each model's queue has to be filled, where it is known how much that takes."""
    for model, (count, _, _) in tokens.items():
        if (name := named(model, queue)) is not None:
            yield -(-count // queue[name])


def _total(costs: Sequence[float | None]) -> float | None:
    known = [cost for cost in costs if cost is not None]
    return sum(known) if len(known) == len(costs) else None


def _tokens(
    files: SubmissionFiles, encoder: Encoder, model: str, batches: Sequence[BatchState], sample: int
) -> tuple[int, float | None, str]:
    """The input tokens of these batches, how far off that may be, and how they were counted.

    A request's tokens and its bytes go together, so that the ratio of the two, seen at some, gives the tokens of all
    from their bytes, which are known.
    """
    count, size = counter(model), sum(batch.size for batch in batches)
    requests = sum(batch.requests for batch in batches)
    parts = size - requests * (encoder.overhead + len(custom_id(0)))
    some = _some(files, encoder, batches, max(sample, 30))
    if count is None:
        guess = f"guessed from the bytes, {BYTES_PER_TOKEN} a token; install the extra `tokens` to count them"
        files_in = [(len(part), sum(map(len, _FILE.findall(part)))) for part, _ in some] if encoder.bodies else [(1, 0)]
        return round(size - _ratio(files_in, requests)[0] * parts) // BYTES_PER_TOKEN, None, guess
    plain = count(body_of(encoder.line(b"", b'""'))) if not encoder.bodies else 0
    seen = [(len(part), count(body) - plain) for part, body in some]
    ratio, error = _ratio(seen, requests)
    how = f"counted as {encoding_name(model)} in {len(seen):,} of {requests:,} requests"
    return round(plain * requests + ratio * parts), error * _SURE, how


_FILE = re.compile(rb'"data:[^",]*;base64,[^"]*"')
"""A file within a request, whose tokens have nothing to do with its bytes."""


def _ratio(seen: Sequence[tuple[int, int]], requests: int) -> tuple[float, float]:
    """Tokens for each byte, and the standard error of the tokens of all requests that it gives (Cochran, ratios)."""
    bytes_seen, tokens_seen = (sum(values) for values in zip(*seen, strict=True))
    ratio = tokens_seen / bytes_seen if bytes_seen else 0.0
    if len(seen) < 2 or len(seen) >= requests:
        return ratio, 0.0
    spread = sum((tokens - ratio * size) ** 2 for size, tokens in seen) / (len(seen) - 1)
    return ratio, requests * math.sqrt(spread / len(seen) * (1 - len(seen) / requests))


def _some(
    files: SubmissionFiles, encoder: Encoder, batches: Sequence[BatchState], sample: int
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Some requests, drawn at random and the same each time: what the row adds to its line, and the body."""
    draw = random.Random(0)
    step = -(-len(batches) // _FROM_BATCHES)
    looked_at = batches[::step]
    requests = sum(batch.requests for batch in looked_at)
    for batch in looked_at:
        rows = asked_rows(files, batch).rows
        wanted = min(-(-sample * batch.requests // requests), len(rows))
        for row, part in _parts(files, encoder, batch, rows[sorted(draw.sample(range(len(rows)), wanted))]):
            yield part, body_of(encoder.line(custom_id(row).encode(), part))


def _parts(
    files: SubmissionFiles, encoder: Encoder, batch: BatchState, rows: np.ndarray
) -> Iterator[tuple[int, bytes]]:
    import numpy as np

    place = batch.start
    for block in read_rows(files, batch.start, batch.stop, [REQUEST if encoder.bodies else PROMPT]):
        low, high = np.searchsorted(rows, [place, place + len(block)])
        for row in rows[low:high].tolist():
            value = block.column(0)[row - place].as_py()
            yield row, value if encoder.bodies else escape(value)
        place += len(block)
