"""What an answer is to be, as a Pydantic model: a model as it is, a dataclass, a TypedDict, or a JSON Schema."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, Field

from ractobatch_dagster.answer_model import CANNOT_BE, answer_model
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.records import asked_fields, bare, field_hints, is_record, may_be_missing
from ractobatch_dagster.schema_model import model_of_schema

__all__ = ["output_type"]


def output_type(output: Any, *, name: str = "Answer") -> type[BaseModel]:
    """The Pydantic model that answers must be instances of.

    Args:
        output: A Pydantic model, a dataclass, a TypedDict, or a JSON Schema whose root is an object. Dataclasses and
            TypedDicts become models of the same fields, those inside of them as well; a key that may be missing may be
            null, since strict mode leaves none out. A dataclass's field that is not given (`init=False`) is not asked
            for.
        name: What to call the model of a schema without a title.

    Raises:
        ConfigurationError: It is none of these, or says what no answer can be held to; the field's path is named.
    """
    if isinstance(output, type) and issubclass(output, BaseModel):
        return output
    if isinstance(output, Mapping):
        return model_of_schema(output, name)
    if not is_record(output):
        raise ConfigurationError(
            f"output: {output!r} is no Pydantic model, dataclass, TypedDict or JSON Schema, "
            "one of which an answer must be."
        )
    try:
        return _Records().model(output, "output", ())
    except RecursionError:
        raise ConfigurationError(f"output: {_name(output)} is nested too deeply.") from None


class _Records:
    """The models of dataclasses and TypedDicts, one for each however often it is met."""

    def __init__(self) -> None:
        self._made: dict[Any, type[BaseModel]] = {}

    def model(self, kind: Any, path: str, inside: tuple[Any, ...]) -> type[BaseModel]:
        """The model of one; `inside` are those around it."""
        if kind in inside:
            raise ConfigurationError(f"{path}: {_name(kind)} contains itself; only a Pydantic model or a schema may.")
        if kind not in self._made:
            try:
                hints = field_hints(kind)
            except CANNOT_BE as error:
                raise ConfigurationError(f"{path}: {_name(kind)} cannot be an answer: {error}") from error
            fields = {}
            for name, field in _fields(kind, hints, path).items():
                annotation = self._plain(bare(hints[name]), f"{path}.{name}", (*inside, kind))
                fields[name] = (annotation, field) if field else (Union[annotation, None], Field(default=None))  # noqa: UP007
            self._made[kind] = answer_model(_name(kind), fields, path, **_about(get_origin(kind) or kind))
        return self._made[kind]

    def _plain(self, annotation: Any, path: str, inside: tuple[Any, ...]) -> Any:
        """The annotation with models in the place of dataclasses and TypedDicts."""
        if is_record(annotation):
            return self.model(annotation, path, inside)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is None or origin is Literal:
            return annotation
        if origin is Annotated:
            return Annotated[(self._plain(args[0], path, inside), *args[1:])]
        made = tuple(self._plain(arg, path, inside) for arg in args)
        if made == args:
            return annotation
        return Union[made] if origin in (Union, types.UnionType) else origin[made]  # noqa: UP007


def _name(kind: Any) -> str:
    origin, args = get_origin(kind) or kind, get_args(kind)
    name: str = origin.__name__
    return f"{name}[{', '.join(getattr(arg, '__name__', str(arg)) for arg in args)}]" if args else name


def _about(kind: Any) -> dict[str, Any]:
    """What a model has of the class that it stands for, beside the fields."""
    doc = kind.__doc__
    said = doc if doc and not doc.startswith(f"{kind.__name__}(") else None  # a dataclass writes one of its own
    config = vars(kind).get("__pydantic_config__")
    return {"__doc__": said, "__module__": kind.__module__, **({"__config__": config} if config else {})}


def _fields(kind: Any, hints: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Each field as Pydantic has it; `None` for a key that may be missing.

    Raises:
        ConfigurationError: A dataclass has code of its own, which would not come along.
    """
    origin = get_origin(kind) or kind
    if not dataclasses.is_dataclass(origin):
        return {name: None if may_be_missing(kind, name, hint) else Field() for name, hint in hints.items()}
    told = getattr(origin, "__pydantic_decorators__", None)
    if told and any(getattr(told, one.name) for one in dataclasses.fields(told)):
        raise ConfigurationError(f"{path}: {_name(kind)} has validators; make it a Pydantic model.")
    if hasattr(origin, "__post_init__"):
        raise ConfigurationError(f"{path}: {_name(kind)} has a `__post_init__`; make it a Pydantic model.")
    return {name: said or _field(field) for name, (field, said) in asked_fields(kind).items()}


def _field(field: dataclasses.Field[Any]) -> Any:
    said: dict[str, Any] = {}
    if "description" in field.metadata:
        said["description"] = field.metadata["description"]
    if field.default is not dataclasses.MISSING:
        said |= {"default": field.default, "validate_default": field.default is not None}
    if field.default_factory is not dataclasses.MISSING:
        said |= {"default_factory": field.default_factory, "validate_default": True}
    return Field(**said)
