"""What differs between an open submission and what a run would submit now, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ractobatch_dagster.requests.frame import PROMPT, REQUEST_HASH

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["describe_change"]

_SHOWN = 3


def describe_change(
    before: Mapping[str, str], now: Mapping[str, str], old: pa.Table | None, new: pa.Table | None, key: str | None
) -> str:
    """Say what changed: model, prompt, parameters, schema, provider, and which rows.

    Args:
        before: Hashes of what the open submission's requests share, by name.
        now: The same of what would be sent now.
        old: The open submission's rows of the partition; `None` where they are too many to be compared.
        new: The rows that would be sent.
        key: The column that identifies a row, where there is one.
    """
    parts = [name for name in now if before and before.get(name) != now[name]]
    said = [f"the {' and the '.join(parts)} changed"] if parts else []
    said += _rows(old, new, key, shared=bool(parts)) if old is not None and new is not None else []
    return "; ".join(said) or "the rows changed"


def _rows(old: pa.Table, new: pa.Table, key: str | None, *, shared: bool) -> list[str]:
    """Which rows are new, gone or other than before, a few of them by their key or their place."""
    before, now = _by_name(old, key, shared), _by_name(new, key, shared)
    found = {
        "new": [name for name in now if name not in before],
        "gone": [name for name in before if name not in now],
        "changed": [name for name in now if name in before and before[name] != now[name]],
    }
    said = []
    for word, names in found.items():
        if names:
            shown = ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
            said.append(f"{len(names):,} {'row is' if len(names) == 1 else 'rows are'} {word} ({shown})")
    return said or ([] if shared else ["rows changed places or other columns"])


def _by_name(rows: pa.Table, key: str | None, shared: bool) -> dict[str, object]:
    """Each row's question under its key or its place; the prompt alone where all questions changed anyway."""
    column = PROMPT if shared else REQUEST_HASH
    names = rows[key].to_pylist() if key in rows.column_names else [f"row {place}" for place in range(len(rows))]
    return dict(zip(map(str, names), rows[column].to_pylist(), strict=True))
