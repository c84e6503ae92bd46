"""The built-in model's judgement of a text: a list of words for each category, by which it is easily misled."""

from __future__ import annotations

import re

from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.moderation import CATEGORIES

__all__ = ["moderated"]

_WORDS = {
    "harassment": {"idiot", "loser", "stupid", "moron"},
    "hate": {"vermin", "subhuman"},
    "illicit": {"counterfeit", "launder", "smuggle", "bomb"},
    "self-harm": {"suicide", "cutting", "overdose"},
    "sexual": {"porn", "nude", "erotic"},
    "violence": {"kill", "murder", "shoot", "stab", "bomb"},
    "violence/graphic": {"gore", "mutilated", "beheaded"},
}


def moderated(text: str) -> Json:
    """What the moderations endpoint says of a text."""
    said = re.findall(r"[a-z]+", text.lower())
    hits = {name: sum(word in _WORDS.get(name, ()) for word in said) for name in CATEGORIES}
    scores = {name: round(1 - 0.1 ** (1 + count), 4) if count else 0.0001 for name, count in hits.items()}
    categories = {name: count > 0 for name, count in hits.items()}
    return {
        "flagged": any(categories.values()),
        "categories": categories,
        "category_scores": scores,
        "category_applied_input_types": {name: ["text"] for name in CATEGORIES},
    }
