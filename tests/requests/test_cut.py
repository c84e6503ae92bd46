"""Rows into batches."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.requests.cut import Limits, cut


def greedy(sizes: list[int], limits: Limits) -> list[list[int]]:
    """Row by row: a new batch where the next row does not fit."""
    batches: list[list[int]] = []
    size = 0
    for row, one in enumerate(sizes):
        if not batches or len(batches[-1]) == limits.max_requests or size + one > limits.most_bytes:
            batches.append([])
            size = 0
        batches[-1].append(row)
        size += one
    return batches


@given(
    sizes=st.lists(st.integers(1, 30), max_size=60),
    most=st.integers(1, 8),
    size=st.integers(1, 90),
    tokens=st.none() | st.integers(1, 30),
    chunk=st.integers(1, 20),
)
def test_batches_are_those_of_a_row_by_row_cut(
    sizes: list[int], most: int, size: int, tokens: int | None, chunk: int
) -> None:
    """Every row is in exactly one batch, in order, as many as fit; one over the limit is alone, however they came."""
    limits = Limits(most, size, tokens)
    numbers = np.arange(len(sizes))
    chunks = [
        (numbers[start : start + chunk], np.array(sizes[start : start + chunk], dtype=np.int64))
        for start in range(0, len(sizes), chunk)
    ]
    found = list(cut(chunks, limits))
    assert [one.rows.tolist() for one in found] == greedy(sizes, limits)
    assert [one.size for one in found] == [sum(sizes[row] for row in one.rows) for one in found]


def test_tokens_are_counted_as_bytes() -> None:
    """A queue that takes few tokens gets smaller files."""
    assert Limits(10, 1_000, 100).most_bytes == 300
    assert Limits(10, 1_000, 10_000).most_bytes == 1_000
