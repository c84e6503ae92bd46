"""A few rows answered at once, to see what a batch would bring before it is paid for. Nothing of it is kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import InvalidInputError, ProviderError
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.requests.body import RequestTemplate, is_raw
from ractobatch_dagster.requests.checks import row_names
from ractobatch_dagster.requests.encode import custom_ids
from ractobatch_dagster.requests.frame import PROMPT, REQUEST_HASH, blocks, open_frame
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.requests.rendering import Requests
from ractobatch_dagster.results.classify import classify
from ractobatch_dagster.results.cost import Prices, batch_cost
from ractobatch_dagster.results.outcomes import ANSWERED, Columns, as_values
from ractobatch_dagster.results.table import ResultTable, cell
from ractobatch_dagster.submission.answered import FINAL
from ractobatch_dagster.submission.sealing import Rules, one_schema

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Preview", "preview"]

_AT_A_TIME = 8
"""How many requests are under way together."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What a few rows were answered, and what all of them would cost.

    Attributes:
        table: The rows as the result table would have them.
        requests: The request body of each, in the same order.
        rows: How many rows there are to ask in all; identical ones count each, and so do answers that would be reused.
        prompt_tokens: Input tokens of all of them, estimated from these; `None` where none was answered.
        completion_tokens: Output tokens of all of them, estimated from these.
        cost_usd: What those cost at the batch rate; `None` where the model's price is not known.
        key: The column that identifies a row, if any.
        answers: The names of the typed columns.
    """

    table: pa.Table
    requests: list[dict[str, Any]]
    rows: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cost_usd: float | None
    key: str | None = None
    answers: tuple[str, ...] = ()

    @property
    def shown(self) -> list[str]:
        """The columns that a person looks at."""
        first = [self.key] if self.key else []
        return [*first, PROMPT, *(self.answers or ("llm_text",)), "llm_status", "llm_error"]

    @property
    def estimate(self) -> str:
        """What all of it would take, in a sentence."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return f"{self.rows:,} rows to ask; none of these was answered, so there is no estimate."
        tokens = f"about {self.prompt_tokens:,} tokens in and {self.completion_tokens:,} out"
        digits = ".2g" if self.cost_usd is not None and self.cost_usd < 1 else ",.2f"
        cost = "at a price that is not known" if self.cost_usd is None else f"about {self.cost_usd:{digits}} USD"
        return f"{self.rows:,} rows to ask: {tokens}, {cost} at the batch rate."

    def __str__(self) -> str:
        lines = []
        for row in self.table.select(self.shown).to_pylist():
            lines += [f"{name:>18}  {cell(value)}" for name, value in row.items() if value is not None]
            lines.append("")
        return "\n".join([*lines, self.estimate])


def preview(
    frames: Mapping[str | None, Any],
    rules: Rules,
    template: RequestTemplate,
    provider: Provider,
    *,
    overrides: Overrides | None = None,
    rows: int = 5,
    seed: int | None = None,
    prices: Prices | None = None,
) -> Preview:
    """Ask some rows at the endpoint that answers at once, at its full price.

    All rows are read and checked, as before a submission; only whether the key repeats is not looked at.

    Args:
        frames: By partition, whatever `open_frame` takes.
        rules: What they must keep to.
        template: What the requests share.
        provider: Who is asked.
        overrides: The columns by which rows say something of their own requests.
        rows: How many rows are asked.
        seed: Draws the rows at random; `None` takes the first.
        prices: Those that are given.

    Raises:
        InvalidInputError: A row or a column cannot be sent.
        ProviderError: The provider could not be asked; a request that it refuses is a row with that error instead.
    """
    import pyarrow as pa

    template = template.at(provider.profile)
    sample, requests = _Sample(rows, seed), Requests(provider.identity, template, overrides)
    schemas = []
    for key, frame in frames.items():
        stream = open_frame(frame, what=rules.where(key))
        rules.check(stream.schema, key)
        requests.check(stream.schema, rules.where(key))
        place = 0
        for block in (part for whole in blocks(stream) for part in requests.parts(whole)):
            prompts = rules.check_block(block, place, key)
            named = row_names(block, place, key=rules.key, where=rules.where(key))
            requests.check_rows(block, named)
            sample.add(block, prompts, named)
            place += len(block)
        schemas += [stream.schema] if place else []
    if not sample.kept:
        raise InvalidInputError(f"{rules.where(next(iter(frames), None))} has no row with a prompt to preview.")
    one_schema(schemas, rules)
    given = pa.concat_tables([row for row, _, _ in sample.kept], promote_options="permissive").combine_chunks()
    asked = given.to_batches()[0], [prompt for _, prompt, _ in sample.kept], lambda row: sample.kept[row][2]
    hashes, bodies = requests.render(*asked).hashes, requests.bodies(*asked)
    with ThreadPoolExecutor(_AT_A_TIME) as threads:
        lines = list(threads.map(lambda body: _asked(provider, template.endpoint, body), bodies))
    columns = Columns()
    for line in lines:
        columns.add(as_values(classify(line, raw=is_raw(template.endpoint))))
    given = given.append_column(REQUEST_HASH, pa.array(hashes, pa.binary(16)))
    table = ResultTable(template.form, "", prices).block(
        given.to_batches()[0], _final(columns.table()), 0, custom_ids(pa.array(range(len(bodies))))
    )
    return _estimated(table, bodies, sample, rules.key, tuple(template.form.names), prices or {})


