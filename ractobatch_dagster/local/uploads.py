"""Receiving a file: a multipart form is parsed as it comes in, and its bytes go straight to disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, FormParser, parse_options_header
from starlette.requests import Request

from ractobatch_dagster.local.problems import ApiError

__all__ = ["Form", "receive_form"]


@dataclass
class Form:
    """What a form held: its fields, and the file where there was one."""

    fields: dict[str, str] = field(default_factory=dict)
    part: File | None = None
    path: Path | None = None
    filename: str = ""

    def add_field(self, part: Field) -> None:
        """Take one field of the form."""
        name = (part.field_name or b"").decode("utf-8", "replace")
        self.fields[name] = (part.value or b"").decode("utf-8", "replace")

    def add_file(self, part: File) -> None:
        """Take the form's file. The parser may write to it until it is finalised, so `close` comes later."""
        if part.in_memory:  # an empty one
            part.flush_to_disk()
        self.part = part
        self.path = Path((part.actual_file_name or b"").decode())
        self.filename = (part.file_name or b"").decode("utf-8", "replace")

    def close(self) -> None:
        """Close the file, which is complete on disk after that."""
        if self.part is not None:
            self.part.close()


@asynccontextmanager
async def receive_form(request: Request, folder: Path, max_bytes: int) -> AsyncIterator[Form]:
    """Receive a multipart form. Its file may be moved away; what stays is removed at the end.

    Raises:
        ApiError: The body is no such form, or larger than `max_bytes`.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(400, "The request must be a multipart/form-data form with a 'file' and a 'purpose'.")
    form = Form()
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        parser = FormParser(
            "multipart/form-data",
            form.add_field,
            form.add_file,
            boundary=options[b"boundary"],
            config={"UPLOAD_DIR": str(place), "UPLOAD_DELETE_TMP": False, "MAX_MEMORY_FILE_SIZE": 0},
        )
        async for chunk in request.stream():
            parser.write(chunk)
            if parser.bytes_received > max_bytes + 100_000:  # room for the form around the file
                raise ApiError(413, "File is too large.")
        parser.finalize()
        form.close()
        yield form
    except FormParserError as error:
        raise ApiError(400, f"The multipart form cannot be read: {error}") from error
    finally:
        form.close()
        shutil.rmtree(place, ignore_errors=True)
