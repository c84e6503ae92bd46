"""`RactoPrompt` and `RactoFile`: the fields, the validation and the sections of ractogateway 0.2.1, as measured."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from ractobatch_dagster import ConfigurationError, RactoFile, RactoPrompt
from ractobatch_dagster.prompt import Prompt, compiled, output_model

GIVEN: dict[str, Any] = {
    "role": "You are a clerk.",
    "aim": "Sort the mail.",
    "constraints": ["Be quick.", "Be exact."],
    "tone": "Dry.",
    "output_format": "text",
}


class Label(BaseModel):
    title: str
    default: int = 3


def sections(text: str) -> list[str]:
    return [line[1:-1] for line in text.splitlines() if line.startswith("[") and line.endswith("]")]


def test_fields_and_defaults() -> None:
    """The fields are the original's, in its order, with its defaults; the first five are required."""
    fields = RactoPrompt.model_fields
    assert list(fields) == [*GIVEN, "context", "examples", "anti_hallucination"]
    assert [name for name, field in fields.items() if field.is_required()] == list(GIVEN)
    prompt = RactoPrompt(**GIVEN)
    assert (prompt.context, prompt.examples, prompt.anti_hallucination) == (None, None, True)


@pytest.mark.parametrize(
    "change",
    [
        {"role": ""},
        {"aim": ""},
        {"constraints": []},
        {"constraints": ["fine", "  "]},
        {"constraints": None},
        {"constraints": "be brief"},
        {"tone": None},
        {"output_format": 5},
        {"output_format": int},
        {"examples": [{"input": "a"}]},
        {"examples": [{"output": "a"}]},
    ],
)
def test_refuses_what_the_original_refuses(change: dict[str, Any]) -> None:
    """A prompt that ractogateway refuses is refused, with the same exception."""
    with pytest.raises(ValidationError) as caught:
        RactoPrompt(**{**GIVEN, **change})
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("name", list(GIVEN))
def test_requires_the_five(name: str) -> None:
    """None of the five parts can be left out."""
    with pytest.raises(ValidationError, match=name):
        RactoPrompt(**{key: value for key, value in GIVEN.items() if key != name})


def test_a_blank_constraint_is_named() -> None:
    """The message says which constraint is blank."""
    with pytest.raises(ValidationError, match=r"constraints\[1\] is blank"):
        RactoPrompt(**{**GIVEN, "constraints": ["x", " "]})


def test_an_empty_text_is_none() -> None:
    """`constraints=""` and `tone=""`, as in the original's own docstring, leave the sections out."""
    prompt = RactoPrompt(role="assistant", aim="answer briefly", constraints="", tone="", output_format="text")
    assert sections(prompt.compile()) == ["ROLE", "AIM", "OUTPUT", "GUARDRAILS"]


def test_every_section_in_the_original_order() -> None:
    """The sections have the original's names, order, shape and blank lines, and the text ends in a line feed."""
    text = RactoPrompt(
        **GIVEN, context="It is Monday.", examples=[{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]
    ).compile()
    assert sections(text) == ["ROLE", "AIM", "CONTEXT", "CONSTRAINTS", "TONE", "OUTPUT", "EXAMPLES", "GUARDRAILS"]
    start = (
        "[ROLE]\nYou are a clerk.\n\n[AIM]\nSort the mail.\n\n[CONTEXT]\nIt is Monday.\n\n"
        "[CONSTRAINTS]\n- Be quick.\n- Be exact.\n\n[TONE]\nDry.\n\n[OUTPUT]\n"
    )
    assert text.startswith(start)
    examples = (
        "\n\n[EXAMPLES]\nExample 1:\n  Input:  a\n  Output: b\n\nExample 2:\n  Input:  c\n  Output: d\n\n[GUARDRAILS]\n"
    )
    assert examples in text
    assert text.endswith("\n")
    assert text[-2] != "\n"
    assert len(text.partition("[GUARDRAILS]\n")[2].splitlines()) == 4


def test_guardrails_can_be_left_out() -> None:
    """`anti_hallucination=False` leaves the last section out."""
    assert "GUARDRAILS" not in RactoPrompt(**GIVEN, anti_hallucination=False).compile()


@pytest.mark.parametrize("keyword", ["json", "text", "markdown"])
def test_output_keywords_in_any_case(keyword: str) -> None:
    """The three keywords stand for a sentence each, in any case and with white space around them."""
    plain = RactoPrompt(**{**GIVEN, "output_format": keyword}).compile()
    assert RactoPrompt(**{**GIVEN, "output_format": f" {keyword.upper()}\n"}).compile() == plain
    assert f"[OUTPUT]\n{keyword}" not in plain


def test_output_in_own_words() -> None:
    """Any other text is the wanted format, word for word."""
    text = RactoPrompt(**{**GIVEN, "output_format": "three haiku"}).compile()
    assert ":\nthree haiku\n" in text


def test_output_model_keeps_every_property() -> None:
    """A model's schema stands in the prompt, indented, with its properties named `title` and `default`."""
    text = RactoPrompt(**{**GIVEN, "output_format": Label}).compile()
    assert '"title": {\n      "type": "string"\n    }' in text
    assert '"default": {' in text
    assert '"Label"' not in text  # the titles that Pydantic makes up


def test_str_is_compile() -> None:
    """`str(prompt)` is the compiled text."""
    prompt = RactoPrompt(**GIVEN)
    assert str(prompt) == prompt.compile()


def test_instructions_stand_for_the_aim() -> None:
    """The old short form fills role, constraints and tone as the original does; what is given goes first."""
    prompt = RactoPrompt(instructions="Sort.", output_format="json", tone="Warm.")  # type: ignore[call-arg]
    assert prompt.role == "You are a helpful assistant."
    assert prompt.aim == "Sort."
    assert prompt.constraints == ["Do not fabricate information."]
    assert prompt.tone == "Warm."
    with pytest.raises(ValidationError, match="output_format"):
        RactoPrompt(instructions="Sort.")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="role"):
        RactoPrompt(instructions=None, output_format="json")  # type: ignore[call-arg]


