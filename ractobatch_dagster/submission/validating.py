"""What is wrong with an answer, held against what answers are to be."""

from __future__ import annotations

from collections.abc import Callable

from ractobatch_dagster.requests.body import TURNS, RequestTemplate
from ractobatch_dagster.results.classify import parse_text

__all__ = ["Validator", "validator"]

Validator = Callable[[str | None], str | None]
"""What is wrong with an answer's text, or `None`."""


def validator(template: RequestTemplate) -> Validator | None:
    """What is wrong with an answer, held against the output type of a template; `None` where it has none, or where
    nobody can be shown an answer again."""
    output_type = template.output_type
    if output_type is None or template.endpoint not in TURNS:
        return None
    return lambda text: parse_text(text, output_type)[1]
