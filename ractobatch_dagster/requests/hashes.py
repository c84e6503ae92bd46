"""Request hashes in numpy: which rows ask the same, and which have an answer, in bounded memory.

A request hash is 128 bits of a SHA-256: two 64-bit words, here called high and low, a row of an array of shape (n, 2)
and dtype uint64. A row of two zeros asks nothing and matches nothing. Hashes come chunk by chunk and as often as
needed, so that they can stay in their files. Being random, they need no other hash function: any of their bits spread
them evenly, which makes parts of one size, and makes a table of single bits a filter that few pass by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Chunks", "from_binary", "pairs", "repeats", "to_binary", "to_hex"]

Chunks: TypeAlias = "Callable[[], Iterable[np.ndarray]]"
"""Each call is a fresh pass over all hashes, chunk by chunk."""

_WIDTH = 16  # bytes of a hash
_BLOCK = 1 << 18  # rows looked at together: temporary arrays stay small, whatever the size of a chunk
_FEW = 1 << 20  # so many hashes are kept after one pass, 16 MB
_WORDS = 3 << 20  # high words held at a time to find those that repeat, 25 MB
_HELD = 1 << 20  # hashes held at a time with all that belongs to them
_SIEVE_BITS = 24  # of the high word: a sieve takes 16 MB, and a million hashes let 6 % of others pass


def from_binary(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hashes of a `binary(16)` column; null becomes zeros. Read-only where the column's own memory is shared."""
    import numpy as np

    array = _array(column)
    if not len(array):
        return np.empty((0, 2), np.uint64)
    words = np.frombuffer(array.buffers()[1], np.uint64, count=2 * len(array), offset=_WIDTH * array.offset)
    hashes = words.reshape(-1, 2)
    if array.null_count:  # what lies under a null is not defined
        hashes = np.where(array.is_valid().to_numpy(zero_copy_only=False)[:, None], hashes, np.uint64(0))
    return hashes


def to_binary(hashes: np.ndarray) -> pa.Array:
    """A `binary(16)` column of hashes; zeros become null."""
    import numpy as np
    import pyarrow as pa

    asked = (hashes[:, 0] | hashes[:, 1]) != 0
    data = pa.py_buffer(np.ascontiguousarray(hashes, np.uint64))
    return pa.Array.from_buffers(pa.binary(_WIDTH), len(hashes), [_validity(asked), data])


def to_hex(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A `binary(16)` column as text, 32 hexadecimal digits each; null stays null.

    Raises:
        OverflowError: More than 67,108,863 values, the most that one array of such text can hold.
    """
    import numpy as np
    import pyarrow as pa

    array = _array(column)
    if len(array) >= 1 << 26:
        raise OverflowError(f"{len(array):,} hashes as text do not fit into one Arrow array: convert them in parts.")
    digits = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)
    text = digits[np.ascontiguousarray(from_binary(array)).view(np.uint8)]
    ends = np.arange(len(array) + 1, dtype=np.int32) * np.int32(2 * _WIDTH)
    valid = _validity(array.is_valid().to_numpy(zero_copy_only=False))
    return pa.StringArray.from_buffers(len(array), pa.py_buffer(ends), pa.py_buffer(text), valid)


def repeats(chunks: Chunks, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which rows ask what an earlier row asks: their numbers, ascending, and for each the first row with its hash.

    Takes one pass where `rows` are few. Else the high words that occur more than once are found part by part of their
    range, which leaves few rows to be compared as a whole, in one pass more or, where very many repeat, several.

    Args:
        chunks: The hashes.
        rows: How many they are, which decides the number of passes.

    Returns:
        Two arrays of int64.
    """
    import numpy as np

    if rows <= _FEW:
        kept = list(chunks())
        chunks = lambda: kept  # noqa: E731
    found: list[tuple[np.ndarray, np.ndarray]] = []
    held = np.empty(0, np.uint64)
    for part in _parts(rows, _WORDS):
        words = _repeated_words(chunks, part, rows)
        if len(held) and len(held) + len(words) > _HELD:
            found += _repeats_among(chunks, held)
            held = words
        else:
            held = np.concatenate([held, words])
    if len(held):
        found += _repeats_among(chunks, held)
    return _ascending(found)


def pairs(wanted: Chunks, wanted_rows: int, known: Chunks, known_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Which wanted rows have a known answer: their numbers, ascending, and the position of each one's answer.

    Each known one is used at most once, and equal hashes pair in order: the first wanted with the first known, and so
    on. The smaller side is held, a part of its range at a time, and the other one streams by: a pass over both for
    each million of the smaller.

    Args:
        wanted: Hashes that need an answer.
        wanted_rows: How many they are.
        known: Hashes that have one.
        known_rows: How many they are.

    Returns:
        Two arrays of int64.
    """
    if known_rows < wanted_rows:
        found = [(number, position) for position, number in _pairs(known, known_rows, wanted)]
    else:
        found = list(_pairs(wanted, wanted_rows, known))
    return _ascending(found)


def _array(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as one array of `binary(16)`; one that is none such is an error of Arrow's that names its type."""
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column.cast(pa.binary(_WIDTH))


def _validity(valid: np.ndarray) -> pa.Buffer | None:
    """Arrow's bitmap of what is not null."""
    import numpy as np
    import pyarrow as pa

    return None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))


