"""Making a valid instance of a JSON schema, the same one each time for the same text.

Values come from the text where a field's name says what it wants, and are drawn by a hash of the text and the
field's path otherwise. Of a schema that refers to itself, the smallest instance is made from the second time
around.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from typing import Any

import msgspec

from ractobatch_dagster.local import meaning
from ractobatch_dagster.local.rules import Reading
from ractobatch_dagster.local.strings import fit_length, formatted, matches, of_pattern

__all__ = ["SchemaError", "make_instance"]

Schema = Mapping[str, Any]

_DEEPEST = 60
_ENOUGH = 300  # values; what follows is as small as the schema allows
_MOST = 50_000
_TRIES = 50
_PREFERENCE = {"string": 1, "null": 2}
_TYPES = {
    "properties": "object",
    "additionalProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minimum": "number",
    "maximum": "number",
    "pattern": "string",
    "minLength": "string",
    "maxLength": "string",
    "format": "string",
}
_PLAIN = frozenset({"type", "title", "description", "default", "examples", "minLength", "maxLength", "pattern"})
"""All that a schema may say of a text for words of the text to do: what else it asks for, `matches` does not see."""


class SchemaError(ValueError):
    """There is no instance of the schema, or this module does not find one; the message says where."""


def make_instance(schema: Any, reading: Reading) -> Any:
    """Make a valid instance of `schema` for a text.

    Raises:
        SchemaError: The schema cannot be used.
    """
    if not isinstance(schema, Mapping):
        raise SchemaError("an object is expected.")
    return _Maker(schema, reading).make(schema, _Place())


class _Place:
    """Where in the instance a value stands, and which references led there."""

    __slots__ = ("depth", "name", "path", "refs")

    def __init__(self, name: str = "", path: str = "", refs: tuple[str, ...] = (), depth: int = 0) -> None:
        self.name, self.path, self.refs, self.depth = name, path, refs, depth

    def child(self, key: str | int) -> _Place:
        """The place of a property or of an item; an item keeps the name of its list."""
        name = key.lower() if isinstance(key, str) else self.name
        return _Place(name, f"{self.path}/{key}", self.refs, self.depth + 1)

    def through(self, ref: str) -> _Place:
        """The same place, behind a reference."""
        return _Place(self.name, self.path, (*self.refs, ref), self.depth)


class _Maker:
    def __init__(self, root: Schema, reading: Reading) -> None:
        self._root, self._reading = root, reading
        self._seed = zlib.crc32(reading.text.encode("utf-8", "replace"))
        self._made = 0

    def make(self, schema: Any, place: _Place) -> Any:
        """A value for `schema` at `place`."""
        self._made += 1
        if schema is False or place.depth > _DEEPEST or self._made > _MOST:
            raise SchemaError(f"no finite instance at {place.path or '/'}.")
        schema, place = self._flat({} if schema is True else schema, place)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self._choose(schema["enum"], place)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._alternative(schema, key, place)
        return self._typed(schema, place)

    def _is_small(self, place: _Place) -> bool:
        """Whether only what must be is to be made: a reference leads here for the third time, or it is enough."""
        return self._made > _ENOUGH or (bool(place.refs) and place.refs.count(place.refs[-1]) > 2)

    def _typed(self, schema: Schema, place: _Place) -> Any:
        kind = schema.get("type") or next((_TYPES[key] for key in schema if key in _TYPES), "string")
        if isinstance(kind, list):
            kinds = [one for one in kind if one != "null"]
            kind = "null" if not kinds or (self._is_small(place) and "null" in kind) else kinds[0]
        if kind == "object":
            return self._object(schema, place)
        if kind == "array":
            return self._array(schema, place)
        if kind == "string":
            return self._string(schema, place)
        if kind in ("integer", "number"):
            return self._number(schema, place, whole=kind == "integer")
        if kind == "boolean":
            known = meaning.boolean(place.name, self._reading)
            return self._draw(place.path) < 0.5 if known is None else known
        if kind == "null":
            return None
        raise SchemaError(f"unknown type {kind!r} at {place.path or '/'}.")

    def _flat(self, schema: Any, place: _Place) -> tuple[dict[str, Any], _Place]:
        """The schema with references followed and `allOf` merged in."""
        if not isinstance(schema, Mapping):
            raise SchemaError(f"an object is expected at {place.path or '/'}.")
        flat = dict(schema)
        while "$ref" in flat:
            ref = flat.pop("$ref")
            if place.refs.count(ref) > _DEEPEST:
                raise SchemaError(f"the reference {ref} leads to itself.")
            flat = {**self._lookup(ref), **flat}
            place = place.through(ref)
        for part in flat.pop("allOf", ()):
            other, place = self._flat(part, place)
            properties = {**flat.get("properties", {}), **other.get("properties", {})}
            required = [*flat.get("required", ()), *other.get("required", ())]
            flat = {**flat, **other}
            if properties:
                flat |= {"properties": properties, "required": required}
        return flat, place

    def _lookup(self, ref: str) -> Schema:
        target: Any = self._root
        for step in ref.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            target = target.get(key) if isinstance(target, Mapping) else None
        if not ref.startswith("#") or not isinstance(target, Mapping):
            raise SchemaError(f"the reference {ref} leads nowhere.")
        return target

    def _choose(self, options: Sequence[Any], place: _Place) -> Any:
        if not options:
            raise SchemaError(f"an empty enum at {place.path}.")
        known = meaning.choose(place.name, options, self._reading)
        return options[int(self._draw(place.path) * len(options))] if known is None else known

    def _alternative(self, schema: Schema, key: str, place: _Place) -> Any:
        rest = {name: value for name, value in schema.items() if name not in (key, "discriminator", "default")}
        options = [{**rest, **option} for option in schema[key] if isinstance(option, Mapping)]
        if self._is_small(place):
            options.sort(key=lambda option: self._height(option, self._heights))
        else:
            start = int(self._draw(place.path + key) * len(options))
            options = options[start:] + options[:start]
            # A bare string comes last: beside a number it most often is a number's other spelling.
            options.sort(key=lambda option: _PREFERENCE.get(str(option.get("type")), 0))
        for option in options:
            try:
                return self.make(option, place)
            except SchemaError as error:
                problem = error
        raise problem if options else SchemaError(f"an empty {key} at {place.path}.")

    @cached_property
    def _heights(self) -> dict[str, float]:
        """How deep the smallest instance behind each reference is; infinite where it needs itself."""
        heights = dict.fromkeys(_references(self._root), math.inf)
        for _ in range(len(heights)):
            heights |= {ref: self._height(self._lookup(ref), heights) for ref in heights}
        return heights

    def _height(self, schema: Any, heights: Mapping[str, float]) -> float:
        """How deep the smallest instance of `schema` is, by those of the references in it."""
        if not isinstance(schema, Mapping):
            return 1
        if "$ref" in schema:
            return heights.get(schema["$ref"], math.inf)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return min((self._height(one, heights) for one in schema[key]), default=math.inf)
        below = [schema.get("properties", {}).get(name) for name in schema.get("required", ())]
        below += schema.get("allOf", ())
        if schema.get("minItems"):
            below += [*schema.get("prefixItems", ()), schema.get("items")]
        return 1 + max((self._height(one, heights) for one in below), default=0)

    def _object(self, schema: Schema, place: _Place) -> dict[str, Any]:
        properties, required = schema.get("properties") or {}, schema.get("required") or ()
        names = required if self._is_small(place) else properties
        extra = schema.get("additionalProperties", True)
        made = {
            name: self.make(properties.get(name, extra), place.child(name))
            for name in dict.fromkeys([*names, *required])
        }
        least = schema.get("minProperties", 0)
        if not properties and isinstance(extra, Mapping) and extra and not self._is_small(place):
            least = max(least, min(1, schema.get("maxProperties", 1)))
        for name in self._new_names(schema, place):
            if len(made) >= least:
                break
            made.setdefault(name, self.make(extra, place.child(name)))
        return made

    def _new_names(self, schema: Schema, place: _Place) -> Iterator[str]:
        """Names for properties that the schema does not name."""
        allowed = schema.get("propertyNames")
        if allowed is None:
            yield from self._reading.keywords[:10]
            yield from (f"key_{number}" for number in range(_TRIES))
            return
        flat, _ = self._flat(allowed, place)
        yield from flat.get("enum", ())
        for number in range(_TRIES):
            yield str(self.make(allowed, place.child(f"name{number}")))

    def _array(self, schema: Schema, place: _Place) -> list[Any]:
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        if least > _MOST:
            raise SchemaError(f"more than {_MOST} items at {place.path}.")
        made = [self.make(one, place.child(i)) for i, one in enumerate(schema.get("prefixItems", ()))]
        items = schema.get("items", True)
        if items is False or (made and "items" not in schema and len(made) >= least):
            return made
        known = self._known_strings(items, place)
        made += known or ()
        wanted = 0 if self._is_small(place) or known is not None else 1 + int(self._draw(place.path) * 2)
        wanted = max(least, len(made) if made else min(wanted, most))
        unique = schema.get("uniqueItems", False)
        seen = {msgspec.json.encode(one) for one in made} if unique else set()
        for number in range(len(made), len(made) + _TRIES + int(wanted)):
            if len(made) >= wanted:
                break
            one = self.make(items, place.child(number))
            if not unique or (key := msgspec.json.encode(one)) not in seen:
                made.append(one)
                if unique:
                    seen.add(key)
        if len(made) < least:
            self._top_up(made, items, int(least), place)
        return made if len(made) <= most else made[: int(most)]

    def _top_up(self, made: list[Any], items: Any, least: int, place: _Place) -> None:
        """Find more distinct items where drawing found too few: what else an enum, a range or a length leaves."""
        flat, _ = self._flat({} if items is True else items, place)
        count = range(1, least + len(made) + 1)
        options: Sequence[Any] = flat.get("enum", ())
        if not options:
            one = self.make(flat, place.child(0))
            if isinstance(one, bool):
                options = (False, True)
            elif isinstance(one, int | float):
                step = flat.get("multipleOf") or 1
                near = (one + sign * number * step for number in count for sign in (1, -1))
                options = [number for number in near if _is_within(number, flat)]
            elif isinstance(one, str) and flat.keys() <= _PLAIN:
                numbered = (fit_length(f"{number} {one}", flat) for number in count)
                options = [text for text in dict.fromkeys(numbered) if matches(text, flat)]
        made += [option for option in options if option not in made][: least - len(made)]
        if len(made) < least:
            raise SchemaError(f"not enough different items at {place.path}.")

    def _known_strings(self, items: Any, place: _Place) -> list[str] | None:
        """What the text says for a list of plain texts with this name."""
        if not isinstance(items, Mapping) or items.get("type") != "string" or not items.keys() <= _PLAIN:
            return None
        known = meaning.strings(place.name, self._reading)
        return None if known is None else list(dict.fromkeys(text for text in known if matches(text, items)))

    def _string(self, schema: Schema, place: _Place) -> str:
        if schema.get("minLength", 0) > 1_000_000:
            raise SchemaError(f"more than a million characters at {place.path}.")
        if "format" in schema:
            draw = zlib.crc32(place.path.encode(), self._seed)
            text = formatted(schema["format"], draw, self._reading.text)
            if text is not None:
                return text
        text = meaning.string(place.name, self._reading) or self._word(place)
        candidates = [fit_length(text, schema)]
        if "pattern" in schema:
            candidates += [word for word in self._reading.keywords if matches(word, schema)]
            candidates += of_pattern(schema["pattern"], self._seed)
        return next((one for one in candidates if matches(one, schema)), candidates[-1])

    def _word(self, place: _Place) -> str:
        words = self._reading.keywords
        return words[int(self._draw(place.path) * len(words))] if words else "text"

    def _number(self, schema: Schema, place: _Place, *, whole: bool) -> int | float:
        share, low, high = meaning.number(place.name, self._reading) or (self._draw(place.path), 0.0, 10.0)
        if whole and low < 0:
            low, high = 0.0, 10.0
        above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
        given_low = max(_numbers(schema.get("minimum"), above), default=None)
        given_high = min(_numbers(schema.get("maximum"), below), default=None)
        if given_low is not None:
            low, high = given_low, max(high, given_low + (high - low))
        if given_high is not None:
            low, high = (low if given_low is not None else min(low, given_high - 10)), given_high
        step = schema.get("multipleOf") or (1 if whole else None)
        if step is not None:
            return _on_grid(low, high, step, share, above, below, whole=whole)
        value = low + (high - low) * min(max(share, 0.01), 0.99)
        rounded = round(value, 3)
        return rounded if low < rounded < high else value

    def _draw(self, path: str) -> float:
        """A number from 0 up to but without 1, of the text and the path."""
        return zlib.crc32(path.encode(), self._seed) / 2**32


def _references(schema: Any) -> Iterator[str]:
    """Every reference in a schema that leads into it."""
    if isinstance(schema, Mapping):
        ref = schema.get("$ref")
        if isinstance(ref, str):
            yield ref
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _numbers(*bounds: Any) -> list[float]:
    return [bound for bound in bounds if isinstance(bound, int | float) and not isinstance(bound, bool)]


def _is_within(number: float, schema: Schema) -> bool:
    """Whether a number is in the range that a schema gives."""
    low, above = schema.get("minimum", -math.inf), schema.get("exclusiveMinimum", -math.inf)
    high, below = schema.get("maximum", math.inf), schema.get("exclusiveMaximum", math.inf)
    return bool(low <= number <= high and above < number < below)


def _on_grid(low: float, high: float, step: float, share: float, above: Any, below: Any, *, whole: bool) -> int | float:
    """The multiple of `step` that lies at `share` of the range."""
    size = Fraction(str(step))
    if whole and size.denominator != 1:
        size = Fraction(size.numerator)
    first, last = math.ceil(Fraction(str(low)) / size), math.floor(Fraction(str(high)) / size)
    if _numbers(above) and first * size <= Fraction(str(above)):
        first += 1
    if _numbers(below) and last * size >= Fraction(str(below)):
        last -= 1
    if last < first:
        raise SchemaError(f"no multiple of {step} lies between {low} and {high}.")
    value = size * (first + round(share * (last - first)))
    return int(value) if whole else float(value)
