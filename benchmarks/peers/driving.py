"""What every driver shares: it runs in the peer's environment, so it imports nothing of ours and little of anybody's.

A driver gives `drive` one function: from a frame of prompts (columns `id` and `user_message`) to a frame of answers
(`id` and the fields of `Label`), which is then written as Parquet. It is run once on a few rows, so that imports,
connections and caches are warm, and then measured on all of them. The CPU time is that of this process and its
children; the server is neither.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

if TYPE_CHECKING:
    import pandas as pd

MODEL = "gpt-4-turbo"
"""A model whose tokens two of the peers can count without a network."""

WARM_ROWS = 300
BATCH_ROWS = 50_000
POLL_SECONDS = 1


class Label(BaseModel):
    """What is asked for."""

    sentiment: Literal["positive", "neutral", "negative"]
    side_effects: list[str]
    severity: str


ROLE = "You label reviews that patients wrote about medicines."
AIM = "Read one review and say how the patient felt about the medicine and which unwanted effects the review names."
RULES = (
    "Use nothing but the words of the review.",
    "Take over each unwanted effect in the patient's own words, in the order in which they appear.",
    "Where the review names no unwanted effect, give an empty list.",
    "Judge the severity by the worst effect that is named.",
)
SYSTEM = "\n\n".join((ROLE, AIM, "\n".join(f"- {rule}" for rule in RULES)))


@dataclass(frozen=True)
class Place:
    """Where the batches go, and a folder for whatever the peer keeps."""

    base_url: str
    api_key: str
    folder: Path
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Tell under this name the CPU time of what is inside: for drivers whose work has parts to compare."""
        before = time.process_time()
        yield
        self.parts[name] = time.process_time() - before

    def wait_until_idle(self) -> None:
        """Wait until the server has ended every batch, without the peer's code; for peers that do not wait."""
        while self._open():
            time.sleep(POLL_SECONDS)

    def _open(self) -> bool:
        request = urllib.request.Request(
            f"{self.base_url}/batches?limit=100", headers={"Authorization": f"Bearer {self.api_key}"}
        )
        with urllib.request.urlopen(request, timeout=60) as reply:
            batches = json.load(reply)["data"]
        return any(batch["status"] not in ("completed", "failed", "expired", "cancelled") for batch in batches)


Run = Callable[["pd.DataFrame", Place], "pd.DataFrame | Path"]
"""Returns the answers, or where it has landed them as Parquet by itself."""


def drive(run: Run) -> None:
    """Measure `run` as the command line says, and print what it took as one line of JSON."""
    import pandas as pd

    parser = argparse.ArgumentParser()
    for name in ("--rows", "--folder", "--base-url", "--api-key"):
        parser.add_argument(name, required=True)
    given = parser.parse_args()
    frame = pd.read_parquet(given.rows)
    os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"] = given.base_url, given.api_key

    def once(rows: pd.DataFrame, name: str) -> tuple[Path, dict[str, float]]:
        place = Place(given.base_url, given.api_key, Path(given.folder) / name)
        place.folder.mkdir(parents=True)
        answers = run(rows, place)
        if isinstance(answers, Path):
            return answers, place.parts
        landed = place.folder / "answers.parquet"
        answers.to_parquet(landed)
        return landed, place.parts

    once(frame.head(WARM_ROWS), "warm")
    wall, cpu = time.perf_counter(), _cpu()
    answers, parts = once(frame, "run")
    taken = {"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu, "peak_mb": _peak()}
    _check(frame, pd.read_parquet(answers))
    print(json.dumps({"rows": len(frame), **taken, "parts": parts}), file=sys.__stdout__)
    sys.__stdout__.flush()  # type: ignore[union-attr]
    os._exit(0)  # threads that a peer leaves behind are not waited for


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def _check(frame: pd.DataFrame, answers: pd.DataFrame) -> None:
    """A peer that is quick because it loses rows is not quick."""
    answered = answers.dropna(subset=list(Label.model_fields))["id"].nunique()
    if answered != len(frame):
        raise SystemExit(f"{answered} of {len(frame)} rows were answered")


def count_tokens_offline() -> None:
    """Let `tiktoken` find the vocabulary that a package brought along, in the place where it keeps its downloads."""
    import tiktoken_ext

    source = next(
        path for place in tiktoken_ext.__path__ if (path := Path(place) / "data" / "cl100k_base.tiktoken").exists()
    )
    cache = source.parent / "cache"
    cache.mkdir(exist_ok=True)
    address = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    shutil.copy(source, cache / hashlib.sha1(address.encode()).hexdigest())
    os.environ["TIKTOKEN_CACHE_DIR"] = str(cache)


def columns(ids: Any, values: list[dict[str, Any] | None]) -> pd.DataFrame:
    """A frame of answers from one object a row; where a row has none, its columns are null."""
    import pandas as pd

    return pd.DataFrame(
        {"id": ids, **{name: [value and value.get(name) for value in values] for name in Label.model_fields}}
    )
