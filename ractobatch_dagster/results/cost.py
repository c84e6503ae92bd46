"""What requests cost, at the batch rate. Prices are given, or come from `genai-prices`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from ractobatch_dagster.requests.body import maker

if TYPE_CHECKING:
    import pyarrow as pa
    from genai_prices.types import PriceCalculation

__all__ = [
    "Price",
    "Prices",
    "answers_cost",
    "as_priced",
    "batch_cost",
    "batch_costs",
    "named",
    "outcomes_cost",
    "prompts_cost",
]

_MILLION = 1_000_000.0


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars for a million tokens of a model at the batch rate; cached input as other where it is not said."""

    input: float
    output: float = 0.0
    cached_input: float | None = None


Prices = Mapping[str, Price]
"""Given prices, by model: as it is asked for or served, of which the latter may end in a date that is not said."""

_NONE: Prices = {}


def as_priced(served: pa.Array, asked: Sequence[str | None], prices: Prices) -> pa.Array:
    """The model by which each answer is priced: as served, or as asked where only that has a given price.

    Args:
        served: The model as served, of each answer.
        asked: The model as asked, of each.
        prices: Those that are given.
    """
    import pyarrow as pa

    if not prices:
        return served
    cache: dict[tuple[str | None, str | None], str | None] = {}

    def name(pair: tuple[str | None, str | None]) -> str | None:
        if pair not in cache:
            by_served = pair[0] is not None and named(pair[0], prices) is not None
            by_asked = pair[1] is not None and named(pair[1], prices) is not None
            cache[pair] = pair[1] if by_asked and not by_served else pair[0]
        return cache[pair]

    return pa.array([name(pair) for pair in zip(served.to_pylist(), asked, strict=True)], pa.string())


def named(model: str, names: Collection[str]) -> str | None:
    """The name among these that a model has, or has but for the date behind it."""
    if model in names:
        return model
    undated = _DATE.sub("", model)
    return undated if undated in names else None


_DATE = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")


def _given(model: str, prices: Prices) -> Price | None:
    name = named(model, prices)
    return None if name is None else prices[name]


def batch_cost(
    model: str | None,
    prompt_tokens: int | None,
    cached_tokens: int | None,
    completion_tokens: int | None,
    prices: Prices = _NONE,
) -> float | None:
    """US dollars for one request at the Batch API's price, or `None` where the model's batch price is not known.

    Args:
        model: The model as served, for example `gpt-4o-mini-2024-07-18`.
        prompt_tokens: Input tokens, cached ones included.
        cached_tokens: How many of them were read from the provider's cache.
        completion_tokens: Output tokens, reasoning included.
        prices: Those that are given.
    """
    if not model or prompt_tokens is None or completion_tokens is None:
        return None
    cached = min(cached_tokens or 0, prompt_tokens)
    price = _given(model, prices) if prices else None
    if price is None:
        return _listed_cost(model, prompt_tokens, cached, completion_tokens)
    read = price.input if price.cached_input is None else price.cached_input
    return ((prompt_tokens - cached) * price.input + cached * read + completion_tokens * price.output) / _MILLION


@lru_cache(maxsize=100_000)
def _listed_cost(model: str, prompt: int, cached: int, completion: int) -> float | None:
    if _FREE.match(model):
        return 0.0
    price = _price(model, prompt, cached, completion)
    return None if price is None else float(price.total_price)


_FREE = re.compile(r"(omni|text)-moderation")
"""Models that take nothing (OpenAI, moderation guide)."""


def prompts_cost(model: str, tokens: int, prices: Prices = _NONE, *, longest: int = 0) -> float | None:
    """US dollars for the input tokens of many requests together at the batch rate, or `None` where it is not known.

    Args:
        model: The model.
        tokens: How many.
        prices: Those that are given.
        longest: How many tokens one prompt may have: some models cost more beyond a length.
    """
    rates = [_prompt_rate(model, length, prices) for length in _lengths(model, longest, prices)]
    known = [rate for rate in rates if rate is not None]
    return max(known) * tokens if len(known) == len(rates) else None


def answers_cost(model: str, tokens: int, prices: Prices = _NONE, *, longest: int = 0) -> float | None:
    """As `prompts_cost`, for the output tokens."""
    rates = [_answer_rate(model, length, prices) for length in _lengths(model, longest, prices)]
    known = [rate for rate in rates if rate is not None]
    return max(known) * tokens if len(known) == len(rates) else None


def _prompt_rate(model: str, prompt: int, prices: Prices) -> float | None:
    cost = batch_cost(model, prompt, 0, 0, prices)
    return None if cost is None else cost / prompt


def _answer_rate(model: str, prompt: int, prices: Prices) -> float | None:
    without, with_ = (batch_cost(model, prompt, 0, made, prices) for made in (0, _SHORT))
    return None if without is None or with_ is None else (with_ - without) / _SHORT


def _lengths(model: str, longest: int, prices: Prices) -> tuple[int, ...]:
    """A short prompt, and a long one where some may be so long that they cost more."""
    rates = _rates_of(model, prices)
    return (_SHORT, longest) if rates is not None and 0 <= rates.up_to < longest else (_SHORT,)


_SHORT = 1_000


