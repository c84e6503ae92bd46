"""Rows as requests: what each adds to its line, the hash that is its identity, and the model that it asks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.attachment import RactoFile, may_be_picture, responses_image, user_content
from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.body import (
    CHAT,
    EMBEDDINGS,
    MESSAGES,
    MODERATIONS,
    RESPONSES,
    TURNS,
    RequestTemplate,
    is_raw,
    is_reasoning_model,
)
from ractobatch_dagster.requests.encode import Encoder, body_hash, body_part, escape, escape_all
from ractobatch_dagster.requests.overrides import Overrides, Own

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Rendered", "Requests"]

_VARIANTS = 1_000
"""So many ways of asking are kept rendered; rows that share one cost little more than those that all are alike."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """Some rows' requests, in the order of the rows.

    Attributes:
        parts: What each adds to its line: the escaped prompt, or where rows differ in more its own part of the body.
        hashes: The 16 bytes of each one's hash. Of a row without a prompt both mean nothing.
        models: The model that each asks; `None` where that is the same for all.
    """

    parts: list[bytes]
    hashes: list[bytes]
    models: list[str | None] | None = None


class Requests:
    """Makes requests of rows.

    Args:
        provider: The provider's identity.
        template: What all requests share.
        overrides: The columns by which rows differ from it, if there are any.

    Raises:
        InvalidInputError: The template cannot be written as JSON, or has no place for a prompt.
    """

    def __init__(self, provider: str, template: RequestTemplate, overrides: Overrides | None = None) -> None:
        self._provider, self._template, self.overrides = provider, template, overrides
        plain = Encoder.of(provider, template)
        self.encoder = plain if overrides is None else Encoder.of_bodies(template.endpoint)
        self._models: dict[str, None] = {}
        self._most: list[int | None] = (
            [_most_tokens(template.endpoint, template.body("x"))] if overrides is None else []
        )
        self._variant = lru_cache(_VARIANTS)(self._made)

    def check(self, schema: pa.Schema, where: str) -> None:
        """Refuse a frame that lacks a column of the overrides."""
        if self.overrides is not None:
            self.overrides.check(schema, where)

    def check_rows(self, block: pa.RecordBatch, named: Callable[[int], str]) -> None:
        """Refuse what a row says and what cannot be sent; `named` is how to call one in an error."""
        if self.overrides is not None:
            self.overrides.rows(block, named)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that rows named so far, the template's own included; empty where rows cannot name any."""
        return tuple(self._models)

    @property
    def most_tokens(self) -> int | None:
        """How many output tokens any request so far may take at most; `None` where one is not limited."""
        limits = [limit for limit in self._most if limit is not None]
        return max(limits, default=0) if len(limits) == len(self._most) else None

    def render(self, block: pa.RecordBatch, prompts: Sequence[str], named: Callable[[int], str]) -> Rendered:
        """The requests of some rows.

        Args:
            block: The rows.
            prompts: The prompt of each; empty where there is nothing to ask.
            named: How to call one of them in an error.

        Raises:
            InvalidInputError: What a row says cannot be sent; names the row.
        """
        if self.overrides is None:
            escaped = escape_all(prompts)
            return Rendered(escaped, self.encoder.hashes(escaped))
        parts, hashes, models = [], [], list[str | None]()
        for row, (own, prompt) in enumerate(zip(self.overrides.rows(block, named), prompts, strict=True)):
            try:
                part, hash_, model = self._one(own, prompt) if prompt else (b"", bytes(16), None)
            except InvalidInputError as error:
                raise InvalidInputError(f"{named(row)}: {error}") from error
            parts.append(part)
            hashes.append(hash_)
            models.append(model)
        self._models |= dict.fromkeys(model for model in models if model)
        return Rendered(parts, hashes, models)

    def bodies(
        self, block: pa.RecordBatch, prompts: Sequence[str], named: Callable[[int], str]
    ) -> list[dict[str, Any]]:
        """The whole request body of each of some rows.

        Raises:
            InvalidInputError: As `render`.
        """
        if self.overrides is None:
            return [self._template.body(prompt) for prompt in prompts]
        own = self.overrides.rows(block, named)
        return [self._body(one, prompt) or self._of(one).body(prompt) for one, prompt in zip(own, prompts, strict=True)]

    def _one(self, own: Own, prompt: str) -> tuple[bytes, bytes, str]:
        body = self._body(own, prompt)
        if body is not None:
            self._limited(body, known=not any(isinstance(one, str) for one in own.files or ()))
            return (
                body_part(self._template.endpoint, body),
                body_hash(self._provider, self._template.endpoint, body),
                str(body["model"]),
            )
        if is_raw(self._template.endpoint):
            raise InvalidInputError(f"it has no body, and nothing else can be sent to {self._template.endpoint}")
        variant, escaped = self._variant(own), escape(prompt)
        return variant.before + escaped + variant.after, variant.hasher.hashes([escaped])[0], variant.model

    def _limited(self, body: Mapping[str, Any], *, known: bool = True) -> None:
        # what lies at an address may be of any size
        most = _most_tokens(self._template.endpoint, body) if known else None
        if most not in self._most:
            self._most.append(most)

    def _body(self, own: Own, prompt: str) -> dict[str, Any] | None:
        """The body that a row gives as a whole, but for the model where it names none; or one with files."""
        if own.body is not None:
            return {"model": own.model or self._template.model, **own.body}
        if not own.files:
            return None
        body, endpoint = self._of(own).body(prompt), self._template.endpoint
        turns = str(TURNS[endpoint])
        *before, last = body[turns]
        return {**body, turns: [*before, {**last, "content": _content(prompt, own.files, endpoint)}]}

    def parts(self, block: pa.RecordBatch) -> list[pa.RecordBatch]:
        """The block, in small parts where rows have files, which may be much larger than what names them."""
        if self.overrides is None or "files" not in self.overrides.columns:
            return [block]
        return [block.slice(start, _WITH_FILES) for start in range(0, len(block), _WITH_FILES)]

    def _made(self, own: Own) -> _Variant:
        template = self._of(own)
        hasher, place = Encoder.of(self._provider, template), _PLACE
        while (part := body_part(template.endpoint, body := template.body(place))).count(place.encode()) != 1:
            place += "-"
        self._limited(body)
        before, _, after = part.partition(f'"{place}"'.encode())
        return _Variant(hasher, before, after, str(body["model"]))

    def _of(self, own: Own) -> RequestTemplate:
        """The template as a row has it. A reasoning model takes no temperature: only a row's own goes to one."""
        shared = self._template
        model = own.model or shared.model
        temperature = shared.temperature if own.temperature is None else own.temperature
        if own.temperature is None and model != shared.model and is_reasoning_model(model):
            temperature = None
        return replace(
            shared,
            model=model,
            system=own.system or shared.system,
            temperature=temperature,
            max_tokens=own.max_tokens or shared.max_tokens,
            extra={**shared.extra, **(json.loads(own.extra) if own.extra else {})},
        )


