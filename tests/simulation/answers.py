"""What becomes of each request, and how a batch's two files tell it. Every answer is told from its question."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import Any

__all__ = ["Lines", "Request", "Verdict", "answer_to", "read_requests", "verdict_of"]


class Verdict(Enum):
    """What the provider makes of one request."""

    OK = "ok"
    REFUSAL = "refusal"
    TRUNCATED = "truncated"
    SERVER_ERROR = "500"
    RATE_LIMITED = "429"
    GHOST = "ghost"
    BODY_ERROR = "error in the body"
    GARBLED = "garbled"
    MISSING = "missing"
    PERMANENT = "400"
    POISON = "poison"

    @property
    def billed(self) -> bool:
        """Whether the model answered, whatever became of the answer."""
        return self in (Verdict.OK, Verdict.REFUSAL, Verdict.TRUNCATED, Verdict.GARBLED, Verdict.MISSING)

    @property
    def answered(self) -> bool:
        """Whether a usable answer can be had."""
        return self in (Verdict.OK, Verdict.REFUSAL, Verdict.TRUNCATED)

    @property
    def worth_retrying(self) -> bool:
        """Whether asking again may well help."""
        return not self.answered and self not in (Verdict.PERMANENT, Verdict.POISON)


@dataclass(slots=True)
class Request:
    """One line of an input file."""

    custom_id: str
    question: str
    verdict: Verdict
    model: str = ""
    tokens: int = 10
    served: bool = False
    told_in: str = ""
    """Which file has its line, if any has."""


@dataclass(slots=True)
class Lines:
    """How the provider writes its files."""

    duplicates: float = 0.0
    unknown: float = 0.0
    silent_end: bool = False
    """An expired or cancelled batch has no lines for what it did not do."""
    errors_in_output: bool = False
    empty_files: bool = False
    empty_ids: bool = False
    upper_case: bool = False
    lying_counts: bool = False
    no_last_feed: bool = False

    def files(self, random: Random, requests: list[Request], status: str, batch_id: str) -> tuple[bytes, bytes]:
        """The output file and the error file of a batch that ended."""
        output: list[str] = []
        errors: list[str] = []
        for request in requests:
            line = _line(request, status, batch_id)
            if (not request.served and self.silent_end) or line is None:
                continue
            good = request.served and (request.verdict.billed or request.verdict in (Verdict.GHOST, Verdict.BODY_ERROR))
            request.told_in = "output" if good or self.errors_in_output else "errors"
            (output if request.told_in == "output" else errors).append(line)
            if random.random() < self.duplicates:
                output.append(line)
            if random.random() < self.unknown:
                output.append(json.dumps({**_answered(request), "custom_id": f"somebody-else-{request.custom_id}"}))
        random.shuffle(output)
        feed = "" if self.no_last_feed else "\n"
        return tuple(("\n".join(lines) + feed).encode() if lines else b"" for lines in (output, errors))  # type: ignore[return-value]


def answer_to(question: str) -> str:
    """The one answer there is to a question."""
    return f"The answer to <{question}>.\u2028It is all."


def verdict_of(question: str, random: Random, chances: dict[Verdict, float]) -> Verdict:
    """What becomes of a question this time; some questions never change their lot."""
    for verdict in (Verdict.PERMANENT, Verdict.POISON, Verdict.REFUSAL, Verdict.TRUNCATED):
        if question.startswith(verdict.value):
            return verdict
    dice = random.random()
    for verdict, chance in chances.items():
        dice -= chance
        if dice < 0:
            return verdict
    return Verdict.OK


def read_requests(data: bytes, verdict: Callable[[str], Verdict]) -> list[Request]:
    """The requests of an input file."""
    lines = [(json.loads(line), len(line) // 3) for line in data.split(b"\n") if line]
    return [
        Request(line["custom_id"], text, verdict(text), line["body"]["model"], tokens)
        for line, tokens in lines
        for text in (line["body"]["messages"][-1]["content"],)
    ]


def _line(request: Request, status: str, batch_id: str) -> str | None:
    """One line about a request, or none at all."""
    if not request.served:
        code = f"batch_{status}"
        error = {"code": code, "message": f"This request could not be executed: {status}."}
        return json.dumps({"id": batch_id, "custom_id": request.custom_id, "response": None, "error": error})
    verdict = request.verdict
    if verdict is Verdict.MISSING:
        return None
    if verdict is Verdict.GARBLED:
        return json.dumps(_answered(request))[:-25]
    if verdict.answered:
        return json.dumps(_answered(request), ensure_ascii=False)
    response: dict[str, Any] = {"status_code": 500, "request_id": "r", "body": {"error": {"message": "Oh no."}}}
    if verdict is Verdict.RATE_LIMITED:
        response["status_code"] = 429
    elif verdict is Verdict.GHOST:
        response = {"status_code": 0, "request_id": "", "body": ""}
    elif verdict is Verdict.BODY_ERROR:
        response = {"status_code": 500, "body": {"error": {"message": "Overloaded.", "code": "server_error"}}}
    elif verdict is Verdict.PERMANENT:
        response = {"status_code": 400, "body": {"error": {"message": "Too long.", "code": "context_length_exceeded"}}}
    return json.dumps({"id": batch_id, "custom_id": request.custom_id, "response": response, "error": None})


def _answered(request: Request) -> dict[str, Any]:
    refuses = request.verdict is Verdict.REFUSAL
    message = {
        "role": "assistant",
        "content": None if refuses else answer_to(request.question),
        "refusal": "I would rather not." if refuses else None,
    }
    finish = "length" if request.verdict is Verdict.TRUNCATED else "stop"
    body = {
        "model": request.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {
            "prompt_tokens": request.tokens,
            "completion_tokens": 5,
            "total_tokens": request.tokens + 5,
        },
    }
    return {
        "id": "line",
        "custom_id": request.custom_id,
        "response": {"status_code": 200, "request_id": f"req-{request.custom_id}", "body": body},
        "error": None,
    }
