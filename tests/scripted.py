"""What the tests of the processor share: items, a processor for a server, and a model that says what it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ractobatch_dagster import BatchItem, OpenAIBatchProcessor, RactoPrompt
from ractobatch_dagster.local import Answer, LocalServer

PROMPT = RactoPrompt(role="assistant", aim="answer briefly", constraints="", tone="", output_format="text")


def items(*names: str, **values: Any) -> list[BatchItem]:
    """An item for each name, whose text ends in the name."""
    return [BatchItem(custom_id=name, user_message=f"tell me about {name}", **values) for name in names]


def made(server: LocalServer, **options: Any) -> OpenAIBatchProcessor:
    """A processor for this server."""
    return OpenAIBatchProcessor(
        **{"api_key": server.api_key, "base_url": server.base_url, "default_prompt": PROMPT, **options}
    )


_USAGE = {"usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}


class Scripted:
    """Answers by the last word of the user's text: with a text, a message, or an `Answer` of any shape."""

    concurrency = 1
    served: str | None = None
    """What the model calls itself, where that is not as it was asked."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers
        self.bodies: list[Mapping[str, Any]] = []

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """Say what this request is to be answered with."""
        self.bodies.append(body)
        said = self.answers[body["messages"][-1]["content"].rpartition(" ")[2]]
        if isinstance(said, Answer):
            return said
        choice = {"message": {"content": said} if isinstance(said, str) else said, "finish_reason": "stop"}
        return Answer(200, {"choices": [choice], "model": self.served or body["model"], **_USAGE})
