"""`RactoFile`: a file that goes along with a user message."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["RactoFile", "responses_image", "user_content"]

_IMAGES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


@dataclass(frozen=True, slots=True)
class RactoFile:
    """A file's bytes, its MIME type, and a name for messages."""

    data: bytes
    mime_type: str
    name: str = ""

    def __repr__(self) -> str:
        return f"RactoFile(name={self.name!r}, mime_type={self.mime_type!r}, bytes={len(self.data)})"

    @classmethod
    def from_path(cls, path: str | Path) -> RactoFile:
        """Read a file; its MIME type is told from its name."""
        path = Path(path)
        return cls(path.read_bytes(), mimetypes.guess_type(path.name)[0] or "application/octet-stream", path.name)

    @classmethod
    def from_bytes(cls, data: bytes, mime_type: str, name: str = "") -> RactoFile:
        """A file from memory."""
        return cls(data, mime_type, name)

    @classmethod
    def from_content(cls, data: bytes) -> RactoFile:
        """A picture or a PDF from memory; its kind is told from its first bytes.

        Raises:
            ValueError: It is neither JPEG, PNG, GIF, WebP nor PDF.
        """
        for start, mime_type in _MAGIC:
            if data.startswith(start):
                return cls(data, mime_type, f"file.{mime_type.rpartition('/')[2]}")
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return cls(data, "image/webp", "file.webp")
        raise ValueError(f"{len(data)} bytes are neither JPEG, PNG, GIF, WebP nor PDF")

    @property
    def base64_data(self) -> str:
        """The bytes as base64 text."""
        return base64.b64encode(self.data).decode("ascii")

    @property
    def is_image(self) -> bool:
        """Whether it is an image of a kind that chat models take: JPEG, PNG, GIF, WebP."""
        return self.mime_type in _IMAGES

    @property
    def is_pdf(self) -> bool:
        """Whether it is a PDF."""
        return self.mime_type == "application/pdf"

    @property
    def is_text(self) -> bool:
        """Whether it is text of any kind."""
        return self.mime_type.startswith("text/") or self.mime_type == "application/json"

    @property
    def data_url(self) -> str:
        """The file as a `data:` URL."""
        return f"data:{self.mime_type};base64,{self.base64_data}"


_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n", "image/png"),
    (b"GIF8", "image/gif"),
    (b"%PDF", "application/pdf"),
)


def user_content(text: str, files: Sequence[RactoFile], provider: str) -> dict[str, Any]:
    """The `content` of a user message (and `images` for Ollama), the files before the text, in the provider's shape.

    Raises:
        ValueError: The provider is not known, or cannot take such a file.
    """
    if provider == "ollama":
        return _ollama(text, files)
    if provider not in _SHAPES:
        raise ValueError(f"provider {provider!r} is none of {', '.join([*_SHAPES, 'ollama'])}")
    shape = _SHAPES[provider]
    return {"content": [*map(shape, files), shape(text)] if files else text}


def _openai(part: RactoFile | str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.is_image:
        return {"type": "image_url", "image_url": {"url": part.data_url}}
    if part.is_text:
        return {"type": "text", "text": _decoded(part)}
    return {"type": "file", "file": {"filename": part.name or "file", "file_data": part.data_url}}


def responses_image(url: str) -> dict[str, Any]:
    """A picture as the Responses API has it: `detail` has a default there, yet OpenAI's schema and vLLM require it."""
    return {"type": "input_image", "image_url": url, "detail": "auto"}


def _responses(part: RactoFile | str) -> dict[str, Any]:
    """As the Responses API has them."""
    if isinstance(part, str):
        return {"type": "input_text", "text": part}
    if part.is_image:
        return responses_image(part.data_url)
    if part.is_text:
        return {"type": "input_text", "text": _decoded(part)}
    return {"type": "input_file", "filename": part.name or "file", "file_data": part.data_url}


def _anthropic(part: RactoFile | str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if part.is_text:
        return {"type": "text", "text": _decoded(part)}
    if not (part.is_image or part.is_pdf):
        raise ValueError(f"Anthropic takes images, PDF and text, not {part!r}")
    source = {"type": "base64", "media_type": part.mime_type, "data": part.base64_data}
    return {"type": "image" if part.is_image else "document", "source": source}


def _google(part: RactoFile | str) -> dict[str, Any]:
    if isinstance(part, str):
        return {"text": part}
    if part.is_text:
        return {"text": _decoded(part)}
    return {"inline_data": {"mime_type": part.mime_type, "data": part.base64_data}}


def _ollama(text: str, files: Sequence[RactoFile]) -> dict[str, Any]:
    other = next((one for one in files if not (one.is_image or one.is_text)), None)
    if other is not None:
        raise ValueError(f"Ollama takes images and text, not {other!r}")
    images = [one.base64_data for one in files if one.is_image]
    content = "\n\n".join([*(_decoded(one) for one in files if one.is_text), text])
    return {"content": content, "images": images} if images else {"content": content}


def _decoded(file: RactoFile) -> str:
    return file.data.decode("utf-8", errors="replace")


_SHAPES: dict[str, Callable[[RactoFile | str], dict[str, Any]]] = {
    "openai": _openai,
    "openai-responses": _responses,
    "generic": _openai,
    "anthropic": _anthropic,
    "google": _google,
}
