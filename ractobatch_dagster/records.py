"""Dataclasses and TypedDicts: which fields they have, and of what types."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Final, NotRequired, Required, TypeVar, get_args, get_origin, get_type_hints

from pydantic.fields import FieldInfo
from typing_extensions import ReadOnly, is_typeddict  # which knows those of `typing` as well

__all__ = ["asked_fields", "bare", "field_hints", "is_record", "may_be_missing"]


def is_record(kind: Any) -> bool:
    """Whether it is a dataclass or a TypedDict; generic ones may have arguments."""
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and (dataclasses.is_dataclass(origin) or is_typeddict(origin))


def field_hints(kind: Any, *, bases: bool = True) -> dict[str, Any]:
    """The annotation of each field, with what the type variables in it stand for.

    Args:
        kind: The dataclass or TypedDict.
        bases: Whether a class that derives from `Box[int]` says what `Box` is of. Pydantic does not look that far.

    Raises:
        NameError: An annotation names what cannot be found.
    """
    origin = get_origin(kind) or kind
    meant = dict(zip(getattr(origin, "__parameters__", ()), get_args(kind), strict=False))
    parents = [one for one in vars(origin).get("__orig_bases__", origin.__bases__) if is_record(one)] if bases else []
    known = [(_hints(one), field_hints(_meant(one, meant))) for one in parents]
    # a TypedDict has the annotations of its bases as its own
    return {
        name: next((found[name] for said, found in known if said.get(name) == hint), _meant(hint, meant))
        for name, hint in _hints(kind).items()
    }


def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(get_origin(kind) or kind, include_extras=True)


def _meant(annotation: Any, meant: dict[Any, Any]) -> Any:
    """The annotation with arguments in the place of type variables."""
    if isinstance(annotation, TypeVar):
        return meant.get(annotation, annotation)
    open_ones = getattr(annotation, "__parameters__", ())
    if not open_ones or get_origin(annotation) is None:
        return annotation
    return annotation[tuple(meant.get(one, one) for one in open_ones)]


def asked_fields(kind: Any) -> dict[str, tuple[dataclasses.Field[Any], FieldInfo | None]]:
    """The fields that a dataclass is made with, and what is said of each by Pydantic's `Field(…)`."""
    origin = get_origin(kind) or kind
    told = getattr(origin, "__pydantic_fields__", {})
    fields = {}
    for one in dataclasses.fields(origin):
        info = told.get(one.name, one.default)
        said = info if isinstance(info, FieldInfo) else None
        if one.init and (said is None or said.init is not False):
            fields[one.name] = (one, said)
    return fields


def bare(annotation: Any) -> Any:
    """The annotation without `Required`, `NotRequired`, `ReadOnly` and `Final`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Required, NotRequired, ReadOnly, Final):
        return bare(args[0])
    if origin is Annotated:
        return Annotated[(bare(args[0]), *args[1:])]
    return annotation


def may_be_missing(kind: Any, name: str, hint: Any) -> bool:
    """Whether a TypedDict may be without a key; where annotations are texts, the class itself does not know."""
    origin = get_origin(hint)
    if origin in (Required, NotRequired):
        return origin is NotRequired
    if origin in (ReadOnly, Annotated):
        return may_be_missing(kind, name, get_args(hint)[0])
    return name not in (get_origin(kind) or kind).__required_keys__
