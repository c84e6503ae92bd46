"""Our key in the `custom_id`s of a batch, for a provider that keeps no metadata: `row-00000001_<submission>_3_1`.

A `custom_id` of Anthropic's has up to 64 letters, digits, `-` and `_`. Only a batch's results show it.
"""

from __future__ import annotations

__all__ = ["KEY", "key_in", "tagged", "untagged"]

KEY = "ractobatch"
"""The key in a batch's metadata under which we know it again."""


def tagged(custom_id: str, key: str) -> str:
    """A `custom_id` that says whose batch it is in."""
    return f"{custom_id}_{key.replace('/', '_')}" if key else custom_id


def untagged(custom_id: str) -> str:
    """The `custom_id` as it was before."""
    return custom_id.partition("_")[0]


def key_in(custom_id: str) -> str | None:
    """The key that a `custom_id` carries, if it is one of ours."""
    _, *key = custom_id.split("_")
    return "/".join(key) if len(key) == 3 else None
