"""What a field of an answer asks for, by its name: what the text says goes where the name fits it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ractobatch_dagster.local.rules import Reading

__all__ = ["boolean", "choose", "number", "string", "strings"]

_MOOD = re.compile(r"sentiment|polarity|rating|stars|score|satisf|valence|compound|opinion|mood|tone|recommend")
_CERTAINTY = re.compile(r"confiden|probab|certain|likelihood")
_LEVEL = re.compile(r"sever|urgen|priorit|intens|critical|importan|impact")
_EFFECTS = re.compile(r"side_?effects?|adverse|reactions?|symptoms?|effects")
_TOPICS = re.compile(r"keyword|topic|tag|theme|entit|concept|subject|categor|label|term")
_WHOLE = re.compile(r"summar|abstract|gist|tl_?dr|quote|evidence|excerpt|reason|rationale|explanation|headline")
_VERBATIM = re.compile(r"^(?:text|original|content|input|message|raw)$")

_RANKS = (
    ("none", "no", "nil", "absent", "not"),
    ("trivial", "minimal", "negligible", "very_low", "lowest"),
    ("mild", "low", "minor", "slight", "small"),
    ("moderate", "medium", "normal", "some", "average"),
    ("severe", "high", "major", "serious", "strong", "large"),
    ("critical", "urgent", "extreme", "very_high", "highest", "blocker"),
)
_RANK = {word: rank for rank, words in enumerate(_RANKS) for word in words}
_SEVERITIES = {"none": 0, "mild": 2, "moderate": 3, "severe": 4}


def choose(name: str, options: Sequence[Any], reading: Reading) -> Any | None:
    """Which of the options the text speaks for, or `None` where their meaning is not known."""
    words = {option: _key(option) for option in options if isinstance(option, str)}
    moods = {option: _mood(word) for option, word in words.items()}
    if {value > 0 for value in moods.values() if value} == {True, False}:
        return min(moods, key=lambda option: abs(moods[option] - _target(reading)))
    ranks = {option: _RANK[word] for option, word in words.items() if word in _RANK}
    if len(ranks) == len(options) > 1 and (_LEVEL.search(name) or len(ranks) > 2):
        return min(ranks, key=lambda option: abs(ranks[option] - _rank(name, reading)))
    if set(words.values()) == {"yes", "no"}:
        wanted = boolean(name, reading)
        return next((option for option, word in words.items() if (word == "yes") is wanted), None)
    lower = reading.text.lower()
    return next((option for option, word in words.items() if word and word.replace("_", " ") in lower), None)


def number(name: str, reading: Reading) -> tuple[float, float, float] | None:
    """Where between 0 and 1 the value lies, and the range where the schema gives none; `None` if not known."""
    if _CERTAINTY.search(name):
        return 0.5 + abs(reading.compound) / 2, 0.0, 1.0
    if _LEVEL.search(name):
        return _rank(name, reading) / (len(_RANKS) - 1), 1.0, 5.0
    if _MOOD.search(name):
        low, high = (1.0, 5.0) if re.search("rating|stars", name) else (-1.0, 1.0)
        return (reading.compound + 1) / 2, low, high
    return None


def boolean(name: str, reading: Reading) -> bool | None:
    """Whether the text says so, or `None` where the meaning of the name is not known."""
    if _EFFECTS.search(name):
        return bool(reading.effects)
    if re.search(r"negativ|unhappy|complain|dissatisf", name):
        return reading.sentiment == "negative"
    if re.search(r"positiv|happy|satisf|recommend|effective|works|liked?$", name):
        return reading.sentiment == "positive"
    return None


def string(name: str, reading: Reading) -> str | None:
    """A text for this name out of the text, or `None` where the meaning of the name is not known."""
    if _VERBATIM.search(name):
        return reading.text
    if _WHOLE.search(name):
        return reading.summary
    if _MOOD.search(name):
        return reading.sentiment
    if re.search(r"^lang(uage)?(_code)?$", name):
        return "en"
    if re.search(r"^title$|name$", name) and reading.summary:
        return " ".join(reading.summary.split()[:6]).rstrip(".,;:!?")
    if _TOPICS.search(name) and reading.keywords:
        return reading.keywords[0]
    return None


def strings(name: str, reading: Reading) -> list[str] | None:
    """The list of short texts this name asks for, or `None` where its meaning is not known."""
    if _EFFECTS.search(name):
        return reading.effects
    if _TOPICS.search(name):
        return reading.keywords[:5]
    if re.search(r"sentences|points|highlights", name):
        return reading.sentences[:3]
    return None


def _key(option: str) -> str:
    return re.sub(r"[\s\-]+", "_", option.strip().lower())


def _mood(word: str) -> float:
    """How positive a label is, from -1 to 1; 0 for one that is neutral or means something else."""
    strength = 1.0 if re.search(r"very|extremely|strong|highly", word) else 0.6
    if re.search(r"neg|unhappy|dissatisf|unfavou?r|^bad$|^(?:very_)?poor$", word):
        return -strength
    if re.search(r"pos(?!t)|happy|satisf|favou?r|^(?:very_)?good$", word):
        return strength
    return 0.0


def _target(reading: Reading) -> float:
    """The text's own place on that scale; a neutral one leans a little, for where neutral is not offered."""
    if reading.sentiment == "neutral":
        return 0.1 if reading.compound >= 0 else -0.1
    strength = 1.0 if abs(reading.compound) > 0.85 else 0.6
    return strength if reading.sentiment == "positive" else -strength


def _rank(name: str, reading: Reading) -> float:
    """The text's place among the ranks: by its unwanted effects, or by how negative it is."""
    if reading.effects or "sever" in name:
        return _SEVERITIES[reading.severity]
    return 2.5 - 2.5 * min(reading.compound, 0.6)
