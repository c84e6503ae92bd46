"""The Batch API, synchronously and not: the two classes differ in their awaits and in nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ractobatch_dagster.errors import ProviderAPIError, ProviderError, ProviderNotFoundError
from ractobatch_dagster.provider.profile import PROFILES, Kind, Profile, kind_of
from ractobatch_dagster.provider.remote import Page, RemoteBatch, UploadedFile, read_batch, read_file
from ractobatch_dagster.provider.translate import not_found_yet, translated

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

__all__ = ["Account", "AsyncProvider", "Provider"]

_VISIBLE_AFTER = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Seconds between tries to use a file that was just uploaded; OpenAI needs up to a minute to see it everywhere."""

_DOWNLOADS = 4


@dataclass(frozen=True, slots=True)
class Account:
    """Where a provider is and how to get in; what is `None` the `openai` client reads from the environment."""

    api_key: str | None = None
    base_url: str | None = None
    organization: str | None = None
    project: str | None = None
    timeout: float | None = None
    max_retries: int | None = None
    default_headers: Mapping[str, str] | None = None
    kind: Kind | None = None

    def __repr__(self) -> str:
        # the key stays out of every log, and so does a password in the address
        return f"Account(base_url={_without_password(self.base_url or '')!r}, kind={self.kind!r})"

    def options(self) -> dict[str, Any]:
        """The arguments for `openai.OpenAI` and `openai.AsyncOpenAI`."""
        given = {
            "api_key": self.api_key,
            "base_url": self.base_url,
            "organization": self.organization,
            "project": self.project,
            "timeout": self.timeout,
            "max_retries": self.max_retries,
            "default_headers": self.default_headers,
        }
        return {name: value for name, value in given.items() if value is not None}


