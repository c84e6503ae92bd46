"""A Pydantic model made of fields that somebody else's text named, for the answers' columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, PydanticUserError, create_model
from pydantic_core import SchemaError

from ractobatch_dagster.errors import ConfigurationError

__all__ = ["CANNOT_BE", "answer_model"]

CANNOT_BE = (
    *(NameError, SyntaxError, TypeError, AttributeError, ValueError, AssertionError),
    *(SchemaError, PydanticUserError),
)
"""What Pydantic and `typing` raise where annotations are none, or contradict each other."""


def answer_model(name: str, fields: Mapping[str, tuple[Any, Any]], path: str, **options: Any) -> type[BaseModel]:
    """A model of these fields.

    Args:
        name: What to call it.
        fields: Annotation and `Field(…)` by name.
        path: Where it stands in what the user said, for errors.
        options: As `create_model` has them.

    Raises:
        ConfigurationError: A column cannot have a field's name, or Pydantic refuses a field; its path is named.
    """
    for key in fields:
        if key.startswith("_") or key == "Config" or (key.startswith("model_") and hasattr(BaseModel, key)):
            raise ConfigurationError(f"{path}.{key}: a column cannot have this name. Call it otherwise.")
    try:
        return _made(name, fields, options)
    except CANNOT_BE as error:
        why = getattr(error, "message", error)  # without Pydantic's link
        raise ConfigurationError(f"{path}{_culprit(fields, options)}: {why}") from error


def _made(name: str, fields: Mapping[str, tuple[Any, Any]], options: Mapping[str, Any]) -> type[BaseModel]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a field may be called `json` or `copy`
        made: type[BaseModel] = create_model(name, **dict[str, Any](**options, **fields))
    return made


def _culprit(fields: Mapping[str, tuple[Any, Any]], options: Mapping[str, Any]) -> str:
    """The field that alone makes no model."""
    for key, field in fields.items():
        try:
            _made("One", {key: field}, options)
        except CANNOT_BE:
            return f".{key}"
    return ""
