"""The user's function as Dagster sees it: its upstream frames, config and resources, plus what we need ourselves."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import dagster as dg

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.io_manager import EACH_PARTITION
from ractobatch_dagster.resource import OpenAIBatchResource

__all__ = ["Signature", "key_of", "present"]

_CONTEXT = ("context", "_context", "_")


@dataclass(frozen=True, slots=True)
class Signature:
    """What the function takes and returns.

    Attributes:
        frames: The names of its parameters that are upstream assets.
        context: The name of its first parameter if that is the context.
        others: Its config and resources.
        returns: Its return annotation, resolved where that is possible.
    """

    function: Callable[..., Any]
    parameters: tuple[inspect.Parameter, ...]
    frames: tuple[str, ...]
    context: str | None
    returns: Any

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Signature:
        """Read the function's signature, with annotations that are strings resolved."""
        try:
            hints = typing.get_type_hints(function, include_extras=True)
        except NameError:
            hints = {}  # a name imported for type checkers only; Dagster reads the rest as it stands
        found = [
            parameter.replace(annotation=hints.get(parameter.name, parameter.annotation))
            for parameter in inspect.signature(function).parameters.values()
        ]
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
            raise ConfigurationError(
                f"{function.__name__}: name every parameter; `*args` and `**kwargs` name no upstream."
            )
        context = found[0].name if found and found[0].name in _CONTEXT else None
        rest = tuple(found[1:] if context else found)
        frames = tuple(p.name for p in rest if p.name != "config" and not _is_resource(p.annotation))
        returns = hints.get("return", inspect.signature(function).return_annotation)
        return cls(function, rest, frames, context, returns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all its parameters but the context."""
        return tuple(one.name for one in self.parameters)

    def ins(self, given: Mapping[str, dg.AssetIn], *, each_partition: bool) -> dict[str, dg.AssetIn]:
        """An `AssetIn` per upstream frame, as given or by its name.

        Args:
            given: What the user set.
            each_partition: Ask for several partitions as a dict of frames, so that the function can be called
                for one after the other.
        """
        unknown = sorted(set(given) - set(self.frames))
        if unknown:
            raise ConfigurationError(
                f"{self.function.__name__}: ins= names {unknown[0]!r}, which is no parameter of it."
            )
        annotations = {p.name: p.annotation for p in self.parameters}
        mark = {EACH_PARTITION: True} if each_partition else {}
        made = {}
        for name in self.frames:
            one = given.get(name) or dg.AssetIn()
            made[name] = dg.AssetIn(
                key=one.key,
                key_prefix=one.key_prefix,
                metadata={**mark, **dict(one.metadata or {})},
                input_manager_key=one.input_manager_key,
                partition_mapping=one.partition_mapping,
                dagster_type=_relaxed(annotations[name]),
            )
        return made

    def compute(self, name: str, resource_key: str, run: Callable[..., Any]) -> Callable[..., Any]:
        """A function for `dg.asset` that takes what the user's takes, the context and our resource.

        Args:
            name: Its name.
            resource_key: The name of the parameter that gets the `OpenAIBatchResource`.
            run: Called with `(context, resource, arguments of the user's function)`.
        """
        own = set(self.names)

        def body(context: dg.AssetExecutionContext, **arguments: Any) -> Any:
            resource = arguments[resource_key]
            return run(context, resource, {key: value for key, value in arguments.items() if key in own})

        return present(body, name, resource_key, self.parameters, self.function.__doc__)

    def call(self, context: dg.AssetExecutionContext, arguments: Mapping[str, Any]) -> Any:
        """Call the user's function."""
        return self.function(context, **arguments) if self.context else self.function(**arguments)


def key_of(name: str, given: dg.AssetIn) -> dg.AssetKey:
    """The asset that a parameter of this name stands for."""
    if given.key is not None:
        return dg.AssetKey.from_coercible(given.key)
    return dg.AssetKey(name).with_prefix(given.key_prefix or [])


def present(
    body: Callable[..., Any],
    name: str,
    resource_key: str,
    parameters: Sequence[inspect.Parameter] = (),
    doc: str | None = None,
    *,
    context: type = dg.AssetExecutionContext,
) -> Callable[..., Any]:
    """Give `body(context, **arguments)` the signature that Dagster is to see."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    shown = [
        inspect.Parameter("context", kind, annotation=context),
        *(p.replace(kind=kind, default=inspect.Parameter.empty) for p in parameters),
    ]
    if resource_key not in {p.name for p in shown}:
        shown.append(inspect.Parameter(resource_key, kind, annotation=OpenAIBatchResource))
    body.__name__ = body.__qualname__ = name
    body.__doc__ = doc
    body.__annotations__ = {p.name: p.annotation for p in shown if p.annotation is not inspect.Parameter.empty}
    body.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
    return body


def _is_resource(annotation: Any) -> bool:
    if "resource_param" in getattr(annotation, "__metadata__", ()):  # dg.ResourceParam[...]
        return True
    return isinstance(annotation, type) and issubclass(annotation, dg.ConfigurableResource)


@cache
def _relaxed(annotation: Any) -> dg.DagsterType:
    """A type that tells an IO manager what to load, and lets several partitions through as a dict of it."""
    known = Any if annotation is inspect.Parameter.empty or isinstance(annotation, str) else annotation
    label = getattr(known, "__qualname__", str(known))
    module = getattr(known, "__module__", "")
    return dg.DagsterType(
        type_check_fn=lambda _, value: True,
        name="".join(c if c.isalnum() else "_" for c in f"Frame_{module}_{label}"),
        typing_type=known,
        description=f"{label}, or several partitions of it",
    )
