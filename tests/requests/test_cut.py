"""Which rows make one batch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ractobatch_dagster.requests.cut import Limits, cut

Chunk = tuple[np.ndarray, np.ndarray]


def in_chunks(sizes: list[int], lengths: list[int], step: int = 1) -> list[Chunk]:
    """The rows 0, step, 2 * step and so on in chunks of these lengths, and the rest in one."""
    rows, chunks, start = np.arange(len(sizes)) * step, [], 0
    for length in [*lengths, len(sizes)]:
        chunks.append((rows[start : start + length], np.array(sizes[start : start + length], np.int64)))
        start += length
    return chunks


def greedy(sizes: list[int], limits: Limits) -> list[list[int]]:
    """Row by row: a batch is full where one more would be over a limit."""
    batches: list[list[int]] = []
    held = 0
    for row, size in enumerate(sizes):
        if not batches or len(batches[-1]) == limits.max_requests or held + size > limits.most_bytes:
            batches.append([])
            held = 0
        batches[-1].append(row)
        held += size
    return batches


SIZES = st.lists(st.integers(1, 120), max_size=60)
LIMITS = st.builds(Limits, st.integers(1, 7), st.integers(1, 200), st.none() | st.integers(1, 60))


@given(sizes=SIZES, lengths=st.lists(st.integers(0, 9), max_size=9), limits=LIMITS, step=st.integers(1, 3))
def test_batches_are_those_of_cutting_row_by_row(
    sizes: list[int], lengths: list[int], limits: Limits, step: int
) -> None:
    """However the rows come in chunks, each is in one batch, in order, and each batch is as full as can be."""
    found = list(cut(in_chunks(sizes, lengths, step), limits))
    assert [one.rows.tolist() for one in found] == [[row * step for row in rows] for rows in greedy(sizes, limits)]
    assert [one.size for one in found] == [sum(sizes[row] for row in rows) for rows in greedy(sizes, limits)]


@given(sizes=SIZES, lengths=st.lists(st.integers(0, 9), max_size=9), limits=LIMITS)
def test_batches_keep_within_the_limits(sizes: list[int], lengths: list[int], limits: Limits) -> None:
    """No batch is over a limit but one that is a single line, and none could have held one more."""
    found = list(cut(in_chunks(sizes, lengths), limits))
    assert [row for one in found for row in one.rows.tolist()] == list(range(len(sizes)))
    for one in found:
        assert 0 < len(one.rows) <= limits.max_requests
        assert one.size <= limits.most_bytes or len(one.rows) == 1
    for one, following in pairwise(found):
        more = sizes[int(following.rows[0])]
        assert len(one.rows) == limits.max_requests or one.size + more > limits.most_bytes


def test_a_line_over_the_limit_goes_alone() -> None:
    """Its neighbours are in batches without it, however the chunks are cut."""
    for lengths in ([], [1], [2], [3], [1, 1, 1, 1]):
        found = list(cut(in_chunks([1, 1, 50, 1, 1], lengths), Limits(10, 5)))
        assert [(one.rows.tolist(), one.size) for one in found] == [([0, 1], 2), ([2], 50), ([3, 4], 2)]


def test_tokens_are_a_limit_in_bytes() -> None:
    """Whichever of the two limits is smaller holds."""
    assert Limits(10, 1_000).most_bytes == 1_000
    assert Limits(10, 1_000, 100).most_bytes == 300
    assert Limits(10, 1_000, 1_000).most_bytes == 1_000
    found = cut([(np.arange(4), np.array([100, 100, 100, 100]))], Limits(10, 1_000, 100))
    assert [one.rows.tolist() for one in found] == [[0, 1, 2], [3]]


def test_no_rows_are_no_batches() -> None:
    """Neither no chunks, nor chunks of nothing."""
    nothing = np.array([], np.int64)
    assert list(cut([], Limits(1, 1))) == []
    assert list(cut([(nothing, nothing), (nothing, nothing)], Limits(1, 1))) == []


def test_a_batch_is_handed_over_before_the_rows_end() -> None:
    """What is full does not wait for the rest, of which there may be many."""

    def endless() -> Iterator[Chunk]:
        row = 0
        while True:
            yield np.arange(row, row + 3), np.full(3, 10)
            row += 3

    batches = cut(endless(), Limits(4, 1_000))
    assert [next(batches).rows.tolist() for _ in range(3)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_nothing_half_is_handed_over_after_a_failure() -> None:
    """Where the rows end with an exception, only the batches before it were handed over."""

    def broken() -> Iterator[Chunk]:
        yield np.arange(3), np.ones(3, np.int64)
        raise KeyError

    batches = cut(broken(), Limits(2, 100))
    assert next(batches).rows.tolist() == [0, 1]
    with pytest.raises(KeyError):
        next(batches)


def test_sizes_may_add_up_beyond_32_bits() -> None:
    """Small integers do not overflow when they are added up."""
    sizes = np.full(40, 200_000_000, np.int32)
    (one,) = cut([(np.arange(40), sizes)], Limits(50, 10**12))
    assert one.size == 8_000_000_000
