"""What `batch_asset` is told, as its parts have it: names, keys, columns."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any

import dagster as dg

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.requests.body import ENDPOINTS, MESSAGES, is_raw

__all__ = ["Key", "carried", "column_name", "endpoint_path", "said_of", "submission_key", "table_key"]

Key = str | Sequence[str] | dg.AssetKey


def said_of(spec: dg.AssetSpec) -> dict[str, Any]:
    """What a translator may say of an asset, as `dg.asset` takes it."""
    return {
        "key": spec.key,
        "group_name": spec.group_name,
        "owners": spec.owners,
        "tags": {name: value for name, value in spec.tags.items() if not name.startswith(_KIND)},
        "kinds": spec.kinds,
        "description": spec.description,
        "metadata": spec.metadata,
    }


_KIND = "dagster/kind/"


def table_key(asset_key: Key | None, name: str, prefix: str | Sequence[str] | None) -> dg.AssetKey:
    """The key of the table: as it is given, or made of name and prefix.

    Raises:
        ConfigurationError: Both are given.
    """
    if asset_key is None:
        return dg.AssetKey(name).with_prefix(prefix or [])
    if prefix is not None:
        raise ConfigurationError("Give `asset_key`, or `name` and `key_prefix`, not both.")
    return asset_key if isinstance(asset_key, dg.AssetKey) else dg.AssetKey(asset_key)


def endpoint_path(name: str, overrides: Container[str] = ()) -> str:
    """The path of an endpoint, which may be told by its path as well.

    Args:
        name: The endpoint.
        overrides: What rows say of their requests: to a path that is not known they bring all of the body.

    Raises:
        ConfigurationError: There is none of that name, or a path that is not known gets no bodies.
    """
    path = ENDPOINTS.get(name, name)
    if not _PATH.match(path) or path == MESSAGES:
        raise ConfigurationError(f"endpoint: {name!r} is none of {', '.join(ENDPOINTS)}, and no path under /v1/.")
    if is_raw(path) and "body" not in overrides:
        raise ConfigurationError(f"endpoint: of {path} nothing is known, so that rows bring whole bodies: "
                                 "overrides={'body': …}.")  # fmt: skip
    return path


_PATH = re.compile(r"/v1(/[\w.-]+)+\Z")


def submission_key(table: dg.AssetKey) -> dg.AssetKey:
    """The key of the submission of a table."""
    *prefix, last = table.path
    return dg.AssetKey([*prefix, f"{last}_submission"])


def carried(carry: Sequence[str] | None, key: str | None) -> tuple[str, ...] | None:
    """The columns that the table keeps, the key always among them; `None` for all.

    Raises:
        ConfigurationError: It is one column as a text.
    """
    if isinstance(carry, str):
        raise ConfigurationError(f"`carry` is a list of columns, and {carry!r} is a text: write [{carry!r}].")
    return None if carry is None else tuple(dict.fromkeys([*([key] if key else []), *carry]))


def column_name(key: object) -> str | None:
    """The column that identifies a row.

    Raises:
        ConfigurationError: It is no name, such as an asset's key.
    """
    if key is not None and not isinstance(key, str):
        raise ConfigurationError(
            f"`key` names the column that identifies a row, and {key!r} is no name. The asset's key is `asset_key`."
        )
    return key
