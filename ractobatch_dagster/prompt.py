"""`RactoPrompt`: a system prompt in named parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ractobatch_dagster.attachment import RactoFile, user_content
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.json_schema import prompt_schema

__all__ = ["Prompt", "RactoPrompt", "compiled", "output_model"]

_OUTPUT = {
    "json": "Answer with one valid JSON value and nothing else: no code fence around it, no words before or after it.",
    "text": "Answer in plain text, without any markup.",
    "markdown": "Answer in clearly structured Markdown.",
}
_GUARDRAILS = (
    "Say so when you are not sure or do not have the information; do not guess.",
    "Never make up facts, quotations, sources, links, figures or code.",
    "Answer what is asked and add nothing else.",
    "Name every assumption that your answer rests on.",
)


@runtime_checkable
class Prompt(Protocol):
    """Anything that compiles to the text of a system prompt; ractogateway's own prompts are such."""

    def compile(self) -> str:
        """The text of the system message."""


class RactoPrompt(BaseModel):
    """A system prompt in named parts, compiled to labelled sections in a fixed order.

    Attributes:
        role: Who the model is.
        aim: What it has to do.
        constraints: Rules to keep, one text each, none blank; `""` for none.
        tone: How it should sound; `""` for no wish.
        output_format: A Pydantic model that the answer must be an instance of; or `json`, `markdown`, `text`; or a
            description in your own words.
        context: What it should know.
        examples: Pairs of `input` and `output`.
        anti_hallucination: Whether to add four sentences against guessing.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    role: str = Field(min_length=1)
    aim: str = Field(min_length=1)
    constraints: list[str] | Literal[""]
    tone: str
    output_format: str | type[BaseModel]
    context: str | None = None
    examples: list[dict[str, str]] | None = None
    anti_hallucination: bool = True

    @model_validator(mode="before")
    @classmethod
    def _from_instructions(cls, data: Any) -> Any:
        """The short form `RactoPrompt(instructions=…, output_format=…)`."""
        if not isinstance(data, dict) or not isinstance(data.get("instructions"), str):
            return data
        short = {
            "role": "You are a helpful assistant.",
            "aim": data["instructions"],
            "constraints": ["Do not fabricate information."],
            "tone": "Clear and concise.",
        }
        return {**short, **data}

    @field_validator("constraints")
    @classmethod
    def _no_blank_constraint(cls, constraints: list[str] | Literal[""]) -> list[str] | Literal[""]:
        if constraints == []:
            raise ValueError('the list is empty; give at least one rule, or "" for none')
        for index, text in enumerate(constraints):
            if not text.strip():
                raise ValueError(f"constraints[{index}] is blank")
        return constraints

    @field_validator("examples")
    @classmethod
    def _whole_examples(cls, examples: list[dict[str, str]] | None) -> list[dict[str, str]] | None:
        for index, example in enumerate(examples or ()):
            if not {"input", "output"} <= example.keys():
                raise ValueError(f"examples[{index}] needs both 'input' and 'output'; it has {sorted(example)}")
        return examples

    def compile(self) -> str:
        """The prompt as text: ROLE, AIM, CONTEXT, CONSTRAINTS, TONE, OUTPUT, EXAMPLES, GUARDRAILS, where given."""
        sections = [
            ("ROLE", self.role),
            ("AIM", self.aim),
            ("CONTEXT", self.context),
            ("CONSTRAINTS", _bullets(self.constraints)),
            ("TONE", self.tone),
            ("OUTPUT", _output(self.output_format)),
            ("EXAMPLES", _examples(self.examples or ())),
            ("GUARDRAILS", _bullets(_GUARDRAILS) if self.anti_hallucination else None),
        ]
        return "\n\n".join(f"[{name}]\n{text}" for name, text in sections if text) + "\n"

    def to_messages(
        self,
        user_message: str,
        *,
        attachments: Sequence[RactoFile] | None = None,
        provider: str = "generic",
    ) -> list[dict[str, Any]]:
        """The prompt and one user message as chat messages.

        Args:
            user_message: The user's text.
            attachments: Files that go before the text.
            provider: Whose shape the attachments take: `openai`, `anthropic`, `google`, `ollama` or `generic`.

        Raises:
            ValueError: The provider is none of these.
        """
        user = user_content(user_message, attachments or (), provider)
        return [{"role": "system", "content": self.compile()}, {"role": "user", **user}]

    def __str__(self) -> str:
        return self.compile()


def compiled(prompt: Prompt | str) -> str:
    """The system text of a prompt, or of a plain string, which is taken as it stands.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(prompt, str):
        return prompt
    if isinstance(prompt, type) or not isinstance(prompt, Prompt):
        raise ConfigurationError(f"A prompt is a text, or an object with `compile() -> str`; this is none: {prompt!r}.")
    return prompt.compile()


def output_model(prompt: object) -> type[BaseModel] | None:
    """The Pydantic model that the prompt wants answers to be instances of, if it names one."""
    wanted = getattr(prompt, "output_format", None)
    return wanted if isinstance(wanted, type) and issubclass(wanted, BaseModel) else None


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _examples(examples: Sequence[dict[str, str]]) -> str:
    return "\n\n".join(
        f"Example {number}:\n  Input:  {one['input']}\n  Output: {one['output']}"
        for number, one in enumerate(examples, start=1)
    )


def _output(wanted: str | type[BaseModel]) -> str:
    if isinstance(wanted, str):
        return _OUTPUT.get(wanted.strip().lower()) or f"Give your answer in this format:\n{wanted}"
    schema = json.dumps(prompt_schema(wanted), indent=2, ensure_ascii=False)
    return f"{_OUTPUT['json']} It must be valid against this JSON Schema:\n{schema}"
