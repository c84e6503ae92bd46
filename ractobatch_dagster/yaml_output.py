"""What a YAML file says of the answers, as a Pydantic model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal

from pydantic import BaseModel, Field

from ractobatch_dagster.answer_model import answer_model
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.output import output_type

__all__ = ["imported", "output_model_of"]

_TYPES: Mapping[str, type] = {"str": str, "int": int, "float": float, "bool": bool}
_LIST = re.compile(r"list\[(.+)\]")


def output_model_of(name: str, output: str | Mapping[str, Any]) -> type[BaseModel]:
    """The output model.

    Args:
        name: What to call it, where it has no name.
        output: The path of a Pydantic model, a dataclass or a TypedDict; a JSON Schema (with `properties`, or a
            keyword such as `$ref`); or a mapping of fields. A field is a type (`str`, `int`, `float`, `bool`, `list[…]`
            of one, with a `?` behind it where there may be none), a list of the texts or of the whole numbers that are
            allowed, or a mapping: `type` or `values` or `fields` (a nested model), with `description`, `many` (a list
            of it) and `optional`.

    Raises:
        ConfigurationError: It is none of these; the field's path is named.
    """
    if isinstance(output, str):
        return _imported(output)
    if _is_schema(output):
        return output_type(output, name=_class_name(name))
    return _model(_class_name(name), output, "output")


def _is_schema(output: Mapping[str, Any]) -> bool:
    """Whether it is a JSON Schema, and no field in short is called `properties`."""
    if any(str(word).startswith("$") for word in output):
        return True
    properties = output.get("properties")
    if not isinstance(properties, Mapping) or output.get("type") == "object":
        return isinstance(properties, Mapping)
    return "fields" not in properties and all(isinstance(one, Mapping) for one in properties.values())


def imported(path: str, what: str) -> Any:
    """What a dotted path names, `package.module.Model` or `package.module:Model`; `None` for one without a dot.

    Raises:
        ConfigurationError: It cannot be imported.
    """
    module, _, name = path.replace(":", ".").rpartition(".")
    try:
        return getattr(import_module(module), name) if module else None
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"{what}: {path!r} cannot be imported: {error}") from error


def _imported(path: str) -> type[BaseModel]:
    found = imported(path, "output")
    if isinstance(found, Mapping) or not isinstance(found, type):
        raise ConfigurationError(
            f"output: {path!r} is no Pydantic model or dataclass; write `package.module.Model`, or its fields."
        )
    return output_type(found)


def _model(name: str, fields: Mapping[str, Any], path: str) -> type[BaseModel]:
    if not isinstance(fields, Mapping) or not fields:
        raise ConfigurationError(f"{path}: give a mapping with at least one field, not {fields!r}.")
    made: dict[str, Any] = {}
    for field, said in fields.items():
        if not str(field).isidentifier() or str(field).startswith("_"):
            raise ConfigurationError(f"{path}: {field!r} is no name for a field: write letters, digits, `_` within.")
        kind, description = _field(said, f"{path}.{field}", f"{name}{_class_name(str(field))}")
        made[str(field)] = (kind, Field(description=description))
    return answer_model(name, made, path)


def _field(said: Any, path: str, name: str) -> tuple[Any, str | None]:
    """The type of a field, and its description."""
    if isinstance(said, str):
        return _type(said, path), None
    if isinstance(said, list | tuple):
        return _values(said, path), None
    if not isinstance(said, Mapping):
        raise ConfigurationError(f"{path}: a field is a type, a list of values or a mapping, not {said!r}.")
    unknown = sorted(said.keys() - {"type", "values", "fields", "description", "many", "optional"})
    ways = [way for way in ("type", "values", "fields") if way in said]
    if unknown or len(ways) != 1:
        wrong = f"{unknown[0]!r} means nothing here" if unknown else f"it has {ways or 'none of them'}"
        raise ConfigurationError(f"{path}: a field has one of `type`, `values` and `fields`; {wrong}.")
    kind: Any
    if "type" in said:
        kind = _type(str(said["type"]), path)
    else:
        kind = _values(said["values"], path) if "values" in said else _model(name, said["fields"], path)
    if said.get("many"):
        kind = list[kind]
    if said.get("optional"):
        kind = kind | None
    return kind, said.get("description")


def _type(text: str, path: str) -> Any:
    if text.endswith("?"):
        return _type(text[:-1], path) | None
    if inner := _LIST.fullmatch(text):
        return list[_type(inner[1], path)]  # type: ignore[misc]
    if text not in _TYPES:
        raise ConfigurationError(f"{path}: {text!r} is no type; there are {', '.join(_TYPES)}, `list[str]` and `str?`.")
    return _TYPES[text]


def _values(values: Any, path: str) -> Any:
    kinds = {type(one) for one in values} if isinstance(values, list | tuple) else set()
    if kinds not in ({str}, {int}):
        raise ConfigurationError(
            f"{path}: the values are a list of texts, or of whole numbers, not {values!r}. "
            "Quote what YAML reads otherwise, such as no."
        )
    return Literal[tuple(values)]


def _class_name(name: str) -> str:
    return "".join(part.capitalize() for part in re.split(r"[^0-9A-Za-z]+", name)) or "Answer"