class Provider:
    """A Batch API. Every method raises `ProviderError` or one of its kinds.

    Args:
        account: Where it is.
        client: An `openai.OpenAI` of your own, used as it is instead.
        sleep: How to wait.
    """

    def __init__(
        self,
        account: Account | None = None,
        *,
        client: OpenAI | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._account = account or Account()
        self._given = client
        self._sleep = sleep

    @cached_property
    def client(self) -> OpenAI:
        """The `openai` client, built when it is first needed.

        Raises:
            openai.OpenAIError: There is no key.
        """
        from openai import OpenAI

        return self._given or OpenAI(**self._account.options())

    @cached_property
    def profile(self) -> Profile:
        """What kind of provider it is."""
        return PROFILES[self._account.kind or kind_of(str(self.client.base_url))]

    @cached_property
    def identity(self) -> str:
        """Who answers, for the request hash: kind and address, never the key. The local server is one on any port."""
        return _identity(self.profile, str(self.client.base_url))

    def upload(self, source: IO[bytes], name: str) -> UploadedFile:
        """Upload an input file. Repeating it costs no money, so the client may."""
        with translated(f"uploading {name}"):
            return read_file(self.client.files.create(file=(name, source, "application/jsonl"), purpose="batch"))

    def create(
        self, *, input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str] | None
    ) -> RemoteBatch:
        """Create a batch: once, for each create that arrives is billed, and the API has no key to tell repeats.

        Raises:
            QueueFullError: The quota has no room now.
            ProviderError: If it is `refused`, the batch was certainly not created; otherwise nobody knows.
        """
        arguments = _create_arguments(input_file_id, endpoint, completion_window, metadata)
        for pause in (*_VISIBLE_AFTER, None):
            try:
                with translated("creating the batch", creating=True):
                    return read_batch(self.client.with_options(max_retries=0).batches.create(**arguments))
            except ProviderError as error:
                if pause is None or not not_found_yet(error):
                    raise
                self._sleep(pause)
        raise AssertionError("unreachable")

    def retrieve(self, batch_id: str) -> RemoteBatch:
        """Look at one batch."""
        with translated(f"looking at batch {batch_id}"):
            return read_batch(self.client.batches.retrieve(batch_id))

    def cancel(self, batch_id: str) -> RemoteBatch:
        """Cancel a batch; one that has ended stays as it is."""
        try:
            with translated(f"cancelling batch {batch_id}"):
                return read_batch(self.client.with_options(max_retries=0).batches.cancel(batch_id))
        except ProviderError as error:
            if error.status_code not in (400, 409):
                raise
            return self.retrieve(batch_id)

    def list_batches(self, *, after: str | None = None) -> Page:
        """A page of up to 100 batches of the account."""
        with translated("listing batches"):
            page = self.client.batches.list(limit=100, after=after) if after else self.client.batches.list(limit=100)
        batches = tuple(read_batch(one) for one in page.data or ())
        return Page(batches, batches[-1].id if batches and getattr(page, "has_more", False) else None)

    def find_files(self, prefix: str) -> list[UploadedFile]:
        """All input files whose names begin like this."""
        with translated("listing files"):
            files = [read_file(one) for one in self.client.files.list(purpose="batch")]
        return [file for file in files if file.name.startswith(prefix)]

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that is gone already is no error."""
        try:
            with translated(f"deleting file {file_id}"):
                self.client.files.delete(file_id)
        except ProviderNotFoundError:
            return

    def download(self, file_id: str, target: IO[bytes]) -> int:
        """Append a file's content to `target`, whole or not at all; a download cut short is noticed and repeated.

        Returns:
            The number of bytes.
        """
        start = target.tell()
        for attempt in range(1, _DOWNLOADS + 1):
            try:
                return self._download_once(file_id, target, start)
            except ProviderError as error:
                target.seek(start)
                target.truncate()
                if attempt == _DOWNLOADS or not _passes(error):
                    raise
                self._sleep(float(attempt))
        raise AssertionError("unreachable")

    def _download_once(self, file_id: str, target: IO[bytes], start: int) -> int:
        with translated(f"downloading file {file_id}"):
            with self.client.files.with_streaming_response.content(file_id) as response:
                for chunk in response.iter_bytes():
                    target.write(chunk)
                expected = _length(response.headers)
            size = target.tell() - start
            if expected is None:  # the reply ends where the connection does, which proves nothing
                expected = self.client.files.retrieve(file_id).bytes
        _check_length(file_id, size, expected)
        return size


class AsyncProvider:
    """`Provider` for those who await; holds whole files in memory, as a processor's batch does."""

    def __init__(self, account: Account | None = None, *, client: AsyncOpenAI | None = None) -> None:
        self._account = account or Account()
        self._given = client

    @cached_property
    def client(self) -> AsyncOpenAI:
        """The `openai` client, built when it is first needed."""
        from openai import AsyncOpenAI

        return self._given or AsyncOpenAI(**self._account.options())

    @cached_property
    def profile(self) -> Profile:
        """What kind of provider it is."""
        return PROFILES[self._account.kind or kind_of(str(self.client.base_url))]

    async def upload(self, source: IO[bytes], name: str) -> UploadedFile:
        """As `Provider.upload`."""
        with translated(f"uploading {name}"):
            return read_file(await self.client.files.create(file=(name, source, "application/jsonl"), purpose="batch"))

    async def create(
        self, *, input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str] | None
    ) -> RemoteBatch:
        """As `Provider.create`."""
        arguments = _create_arguments(input_file_id, endpoint, completion_window, metadata)
        for pause in (*_VISIBLE_AFTER, None):
            try:
                with translated("creating the batch", creating=True):
                    return read_batch(await self.client.with_options(max_retries=0).batches.create(**arguments))
            except ProviderError as error:
                if pause is None or not not_found_yet(error):
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """As `Provider.retrieve`."""
        with translated(f"looking at batch {batch_id}"):
            return read_batch(await self.client.batches.retrieve(batch_id))

    async def close(self) -> None:
        """Close the client's connections, unless the client is somebody else's."""
        if self._given is None and "client" in self.__dict__:
            await self.client.close()

    async def delete_file(self, file_id: str) -> None:
        """As `Provider.delete_file`."""
        try:
            with translated(f"deleting file {file_id}"):
                await self.client.files.delete(file_id)
        except ProviderNotFoundError:
            return

    async def download(self, file_id: str, target: IO[bytes]) -> int:
        """As `Provider.download`."""
        start = target.tell()
        for attempt in range(1, _DOWNLOADS + 1):
            try:
                return await self._download_once(file_id, target, start)
            except ProviderError as error:
                target.seek(start)
                target.truncate()
                if attempt == _DOWNLOADS or not _passes(error):
                    raise
                await asyncio.sleep(float(attempt))
        raise AssertionError("unreachable")

    async def _download_once(self, file_id: str, target: IO[bytes], start: int) -> int:
        with translated(f"downloading file {file_id}"):
            async with self.client.files.with_streaming_response.content(file_id) as response:
                async for chunk in response.iter_bytes():
                    target.write(chunk)
                expected = _length(response.headers)
            size = target.tell() - start
            if expected is None:
                expected = (await self.client.files.retrieve(file_id)).bytes
        _check_length(file_id, size, expected)
        return size


def _identity(profile: Profile, base_url: str) -> str:
    return "local" if profile.kind == "local" else f"{profile.kind} {_without_password(base_url).rstrip('/')}"


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _create_arguments(
    input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str] | None
) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "input_file_id": input_file_id,
        "endpoint": endpoint,
        "completion_window": completion_window,
    }
    return {**arguments, "metadata": dict(metadata)} if metadata else arguments


def _length(headers: Mapping[str, str]) -> int | None:
    """How long the reply says it is; a compressed one says how long it was on the wire, which does not help."""
    value = headers.get("content-length")
    return int(value) if value and value.isdecimal() and not headers.get("content-encoding") else None


def _check_length(file_id: str, size: int, expected: Any) -> None:
    if isinstance(expected, int) and size < expected:
        raise ProviderAPIError(f"Downloading file {file_id} broke off after {size:,} of {expected:,} bytes.")


def _passes(error: ProviderError) -> bool:
    """Whether the same download may succeed in a moment."""
    return error.status_code is None or error.status_code in (408, 409, 429) or error.status_code >= 500
