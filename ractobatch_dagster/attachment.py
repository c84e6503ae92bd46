"""`RactoFile`: a file that goes along with a user message."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

__all__ = ["RactoFile", "may_be_picture", "responses_image", "user_content"]

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
        """Read a file; its MIME type is told from its first bytes, and where these tell nothing from its name."""
        path = Path(path)
        data, (guess, packed) = path.read_bytes(), mimetypes.guess_type(path.name)
        mime_type = _told(data) or (None if packed else guess)  # what is packed is of no such type
        return cls(data, mime_type or "application/octet-stream", path.name)

    @classmethod
    def from_bytes(cls, data: bytes, mime_type: str, name: str = "") -> RactoFile:
        """A file from memory."""
        return cls(data, mime_type, name)

    @classmethod
    def from_content(cls, data: bytes, name: str = "", *, texts: bool = False) -> RactoFile:
        """A picture or a PDF; its kind is told from its first bytes, and so the same on every machine.

        Args:
            data: The bytes.
            name: What the file is called.
            texts: Whether anything else that is UTF-8 is a text.

        Raises:
            ValueError: It is neither JPEG, PNG, GIF, WebP nor PDF, nor a text.
        """
        mime_type = _told(data)
        if mime_type is not None:
            return cls(data, mime_type, name or f"file.{mime_type.rpartition('/')[2]}")
        if texts and data and _is_text(data):
            return cls(data, "text/plain", name)
        raise ValueError(
            f"{len(data)} bytes{name and f' of {name!r}'} are neither JPEG, PNG, GIF, WebP nor PDF"
            + (", nor text in UTF-8" if texts else "")
        )

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


def _told(data: bytes) -> str | None:
    """The MIME type that the first bytes tell, if they do."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    return next((mime_type for start, mime_type in _MAGIC if data.startswith(start)), None)


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


_OTHER = re.compile(
    r"\.(pdf|txt|md|csv|tsv|jsonl?|xml|ya?ml|rtf|docx?|odt|pptx?|odp|xlsx?|ods|zip|gz|mp3|wav|m4a|mp4|mov)$",
    re.IGNORECASE,
)
"""How an address ends at which there is surely no picture."""


def may_be_picture(address: str) -> bool:
    """Whether what stands at an address, or in one that begins with `data:`, may be a picture, as far as that tells."""
    if address.startswith("data:"):
        return address.startswith("data:image/")
    return _OTHER.search(urlsplit(address).path) is None


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
    try:
        return file.data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file!r} is no text in UTF-8: {error}") from error


_SHAPES: dict[str, Callable[[RactoFile | str], dict[str, Any]]] = {
    "openai": _openai,
    "openai-responses": _responses,
    "generic": _openai,
    "anthropic": _anthropic,
    "google": _google,
}
