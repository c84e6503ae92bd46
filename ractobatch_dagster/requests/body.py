"""One prompt as the body of one request."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from pydantic import BaseModel

from ractobatch_dagster.embedding import embedding_model
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.form import Form
from ractobatch_dagster.json_schema import output_format, response_format
from ractobatch_dagster.moderation import Moderation
from ractobatch_dagster.output import output_type
from ractobatch_dagster.prompt import Prompt, compiled, output_model
from ractobatch_dagster.provider.profile import Profile
from ractobatch_dagster.tools import function_of, tool_models

__all__ = [
    "CHAT",
    "COMPLETIONS",
    "EMBEDDINGS",
    "ENDPOINTS",
    "MESSAGES",
    "MODERATIONS",
    "RESPONSES",
    "TURNS",
    "RequestTemplate",
    "endpoint_name",
    "is_raw",
    "is_reasoning_model",
    "maker",
    "needless",
    "prompt_name",
]

CHAT, RESPONSES, EMBEDDINGS = "/v1/chat/completions", "/v1/responses", "/v1/embeddings"
COMPLETIONS, MODERATIONS = "/v1/completions", "/v1/moderations"

MESSAGES = "/v1/messages"
"""Anthropic's; nobody names it, since there it takes the place of chat."""

ENDPOINTS: Mapping[str, str] = {
    "chat": CHAT,
    "responses": RESPONSES,
    "embeddings": EMBEDDINGS,
    "completions": COMPLETIONS,
    "moderations": MODERATIONS,
}
"""What people call them. Any other is told by its path, and nothing is known of it but that."""

TURNS: Mapping[str, str] = {CHAT: "messages", MESSAGES: "messages", RESPONSES: "input"}
"""Where in a body the turns of a conversation stand, at those endpoints that have any."""


_LOGPROBS = "message.output_text.logprobs"
"""What a response is asked to include."""

_response_format = lru_cache(maxsize=32)(response_format)  # every row of a batch has the same
_output_format = lru_cache(maxsize=32)(output_format)

_MOST = 4_096
"""The most tokens of a message that does not say it: the Messages API wants to be told."""

# o1, o3-mini, gpt-5.1, openai/gpt-10, but not gpt-35-turbo, which is Azure's name for 3.5
_REASONING = re.compile(r"^(?:ft:)?(?:[\w.-]+/)?(?:o[1-9]|gpt-(?:[5-9]|[12]\d))(?!\d|.*-chat)", re.IGNORECASE)


def endpoint_name(endpoint: str) -> str:
    """What people call an endpoint."""
    return next((name for name, path in ENDPOINTS.items() if path == endpoint), endpoint)


def is_raw(endpoint: str) -> bool:
    """Whether nothing is known of an endpoint but its path: rows bring whole bodies, and get whole bodies back."""
    return endpoint != MESSAGES and endpoint not in ENDPOINTS.values()


def needless(endpoint: str) -> tuple[str, ...]:
    """What an endpoint does not take."""
    if endpoint in TURNS:
        return ()
    words = ("prompt", "output", "tools")
    if endpoint == COMPLETIONS:
        return words
    return (*words, "temperature", "max_tokens", *(["extra"] if is_raw(endpoint) else []))


def prompt_name(endpoint: str) -> str:
    """Under which name a body holds the prompt, where that is not a turn of a conversation."""
    return "prompt" if endpoint == COMPLETIONS else "input"


def is_reasoning_model(model: str) -> bool:
    """Whether it takes `max_completion_tokens` instead of `max_tokens`, and no temperature: o1 and later, GPT-5."""
    return _REASONING.match(model) is not None


def maker(model: str) -> str:
    """Whose model it is, as price lists and icons know it: `anthropic`, or else `openai`."""
    return "anthropic" if model.startswith("claude-") else "openai"


