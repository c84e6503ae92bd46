"""What answers hold beyond a text, each of which is columns of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

__all__ = ["Form"]


@dataclass(frozen=True, slots=True)
class Form:
    """What is asked of an answer.

    Attributes:
        output_type: What the text is an instance of.
        tools: The functions that may be called, by name.
        choices: Whether there are several answers, all of which are kept.
        logprobs: Whether the probability of each token is kept.
    """

    output_type: type[BaseModel] | None = None
    tools: Mapping[str, type[BaseModel]] = field(default_factory=dict)
    choices: bool = False
    logprobs: bool = False

    @property
    def names(self) -> list[str]:
        """The names of the answer's columns."""
        more = [name for name in ("choices", "logprobs") if getattr(self, name)]
        return [*(self.output_type.model_fields if self.output_type else ()), *self.tools, *more]