_WITH_FILES = 32
"""So many rows with files are in memory at a time."""


_SHAPES = {CHAT: "openai", RESPONSES: "openai-responses", MESSAGES: "anthropic"}

_AT_AN_ADDRESS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    CHAT: lambda url: {"type": "image_url", "image_url": {"url": url}},
    RESPONSES: lambda url: responses_image(url) if may_be_picture(url) else {"type": "input_file", "file_url": url},
    MESSAGES: lambda url: {
        "type": "image" if may_be_picture(url) else "document",
        "source": {"type": "url", "url": url},
    },
}


def _content(text: str, files: Sequence[RactoFile | str], endpoint: str) -> list[dict[str, Any]]:
    """The content of a turn with files."""
    shape = _SHAPES[endpoint]
    parts = list[dict[str, Any]]()
    for one in files:
        if isinstance(one, RactoFile):
            parts += user_content("", [one], shape)["content"][:1]
        else:
            parts.append(_AT_AN_ADDRESS[endpoint](one))
    kind = "input_text" if endpoint == RESPONSES else "text"
    return [*parts, {"type": kind, "text": text}]


def _most_tokens(endpoint: str, body: Mapping[str, Any]) -> int | None:
    """How many output tokens a body admits."""
    if endpoint in (EMBEDDINGS, MODERATIONS):
        return 0  # those have none
    most = next((body[name] for name in _LIMITS if body.get(name) is not None), None)
    limits = most, body.get("best_of") or body.get("n", 1)
    # what is no number from 1 the provider refuses, or reads in its own way
    return math.prod(limits) if all(isinstance(one, int) and one > 0 for one in limits) else None


_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")

_PLACE = "the-prompt-goes-here"


@dataclass(frozen=True, slots=True)
class _Variant:
    """One way of asking: what stands around the prompt in the body, and who hashes it."""

    hasher: Encoder
    before: bytes
    after: bytes
    model: str
