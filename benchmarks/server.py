"""The local batch server in a process of its own, with one constant answer: `python -m benchmarks.server FOLDER`.

It is the same server as `ractobatch serve --seconds 0`; only what answers is quicker than the built-in rules.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.data import CONSTANT_ANSWER
from ractobatch_dagster.local import Answer
from ractobatch_dagster.local.background import ServerAddress, read_address
from ractobatch_dagster.local.server import serve


class Constant:
    """Gives every request the same answer, which fits the model that the benchmarks ask for."""

    concurrency = 1

    def __init__(self) -> None:
        message = {"role": "assistant", "content": CONSTANT_ANSWER, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
        usage = {
            "prompt_tokens": 200,
            "completion_tokens": 30,
            "total_tokens": 230,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }
        head = {"id": "chatcmpl-0123456789abcdef01234567", "object": "chat.completion", "created": 1_700_000_000}
        self._body = {**head, "model": "gpt-4o-mini", "choices": [choice], "usage": usage}

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """The answer, whatever was asked."""
        return Answer(200, {**self._body, "model": body["model"]})


@contextmanager
def running() -> Iterator[ServerAddress]:
    """A server on a folder of its own for as long as the block takes."""
    with tempfile.TemporaryDirectory(prefix="ractobatch-bench-") as name:
        folder = Path(name)
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.server", name])
        try:
            yield _address(folder, process)
        finally:
            process.terminate()
            process.wait(30)


def _address(folder: Path, process: subprocess.Popen[bytes]) -> ServerAddress:
    end = time.monotonic() + 30
    while time.monotonic() < end and process.poll() is None:
        if address := read_address(folder):
            return address
        time.sleep(0.02)
    raise RuntimeError("the local batch server did not start")


if __name__ == "__main__":
    serve(Path(sys.argv[1]), model=Constant(), seconds=0.0, api_key="benchmark")
