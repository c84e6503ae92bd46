"""Which rows make one batch: as many in a row as fit the provider's limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["BYTES_PER_TOKEN", "Cut", "Limits", "cut"]

BYTES_PER_TOKEN = 3
"""English has more bytes a token, Chinese about so many: an estimate that is seldom too low."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one input file may hold.

    Attributes:
        max_requests: Lines; OpenAI takes 50,000.
        max_bytes: Bytes; OpenAI takes 200 MB and does not say which kind, so we stay well below either.
        max_tokens: Input tokens, estimated from the bytes of the lines; a provider's queue takes only so many of one
            model. `None` is no limit.
    """

    max_requests: int
    max_bytes: int
    max_tokens: int | None = None

    @property
    def most_bytes(self) -> int:
        """Bytes, where tokens are counted as bytes as well."""
        by_tokens = self.max_bytes if self.max_tokens is None else self.max_tokens * BYTES_PER_TOKEN
        return min(self.max_bytes, by_tokens)


@dataclass(frozen=True, slots=True)
class Cut:
    """The rows of one batch, ascending, and the bytes of its lines; and its model, where rows name their own."""

    rows: np.ndarray
    size: int
    model: str = ""


def cut(chunks: Iterable[tuple[np.ndarray, np.ndarray]], limits: Limits, model: str = "") -> Iterator[Cut]:
    """Cut rows into batches; each is handed over as soon as the next row would not fit.

    Args:
        chunks: Row numbers, ascending, and the bytes of the line of each.
        limits: What one batch may hold.
        model: The model that all of them ask, where rows name their own.
    """
    import numpy as np

    waiting: list[np.ndarray] = []
    requests = size = 0
    for rows, sizes in chunks:
        total = np.cumsum(sizes, dtype=np.int64)
        start, before = 0, 0
        while start < len(rows):
            fits = int(np.searchsorted(total, before + limits.most_bytes - size, side="right"))
            if not waiting:
                fits = max(fits, start + 1)  # a line over the limit goes alone, and fails alone
            stop = min(fits, start + limits.max_requests - requests)
            if stop > start:
                waiting.append(rows[start:stop])
                requests, size = requests + stop - start, size + int(total[stop - 1]) - before
                start, before = stop, int(total[stop - 1])
            if start < len(rows):
                yield Cut(np.concatenate(waiting), size, model)
                waiting, requests, size = [], 0, 0
    if waiting:
        yield Cut(np.concatenate(waiting), size, model)
