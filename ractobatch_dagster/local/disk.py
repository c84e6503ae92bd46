"""The server's state on disk: one JSON document per file and per batch, and the bytes of the files.

    <folder>/files/<id>.json, <id>.data     a file's object and its bytes
    <folder>/batches/<id>.json              a batch's object, and what the API does not show of it
    <folder>/work: <id>.input, <id>.answers  what a running batch is asked, and what it has answered so far
    <folder>/uploads/                       bytes that are still coming in

Documents are replaced by a rename, so a process that is killed leaves each of them old or new, never half.
A folder belongs to one process at a time; that process keeps the small documents in memory.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from ractobatch_dagster.errors import StoreError

__all__ = ["TERMINAL", "Batch", "Disk", "Json", "write_atomically"]

Json = dict[str, Any]

TERMINAL = frozenset({"completed", "failed", "expired", "cancelled"})
"""The statuses in which a batch has ended."""


@dataclass
class Batch:
    """A batch: its API object, and beside it what only the server knows.

    Attributes:
        shown: The object as the API gives it.
        started: When it was created, in seconds since 1970, finer than `created_at`.
        number: How many batches were created in this folder before it.
        output_lifetime: For how many seconds its output files are kept, or `None` for ever.
        window: How many seconds it has until it expires.
    """

    shown: Json
    started: float
    number: int
    output_lifetime: int | None = None
    window: float = 24 * 60 * 60

    @property
    def id(self) -> str:
        """The batch's id."""
        return str(self.shown["id"])

    @property
    def status(self) -> str:
        """Where the batch stands."""
        return str(self.shown["status"])


@dataclass
class Disk:
    """Files and batches, newest last. All changes come from one thread."""

    folder: Path
    files: dict[str, Json] = field(default_factory=dict, init=False)
    batches: dict[str, Batch] = field(default_factory=dict, init=False)
    _owners: dict[str, Batch] = field(default_factory=dict, init=False)
    _last: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder / "uploads", ignore_errors=True)
        for name in ("files", "batches", "work", "uploads"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("files/*.json")):
            self.files[path.stem] = _read(path)
        for path in sorted(self.folder.glob("batches/*.json")):
            self._own(Batch(**_read(path)))
        self._sweep()

    def new_id(self, prefix: str) -> str:
        """A fresh id; ids of one kind sort in the order they were made."""
        self._last = max(self._last + 1, time.time_ns())
        return f"{prefix}{self._last:016x}{secrets.token_hex(4)}"

    def upload_folder(self) -> Path:
        """Where bytes are written before they are a file; on the same file system as the files."""
        return self.folder / "uploads"

    def add_file(self, source: Path, *, filename: str, purpose: str, lifetime: int | None) -> Json:
        """Take over the finished bytes at `source` as a new file."""
        now = int(time.time())
        file: Json = {
            "id": self.new_id("file-"),
            "object": "file",
            "bytes": source.stat().st_size,
            "created_at": now,
            "expires_at": now + lifetime if lifetime else None,
            "filename": filename,
            "purpose": purpose,
            "status": "processed",
            "status_details": None,
        }
        source.replace(self.data(file["id"]))
        write_atomically(self.folder / "files" / f"{file['id']}.json", msgspec.json.encode(file))
        self.files[file["id"]] = file
        return file

    def file(self, file_id: str) -> Json | None:
        """The file, or `None` where there is none or its time is over."""
        file = self.files.get(file_id)
        if file and file["expires_at"] and file["expires_at"] <= time.time():
            self.delete_file(file_id)
            return None
        return file

    def data(self, file_id: str) -> Path:
        """Where the bytes of a file are."""
        return self.folder / "files" / f"{file_id}.data"

    def age(self, file_id: str) -> float:
        """How long there has been such a file, in seconds, finer than its `created_at`."""
        return time.time() - int(file_id.removeprefix("file-")[:16], 16) / 1e9

    def delete_file(self, file_id: str) -> None:
        """Remove a file. A batch that already runs on it is not disturbed."""
        del self.files[file_id]
        (self.folder / "files" / f"{file_id}.json").unlink(missing_ok=True)
        with contextlib.suppress(PermissionError):  # Windows, while it is being downloaded
            self.data(file_id).unlink(missing_ok=True)

    def add_batch(self, batch: Batch) -> None:
        """Keep a new batch, with a claim on the bytes of its input file that outlives the file."""
        source, claim = self.data(batch.shown["input_file_id"]), self.work(batch.id, "input")
        if batch.shown["input_file_id"] in self.files:
            try:
                os.link(source, claim)
            except OSError:  # a file system without hard links
                shutil.copyfile(source, claim)
        self.save_batch(batch)

    def save_batch(self, batch: Batch) -> None:
        """Write the batch down as it now is."""
        write_atomically(self.folder / "batches" / f"{batch.id}.json", msgspec.json.encode(batch))
        self._own(batch)

    def _own(self, batch: Batch) -> None:
        self.batches[batch.id] = batch
        for kind in ("input", "output", "error"):
            if file_id := batch.shown[f"{kind}_file_id"]:
                self._owners.setdefault(file_id, batch)

    def batch_with(self, file_id: str) -> Batch | None:
        """The batch that a file belongs to, as what it was asked or as what it answered."""
        return self._owners.get(file_id)

    def work(self, batch_id: str, kind: str) -> Path:
        """A working file of a batch: `input`, `answers`, `output` or `error`."""
        return self.folder / "work" / f"{batch_id}.{kind}"

    def clear_work(self, batch_id: str) -> None:
        """Remove the working files of a batch that has ended."""
        for kind in ("input", "answers", "output", "error"):
            self.work(batch_id, kind).unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove what a killed process left half-made: bytes without a file, results without a batch that names
        them, work without an open batch, and documents that were still being written."""
        for file_id, file in list(self.files.items()):
            if file["purpose"] == "batch_output" and file_id not in self._owners:
                self.delete_file(file_id)
        for path in self.folder.glob("files/*.data"):
            if path.stem not in self.files:
                path.unlink()
        for path in (*self.folder.glob("files/.*"), *self.folder.glob("batches/.*")):
            path.unlink()
        for path in self.folder.glob("work/*"):
            batch = self.batches.get(path.stem)
            if batch is None or batch.status in TERMINAL:
                path.unlink()


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Put `data` at `path` in one step, so that whoever reads sees the old or the new content."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    temporary.replace(path)


def _read(path: Path) -> Json:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise StoreError(f"{path} is not a document of the local batch server: {error}") from error
