"""When a call is repeated and after which pause, whatever the provider asks and the dice say."""

from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.errors import ProviderAPIError
from ractobatch_dagster.provider.retry import Budget, Policy, asked_pause, next_pause, passes

SECONDS = st.floats(0, 1e6)
DICE = st.floats(0, 1)
POLICIES = st.builds(Policy, tries=st.integers(1, 50), patience=st.floats(0, 600))
ASKED = st.none() | SECONDS
NOW = 1_700_000_000.0


@given(POLICIES, st.integers(1, 60), SECONDS, ASKED, DICE)
def test_no_pause_is_shorter_than_asked_or_longer_than_the_patience(
    policy: Policy, tried: int, waited: float, asked: float | None, random: float
) -> None:
    """Never sooner than the provider asked, never beyond what is left, and at most 30 seconds more than asked."""
    pause = next_pause(policy, tried=tried, waited=waited, asked=asked, random=random)
    if pause is not None:
        assert (asked or 0.0) <= pause <= policy.patience - waited
        assert pause <= (asked or 0.0) + 30
        assert tried < policy.tries


@given(POLICIES, st.integers(1, 60), SECONDS, ASKED, DICE)
def test_a_call_is_given_up_only_for_a_reason(
    policy: Policy, tried: int, waited: float, asked: float | None, random: float
) -> None:
    """Where tries and patience are left and what was asked fits, there is a next try."""
    fits = tried < policy.tries and waited < policy.patience and (asked or 0.0) <= policy.patience - waited
    assert (next_pause(policy, tried=tried, waited=waited, asked=asked, random=random) is not None) == fits


@given(st.integers(1, 40), DICE)
def test_pauses_are_drawn_from_a_range_that_doubles(tried: int, random: float) -> None:
    """From nothing to 0.5, 1, 2 … 30 seconds: full jitter."""
    pause = next_pause(Policy(99, 1e9), tried=tried, waited=0, asked=None, random=random)
    assert pause == pytest.approx(random * min(30.0, 0.5 * 2.0 ** (tried - 1)))


@given(POLICIES, st.lists(st.tuples(ASKED, DICE), min_size=60, max_size=60))
def test_a_budget_is_never_overdrawn(policy: Policy, failures: list[tuple[float | None, float]]) -> None:
    """Whatever fails, one call is made at most `tries` times and pauses at most `patience` seconds in all."""
    dice = iter([random for _, random in failures])
    budget = Budget(policy, lambda: next(dice))
    pauses = []
    for asked, _ in failures:
        pause = budget.after(ProviderAPIError("later", status_code=429, retry_after=asked))
        if pause is None:
            break
        pauses.append(pause)
    assert len(pauses) < policy.tries
    assert sum(pauses) <= policy.patience * (1 + 1e-9)


@pytest.mark.parametrize(
    ("status", "code", "later"),
    [
        (None, None, True),
        (408, None, True),
        (409, None, True),
        (429, None, True),
        (429, "insufficient_quota", False),
        (500, None, True),
        (503, None, True),
        (529, None, True),
        (400, None, False),
        (401, None, False),
        (404, None, False),
        (413, None, False),
        (422, None, False),
    ],
)
def test_what_may_pass(status: int | None, code: str | None, later: bool) -> None:
    """Broken connections, time-outs, conflicts, rate limits and the server's own errors; but not an empty account."""
    assert passes(ProviderAPIError("m", status_code=status, code=code)) is later


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7.0),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 -0000"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 23:13:50 +0100"}, 30.0),
        ({"retry-after": "later"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_how_a_provider_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    """In seconds, in milliseconds, or by a date; what makes no sense asks for nothing."""
    assert asked_pause(headers, NOW) == seconds


@given(st.text() | st.from_regex(r"[A-Z][a-z]{2}, \d{1,4} [A-Z][a-z]{2} \d{1,5} \d+:\d+:\d+ [+-]?\w{1,6}"))
def test_no_header_is_an_error(text: str) -> None:
    """Whatever the header says, it is a number of seconds from 0, or nothing."""
    asked = asked_pause({"retry-after": text, "retry-after-ms": text}, NOW)
    assert asked is None or 0 <= asked < float("inf")
