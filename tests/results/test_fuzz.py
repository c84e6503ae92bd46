"""The fuzz target: a short look in the suite, a long one in `make fuzz` and among the long tests."""

from __future__ import annotations

import pytest

from tests.results.fuzz_reader import check, fuzz


def test_any_result_file_gives_one_outcome_per_request() -> None:
    """A thousand files, each wrong in its own way."""
    for seed in range(1000):
        check(seed)


@pytest.mark.integration
def test_the_same_for_a_minute() -> None:
    """As long as it takes to find what is rare."""
    assert fuzz(60, first=1_000_000) > 1000
