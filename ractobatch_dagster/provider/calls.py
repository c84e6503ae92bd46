"""What a provider is asked, written once for those who await and those who do not.

Each method is a generator of steps: a call of the client, or a pause. Whoever drives it does a step, or awaits it,
and hands back what came of it.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit

from ractobatch_dagster.errors import ProviderAPIError, ProviderError, ProviderNotFoundError, StoreError
from ractobatch_dagster.provider.account import Account, without_password
from ractobatch_dagster.provider.profile import PROFILES, Profile, kind_of
from ractobatch_dagster.provider.remote import Page, RemoteBatch, UploadedFile, read_batch, read_file
from ractobatch_dagster.provider.retry import VISIBLE_AFTER, Budget, Policy
from ractobatch_dagster.provider.translate import misses_file, translated
from ractobatch_dagster.secrecy import holds_secret, redacted, secrets_in

__all__ = ["Calls", "Steps", "expected_length", "writing"]

T = TypeVar("T")

Steps = Generator[Callable[[], Any], Any, T]

_DOWNLOADS = 4
"""Tries that a download has at least: a long reply breaks off more easily than others, and asking again is free."""

log = logging.getLogger(__name__)


class Calls:
    """A provider's calls as generators.

    Args:
        account: Where it is.
        sleep: Waits some seconds, or returns something to await that does.
        random: A number from 0 to 1.
        now: Seconds since 1970.
    """

    def __init__(
        self,
        account: Account | None,
        *,
        sleep: Callable[[float], Any],
        random: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._account = account or Account()
        self._sleep = sleep
        self._random = random
        self._now = now

    @property
    def client(self) -> Any:
        """The `openai` client."""
        raise NotImplementedError

    @cached_property
    def sdk(self) -> Any:
        """The client's package, whose exceptions are translated."""
        import openai

        return openai

    def _fetch(self, client: Any, file_id: str, target: IO[bytes]) -> Any:
        """Append a file's content, as it arrives, and return how long it should be, where the reply says so."""
        raise NotImplementedError

    @cached_property
    def profile(self) -> Profile:
        """What kind of provider it is, and what it can do."""
        return self._account.profile or PROFILES[self._account.kind or kind_of(str(self.client.base_url))]

    @cached_property
    def identity(self) -> str:
        """Who answers, for the request hash: kind and address, never the key. The local server is one on any port."""
        address = without_password(str(self.client.base_url)).rstrip("/")
        return "local" if self.profile.kind == "local" else f"{self.profile.kind} {address}"

    def _read(self, batch: Any) -> RemoteBatch:
        return read_batch(batch, self._hide, self.profile.statuses)

    def _uploading(self, source: IO[bytes], name: str) -> Steps[UploadedFile]:
        size = source.seek(0, io.SEEK_END)
        doubtful = False

        def attempt() -> Steps[UploadedFile]:
            nonlocal doubtful
            if doubtful and (there := (yield from self._uploaded(name, size))):
                return there
            source.seek(0)
            try:
                file = yield from self._once(
                    f"uploading {name}",
                    lambda client: client.files.create(file=(name, source, "application/jsonl"), purpose="batch"),
                )
            except ProviderError as error:
                doubtful = doubtful or not error.refused
                raise
            return read_file(file, self._hide)

        return (yield from self._repeated(attempt))

    def _uploaded(self, name: str, size: int) -> Steps[UploadedFile | None]:
        """The file of this name and size, if an upload that seemed to fail has made one; of several, the newest."""
        try:
            files = yield from self._finding(name)
        except ProviderError as error:
            if not error.refused or error.status_code == 429:
                raise
            return None  # it shows no files to this key; a second one costs nothing
        same = sorted((one for one in files if (one.name, one.size) == (name, size)), key=lambda one: one.created_at)
        for older in same[:-1]:
            yield from self._deleting(older.id)
        return same[-1] if same else None

    def _creating(
        self, input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str] | None
    ) -> Steps[RemoteBatch]:
        arguments: dict[str, Any] = {
            "input_file_id": input_file_id,
            "endpoint": endpoint,
            "completion_window": completion_window,
            **({"metadata": dict(metadata)} if metadata else {}),
        }
        waited = 0.0
        for pause in (*VISIBLE_AFTER, None):
            try:
                batch = yield from self._once(
                    "creating the batch", lambda client: client.batches.create(**arguments), creating=True
                )
                return self._read(batch)
            except ProviderError as error:
                if pause is None or waited + pause > self._account.patience or not misses_file(error):
                    raise
                log.warning("%s; trying again in %.1f s", error, pause)
            waited += pause
            yield partial(self._sleep, pause)
        raise AssertionError("unreachable")

    def _retrieving(self, batch_id: str) -> Steps[RemoteBatch]:
        doing = f"looking at batch {batch_id}"
        return self._read((yield from self._once(doing, lambda client: client.batches.retrieve(batch_id))))

    def _cancelling(self, batch_id: str) -> Steps[RemoteBatch]:
        doing = f"cancelling batch {batch_id}"
        try:
            batch = yield from self._once(doing, lambda client: client.batches.cancel(batch_id))
        except ProviderError as error:
            if error.status_code not in (400, 409):
                raise
        else:
            return self._read(batch)
        return (yield from self._retrieving(batch_id))

    def _asking(self, endpoint: str, body: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        answer = yield from self._once(
            f"asking {endpoint}",
            lambda client: client.post(endpoint.removeprefix("/v1"), cast_to=object, body=dict(body)),
        )
        return answer if isinstance(answer, dict) else {}

    def _listing(self, after: str | None) -> Steps[Page]:
        start = {"after": after} if after else {}
        page = yield from self._once("listing batches", lambda client: client.batches.list(limit=100, **start))
        batches = tuple(self._read(one) for one in page.data or ())
        # a server that does not say whether there is more is asked until nothing comes
        more = bool(batches) and getattr(page, "has_more", None) is not False and batches[-1].id != after
        return Page(batches, batches[-1].id if more else None)

    def _claiming(self, remote: RemoteBatch) -> Steps[RemoteBatch]:
        yield from ()
        return remote

    def _finding(self, prefix: str) -> Steps[list[UploadedFile]]:
        files: dict[str, UploadedFile] = {}
        start: dict[str, str] = {}
        while True:
            page = yield from self._once("listing files", partial(_files_page, start))
            fresh = [file for file in (read_file(one, self._hide) for one in page.data or ()) if file.id not in files]
            files.update({file.id: file for file in fresh})
            # a server that says nothing of more may have more, and one that knows no pages repeats the first
            if not fresh or getattr(page, "has_more", None) is False:
                return [file for file in files.values() if file.name.startswith(prefix)]
            start = {"after": fresh[-1].id}

    def _deleting(self, file_id: str) -> Steps[None]:
        try:
            yield from self._once(f"deleting file {file_id}", lambda client: client.files.delete(file_id))
        except ProviderNotFoundError:
            return

    def _downloading(self, file_id: str, target: IO[bytes]) -> Steps[int]:
        return self._repeated(lambda: self._downloading_once(file_id, target), least=_DOWNLOADS)

    def _downloading_once(self, file_id: str, target: IO[bytes]) -> Steps[int]:
        start = target.tell()
        try:
            expected = yield from self._once(
                f"downloading file {file_id}", lambda client: self._fetch(client, file_id, target)
            )
            with writing():
                target.flush()
                size = target.tell() - start
            # a gateway may cut the file and tell the length of what it left, or no length at all
            most = max(expected or 0, (yield from self._told_size(file_id)))
            if size < most:
                raise ProviderAPIError(f"Downloading file {file_id} broke off after {size:,} of {most:,} bytes.")
        except ProviderError:
            with writing():
                target.seek(start)
                target.truncate()
            raise
        return size

    def _told_size(self, file_id: str) -> Steps[int]:
        """How many bytes the provider says that the file has; 0 where it does not say."""
        try:
            told = yield from self._once(f"looking at file {file_id}", lambda client: client.files.retrieve(file_id))
        except ProviderError as error:
            if not error.unsupported:
                raise
            return 0
        size = getattr(told, "bytes", None)
        return size if isinstance(size, int) else 0

    def _repeated(self, attempt: Callable[[], Steps[T]], *, least: int = 1) -> Steps[T]:
        """Do this until it succeeds, fails for good, or has used up what one call may; `least` tries are allowed."""
        retries = self._account.max_retries
        tries = 1 + (self.client.max_retries if retries is None else retries)
        budget = Budget(Policy(max(tries, least), self._account.patience), self._random)
        while True:
            try:
                return (yield from attempt())
            except ProviderError as error:
                pause = budget.after(error)
                if pause is None:
                    raise
                log.warning("%s; trying again in %.1f s", error, pause)
            yield partial(self._sleep, pause)

    def _once(self, doing: str, call: Callable[[Any], Any], *, creating: bool = False) -> Steps[Any]:
        """One call of the client, whose exceptions come up as ours and without its secrets."""
        client = self._quiet
        try:
            return (yield partial(call, client))
        except Exception as error:
            failure = translated(error, doing, self.sdk, creating=creating, now=self._now(), secrets=self._secrets())
            if failure is None:
                raise
            cause = None if holds_secret(error, self._secrets()) else error
        # out here, so that the client's exception is not even the context of one that is not to show it
        raise failure from cause

    @cached_property
    def _quiet(self) -> Any:
        """The client without its own retries; the connections are the same."""
        return self.client.with_options(max_retries=0)

    def _hide(self, text: str) -> str:
        return redacted(text, self._secrets())

    def _secrets(self) -> frozenset[str]:
        """What no text may hold; read anew each time, since a client may be given a function that makes its keys."""
        names = ("api_key", "auth_token", "admin_api_key", "webhook_key", "webhook_secret", "_azure_ad_token")
        keys = [getattr(one, name, None) for one in (self.client, self._quiet) for name in names]
        headers = getattr(self.client, "_custom_headers", None) or {}
        password = urlsplit(str(self.client.base_url)).password
        return secrets_in([*self._account.secrets(), *keys, *headers.values(), password])


def _files_page(start: Mapping[str, str], client: Any) -> Any:
    return client.files.list(purpose="batch", **start)


@contextmanager
def writing() -> Iterator[None]:
    """Do something with the file that a download goes to.

    Raises:
        StoreError: The disk is full, or the file cannot be written for another reason.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(f"What is downloaded could not be written: {error}. Is the disk full?") from error


def expected_length(headers: Mapping[str, str]) -> int | None:
    """How long the reply says it is; a compressed one says how long it was on the wire, which does not help."""
    value = headers.get("content-length")
    return int(value) if value and value.isdecimal() and not headers.get("content-encoding") else None
