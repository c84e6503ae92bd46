"""Where a provider is, and how to get in."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.provider.profile import PROFILES, Kind, Profile

__all__ = ["Account", "without_password"]


@dataclass(frozen=True, slots=True)
class Account:
    """Where a provider is and how to get in; what is `None` the client reads from the environment.

    Attributes:
        api_key: The key. White space around it, such as the line feed of a mounted secret, is taken off. Or a function
            that gives a token, called before each request.
        base_url: The server's address. A user and password in it are sent as a header, and not shown.
        organization: OpenAI organisation.
        project: OpenAI project; batches and files belong to one.
        timeout: Seconds that one call may take.
        max_retries: How often a call that may be repeated is, after the first time. A download is at least three times.
        default_headers: Sent with every call, and not shown.
        kind: What kind of provider it is; told from the address where left out.
        profile: What it can do, where that is not what its kind can.
        patience: Seconds that the pauses between the tries of one call may take in all.
    """

    api_key: str | Callable[[], str] | None = None
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout: float | None = None
    max_retries: int | None = None
    default_headers: Mapping[str, str] | None = None
    kind: Kind | None = None
    profile: Profile | None = None
    patience: float = 120.0

    def __repr__(self) -> str:
        # the key stays out of every log, and so does a password in the address
        return f"Account(base_url={without_password(self.base_url or '')!r}, kind={self.kind!r})"

    def options(self) -> dict[str, Any]:
        """The arguments for `openai.OpenAI`.

        Raises:
            ConfigurationError: The key or the address cannot be used.
        """
        base_url, login = _address(self._url)
        given = {
            "api_key": self.api_key if callable(self.api_key) else self._key(),
            "base_url": base_url or None,
            "organization": self.organization,
            "project": self.project,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "default_headers": {**login, **(self.default_headers or {})} or None,
        }
        return {name: value for name, value in given.items() if value is not None}

    def async_options(self) -> dict[str, Any]:
        """The arguments for `openai.AsyncOpenAI`: a token is fetched in a thread, as it may take a call.

        Raises:
            ConfigurationError: As `options`.
        """
        given, token = self.options(), self.api_key
        if callable(token):

            async def fetched() -> str:
                return await asyncio.to_thread(token)

            given["api_key"] = fetched
        return given

    def _key(self) -> str | None:
        # the key and the address are read here and not by the client: it would send a line feed, and log a password
        given = None if callable(self.api_key) else self.api_key
        key = (given or os.environ.get(f"{self._environ}_API_KEY") or "").strip()
        if not (key.isascii() and key.isprintable()):
            raise ConfigurationError("The API key holds a character that no HTTP header takes. Copy it anew.")
        return key or None

    def secrets(self) -> list[str | None]:
        """What no text may hold: the key, the headers' values, the password in the address."""
        key = None if callable(self.api_key) else self.api_key
        return [key, *(self.default_headers or {}).values(), urlsplit(self._url).password]

    @property
    def _environ(self) -> str:
        return PROFILES[self.kind].environ if self.kind else "OPENAI"

    @property
    def _url(self) -> str:
        return self.base_url or os.environ.get(f"{self._environ}_BASE_URL") or ""


def without_password(url: str) -> str:
    """The address without user and password."""
    try:
        return _bare(_parts(url))
    except ConfigurationError:
        return "unreadable"  # where the password ends is anyone's guess


def _address(url: str) -> tuple[str, dict[str, str]]:
    """The address without user and password, and the header that says them; in the address, HTTP clients log them."""
    parts = _parts(url)
    if "@" not in parts.netloc:
        return url, {}
    login = unquote(parts.netloc.rpartition("@")[0])
    return _bare(parts), {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}


def _bare(parts: SplitResult) -> str:
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # read here, where the message does not quote it
    except ValueError:
        raise ConfigurationError(
            "The base URL cannot be read. Is its port a number? In a user name or password, write / ? # @ as "
            "%2F %3F %23 %40."
        ) from None
    return parts
