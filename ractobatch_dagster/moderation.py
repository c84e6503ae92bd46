"""What an answer of the moderations endpoint is: whether the text is flagged, for what, and how surely."""

from __future__ import annotations

import re
from typing import Any

from pydantic import BaseModel, Field, create_model

__all__ = ["CATEGORIES", "Moderation"]

CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)
"""What OpenAI's omni-moderation models look for (moderation guide, "Content classifications")."""


def _by_category(name: str, kind: Any) -> type[BaseModel]:
    """A model with a field for each category; older models know not all of them."""
    fields: dict[str, Any] = {
        re.sub(r"\W", "_", category): (kind | None, Field(default=None, alias=category)) for category in CATEGORIES
    }
    made: type[BaseModel] = create_model(name, **fields)
    return made


Moderation: type[BaseModel] = create_model(
    "Moderation",
    flagged=(bool, Field(description="Whether it is of any category.")),
    categories=(_by_category("Categories", bool), Field(description="Of which it is.")),
    category_scores=(_by_category("CategoryScores", float), Field(description="How surely it is of each, 0 to 1.")),
)
"""What is said of one text. Categories that are not listed are left out of it; the raw answer has them."""
