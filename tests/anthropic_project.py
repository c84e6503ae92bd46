"""What tests of Anthropic share: a provider, and a model that answers as Claude may."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ractobatch_dagster.local import Answer, LocalServer, RuleModel
from ractobatch_dagster.provider.account import Account
from ractobatch_dagster.provider.connecting import connect
from ractobatch_dagster.provider.message_batches import AnthropicProvider
from ractobatch_dagster.store import Store

MODEL = "claude-haiku-4-5-20251001"


class Claude(RuleModel):
    """The rules, except for those texts that say how the message ends."""

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """A refusal where the text asks for one, an answer that does not fit where it asks for that."""
        made = super().answer(endpoint, body)
        text = body["messages"][-1]["content"]
        if "refuse" in text:
            return Answer(200, {**made.body, "content": [], "stop_reason": "refusal"})
        if "unfit" in text and len(body["messages"]) == 1:
            return Answer(200, {**made.body, "content": [{"type": "text", "text": "no JSON"}]})
        return made


def provider(server: LocalServer, store: Store, **options: Any) -> AnthropicProvider:
    """Anthropic at this server; pauses take no time."""
    account = Account(
        **{"api_key": server.api_key, "base_url": server.base_url, "kind": "anthropic", "max_retries": 4, **options}
    )
    made = connect(account, lambda: store)
    assert isinstance(made, AnthropicProvider)
    made._sleep = lambda _: None
    return made


def sent(server: LocalServer) -> list[dict[str, Any]]:
    """Every request that was sent, in order."""
    files = [server.read(batch["input_file_id"]) for batch in server.batches()]
    return [json.loads(line) for data in files for line in data.splitlines()]
