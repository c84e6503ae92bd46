"""Models as the functions that a language model may call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.json_schema import response_format
from ractobatch_dagster.output import output_type

__all__ = ["calls_model", "field_of", "function_of", "tool_models"]


def tool_models(tools: Sequence[Any]) -> dict[str, type[BaseModel]]:
    """The models of these tools, by the names under which they are called.

    Args:
        tools: Whatever `output_type` takes. A tool is called as its class is, in snake case.

    Raises:
        ConfigurationError: One is no such thing, or no object; or two have the same name.
    """
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise ConfigurationError(f"tools: {tools!r} is no list of models.")
    models: dict[str, type[BaseModel]] = {}
    for tool in tools:
        try:
            model = output_type(tool)
        except ConfigurationError as error:
            raise ConfigurationError(f"tools: {error}") from error
        name = _snake_case(model.__name__)
        if name in models:
            raise ConfigurationError(f"tools: two are called {name!r}.")
        if response_format(model) is None:
            raise ConfigurationError(f"tools: {model.__name__} is no object, and a function takes nothing else.")
        models[name] = model
    return models


def function_of(name: str, model: type[BaseModel]) -> dict[str, Any]:
    """A tool as the API describes a function: strict wherever the schema allows it, explained by its docstring."""
    return dict(_function(name, model))


@lru_cache(maxsize=64)  # every row of a batch has the same
def _function(name: str, model: type[BaseModel]) -> Mapping[str, Any]:
    made = response_format(model) or {}
    schema = dict(made["json_schema"]["schema"])
    said = schema.pop("description", None)
    about = {"description": said} if said else {}
    return {"name": name, **about, "parameters": schema, "strict": made["json_schema"]["strict"]}


def calls_model(tools: Mapping[str, type[BaseModel]]) -> type[BaseModel]:
    """What all calls of one answer are: a list for each tool, or nothing where it was not called."""
    fields: dict[str, Any] = {field_of(name): (list[model] | None, None) for name, model in tools.items()}  # type: ignore[valid-type]
    made: type[BaseModel] = create_model("Calls", __config__=ConfigDict(protected_namespaces=()), **fields)
    return made


def field_of(name: str) -> str:
    """The field that stands for a tool, whose name may be one that Pydantic has a use for."""
    return f"{name}_" if hasattr(BaseModel, name) or not name.isidentifier() else name


def _snake_case(name: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"\W", "_", words, flags=re.ASCII).lower()[:64]