def _blocks(chunks: Chunks) -> Iterator[tuple[int, np.ndarray]]:
    """All hashes in blocks of a bounded size, each with the number of its first row."""
    first = 0
    for chunk in chunks():
        for start in range(0, len(chunk), _BLOCK):
            yield first + start, chunk[start : start + _BLOCK]
        first += len(chunk)


def _parts(rows: int, size: int) -> Iterator[tuple[int, int]]:
    """The range of the high word in parts, both ends included, that hold about `size` or fewer of the rows each."""
    parts = max(1, -(-rows // size))
    for part in range(parts):
        yield (part << 64) // parts, (part + 1 << 64) // parts - 1


def _asked(block: np.ndarray, part: tuple[int, int]) -> np.ndarray:
    """Which rows of a block ask anything and have their high word in this part."""
    import numpy as np

    high = block[:, 0]
    inside = (high >= np.uint64(part[0])) & (high <= np.uint64(part[1]))
    return np.flatnonzero(inside & ((high | block[:, 1]) != 0))


def _starts(*sorted_words: np.ndarray) -> np.ndarray:
    """Where in sorted values, of one word or of several, each new value starts."""
    import numpy as np

    new = np.ones(len(sorted_words[0]), np.bool_)
    new[1:] = np.any([words[1:] != words[:-1] for words in sorted_words], axis=0)
    return np.flatnonzero(new)


def _near_order(high: np.ndarray) -> np.ndarray:
    """The order of these words by all but their last few bits, equal ones as they come.

    The position takes the place of the last bits, so that numbers are sorted and nothing else: several times faster
    than `argsort`.
    """
    import numpy as np

    bits = np.uint64((1 << len(high).bit_length()) - 1)
    keys = (high & ~bits) | np.arange(len(high), dtype=np.uint64)
    keys.sort()
    return (keys & bits).astype(np.int64)


def _order(hashes: np.ndarray) -> np.ndarray:
    """The order of these hashes, equal ones as they come."""
    import numpy as np

    order = _near_order(hashes[:, 0])
    bits = np.uint64(len(hashes).bit_length())
    high = hashes[order, 0] >> bits
    same = high[1:] == high[:-1]
    if same.any():
        tied = np.flatnonzero(np.concatenate([[False], same]) | np.concatenate([same, [False]]))
        ties = hashes[order[tied]]
        order[tied] = order[tied][np.lexsort((ties[:, 1], ties[:, 0]))]
    return order


def _sorted_pairs(first: np.ndarray, second: np.ndarray, below: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of numbers in order; the second ones are below this. Each pair is sorted as one number."""
    import numpy as np

    return np.divmod(np.sort(first * below + second), below)


def _ascending(found: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """All that was found, by ascending number. What goes in is let go on the way, so that it is not held twice."""
    import numpy as np

    numbers = np.empty(sum(len(rows) for rows, _ in found), np.int64)
    others = np.empty_like(numbers)
    end = len(numbers)
    while found:
        rows, partners = found.pop()
        numbers[end - len(rows) : end], others[end - len(rows) : end] = rows, partners
        end -= len(rows)
    if (numbers[1:] < numbers[:-1]).any():
        order = np.argsort(numbers)
        numbers = numbers[order]
        others = others[order]
    return numbers, others


class _Sieve:
    """A table by the first bits of the high words it was made from; few others pass."""

    def __init__(self, high: np.ndarray) -> None:
        import numpy as np

        bits = min(len(high).bit_length() + 4, _SIEVE_BITS)
        self._shift = np.uint64(64 - bits)
        self._table = np.zeros(1 << bits, np.bool_)
        self._table[high >> self._shift] = True

    def passing(self, block: np.ndarray) -> np.ndarray:
        """The rows of a block that may be among them, near to each other what is near in value."""
        import numpy as np

        rows = np.flatnonzero(self._table[block[:, 0] >> self._shift])
        return rows.take(_near_order(block[rows, 0]))


def _repeated_words(chunks: Chunks, part: tuple[int, int], rows: int) -> np.ndarray:
    """The high words in this part that occur more than once, ascending."""
    import numpy as np

    words = np.empty(min(rows, _WORDS) + _BLOCK, np.uint64)
    count = 0
    for _, block in _blocks(chunks):
        high = block[_asked(block, part), 0]
        if count + len(high) > len(words):  # where few hashes make up most rows
            words.resize(count + count // 2 + len(high), refcheck=False)
        words[count : count + len(high)] = high
        count += len(high)
    words = words[:count]
    words.sort()
    again = words[1:][words[1:] == words[:-1]]
    return np.take(again, _starts(again))


def _repeats_among(chunks: Chunks, words: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`repeats` among the rows whose high word is one of these, which ascend and are not empty."""
    import numpy as np

    sieve = _Sieve(words)
    first = np.full(len(words), -1)  # the first row with each of the words,
    low = np.empty(len(words), np.uint64)  # and its low word
    rest: list[tuple[np.ndarray, np.ndarray]] = []
    for start, block in _blocks(chunks):
        rows = sieve.passing(block)
        place = np.minimum(np.searchsorted(words, block[rows, 0]), len(words) - 1)
        hit = words[place] == block[rows, 0]
        hit &= (block[rows, 0] | block[rows, 1]) != 0
        rows, place = _sorted_pairs(rows[hit], place[hit], len(words))

        new = np.flatnonzero(first[place] < 0)[::-1]  # backwards, so that of several in one place the first row stays
        first[place[new]] = start + rows[new]
        low[place[new]] = block[rows[new], 1]
        same = low[place] == block[rows, 1]
        if not same.all():  # another hash with the same high word, which chance alone will hardly make
            rest.append((start + rows[~same], block[rows[~same]]))
        again = same & (first[place] != start + rows)
        yield start + rows[again], first[place[again]]
    if rest:
        numbers = np.concatenate([numbers for numbers, _ in rest])
        hashes = np.concatenate([hashes[:, ::-1] for _, hashes in rest])
        again, before = repeats(lambda: [hashes], len(hashes))
        yield numbers[again], numbers[before]


def _pairs(few: Chunks, rows: int, many: Chunks) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`pairs` of a side that is held, some at a time, and one that streams by, in any order."""
    for part in _parts(rows, _HELD):
        held = _Held(few, part)
        if len(held.rows):
            for start, block in _blocks(many):
                held.match(start, block)
            yield held.pairs()
        del held  # before the next ones take as much again


class _Held:
    """The hashes of one part, sorted, each with its row and, once found, its partner on the other side."""

    def __init__(self, chunks: Chunks, part: tuple[int, int]) -> None:
        import numpy as np

        found = [(start + rows, block[rows]) for start, block in _blocks(chunks) for rows in [_asked(block, part)]]
        rows = np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in found)])
        hashes = np.concatenate([np.empty((0, 2), np.uint64), *(hashes for _, hashes in found)])
        found.clear()
        order = _order(hashes)
        self.rows = rows[order]
        self._high, self._low = hashes[order, 0], hashes[order, 1]
        self._sieve = _Sieve(self._high)
        self._partner = np.full(len(rows), -1)
        # Of each hash, by its first place: the place that is next to find a partner, and the end of its places.
        first = _starts(self._high, self._low)
        self._next = np.arange(len(rows))
        self._end = np.empty(len(rows), np.int64)
        self._end[first] = np.append(first[1:], len(rows))

    def match(self, start: int, block: np.ndarray) -> None:
        """Find partners in a block of the other side, which starts at this row."""
        import numpy as np

        rows = self._sieve.passing(block)
        place, hit = self._find(block[rows, 0], block[rows, 1])
        place, rows = _sorted_pairs(place[hit], rows[hit], len(block))
        first = _starts(place)
        count = np.diff(first, append=len(place))
        target = self._next[place] + np.arange(len(place)) - np.repeat(first, count)
        free = target < self._end[place]
        self._partner[target[free]] = start + rows[free]
        self._next[place[first]] += count

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that have a partner, and their partners."""
        paired = self._partner >= 0
        return self.rows[paired], self._partner[paired]

    def _find(self, high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first place of each of these hashes, and whether it is held at all."""
        import numpy as np

        place = np.searchsorted(self._high, high)
        while True:
            here = np.minimum(place, len(self._high) - 1)
            near = (self._high[here] == high) & (place < len(self._high))
            further = near & (self._low[here] < low)
            if not further.any():  # as a rule at once: hashes that differ hardly ever share their high word
                return place, near & (self._low[here] == low)
            place += further
