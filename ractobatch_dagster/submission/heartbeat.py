"""Is anybody looking? A sensor leaves a sign of life in the store that it sees; a submission looks for one."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from urllib.parse import quote, unquote

import msgspec

from ractobatch_dagster.store import Store

__all__ = ["FRESH", "Heartbeat", "beat", "heartbeats", "watched"]

FRESH = 900.0
"""For how many seconds a sign of life counts: many ticks."""

_FOLDER = "sensors"


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """A sensor's sign of life.

    Attributes:
        at: When, in seconds since 1970.
        assets: The tables that it looks after.
        alarms: What it last said of each table in an asset check.
        told: What it last said of the account, as JSON.
    """

    at: float
    assets: tuple[str, ...] = ()
    alarms: dict[str, tuple[str, ...]] = {}
    told: str = ""


def beat(store: Store, sensor: str, heartbeat: Heartbeat) -> None:
    """Leave a sign of life."""
    store.write(_path(sensor), msgspec.json.encode(heartbeat))


def heartbeats(store: Store) -> dict[str, Heartbeat]:
    """The last sign of life of each sensor that ever saw this store, by the sensor's name."""
    found: dict[str, Heartbeat] = {}
    for name in store.names(_FOLDER):
        data = store.read(f"{_FOLDER}/{name}")
        if data is None:
            continue
        # what cannot be read is no sign of life, and the next one is written over it
        with suppress(msgspec.MsgspecError, UnicodeDecodeError):
            found[unquote(name)] = msgspec.json.decode(data, type=Heartbeat)
    return found


def watched(asset: str, beats: Iterable[Heartbeat], now: float) -> str | None:
    """Why a submission of this table would lie unseen, or `None` if a sensor looks after it."""
    mine = [one.at for one in beats if asset in one.assets]
    if not mine:
        return "no sensor has ever looked after it in this store"
    if now - max(mine) > FRESH:
        return f"the last sensor that looked after it did so {(now - max(mine)) / 60:,.0f} minutes ago"
    return None


def _path(sensor: str) -> str:
    return f"{_FOLDER}/{quote(sensor, safe='-_.')}"