def batch_costs(
    model: pa.Array, prompt: pa.Array, cached: pa.Array, completion: pa.Array, prices: Prices = _NONE
) -> pa.Array:
    """`batch_cost` of many requests, as float64; null where it is `None`.

    Where a price is so much a token, whole columns are multiplied; where it is not (beyond the prompt length at which
    some models cost more), rows are computed one by one. The arrays are as long as each other; tokens are int64.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    coded = model if pa.types.is_dictionary(model.type) else pc.dictionary_encode(model)
    rates = [_rates_of(name, prices) for name in coded.dictionary.to_pylist()]

    def each(name: str, kind: pa.DataType) -> pa.Array:
        return pa.array([rate and getattr(rate, name) for rate in rates], kind).take(coded.indices)

    def priced(tokens: pa.Array, name: str) -> pa.Array:
        return pc.multiply(pc.cast(tokens, pa.float64(), safe=False), each(name, pa.float64()))

    read = pc.min_element_wise(pc.fill_null(cached, 0), prompt, skip_nulls=False)
    inputs = pc.add(priced(pc.subtract(prompt, read), "fresh"), priced(read, "cached"))
    costs = pc.divide(pc.add(inputs, priced(completion, "made")), _MILLION)
    costs = pc.if_else(pc.and_(pc.greater_equal(read, 0), pc.greater_equal(completion, 0)), costs, None)
    up_to = each("up_to", pa.int64())
    other = pc.fill_null(pc.greater(prompt, up_to), False)
    if not pc.any(other).as_py():
        return costs
    rows = zip(*(column.filter(other).to_pylist() for column in (model, prompt, cached, completion)), strict=True)
    return pc.replace_with_mask(
        costs,
        other,
        pa.array([batch_cost(one, read, kept, made, prices) for one, read, kept, made in rows], pa.float64()),
    )


def outcomes_cost(outcomes: pa.Table, prices: Prices = _NONE, asked: str | None = None) -> float | None:
    """US dollars for all of these outcomes; those without usage cost nothing. `None` where a price is not known.

    Args:
        outcomes: What was answered.
        prices: Those that are given.
        asked: The model that was asked.
    """
    import pyarrow.compute as pc

    used = outcomes.filter(pc.is_valid(outcomes["prompt_tokens"])).combine_chunks()
    if not len(used):
        return 0.0
    names = ("model", "prompt_tokens", "cached_tokens", "completion_tokens")
    model, prompt, cached, made = (used[name].combine_chunks() for name in names)
    costs = batch_costs(as_priced(model, [asked] * len(used), prices), prompt, cached, made, prices)
    return None if costs.null_count else float(pc.sum(costs).as_py())


@dataclass(frozen=True, slots=True)
class _Rates:
    """US dollars per million tokens (read fresh, read from the cache, made), for prompts of up to so many tokens."""

    fresh: float
    cached: float
    made: float
    up_to: int


_ANY = 1_000_000_000
"""More tokens than any prompt has."""


def _rates_of(model: str | None, prices: Prices) -> _Rates | None:
    price = _given(model, prices) if model and prices else None
    if price is None:
        return _rates(model)
    read = price.input if price.cached_input is None else price.cached_input
    return _Rates(price.input, read, price.output, up_to=_ANY)


@lru_cache(maxsize=1_000)
def _rates(model: str | None) -> _Rates | None:
    """What a model's tokens cost; `None` where its batch price is not known."""
    from genai_prices.types import TieredPrices

    if model and _FREE.match(model):
        return _Rates(0.0, 0.0, 0.0, up_to=_ANY)
    price = _price(model, 0, 0, 0) if model else None
    if price is None:
        return None
    parts = [part for part in vars(price.model_price).values() if isinstance(part, TieredPrices)]
    up_to = min((tier.start for part in parts for tier in part.tiers), default=_ANY)
    some = min(up_to, 1_000)
    if not some:
        return _Rates(0.0, 0.0, 0.0, up_to=-1)
    costs = [batch_cost(model, *tokens) for tokens in ((some, 0, 0), (some, some, 0), (0, 0, some))]
    fresh, cached, made = (math.nan if cost is None else cost * (_MILLION / some) for cost in costs)
    # that a token has a price is believed only where it gives what the whole computation gives
    for prompt, read, answer in ((some, some // 3, some), (up_to, up_to // 3, up_to // 2), (up_to, 0, 0), (0, 0, 0)):
        cost = batch_cost(model, prompt, read, answer)
        linear = ((prompt - read) * fresh + read * cached + answer * made) / _MILLION
        if cost is None or not math.isclose(cost, linear, rel_tol=1e-13):
            return _Rates(fresh, cached, made, up_to=-1)
    return _Rates(fresh, cached, made, up_to)


def _price(model: str, prompt: int, cached: int, completion: int) -> PriceCalculation | None:
    """The price at the batch rate; `None` where there is no such model, no such price, or no such counts."""
    from genai_prices import Usage, calc_price

    try:
        usage = Usage(input_tokens=prompt, output_tokens=completion, cache_read_tokens=cached)
        price = calc_price(usage, model, provider_id=maker(model), price_context={"processing": "batch"})
    except (LookupError, ValueError):
        return None
    if not any(variant.when.get("processing") == "batch" for variant in price.model.price_variants or ()):
        return None  # only the synchronous price is known, and that is another one
    return price
