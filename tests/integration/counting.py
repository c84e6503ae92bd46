"""What was paid for and what was left behind, counted from the files of the server and of the store alone."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import TableFiles

TERMINAL = {"completed", "failed", "expired", "cancelled"}


@dataclass
class Bill:
    """The batches of a server's folder, and how often each question was answered in one of them.

    Attributes:
        batches: The batches as the API shows them.
        answered: How often each question was answered.
        unused: The names of input files that no batch was made from.
        uploading: Bytes that never became a file.
    """

    batches: list[dict[str, Any]]
    answered: Counter[str] = field(default_factory=Counter)
    unused: list[str] = field(default_factory=list)
    uploading: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Bill:
        """Count what is in the folder of a server."""
        bill = cls(sorted((_shown(path) for path in folder.glob("batches/*.json")), key=lambda one: str(one["id"])))
        for batch in bill.batches:
            questions = {line["custom_id"]: _question(line) for line in _lines(folder, batch["input_file_id"])}
            for line in (*_lines(folder, batch["output_file_id"]), *_lines(folder, batch["error_file_id"])):
                if line["response"]:
                    # a batch whose input file is gone is one that nobody should have forgotten: its own question
                    name = line["custom_id"]
                    bill.answered[questions.get(name, f"{name} of {batch['id']}, whose input file is gone")] += 1
        used = {batch["input_file_id"] for batch in bill.batches}
        files = [json.loads(path.read_bytes()) for path in folder.glob("files/*.json")]
        bill.unused = [one["filename"] for one in files if one["purpose"] == "batch" and one["id"] not in used]
        bill.uploading = [path.name for path in folder.glob("uploads/*")]
        return bill

    @property
    def doubles(self) -> dict[str, int]:
        """The questions that were answered more than once, and how often."""
        return {question: times for question, times in self.answered.items() if times > 1}

    @property
    def ended(self) -> bool:
        """Whether every batch has ended."""
        return all(batch["status"] in TERMINAL for batch in self.batches)

    def orphans(self, root: Path | Store, asset: str) -> list[str]:
        """The batches that no submission of this table knows."""
        return [batch["id"] for batch in self.batches if batch["id"] not in known_batches(root, asset)]


def known_batches(root: Path | Store, asset: str) -> set[str]:
    """The ids of all batches that the submissions of a table know."""
    return {batch.batch_id for state in submissions(root, asset) for batch in state.batches if batch.batch_id}


def submissions(root: Path | Store, asset: str) -> list[Any]:
    """The state of every submission of a table that has one, opened or not, oldest first."""
    store = root if isinstance(root, Store) else Store(root)
    table = TableFiles(store, asset)
    versions = [table.submission(name).log.load() for name in store.folders(f"submissions/{asset}") if name != "log"]
    return [version.state for version in versions if version]


def _shown(path: Path) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(path.read_bytes())["shown"]
    return shown


def _lines(folder: Path, file_id: str | None) -> list[dict[str, Any]]:
    path = folder / "files" / f"{file_id}.data"
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line.strip()] if path.is_file() else []


def _question(line: dict[str, Any]) -> str:
    return str(line["body"]["messages"][-1]["content"])
