"""A file on its way to the client: plain, or in one of the ways in which that goes wrong."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse

from ractobatch_dagster.local.trouble import Trouble

__all__ = ["download"]

_KIND = "application/octet-stream"


def download(request: Request, path: Path, trouble: Trouble) -> Response:
    """The reply to a download."""
    faults = trouble.faults
    cut, short = trouble.happens("cut_downloads"), trouble.happens("short_downloads")
    packed = faults.gzip_downloads and "gzip" in request.headers.get("accept-encoding", "")
    if not (cut or short or packed or faults.no_content_length):
        return FileResponse(path, media_type=_KIND)
    body = path.read_bytes()
    if short and not cut:
        body = body[: len(body) // 2]
    headers = {}
    if packed:
        body = gzip.compress(body)
        headers["Content-Encoding"] = "gzip"
    if not faults.no_content_length:
        headers["Content-Length"] = str(len(body))
    sent = body[: len(body) // 2] if cut else body

    async def stream() -> AsyncIterator[bytes]:
        yield sent
        if cut:
            raise ConnectionResetError("the download was cut, as asked for")

    return StreamingResponse(stream(), media_type=_KIND, headers=headers)