def test_anything_that_compiles_is_a_prompt() -> None:
    """A prompt is a text, or an object with `compile()`; its model is its `output_format`, where that is one."""

    class Foreign:
        output_format = Label

        def compile(self) -> str:
            return "from elsewhere"

    assert isinstance(Foreign(), Prompt)
    assert compiled(Foreign()) == "from elsewhere"
    assert compiled("as it stands") == "as it stands"
    assert output_model(Foreign()) is Label
    assert output_model("text") is None
    assert output_model(RactoPrompt(**GIVEN)) is None


@pytest.mark.parametrize("prompt", [5, None, ["text"], RactoPrompt])
def test_what_does_not_compile_is_refused(prompt: Any) -> None:
    """What is neither a text nor compiles is refused with words, not with an AttributeError."""
    with pytest.raises(ConfigurationError, match="compile"):
        compiled(prompt)


PNG = RactoFile(b"\x89PNG", "image/png", "a.png")
PDF = RactoFile(b"%PDF", "application/pdf", "b.pdf")
TXT = RactoFile("grüße".encode(), "text/plain", "c.txt")
ZIP = RactoFile(b"PK", "application/zip", "d.zip")


def test_file_properties() -> None:
    """A file knows what it is, and its `repr` gives its size, not its bytes."""
    assert [(f.is_image, f.is_pdf, f.is_text) for f in (PNG, PDF, TXT)] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]
    assert not RactoFile(b"", "image/tiff").is_image
    assert PNG.base64_data == base64.b64encode(b"\x89PNG").decode()
    assert repr(PNG) == "RactoFile(name='a.png', mime_type='image/png', bytes=4)"
    assert RactoFile.from_bytes(b"x", "text/plain").name == ""


def test_file_from_path(tmp_path: Path) -> None:
    """The MIME type is told from content, else from the name; an unknown one is plain bytes; no file is an error."""
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    (tmp_path / "a.zzz").write_bytes(b"?")
    assert RactoFile.from_path(tmp_path / "a.pdf") == RactoFile(b"%PDF", "application/pdf", "a.pdf")
    assert RactoFile.from_path(str(tmp_path / "a.zzz")).mime_type == "application/octet-stream"
    (tmp_path / "a.bin").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "a.txt.gz").write_bytes(b"\x1f\x8b")
    assert RactoFile.from_path(tmp_path / "a.bin").is_image
    assert not RactoFile.from_path(tmp_path / "a.txt.gz").is_text
    with pytest.raises(FileNotFoundError):
        RactoFile.from_path(tmp_path / "none")


def user(provider: str, *files: RactoFile) -> dict[str, Any]:
    prompt = RactoPrompt(**GIVEN)
    system, message = prompt.to_messages("hi", attachments=list(files), provider=provider)
    assert system == {"role": "system", "content": prompt.compile()}
    assert message.pop("role") == "user"
    return message


@pytest.mark.parametrize("provider", ["openai", "anthropic", "google", "ollama", "generic"])
def test_messages_without_files(provider: str) -> None:
    """Without files the user's content is the text, for every provider."""
    assert user(provider) == {"content": "hi"}


def test_messages_with_files() -> None:
    """Files go before the text, in each provider's shape; a PDF is never decoded as text."""
    assert user("openai", PNG, TXT, PDF) == user("generic", PNG, TXT, PDF)
    assert user("openai", PNG, TXT, PDF)["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG.base64_data}"}},
        {"type": "text", "text": "grüße"},
        {"type": "file", "file": {"filename": "b.pdf", "file_data": f"data:application/pdf;base64,{PDF.base64_data}"}},
        {"type": "text", "text": "hi"},
    ]
    assert user("anthropic", PNG, PDF, TXT)["content"] == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG.base64_data}},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF.base64_data}},
        {"type": "text", "text": "grüße"},
        {"type": "text", "text": "hi"},
    ]
    assert user("google", PDF, TXT)["content"] == [
        {"inline_data": {"mime_type": "application/pdf", "data": PDF.base64_data}},
        {"text": "grüße"},
        {"text": "hi"},
    ]
    assert user("ollama", PNG, TXT) == {"content": "grüße\n\nhi", "images": [PNG.base64_data]}


@pytest.mark.parametrize(("provider", "file"), [("anthropic", ZIP), ("ollama", ZIP), ("ollama", PDF), ("bard", PNG)])
def test_what_a_provider_cannot_take_is_refused(provider: str, file: RactoFile) -> None:
    """An unknown provider, or a file it cannot take, is a ValueError that says so."""
    with pytest.raises(ValueError, match=r"zip|pdf|bard"):
        user(provider, file)


def test_a_text_of_another_encoding_is_refused() -> None:
    """Rather than sent with what it has beyond ASCII replaced."""
    with pytest.raises(ValueError, match=r"RactoFile\(name='d.txt', .* is no text in UTF-8"):
        user("openai", RactoFile("grüße".encode("latin-1"), "text/plain", "d.txt"))
