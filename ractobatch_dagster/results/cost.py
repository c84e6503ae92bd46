"""What a request cost, at the batch rate. Prices come from `genai-prices`."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["batch_cost"]


@lru_cache(maxsize=100_000)
def batch_cost(
    model: str | None, prompt_tokens: int | None, cached_tokens: int | None, completion_tokens: int | None
) -> float | None:
    """US dollars for one request at the Batch API's price, or `None` where the model's batch price is not known.

    Args:
        model: The model as served, for example `gpt-4o-mini-2024-07-18`.
        prompt_tokens: Input tokens, cached ones included.
        cached_tokens: How many of them were read from the provider's cache.
        completion_tokens: Output tokens, reasoning included.
    """
    from genai_prices import Usage, calc_price

    if not model or prompt_tokens is None or completion_tokens is None:
        return None
    cached = min(cached_tokens or 0, prompt_tokens)
    try:
        usage = Usage(input_tokens=prompt_tokens, output_tokens=completion_tokens, cache_read_tokens=cached)
        price = calc_price(usage, model, provider_id="openai", price_context={"processing": "batch"})
    except (LookupError, ValueError):  # no such model, or counts that cannot be
        return None
    if not any(variant.when.get("processing") == "batch" for variant in price.model.price_variants or ()):
        return None  # only the synchronous price is known, and that is another one
    return float(price.total_price)
