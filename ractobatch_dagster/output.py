"""What an answer is to be, as a Pydantic model: a model as it is, a dataclass, a TypedDict, or a JSON Schema."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import (
    Annotated,
    Any,
    Literal,
    NotRequired,
    Required,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from pydantic import BaseModel, Field, PydanticSchemaGenerationError, PydanticUserError, create_model
from pydantic.fields import FieldInfo

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.schema_model import model_of_schema

__all__ = ["output_type"]


def output_type(output: Any, *, name: str = "Answer") -> type[BaseModel]:
    """The Pydantic model that answers must be instances of.

    Args:
        output: A Pydantic model, a dataclass, a TypedDict, or a JSON Schema whose root is an object. Dataclasses and
            TypedDicts become models of the same fields, those inside of them as well; a key that may be missing may be
            null, since strict mode leaves none out.
        name: What to call the model of a schema without a title.

    Raises:
        ConfigurationError: It is none of these, or says what no answer can be held to; the field's path is named.
    """
    if isinstance(output, type) and issubclass(output, BaseModel):
        return output
    if isinstance(output, Mapping):
        return model_of_schema(output, name)
    if isinstance(output, type) and (dataclasses.is_dataclass(output) or is_typeddict(output)):
        try:
            return _model(output, ())
        except (NameError, TypeError, PydanticUserError, PydanticSchemaGenerationError) as error:
            raise ConfigurationError(f"output: {output.__name__} cannot be an answer: {error}") from error
    raise ConfigurationError(
        f"output: {output!r} is no Pydantic model, dataclass, TypedDict or JSON Schema, one of which an answer must be."
    )


def _model(kind: Any, inside: tuple[type, ...]) -> type[BaseModel]:
    if kind in inside:
        raise ConfigurationError(f"output: {kind.__name__} contains itself; only a Pydantic model or a schema may.")
    hints = get_type_hints(kind, include_extras=True)
    typed = _dataclass_fields(kind) if dataclasses.is_dataclass(kind) else _keys(kind, hints)
    fields: dict[str, Any] = {}
    for name, field in typed.items():
        annotation = _plain(hints[name], (*inside, kind))
        fields[name] = (annotation, field) if field is not None else (Union[annotation, None], Field(default=None))  # noqa: UP007
    doc = kind.__doc__
    said = doc if doc and not doc.startswith(f"{kind.__name__}(") else None  # a dataclass writes one of its own
    model: type[BaseModel] = create_model(kind.__name__, __doc__=said, __module__=kind.__module__, **fields)
    return model


def _dataclass_fields(kind: Any) -> dict[str, Any]:
    """Each field as Pydantic has it.

    Raises:
        ConfigurationError: One of Pydantic's own dataclasses has validators, which would not come along.
    """
    if fields := getattr(kind, "__pydantic_fields__", None):
        told = kind.__pydantic_decorators__
        if any(getattr(told, one.name) for one in dataclasses.fields(told)):
            raise ConfigurationError(f"output: {kind.__name__} has validators; make it a Pydantic model.")
        return dict(fields)
    if hasattr(kind, "__post_init__"):
        raise ConfigurationError(f"output: {kind.__name__} has a `__post_init__`; make it a Pydantic model.")
    made = {}
    for one in dataclasses.fields(kind):
        if isinstance(one.default, FieldInfo):  # Pydantic's own way to say bounds and descriptions
            made[one.name] = one.default
            continue
        said: dict[str, Any] = {"description": one.metadata["description"]} if "description" in one.metadata else {}
        if one.default is not dataclasses.MISSING:
            said |= {"default": one.default, "validate_default": one.default is not None}
        if one.default_factory is not dataclasses.MISSING:
            said |= {"default_factory": one.default_factory, "validate_default": True}
        made[one.name] = Field(**said)
    return made


def _keys(kind: Any, hints: Mapping[str, Any]) -> dict[str, Any]:
    """Each key; `None` for one that may be missing."""

    def needed(name: str) -> bool:
        # where annotations are texts, the class itself does not know
        said = get_origin(hints[name])
        return said is Required or (said is not NotRequired and name in kind.__required_keys__)

    return {name: Field() if needed(name) else None for name in hints}


def _plain(annotation: Any, inside: tuple[type, ...]) -> Any:
    """The annotation with models in the place of dataclasses and TypedDicts."""
    if isinstance(annotation, type) and (dataclasses.is_dataclass(annotation) or is_typeddict(annotation)):
        return _model(annotation, inside)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is None or origin is Literal:
        return annotation
    if origin is Annotated:
        return Annotated[(_plain(args[0], inside), *args[1:])]
    if origin in (Required, NotRequired):
        return _plain(args[0], inside)
    made = tuple(_plain(arg, inside) if arg is not Ellipsis else arg for arg in args)
    if origin in (Union, types.UnionType):
        return Union[made]  # noqa: UP007 (a type made at run time)
    return origin[made]
