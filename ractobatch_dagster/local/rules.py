"""What the built-in model understands of a text: plain rules, and VADER for its sentiment."""

from __future__ import annotations

import re
from collections import Counter
from functools import cached_property

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from ractobatch_dagster.local import lexicon

__all__ = ["Reading"]

_VADER = SentimentIntensityAnalyzer()
for _word in lexicon.ILLNESS:
    _VADER.lexicon.pop(_word, None)
_VADER.lexicon.update(lexicon.VALENCE)
_WORD = re.compile(r"[^\W\d_]{4,}")
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_CLAUSE_BREAK = re.compile(r"[.!?;:\n]|\b(?:but|except|however|although|though)\b")
_BLAME = re.compile(
    r"\b(?:caus\w+|gave|gives?|giving|made|makes|making|side effects?|got|get|getting|start(?:ed|ing)|began|"
    r"developed|experienc\w+|now|worse\w*|increased?|had|have|having)\b"
)
_BLAME_AFTER = re.compile(
    r"(?: \w+)? (?:it|this|that) (?:\w+ )?(?:caus|gave)\w*| since i| (?:from|after) (?:taking|using|this|it)"
)


class Reading:
    """A text and what the rules find in it, each thing worked out once, when it is asked for."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def lower(self) -> str:
        """It in lower case, with plain apostrophes."""
        return self.text.lower().replace("\u2019", "'")

    @cached_property
    def compound(self) -> float:
        """Its sentiment from -1 to 1: VADER's for each sentence, and what single words do not show.

        The last sentence weighs twice as much as the first, because people end on their verdict; bad news
        weighs half, because most of it is about what was wrong before.
        """
        scores = [_VADER.polarity_scores(sentence[:1000])["compound"] for sentence in self.sentences] or [0.0]
        weights = [1 + index / max(len(scores) - 1, 1) for index in range(len(scores))]
        told = sum(w * (s if s > 0 else s / 2) for w, s in zip(weights, scores, strict=True)) / sum(weights)
        praise = min(len(lexicon.PRAISE.findall(self.lower)), 3)
        complaint = min(len(lexicon.COMPLAINT.findall(self.lower)), 3)
        return float(max(-1.0, min(1.0, told + 0.15 * (praise - complaint))))

    @cached_property
    def sentiment(self) -> str:
        """Its sentiment as `positive`, `neutral` or `negative`."""
        if self.compound > 0:
            return "positive"
        return "negative" if self.compound < -0.03 else "neutral"

    @cached_property
    def effects(self) -> list[str]:
        """The unwanted effects it tells of, in its own order."""
        lower = self.lower
        found: dict[str, None] = {}
        for match in lexicon.EFFECTS.finditer(lower):
            name = lexicon.effect_name(match.group())
            before, after = lower[max(0, match.start() - 60) : match.start()], lower[match.end() : match.end() + 30]
            if name not in found and _is_effect(name, before, after):
                found[name] = None
        return list(found)

    @cached_property
    def severity(self) -> str:
        """How bad the worst unwanted effect was: `none`, `mild`, `moderate` or `severe`."""
        if not self.effects:
            return "none"
        lower = self.lower
        if lexicon.MEDICAL_HELP.search(lower) or lexicon.GAVE_UP.search(lower):
            return "severe"
        return "moderate" if len(self.effects) > 2 or lexicon.STRONG.search(lower) else "mild"

    @cached_property
    def sentences(self) -> list[str]:
        """Its sentences."""
        return [" ".join(part.split()) for part in _SENTENCE.split(self.text) if part.strip()]

    @cached_property
    def summary(self) -> str:
        """Its first sentence, or what there is of one."""
        return self.sentences[0] if self.sentences else ""

    @cached_property
    def keywords(self) -> list[str]:
        """Its words that say most about it: the frequent and long ones."""
        counts = Counter(word.lower() for word in _WORD.findall(self.text))
        words = [word for word in counts if word not in _COMMON]
        return sorted(words, key=lambda word: (-counts[word], -len(word)))


def _is_effect(name: str, before: str, after: str) -> bool:
    """Whether what is named is an unwanted effect, by the words around it in its clause."""
    clause = _CLAUSE_BREAK.split(before)[-1]
    near = " ".join(clause.split()[-5:])
    if lexicon.NOT_AN_EFFECT.search(near):
        return False
    return name not in lexicon.SUSPECT or bool(_BLAME.search(clause) or _BLAME_AFTER.match(after))


_COMMON = frozenset(
    [
        "about",
        "after",
        "again",
        "also",
        "been",
        "before",
        "being",
        "could",
        "does",
        "doing",
        "down",
        "during",
        "each",
        "even",
        "from",
        "have",
        "having",
        "here",
        "into",
        "just",
        "like",
        "made",
        "make",
        "more",
        "most",
        "much",
        "only",
        "other",
        "over",
        "really",
        "same",
        "should",
        "some",
        "such",
        "than",
        "that",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "took",
        "very",
        "want",
        "week",
        "well",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "with",
        "would",
        "your",
        "because",
        "didn",
        "doesn",
        "wasn",
        "isn",
        "month",
        "months",
        "years",
        "year",
        "time",
        "days",
        "take",
        "taking",
        "taken",
    ]
)
