"""Answers in plain text: a sum, a capital, or what the text itself says."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from ractobatch_dagster.local.rules import Reading

__all__ = ["plain_answer"]

_SUM = re.compile(
    r"(?:(?:what(?:'?s| is)|how much is|calculate|compute|solve)\s+)?"
    r"([\d(.\-][\d\s.+\-*/x\u00d7\u00f7()]*[\d)])\s*(?:=\s*)?[?.!]?",
    re.IGNORECASE,
)
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_CAPITAL = re.compile(r"\bcapital (?:city )?of (?:the )?([a-z ]+)")
_CAPITALS = {
    "australia": "Canberra",
    "austria": "Vienna",
    "brazil": "Bras\u00edlia",
    "canada": "Ottawa",
    "china": "Beijing",
    "egypt": "Cairo",
    "france": "Paris",
    "germany": "Berlin",
    "india": "New Delhi",
    "italy": "Rome",
    "japan": "Tokyo",
    "kenya": "Nairobi",
    "mexico": "Mexico City",
    "netherlands": "Amsterdam",
    "portugal": "Lisbon",
    "spain": "Madrid",
    "sweden": "Stockholm",
    "united kingdom": "London",
    "united states": "Washington, D.C.",
}


def plain_answer(reading: Reading) -> str:
    """A short answer to a text: never more than is in it, or than a small table knows."""
    question = reading.text.strip()
    if len(question) < 200:
        answer = _capital(question) or _sum(question)
        if answer is not None:
            return answer
    if not reading.summary:
        return "The message holds no text."
    effects = f", unwanted effects: {', '.join(reading.effects)}" if reading.effects else ""
    return f"{reading.summary} [built-in rules; sentiment: {reading.sentiment}{effects}]"


def _capital(question: str) -> str | None:
    found = _CAPITAL.search(question.lower())
    return _CAPITALS.get(found.group(1).strip()) if found else None


def _sum(question: str) -> str | None:
    """The value of the arithmetic expression that the question is."""
    found = _SUM.fullmatch(question)
    if found is None or not re.search(r"[+\-*/x\u00d7\u00f7]", found.group(1)):
        return None
    text = re.sub(r"[x\u00d7]", "*", found.group(1)).replace("\u00f7", "/")
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError):
        return None
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"


def _value(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant):
        return Fraction(str(node.value))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    raise ValueError("no plain arithmetic")
