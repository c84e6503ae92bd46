"""What the tests of the local server share: clients, input lines, waiting for an event, and two models."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import openai

from ractobatch_dagster.local import Answer, LocalServer, RuleModel, ServerAddress
from ractobatch_dagster.local.background import read_address, running_server

CHAT = "/v1/chat/completions"
TERMINAL = {"completed", "failed", "expired", "cancelled"}


def connect(server: LocalServer | ServerAddress) -> openai.OpenAI:
    """A client that never retries, so that what the server does is what the test sees."""
    return openai.OpenAI(base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=20)


def line(custom_id: str, text: str = "What is 2+2?", *, url: str = CHAT, model: str = "rules", **body: Any) -> str:
    """One line of an input file."""
    message = {"role": "user", "content": text}
    body = {"model": model, "messages": [message], **body}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body})


def lines(count: int) -> list[str]:
    """Some lines that all have the same question."""
    return [line(f"row-{number}") for number in range(count)]


def upload(client: openai.OpenAI, content: Iterable[str]) -> str:
    """Upload an input file; its id."""
    data = "".join(one + "\n" for one in content).encode()
    return client.files.create(file=("input.jsonl", data, "application/jsonl"), purpose="batch").id


def create(client: openai.OpenAI, file_id: str, **options: Any) -> Any:
    """Create a batch from an uploaded file."""
    return client.batches.create(input_file_id=file_id, endpoint=CHAT, completion_window="24h", **options)


def submit(client: openai.OpenAI, content: Iterable[str], **options: Any) -> Any:
    """Upload an input file and create a batch from it."""
    return create(client, upload(client, content), **options)


def wait_for(condition: Callable[[], Any], timeout: float = 20.0) -> Any:
    """Wait until `condition` gives something true, and return that."""
    end = time.monotonic() + timeout
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError("what the test waits for has not happened")
        time.sleep(0.01)
    return found


def finish(client: openai.OpenAI, batch: Any) -> Any:
    """Wait until a batch has ended."""

    def ended() -> Any:
        now = client.batches.retrieve(batch.id)
        return now if now.status.lower() in TERMINAL else None

    return wait_for(ended)


def raw_lines(client: openai.OpenAI, file_id: str) -> list[bytes]:
    """The lines of a result file as they are."""
    return client.files.content(file_id).content.split(b"\n")[:-1]


def results(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    """The lines of a result file by `custom_id`."""
    if not file_id:
        return {}
    parsed = [json.loads(one) for one in raw_lines(client, file_id)]
    return {one["custom_id"]: one for one in parsed}


def text_of(result: Mapping[str, Any]) -> str:
    """What was answered in one line of an output file."""
    return str(result["response"]["body"]["choices"][0]["message"]["content"])


def start_process(folder: Path, *options: str) -> tuple[subprocess.Popen[bytes], ServerAddress]:
    """A real `ractobatch serve`, once it can be reached."""
    command = [sys.executable, "-m", "ractobatch_dagster.cli", "serve", "--folder", str(folder), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def ours() -> ServerAddress | None:
        assert process.poll() is None, "the server has ended"
        address = read_address(folder)
        return running_server(folder) if address and address.pid == process.pid else None

    return process, wait_for(ours)


class GatedModel:
    """Answers a number of requests, then the others once the gate is opened."""

    concurrency = 1

    def __init__(self, first: int) -> None:
        self.gate = threading.Event()
        self._left = first
        self._rules = RuleModel()

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        self._left -= 1
        if self._left < 0:
            self.gate.wait(20)
        return self._rules.answer(endpoint, body)


class SlowModel:
    """Takes a third of a second for an answer, and knows what it was asked."""

    concurrency = 1

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        self.asked.append(body)
        threading.Event().wait(0.3)
        return RuleModel().answer(endpoint, body)


class CountingModel:
    """Answers with how many requests it had before."""

    concurrency = 4

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        with self._lock:
            self.asked += 1
        return RuleModel().answer(endpoint, body)