class _Sample:
    """The rows that are asked, of those that have a prompt: the first, or some at random, each as likely as any."""

    def __init__(self, size: int, seed: int | None) -> None:
        self._size = size
        self._draw = None if seed is None else random.Random(seed)
        self.kept: list[tuple[pa.Table, str, str]] = []  # the row, its prompt, and what to call it
        self.rows = 0

    def add(self, block: pa.RecordBatch, prompts: list[str], named: Callable[[int], str]) -> None:
        """Count the rows of a block in, and keep some of them."""
        import pyarrow as pa

        for place, prompt in enumerate(prompts):
            if not prompt:
                continue
            self.rows += 1
            slot = self.rows - 1
            if slot >= self._size:
                slot = self._draw.randrange(self.rows) if self._draw else self._size
            if slot < self._size:
                row = (pa.Table.from_batches([block.slice(place, 1)]), prompt, named(place))
                self.kept[slot : slot + 1] = [row]


def _asked(provider: Provider, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The line that a batch's file would hold for this request."""
    try:
        status, answer = 200, provider.ask(endpoint, body)
    except ProviderError as error:
        if error.status_code not in (400, 404, 422):
            raise
        status, answer = error.status_code, {"error": {"code": error.code, "message": str(error)}}
    return {"custom_id": "", "response": {"status_code": status, "body": answer}, "error": None}


def _final(outcomes: pa.Table) -> pa.Table:
    """Outcomes as the table takes them."""
    import pyarrow as pa

    count = len(outcomes)
    origin = {"row": range(count), "batch_id": [None] * count, "round": [0] * count, "reused": [False] * count}
    return pa.table({**{name: outcomes[name] for name in ANSWERED}, **origin}, schema=FINAL())


def _estimated(
    table: pa.Table,
    bodies: list[dict[str, Any]],
    sample: _Sample,
    key: str | None,
    answers: tuple[str, ...],
    prices: Prices,
) -> Preview:
    """What all rows take, if the others are as these are."""
    made = list(_used(table))
    if not made:
        return Preview(table, bodies, sample.rows, None, None, None, key, answers)
    share = sample.rows / len(made)
    prompt = round(sum(tokens for _, tokens, _ in made) * share)
    completion = round(sum(tokens for _, _, tokens in made) * share)
    costs = [batch_cost(model, given, 0, answer, prices) for model, given, answer in made]
    known = [cost for cost in costs if cost is not None]
    cost = sum(known) * share if len(known) == len(costs) else None
    return Preview(table, bodies, sample.rows, prompt, completion, cost, key, answers)


def _used(table: pa.Table) -> Iterator[tuple[str, int, int]]:
    """Model, prompt tokens and completion tokens of each row that was answered."""
    for row in table.select(["llm_model", "llm_prompt_tokens", "llm_completion_tokens"]).to_pylist():
        if row["llm_prompt_tokens"] is not None:
            yield row["llm_model"], row["llm_prompt_tokens"], row["llm_completion_tokens"] or 0