@dataclass(frozen=True, slots=True)
class RequestTemplate:
    """What all requests of a batch or submission share; `body` adds the user's text.

    Attributes:
        model: The model, or on Azure the deployment, as the provider knows it.
        system: The text of the system message, if any.
        output_type: The Pydantic model that answers must be instances of, if any; sent as `response_format`.
        temperature: 0 to 2, or `None` to leave it to the provider.
        max_tokens: The most tokens one answer may take, or `None` to leave it out.
        extra: Merged last into every body; a value of `None` removes the key.
        endpoint: The endpoint that each request goes to.
        tools: The functions that may be called, by name.
    """

    model: str
    system: str | None = None
    output_type: type[BaseModel] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    endpoint: str = CHAT
    tools: Mapping[str, type[BaseModel]] = field(default_factory=dict)

    @property
    def form(self) -> Form:
        """What answers hold."""
        if self.endpoint == RESPONSES:
            included = self.extra.get("include")
            return Form(self.output_type, self.tools, logprobs=isinstance(included, list) and _LOGPROBS in included)
        if self.endpoint not in (CHAT, COMPLETIONS, MESSAGES):
            return Form(self.output_type)
        many, likely = self.extra.get("n"), self.extra.get("logprobs")
        return Form(
            self.output_type,
            self.tools,
            choices=isinstance(many, int) and many > 1,
            logprobs=likely is not None and likely is not False,  # a completion is asked for a number, which may be 0
        )

    @classmethod
    def of(
        cls,
        model: str,
        prompt: Prompt | str | None,
        *,
        output: Any = None,
        tools: Sequence[Any] | None = None,
        **options: Any,
    ) -> RequestTemplate:
        """The template of a model and a prompt, or of no prompt at all.

        Args:
            model: The model.
            prompt: The prompt; it may name an output model.
            output: What answers are to be, where the prompt does not say it: whatever `output_type` takes.
            tools: The functions that may be called: each whatever `output_type` takes.
            options: As the attributes.

        Raises:
            ConfigurationError: The prompt, the output or a tool is none; both say what answers are to be; two columns
                would have the same name; or the endpoint takes no such thing.
        """
        endpoint, extra = options.get("endpoint", CHAT), options.get("extra") or {}
        said = {"prompt": prompt, "output": output, "tools": tools or None, **options, "extra": extra or None}
        for name in needless(endpoint):
            if said.get(name) is not None:
                raise ConfigurationError(f"{name}: the {endpoint_name(endpoint)} endpoint takes none.")
        if endpoint == EMBEDDINGS:
            vector = embedding_model(str(extra.get("model", model)), extra.get("dimensions"))
            return cls(model, output_type=vector, **options)
        if endpoint == MODERATIONS:
            return cls(model, output_type=Moderation, **options)
        system, wanted = None if prompt is None else compiled(prompt), output_model(prompt)
        if output is not None and wanted not in (None, output):
            raise ConfigurationError(
                f"The prompt wants answers to be {wanted!r}, and `output` says otherwise. Drop one."
            )
        wanted = wanted if output is None else output_type(output)
        made = cls(model, system, wanted, tools=tool_models(tools or ()), **options)
        if made.tools and extra.get("tools"):
            raise ConfigurationError("extra: it has `tools`, and `tools` is given as well. Drop one.")
        if both := [name for name, count in Counter(made.form.names).items() if count > 1]:
            raise ConfigurationError(f"tools: of output, tools and choices two would be a column {both[0]!r}.")
        return made

    def at(self, profile: Profile) -> RequestTemplate:
        """The same for a provider whose endpoints have other names, and other bodies.

        Raises:
            ConfigurationError: It has no such endpoint.
        """
        if profile.endpoints is None:
            return self
        if self.endpoint not in profile.endpoints:
            raise ConfigurationError(f"endpoint: {profile.kind} has nothing like {self.endpoint}.")
        return replace(self, endpoint=profile.endpoints[self.endpoint])

    def body(
        self,
        text: str,
        *,
        temperature: float | None = None,
        max_tokens: int | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The body of one request; what is given here goes before what the template says."""
        given = {"model": self.model, **self.extra, **(extra or {})}
        temperature = self.temperature if temperature is None else temperature
        if isinstance(temperature, float) and temperature.is_integer():
            temperature = int(temperature)  # 0 and 0.0 are one question, and have one hash
        most = self.max_tokens if max_tokens is None else max_tokens
        if self.endpoint == CHAT:
            made = self._chat(text, temperature, most, reasons=is_reasoning_model(str(given["model"])))
        elif self.endpoint == RESPONSES:
            made = self._response(text, temperature, most)
        elif self.endpoint == MESSAGES:
            made = self._message(text, temperature, most)
        elif self.endpoint == EMBEDDINGS:
            made = {"input": text, "encoding_format": "base64"}
        else:
            made = {prompt_name(self.endpoint): text, "temperature": temperature, "max_tokens": most}
        return {key: value for key, value in {"model": self.model, **made, **given}.items() if value is not None}

    def _chat(self, text: str, temperature: float | None, most: int | None, *, reasons: bool) -> dict[str, Any]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {
            "messages": [*system, {"role": "user", "content": text}],
            "response_format": _response_format(self.output_type) if self.output_type else None,
            "tools": [{"type": "function", "function": function_of(*one)} for one in self.tools.items()] or None,
            "temperature": temperature,
            "max_completion_tokens" if reasons else "max_tokens": most,
        }

    def _message(self, text: str, temperature: float | None, most: int | None) -> dict[str, Any]:
        wanted = _output_format(self.output_type) if self.output_type else None
        return {
            "system": self.system,
            "messages": [{"role": "user", "content": text}],
            "output_config": {"format": wanted} if wanted else None,
            "tools": [_tool(function_of(*one)) for one in self.tools.items()] or None,
            "temperature": temperature,
            "max_tokens": _MOST if most is None else most,
        }

    def _response(self, text: str, temperature: float | None, most: int | None) -> dict[str, Any]:
        wanted = _response_format(self.output_type) if self.output_type else None
        return {
            "instructions": self.system,
            "input": [{"role": "user", "content": text}],
            "text": {"format": {"type": wanted["type"], **wanted["json_schema"]}} if wanted else None,
            "tools": [{"type": "function", **function_of(*one)} for one in self.tools.items()] or None,
            "temperature": temperature,
            "max_output_tokens": most,
        }


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    """A function in Anthropic's words."""
    about = {name: function[name] for name in ("name", "description") if name in function}
    return {**about, "input_schema": function["parameters"]}
