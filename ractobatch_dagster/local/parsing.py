"""What the endpoints read of a call: its JSON body, and which page of a list it wants."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from starlette.requests import Request

from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.problems import ApiError

__all__ = ["page", "read_body"]


async def read_body(request: Request) -> Json:
    """The JSON object that a call brings."""
    try:
        body = msgspec.json.decode(await request.body())
    except msgspec.DecodeError:
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, "We could not parse the JSON body of your request: an object is expected.")
    return body


def page(
    request: Request,
    newest_last_or_first: Iterable[Json],
    *,
    ascending: bool,
    maximum: int,
    default: int | None = None,
    after: str | None,
) -> Json:
    """One page of a list; ids sort by age, so a cursor works even when its object is gone."""
    text = request.query_params.get("limit", str(default or maximum))
    if not text.isdecimal() or not 1 <= int(text) <= maximum:
        raise ApiError(400, f"Invalid 'limit': it must be a whole number from 1 to {maximum}.", param="limit")
    entries = [
        entry
        for entry in newest_last_or_first
        if not after or (entry["id"] > after if ascending else entry["id"] < after)
    ]
    data = entries[: int(text)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(entries) > len(data),
    }
