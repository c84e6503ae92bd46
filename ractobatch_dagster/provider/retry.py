"""When a call to the provider is repeated, and after which pause: pure, so that outages can be tried without waiting.

The client's own retries are off, since nobody can see, bound or simulate them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

from ractobatch_dagster.errors import ProviderError

__all__ = ["VISIBLE_AFTER", "Budget", "Policy", "asked_pause", "next_pause", "passes"]

VISIBLE_AFTER = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds between tries to use a file that was just uploaded; OpenAI needs up to a minute to see it everywhere."""

_FIRST = 0.5
_LONGEST = 30.0

_SPENT = ("insufficient_quota", "billing_hard_limit_reached")
"""Codes of a 429 that no waiting helps."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What one call may use up.

    Attributes:
        tries: How often it is made, the first time included.
        patience: Seconds that all its pauses together may take.
    """

    tries: int
    patience: float


def next_pause(policy: Policy, *, tried: int, waited: float, asked: float | None, random: float) -> float | None:
    """Seconds until the next try, or `None` if this call is given up.

    Full jitter over a range that doubles from 0.5 to 30 seconds, after what the provider asked for: never sooner, and
    not all clients at once when it is over. What does not fit into the patience that is left is not begun.

    Args:
        policy: What the call may use up.
        tried: How many tries have failed, 1 or more.
        waited: Seconds that its pauses have taken.
        asked: Seconds that the provider asked for, if it did.
        random: From 0 to 1.
    """
    left = policy.patience - waited
    wanted = asked or 0.0
    if tried >= policy.tries or left <= 0 or wanted > left:
        return None
    reach = min(_LONGEST, _FIRST * 2.0 ** min(tried - 1, 16))
    return min(wanted + random * reach, left)


@dataclass(slots=True)
class Budget:
    """What one call has used up of its policy."""

    policy: Policy
    random: Callable[[], float]
    tried: int = field(default=0, init=False)
    waited: float = field(default=0.0, init=False)

    def after(self, error: ProviderError) -> float | None:
        """Note a failed try; the seconds until the next, or `None` if there is to be none."""
        self.tried += 1
        if not passes(error):
            return None
        pause = next_pause(
            self.policy, tried=self.tried, waited=self.waited, asked=error.retry_after, random=self.random()
        )
        self.waited += pause or 0.0
        return pause


def passes(error: ProviderError) -> bool:
    """Whether the same call may succeed in a while, if it is one that may be repeated at all."""
    status = error.status_code
    if status == 429:
        return error.code not in _SPENT
    return status is None or status in (408, 409) or status >= 500


def asked_pause(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that a reply asks to wait, by `retry-after-ms`, or `Retry-After` in seconds or as a date.

    Args:
        headers: The reply's headers, looked up in lower case.
        now: Seconds since 1970, to which a date is compared.
    """
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        number = _number(headers.get(name))
        if number is not None:
            return max(0.0, number * unit)
    try:
        date = parsedate_to_datetime(headers.get("retry-after", ""))
    except (TypeError, ValueError):
        return None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None
