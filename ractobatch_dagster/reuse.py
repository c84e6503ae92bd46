"""Which answers that were paid for are taken over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ractobatch_dagster.errors import ConfigurationError

__all__ = ["Reuse"]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Which answers that were paid for are taken over, by the hash of the request.

    Attributes:
        partitions: Those of the table's other partitions as well, the newest first, but not where `dedupe=False` makes
            each row a sample of its own. This partition's last table counts in any case.
        tables: Further tables of the same root, by their asset keys.
        max_age_days: Only what was asked in batches that were created so many days ago at most.
    """

    partitions: bool = True
    tables: Sequence[str] = ()
    max_age_days: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.tables, str):
            raise ConfigurationError(f"Reuse: `tables` is a list, and {self.tables!r} is a text.")
        if self.max_age_days is not None and not self.max_age_days >= 0:
            raise ConfigurationError(f"Reuse: max_age_days={self.max_age_days!r} is no number of days.")

    def since(self, now: float) -> float:
        """From when on answers count, in seconds since 1970."""
        return 0.0 if self.max_age_days is None else now - self.max_age_days * 86_400
