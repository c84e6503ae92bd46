"""The Batch API, synchronously and not: the two classes differ in their awaits and in nothing else."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ractobatch_dagster.provider.account import Account
from ractobatch_dagster.provider.calls import Calls, Steps, expected_length, writing
from ractobatch_dagster.provider.remote import Page, RemoteBatch, UploadedFile

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI

__all__ = ["Account", "AsyncProvider", "Provider"]

T = TypeVar("T")


class Provider(Calls):
    """A Batch API. Every method raises `ProviderError` or one of its kinds.

    What may be repeated is, on a broken connection, a time-out, and the statuses 408, 409, 429 and 5xx, as often as
    the account's `max_retries` says and no longer than its `patience` lasts.

    Args:
        account: Where it is.
        client: An `openai.OpenAI` of your own, used as it is instead, but for its own retries.
        sleep: How to wait.
        random: Draws the length of pauses, from 0 to 1.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        account: Account | None = None,
        *,
        client: OpenAI | None = None,
        sleep: Callable[[float], None] = time.sleep,
        random: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(account, sleep=sleep, random=random, now=now)
        self._given = client

    @cached_property
    def client(self) -> OpenAI:
        """The `openai` client, built when it is first needed.

        Raises:
            openai.OpenAIError: There is no key.
            ConfigurationError: The key or the address cannot be used.
        """
        from openai import OpenAI

        return self._given or OpenAI(**self._account.options())

    def hurried(self, timeout: float, patience: float) -> Provider:
        """The same, on the same connections, for someone with little time: two tries a call at most.

        Args:
            timeout: Seconds that one try may take.
            patience: Seconds that the pauses between the tries of one call may take in all.
        """
        return Provider(
            replace(self._account, patience=patience, max_retries=1),
            client=self.client.with_options(timeout=timeout),
            sleep=self._sleep,
            random=self._random,
            now=self._now,
        )

    def upload(self, source: IO[bytes], name: str) -> UploadedFile:
        """Upload an input file.

        Args:
            source: Its content, which must be seekable.
            name: A name that no other file has: after a failure that may be none, it is looked for.
        """
        return self._run(self._uploading(source, name))

    def create(
        self, *, input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str] | None
    ) -> RemoteBatch:
        """Create a batch: once, for each create that arrives is billed, and the API has no key to tell repeats.

        It is repeated only where it was certainly refused because the file, just uploaded, is not visible yet.

        Raises:
            QueueFullError: The quota has no room now.
            ProviderError: If it is `refused`, the batch was certainly not created; otherwise nobody knows.
        """
        return self._run(self._creating(input_file_id, endpoint, completion_window, metadata))

    def retrieve(self, batch_id: str) -> RemoteBatch:
        """Look at one batch."""
        return self._run(self._repeated(lambda: self._retrieving(batch_id)))

    def cancel(self, batch_id: str) -> RemoteBatch:
        """Cancel a batch; one that has ended stays as it is."""
        return self._run(self._repeated(lambda: self._cancelling(batch_id)))

    def ask(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """What the endpoint answers at once, at its full price, as the JSON object that it is.

        A call that fails in a way worth it is repeated, and may then be billed twice.
        """
        return self._run(self._repeated(lambda: self._asking(endpoint, body)))

    def list_batches(self, *, after: str | None = None) -> Page:
        """A page of up to 100 batches of the account."""
        return self._run(self._repeated(lambda: self._listing(after)))

    def whose(self, remote: RemoteBatch) -> RemoteBatch:
        """The same batch with the key that it carries, where only the results of one that has ended show it."""
        return self._run(self._repeated(lambda: self._claiming(remote)))

    def find_files(self, prefix: str) -> list[UploadedFile]:
        """All input files whose names begin like this."""
        return self._run(self._repeated(lambda: self._finding(prefix)))

    def delete_file(self, file_id: str) -> None:
        """Delete a file; one that is gone already is no error."""
        self._run(self._repeated(lambda: self._deleting(file_id)))

    def download(self, file_id: str, target: IO[bytes]) -> int:
        """Append a file's content to `target`, whole or not at all; a download cut short is noticed and repeated.

        Returns:
            The number of bytes.

        Raises:
            StoreError: `target` could not be written, and is not as it was.
        """
        return self._run(self._downloading(file_id, target))

    def _fetch(self, client: OpenAI, file_id: str, target: IO[bytes]) -> int | None:
        with client.files.with_streaming_response.content(file_id) as response:
            for chunk in response.iter_bytes():
                with writing():
                    target.write(chunk)
            return expected_length(response.headers)

    @staticmethod
    def _run(steps: Steps[T]) -> T:
        answer, failure = None, None
        while True:
            try:
                step = steps.throw(failure) if failure else steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer, failure = None, None
            try:
                answer = step()
            except Exception as error:  # noqa: BLE001 - handed on in the next turn, where it is no longer being handled
                failure = error


class AsyncProvider(Calls):
    """`Provider` for those who await; holds whole files in memory, as a processor's batch does."""

    def __init__(
        self,
        account: Account | None = None,
        *,
        client: AsyncOpenAI | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(account, sleep=sleep, random=random, now=now)
        self._given = client

    @cached_property
    def client(self) -> AsyncOpenAI:
        """The `openai` client, built when it is first needed."""
        from openai import AsyncOpenAI

        return self._given or AsyncOpenAI(**self._account.async_options())

    async def upload(self, source: IO[bytes], name: str) -> UploadedFile:
        """As `Provider.upload`."""
        return await self._run(self._uploading(source, name))

    async def create(
        self, *, input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str] | None
    ) -> RemoteBatch:
        """As `Provider.create`."""
        return await self._run(self._creating(input_file_id, endpoint, completion_window, metadata))

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """As `Provider.retrieve`."""
        return await self._run(self._repeated(lambda: self._retrieving(batch_id)))

    async def close(self) -> None:
        """Close the client's connections, unless the client is somebody else's."""
        if self._given is None and "client" in self.__dict__:
            await self.client.close()

    async def delete_file(self, file_id: str) -> None:
        """As `Provider.delete_file`."""
        await self._run(self._repeated(lambda: self._deleting(file_id)))

    async def download(self, file_id: str, target: IO[bytes]) -> int:
        """As `Provider.download`."""
        return await self._run(self._downloading(file_id, target))

    async def _fetch(self, client: AsyncOpenAI, file_id: str, target: IO[bytes]) -> int | None:
        async with client.files.with_streaming_response.content(file_id) as response:
            async for chunk in response.iter_bytes():
                with writing():
                    target.write(chunk)
            return expected_length(response.headers)

    @staticmethod
    async def _run(steps: Steps[T]) -> T:
        answer, failure = None, None
        while True:
            try:
                step = steps.throw(failure) if failure else steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer, failure = None, None
            try:
                answer = await step()
            except Exception as error:  # noqa: BLE001 - as in `Provider`
                failure = error
