"""Request hashes are matched exactly, however many repeat, and however they are cut into chunks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ractobatch_dagster.requests import hashes as module
from ractobatch_dagster.requests.hashes import from_binary, pairs, repeats, to_binary, to_hex

WORDS = [0, 1, 2, (1 << 44) - 1, 1 << 44, 1 << 63, (1 << 63) + 1, (1 << 64) - 1]
Hash = tuple[int, int]
HASHES = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(WORDS)), max_size=80)
SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any)


def chunked(hashes: list[Hash], sizes: list[int]) -> Callable[[], list[np.ndarray]]:
    """The hashes in chunks of these sizes, again and again."""
    array = np.array(hashes, np.uint64).reshape(-1, 2)
    chunks = []
    start = 0
    while start < len(array):
        for size in sizes:
            chunks.append(array[start : start + size])
            start += size
    return lambda: chunks


@pytest.fixture(params=["as it is", "tiny"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """All limits as they are, or so small that few hashes take many blocks, parts and passes."""
    if request.param == "tiny":
        for name, value in {"_BLOCK": 5, "_FEW": 3, "_WORDS": 7, "_HELD": 4, "_SIEVE_BITS": 2}.items():
            monkeypatch.setattr(module, name, value)


def plain_repeats(hashes: list[Hash]) -> dict[int, int]:
    first: dict[Hash, int] = {}
    return {
        row: first[value] for row, value in enumerate(hashes) if value != (0, 0) and first.setdefault(value, row) != row
    }


def plain_pairs(wanted: list[Hash], known: list[Hash]) -> dict[int, int]:
    places = defaultdict(list)
    for place, value in enumerate(known):
        places[value].append(place)
    return {row: places[value].pop(0) for row, value in enumerate(wanted) if value != (0, 0) and places[value]}


def as_items(found: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    assert found[0].dtype == found[1].dtype == np.int64
    return list(zip(found[0].tolist(), found[1].tolist(), strict=True))


@pytest.mark.usefixtures("sizes")
@settings(deadline=None, max_examples=200, derandomize=True)
@given(HASHES, SIZES, st.integers(-9, 50))
@example([(0, 0), (0, 5)] * 3, [4], 0)
def test_repeats(hashes: list[Hash], cut: list[int], off: int) -> None:
    """Every row that asks what an earlier one asks is found with the first such row, even if the count is off."""
    found = repeats(chunked(hashes, cut), max(0, len(hashes) + off))
    assert as_items(found) == sorted(plain_repeats(hashes).items())


@pytest.mark.usefixtures("sizes")
@settings(deadline=None, max_examples=200, derandomize=True)
@given(HASHES, HASHES, SIZES, SIZES)
def test_pairs(wanted: list[Hash], known: list[Hash], cut: list[int], known_cut: list[int]) -> None:
    """Every wanted row that can have an answer has one, in order, and no answer is given twice."""
    found = pairs(chunked(wanted, cut), len(wanted), chunked(known, known_cut), len(known))
    assert as_items(found) == sorted(plain_pairs(wanted, known).items())


@pytest.mark.usefixtures("sizes")
@pytest.mark.parametrize("hashes", [[(7, 7)] * 300, [(7, low % 9) for low in range(300)], [(0, 0)] * 300])
def test_one_hash_for_most_rows(hashes: list[Hash]) -> None:
    """One hash, one high word or nothing at all for hundreds of rows is matched like any other."""
    assert as_items(repeats(chunked(hashes, [64]), 300)) == sorted(plain_repeats(hashes).items())
    assert as_items(pairs(chunked(hashes, [64]), 300, chunked(hashes[50:], [9]), 250)) == sorted(
        plain_pairs(hashes, hashes[50:]).items()
    )


def test_more_than_one_part() -> None:
    """With the limits as they are, millions of random rows in many parts are matched as a plain look-up has it."""
    random = np.random.default_rng(7)
    known = random.integers(0, 1 << 64, (1_300_000, 2), dtype=np.uint64)
    known[1_000_000:] = known[random.permutation(1_000_000)[:300_000]]
    known[::1000] = 0
    wanted = np.concatenate([known[random.permutation(1_300_000)], known[::7]])

    numbers, firsts = repeats(lambda: np.array_split(known, 3), len(known))
    _, first, inverse = np.unique(known.view("V16"), return_index=True, return_inverse=True)
    again = (first[inverse.ravel()] != np.arange(len(known))) & known.any(axis=1)
    assert np.array_equal(numbers, np.flatnonzero(again))
    assert np.array_equal(firsts, first[inverse.ravel()][again])

    numbers, positions = pairs(lambda: [wanted], len(wanted), lambda: np.array_split(known, 7), len(known))
    assert np.array_equal(wanted[numbers], known[positions])
    assert np.array_equal(np.sort(positions), np.flatnonzero(known.any(axis=1)))
    assert (np.diff(numbers) > 0).all()


COLUMN = pa.array([bytes(range(16)), None, b"\xff" * 16, bytes(15) + b"\x01", None], pa.binary(16))
COLUMNS = [
    COLUMN,
    COLUMN.slice(1),
    COLUMN.slice(2, 2),
    COLUMN.slice(0, 0),
    COLUMN.slice(0, 1),
    pa.array([None] * 20, pa.binary(16)).slice(3, 9),
    pa.chunked_array([COLUMN.slice(3), COLUMN.slice(0, 0), COLUMN.slice(1, 2)]),
    pa.chunked_array([COLUMN.slice(2)]),
    pa.chunked_array([], pa.binary(16)),
]


@pytest.mark.parametrize("column", COLUMNS)
def test_columns(column: pa.Array | pa.ChunkedArray) -> None:
    """A column becomes hashes and the same column again, and text as Python would write it, slices and nulls too."""
    values = column.to_pylist()
    hashes = from_binary(column)
    assert hashes.dtype == np.uint64
    assert hashes.shape == (len(values), 2)
    assert hashes.tobytes() == b"".join(value or bytes(16) for value in values)
    back, text = to_binary(hashes), to_hex(column)
    for array in (back, text):
        array.validate(full=True)
        assert array.null_count == values.count(None)
    assert (back.type, text.type) == (pa.binary(16), pa.string())
    assert back.to_pylist() == values
    assert text.to_pylist() == [value and value.hex() for value in values]


def test_what_lies_under_a_null() -> None:
    """A null asks nothing even if there are bytes under it; zeros that are no null stay what they are as text."""
    data = pa.py_buffer(b"\xaa" * 32)
    column = pa.Array.from_buffers(pa.binary(16), 2, [pa.py_buffer(b"\x02"), data])
    assert from_binary(column).tolist() == [[0, 0], [0xAAAAAAAAAAAAAAAA] * 2]
    assert to_hex(pa.array([bytes(16), None], pa.binary(16))).to_pylist() == ["0" * 32, None]


def test_another_type_is_refused() -> None:
    """A column that holds no hashes is an error that names its type."""
    with pytest.raises(pa.ArrowException, match="int64"):
        from_binary(pa.array([1]))
