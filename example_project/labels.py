"""What the model is asked for each review, and how well it agrees with the patient's own rating."""

from __future__ import annotations

from typing import Any, Literal

import pandas as pd
from pydantic import BaseModel, Field

from ractobatch_dagster.prompt import RactoPrompt

__all__ = ["REVIEW_PROMPT", "SENTIMENTS", "ReviewLabels", "agreement"]

SENTIMENTS = ("positive", "neutral", "negative")


class ReviewLabels(BaseModel):
    """The labels of one review of a medicine."""

    sentiment: Literal["positive", "neutral", "negative"] = Field(
        description="How satisfied the writer is with the medicine as a whole; `neutral` when good and bad "
        "weigh about the same."
    )
    side_effects: list[str] = Field(
        description="Each unwanted effect the writer had from the medicine, in one to three lower-case "
        "words, for example `weight gain`; an empty list when none is told. The illness itself is none."
    )
    severity: Literal["none", "mild", "moderate", "severe"] = Field(
        description="The worst side effect: `none` without any, `mild` when it was no more than a nuisance, "
        "`moderate` when it disturbed daily life, `severe` when the writer gave up the medicine or needed "
        "medical help for it."
    )


REVIEW_PROMPT = RactoPrompt(
    role="You read patient reviews of medicines for a drug-safety team.",
    aim="Label the one review you are given.",
    constraints=[
        "Use only what the review says; never add what you know about the medicine.",
        "Judge the writer's satisfaction with the medicine, not how ill the writer was before it.",
    ],
    tone="neutral and factual",
    output_format=ReviewLabels,
)


def agreement(frame: pd.DataFrame) -> dict[str, Any]:
    """How often `sentiment` is the `rating` that the patient gave.

    Args:
        frame: A table with the columns `sentiment` and `rating`. Rows in which either is null, or `rating` is
            none of the three words, are left out; without these columns nothing is compared.

    Returns:
        `compared` and `agreed` (numbers of rows), `agreement` (their ratio, or `None` where nothing was
        compared), `by_rating` (the same three for each rating), and `confusion`: rows by rating, then by
        sentiment. It is plain data that JSON takes.
    """
    if "sentiment" in frame and "rating" in frame:
        pairs = frame[["rating", "sentiment"]].astype("object")
        pairs = pairs[pairs["rating"].isin(SENTIMENTS) & pairs["sentiment"].isin(SENTIMENTS)]
    else:
        pairs = pd.DataFrame({"rating": [], "sentiment": []})
    counts = pairs.value_counts().to_dict()
    confusion = {
        rating: {sentiment: int(counts.get((rating, sentiment), 0)) for sentiment in SENTIMENTS}
        for rating in SENTIMENTS
    }
    by_rating = {rating: _share(row[rating], sum(row.values())) for rating, row in confusion.items()}
    agreed = sum(row[rating] for rating, row in confusion.items())
    return {**_share(agreed, len(pairs)), "by_rating": by_rating, "confusion": confusion}


def _share(agreed: int, compared: int) -> dict[str, Any]:
    return {
        "compared": compared,
        "agreed": agreed,
        "agreement": round(agreed / compared, 4) if compared else None,
    }
