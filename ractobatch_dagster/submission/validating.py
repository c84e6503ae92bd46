"""What is wrong with an answer, held against what answers are to be."""

from __future__ import annotations

from collections.abc import Callable

from ractobatch_dagster.requests.body import TURNS, RequestTemplate
from ractobatch_dagster.results import forms

__all__ = ["Validator", "validator"]

Validator = Callable[[str | None, str | None], str | None]
"""What is wrong with an answer, told by its text and by what is stored beside it, or `None`."""


def validator(template: RequestTemplate) -> Validator | None:
    """What is wrong with an answer, held against the output type and the tools of a template; `None` where it has none
    of them, or where nobody can be shown an answer again."""
    return forms.validator(template.form) if template.endpoint in TURNS else None
