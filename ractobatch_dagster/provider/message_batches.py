"""Anthropic's Message Batches behind the face of `Provider`: no files and no metadata there, and both made up for.

A batch is created by one call that carries its requests. So an "uploaded" input file waits in our own store, and goes
with the create. What a batch would say in its metadata, each of its `custom_id`s says; since only results show those,
a batch whose create was never answered is known again once it has ended (`whose`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any

from ractobatch_dagster.errors import (
    ConfigurationError,
    ProviderAPIError,
    ProviderError,
    ProviderNotFoundError,
    ProviderTimeoutError,
    StoreError,
)
from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.provider.account import Account
from ractobatch_dagster.provider.calls import Steps, expected_length, log, writing
from ractobatch_dagster.provider.client import Provider
from ractobatch_dagster.provider.naming import KEY, key_in, tagged
from ractobatch_dagster.provider.remote import Page, RemoteBatch, UploadedFile
from ractobatch_dagster.secrecy import redacted
from ractobatch_dagster.store import Store

__all__ = ["AnthropicProvider"]

_SEND_WITHIN = 300.0
"""Seconds after which a create that is still being sent is broken off, so that it cannot arrive once it is given up."""

_INPUTS, _NAME = "inputs", "requests.jsonl"
_BEFORE, _BETWEEN, _AFTER = b'{"requests":[', b",", b"]}"
_LINE = b'{"custom_id":"'
"""How each line of an input file begins."""


class AnthropicProvider(Provider):
    """Anthropic's Message Batches.

    Args:
        account: Where it is.
        store: Gives the store, where input files wait for their create.
        options: As `Provider` takes them.

    Raises:
        ConfigurationError: The `anthropic` package is not installed; raised by the first call.
    """

    def __init__(self, account: Account, store: Callable[[], Store], *, client: Any = None, **options: Any) -> None:
        super().__init__(account, client=client, **options)
        self._open = store

    @cached_property
    def sdk(self) -> Any:
        """The `anthropic` package."""
        try:
            import anthropic
        except ModuleNotFoundError as error:
            if error.name != "anthropic":
                raise
            raise ConfigurationError(
                "Claude needs 'anthropic', which is not installed: pip install 'ractobatch-dagster[anthropic]'"
            ) from error
        return anthropic

    @cached_property
    def client(self) -> Any:
        """The `anthropic` client, built when it is first needed.

        Raises:
            ConfigurationError: The key or the address cannot be used, or the package is not installed.
        """
        if self._given is not None:
            return self._given
        given = self._account.options()
        if callable(given.get("api_key")):
            raise ConfigurationError("Anthropic takes a key, not a function that gives one.")
        named = ("api_key", "base_url", "timeout", "max_retries", "default_headers")
        given = {name: given[name] for name in named if name in given}
        if "base_url" in given:  # the client's own paths begin with it
            given["base_url"] = given["base_url"].rstrip("/").removesuffix("/v1")
        return self.sdk.Anthropic(**given)

    def hurried(self, timeout: float, patience: float) -> AnthropicProvider:
        """As `Provider.hurried`."""
        return AnthropicProvider(
            replace(self._account, patience=patience, max_retries=1),
            self._open,
            client=self.client.with_options(timeout=timeout),
            sleep=self._sleep,
            random=self._random,
            now=self._now,
        )

    @cached_property
    def _store(self) -> Store:
        return self._open()

    # -- input files, which wait with us ----------------------------------------------------------

    def _uploading(self, source: IO[bytes], name: str) -> Steps[UploadedFile]:
        source.seek(0)
        size = lines = 0
        while chunk := source.read(1 << 20):
            size, lines = size + len(chunk), lines + chunk.count(b"\n")
        source.seek(0)
        looked = yield from self._repeated(
            lambda: self._once(
                "listing batches", lambda client: client.messages.batches.with_raw_response.list(limit=1)
            )
        )
        id_ = f"{lines}-{size}-{name}"
        path = getattr(source, "name", None)
        self._store.write(_path(id_), Path(path) if isinstance(path, str) else source.read())
        return UploadedFile(id_, name, size, _date(looked.headers))

    def _finding(self, prefix: str) -> Steps[list[UploadedFile]]:
        yield from ()
        there = ((id_, id_.split("-", 2)) for id_ in self._store.folders(_INPUTS))
        return [
            UploadedFile(id_, parts[2], int(parts[1]))
            for id_, parts in there
            if len(parts) == 3 and parts[2].startswith(prefix)
        ]

    def _deleting(self, file_id: str) -> Steps[None]:
        """Delete an input file that waits, or a batch with its results."""
        if not _is_batch(file_id):
            yield from ()
            self._store.delete(f"{_INPUTS}/{file_id}")
            return
        try:
            yield from self._once(f"deleting {file_id}", lambda client: client.messages.batches.delete(file_id))
        except ProviderNotFoundError:
            return

    # -- batches ----------------------------------------------------------------------------------

    def _creating(
        self, input_file_id: str, endpoint: str, completion_window: str, metadata: Mapping[str, str] | None
    ) -> Steps[RemoteBatch]:
        if not self._store.exists(_path(input_file_id)):
            raise ProviderAPIError(f"No such file: {input_file_id}; its create was given up.", status_code=400)
        lines, size = map(int, input_file_id.split("-")[:2])
        tag = tagged("", (metadata or {}).get(KEY, "")).encode()
        length = len(_BEFORE) + size - 1 + len(tag) * lines + len(_AFTER)
        content = self._sent(_path(input_file_id), tag, self._now() + _SEND_WITHIN)

        def post(client: Any) -> Any:
            return client.with_options(timeout=self._account.timeout or 120.0).post(
                f"{endpoint}/batches",
                cast_to=self.sdk.types.messages.MessageBatch,
                content=content,
                options={"headers": {"Content-Type": "application/json", "Content-Length": str(length)}},
            )

        batch = _read((yield from self._once("creating the batch", post, creating=True)), self._hide)
        try:
            self._store.delete(f"{_INPUTS}/{input_file_id}")
        except StoreError as error:  # the batch is there; `ractobatch gc` deletes what is left
            log.warning("%s", error)
        return batch

    def _sent(self, path: str, tag: bytes, until: float) -> Iterator[bytes]:
        """The body of a create, its `custom_id`s with their tag. Broken off halfway nothing is created.

        That is what stops a writer which has slept: its last bytes are made only in time, and while the file is there.
        """
        before, rest = _BEFORE, b""
        for chunk in self._store.chunks(path):
            self._in_time(until)
            *lines, rest = (rest + chunk).split(b"\n")
            if lines:
                yield before + _BETWEEN.join(_with_tag(line, tag) for line in lines)
                before = _BETWEEN
        self._in_time(until)
        if not self._store.exists(path):
            raise ProviderTimeoutError("The requests were taken away while they were sent.")
        yield _AFTER

    def _in_time(self, until: float) -> None:
        if self._now() > until:
            raise ProviderTimeoutError(f"The requests were not sent within {_SEND_WITHIN:.0f} s.")

    def _retrieving(self, batch_id: str) -> Steps[RemoteBatch]:
        doing = f"looking at batch {batch_id}"
        found = yield from self._once(doing, lambda client: client.messages.batches.retrieve(batch_id))
        return _read(found, self._hide)

    def _cancelling(self, batch_id: str) -> Steps[RemoteBatch]:
        doing = f"cancelling batch {batch_id}"
        try:
            batch = yield from self._once(doing, lambda client: client.messages.batches.cancel(batch_id))
        except ProviderError as error:
            if error.status_code not in (400, 409):
                raise
        else:
            return _read(batch, self._hide)
        return (yield from self._retrieving(batch_id))

    def _listing(self, after: str | None) -> Steps[Page]:
        start = {"after_id": after} if after else {}
        call: Callable[[Any], Any] = partial(_page, start)
        page = yield from self._once("listing batches", call)
        batches = tuple(_read(one, self._hide) for one in page.data or ())
        more = bool(batches) and page.has_more is not False and batches[-1].id != after
        return Page(batches, batches[-1].id if more else None)

    def _asking(self, endpoint: str, body: Mapping[str, Any]) -> Steps[dict[str, Any]]:
        answer = yield from self._once(
            f"asking {endpoint}", lambda client: client.post(endpoint, cast_to=object, body=dict(body))
        )
        return answer if isinstance(answer, dict) else {}

    def _claiming(self, remote: RemoteBatch) -> Steps[RemoteBatch]:
        def first(client: Any) -> Any:
            with self._results(client, remote.id) as response:
                return next(iter(response.iter_lines()), "{}")

        line = yield from self._once(f"looking whose batch {remote.id} is", first)
        try:
            key = key_in(str(json.loads(line)["custom_id"]))
        except (ValueError, TypeError, KeyError):
            key = None
        return replace(remote, anonymous=False, metadata={KEY: key} if key else {})

    # -- results ----------------------------------------------------------------------------------

    @contextmanager
    def _results(self, client: Any, batch_id: str) -> Iterator[Any]:
        """The reply that streams a batch's results; of one that has none, or no longer, they are not found."""
        try:
            with closing(client.messages.batches.results(batch_id)) as decoder:
                yield decoder.http_response  # the bytes themselves, which the decoder has not touched yet
        except self.sdk.APIError:
            raise
        except self.sdk.AnthropicError as error:
            raise ProviderNotFoundError(f"[anthropic] {error}", status_code=404) from error

    def _fetch(self, client: Any, file_id: str, target: IO[bytes]) -> int | None:
        last = b""
        with self._results(client, file_id) as response:
            for chunk in response.iter_bytes():
                with writing():
                    target.write(chunk)
                last = (last + chunk).rpartition(b"\n")[2]
            length = expected_length(response.headers)
        if last and not _is_json(last):  # a gateway has cut it off, and says that this was all
            raise ProviderAPIError(f"Downloading the results of {file_id} broke off in the middle of a line.")
        return length

    def _told_size(self, file_id: str) -> Steps[int]:
        yield from ()
        return 0


def _path(file_id: str) -> str:
    return f"{_INPUTS}/{file_id}/{_NAME}"


def _is_batch(file_id: str) -> bool:
    """Whether it is a batch, whose results are known by its id, and no input file of ours."""
    return not file_id.partition("-")[0].isdecimal()


def _with_tag(line: bytes, tag: bytes) -> bytes:
    at = line.index(b'"', len(_LINE))
    return line[:at] + tag + line[at:]


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True


def _page(start: Mapping[str, str], client: Any) -> Any:
    return client.messages.batches.list(limit=100, **start)


def _date(headers: Mapping[str, str]) -> float:
    """What the provider's clock says; 0 where it does not."""
    try:
        date = parsedate_to_datetime(headers.get("date", ""))
    except (TypeError, ValueError):
        return 0.0
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _read(batch: Any, hide: Callable[[str], str] = redacted) -> RemoteBatch:
    """A batch as the `anthropic` client returns it; its fields are not validated there, and any may be missing.

    Raises:
        ProviderAPIError: It is no batch at all, but for example a web page.
    """
    if not getattr(batch, "id", None):
        raise ProviderAPIError(
            f"[anthropic] the reply is no batch but {hide(repr(batch)):.200}. Is the base URL right?"
        )
    told = getattr(batch, "request_counts", None)
    names = ("processing", "succeeded", "errored", "canceled", "expired")
    counts = {name: count if isinstance(count := getattr(told, name, None), int) else 0 for name in names}
    ended = getattr(batch, "processing_status", None) == "ended"
    created_at = getattr(batch, "created_at", None)
    return RemoteBatch(
        id=str(batch.id),
        status=_status(batch, counts),
        created_at=created_at.timestamp() if isinstance(created_at, datetime) else 0.0,
        output_file_id=str(batch.id) if ended else None,
        total=sum(counts.values()),
        completed=counts["succeeded"],
        failed=counts["errored"] + counts["canceled"] + counts["expired"],
        anonymous=True,
        raw=batch,
    )


def _status(batch: Any, counts: Mapping[str, int]) -> BatchStatus:
    """How it stands; one that has ended says by its counts how."""
    word = getattr(batch, "processing_status", None)
    if word == "canceling":
        return BatchStatus.CANCELLING
    if word != "ended":
        return BatchStatus.IN_PROGRESS
    if counts["canceled"]:
        return BatchStatus.CANCELLED
    return BatchStatus.EXPIRED if counts["expired"] else BatchStatus.COMPLETED
