"""`OpenAIBatchProcessor`: one batch at a time, without an orchestrator."""

from __future__ import annotations

import asyncio
import io
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, ClassVar

from ractobatch_dagster.errors import (
    BatchFailedError,
    BatchNotReadyError,
    BatchWaitTimeoutError,
    ConfigurationError,
    ProviderError,
)
from ractobatch_dagster.models import BatchItem, BatchJobInfo, BatchResult, BatchStatus
from ractobatch_dagster.prompt import Prompt, output_model
from ractobatch_dagster.requests.body import CHAT, RequestTemplate

if TYPE_CHECKING:
    from openai import AsyncOpenAI, OpenAI
    from pydantic import BaseModel

    from ractobatch_dagster.provider.client import AsyncProvider
    from ractobatch_dagster.provider.profile import Profile
    from ractobatch_dagster.provider.remote import RemoteBatch

__all__ = ["OpenAIBatchProcessor"]

_MAX_FAILED_POLLS = 5

log = logging.getLogger(__name__)


class OpenAIBatchProcessor:
    """Sends prompts as one batch of chat completions and gives one result per item, in the items' order.

    Each method has a twin that is awaited: `asubmit_batch`, `apoll_status`, `aget_results`, `asubmit_and_wait`.
    For more rows than one batch takes, for crash safety and for tables, use `batch_asset`.

    Args:
        model: The model, or on Azure the deployment.
        api_key: The key, or a function that gives a token; without one the `openai` client reads `OPENAI_API_KEY`.
        base_url: Another server's address; without one the client reads `OPENAI_BASE_URL`, or takes OpenAI's.
        default_prompt: The prompt of every call that brings none: a `RactoPrompt`, anything else with
            `compile() -> str`, or a plain text.
        organization: OpenAI organisation.
        project: OpenAI project; batches and files belong to one.
        timeout: Seconds that one API call may take.
        max_retries: How often a call that is safe to repeat is repeated. Creating a batch never is.
        default_headers: Sent with every call.
        client: An `openai.OpenAI` of your own, instead of all of the above but `model`.
        async_client: An `openai.AsyncOpenAI` of your own, for the methods that are awaited.

    Example:
        ```python
        processor = OpenAIBatchProcessor(model="gpt-4o-mini", default_prompt="Answer briefly.")
        results = processor.submit_and_wait([BatchItem(custom_id="q1", user_message="What is 2+2?")])
        ```
    """

    provider: ClassVar[str] = "openai"

    def __init__(
        self,
        model: str = "gpt-4o-mini",
        *,
        api_key: str | Callable[[], str] | None = None,
        base_url: str | None = None,
        default_prompt: Prompt | str | None = None,
        organization: str | None = None,
        project: str | None = None,
        timeout: float | None = None,
        max_retries: int | None = None,
        default_headers: Mapping[str, str] | None = None,
        client: OpenAI | None = None,
        async_client: AsyncOpenAI | None = None,
    ) -> None:
        from ractobatch_dagster.provider.client import Account, Provider

        self._model = model
        self._default_prompt = default_prompt
        self._account = Account(api_key, base_url, organization, project, timeout, max_retries, default_headers)
        self._provider = Provider(self._account, client=client)
        self._async_client = async_client
        # a client's connections belong to the event loop that made them
        self._loops: dict[asyncio.AbstractEventLoop, _Lifetime] = {}
        self._sent: dict[str, tuple[list[str], type[BaseModel] | None]] = {}

    def submit_batch(
        self, items: Sequence[BatchItem], *, prompt: Prompt | str | None = None, completion_window: str = "24h"
    ) -> BatchJobInfo:
        """Send the items as one batch and return at once.

        Args:
            items: 1 to 50,000 of them, with `custom_id`s that differ.
            prompt: The system prompt, instead of the processor's own.
            completion_window: How long the provider may take; OpenAI knows `24h` only.

        Raises:
            InvalidInputError: An item cannot be sent; it is named, and nothing was uploaded.
            ConfigurationError: There is no prompt.
            QueueFullError: The provider's quota has no room now.
            ProviderError: The upload or the create failed. Where it is not known whether the batch was created, the
                message says so.
        """
        template = self._template(prompt)
        data = _input_file(items, template, self._provider.profile)
        file_id = self._provider.upload(io.BytesIO(data), _file_name()).id
        try:
            remote = self._provider.create(**_create(file_id, completion_window))
        except ProviderError as error:
            if not error.refused:
                raise _with_advice(error, _UNKNOWN.format(file_id)) from error.__cause__
            with suppress(ProviderError):
                self._provider.delete_file(file_id)
            raise
        return self._submitted(remote, items, template)

    def poll_status(self, job_id: str) -> BatchJobInfo:
        """Where a batch stands now."""
        return self._provider.retrieve(job_id).job_info(self.provider)

    def get_results(self, job_id: str) -> list[BatchResult]:
        """What became of each item of a batch that has ended, in the items' order.

        An expired or cancelled batch gives what was answered; its other items say so in their `status`.

        Raises:
            BatchNotReadyError: It has not ended yet.
            BatchFailedError: The provider refused it; nothing was run or billed.
            ProviderNotFoundError: There is no such batch, or its files are gone.
        """
        remote = _ended(self._provider.retrieve(job_id))
        asked, output_type = self._asked(job_id)
        if asked is None and remote.input_file_id:
            sent = io.BytesIO()
            with _unless_refused():
                self._provider.download(remote.input_file_id, sent)
                asked = _ids(sent)
        answers = io.BytesIO()
        for file_id in _files(remote):
            self._provider.download(file_id, answers)
            answers.write(b"\n")
        return _results(asked, answers, remote.status, output_type)

    def submit_and_wait(
        self,
        items: Sequence[BatchItem],
        *,
        prompt: Prompt | str | None = None,
        completion_window: str = "24h",
        poll_interval_s: float = 60.0,
        max_wait_s: float = 86_400.0,
    ) -> list[BatchResult]:
        """Send the items, wait until the batch has ended, and return what became of each, in their order.

        Args:
            items: As for `submit_batch`.
            prompt: As for `submit_batch`.
            completion_window: As for `submit_batch`.
            poll_interval_s: Seconds between two looks.
            max_wait_s: Seconds after which we stop waiting; the batch itself goes on.

        Raises:
            BatchWaitTimeoutError: It had not ended after `max_wait_s`.
            BatchFailedError: The provider refused it; nothing was run or billed.
            RactobatchError: As `submit_batch` and `get_results`.
        """
        job = self.submit_batch(items, prompt=prompt, completion_window=completion_window)
        with _Wait(job, len(items), max_wait_s) as wait:
            while True:
                try:
                    ended = wait.seen(self.poll_status(job.job_id))
                except ProviderError as error:
                    ended = wait.failed(error)
                if ended:
                    break
                time.sleep(wait.pause(poll_interval_s))
        try:
            return self.get_results(job.job_id)
        except ProviderError as error:
            raise _with_advice(error, _COLLECT.format(job.job_id)) from error.__cause__

    async def asubmit_batch(
        self, items: Sequence[BatchItem], *, prompt: Prompt | str | None = None, completion_window: str = "24h"
    ) -> BatchJobInfo:
        """As `submit_batch`."""
        template, provider = self._template(prompt), await self._async_provider()
        data = _input_file(items, template, provider.profile)
        file_id = (await provider.upload(io.BytesIO(data), _file_name())).id
        try:
            remote = await provider.create(**_create(file_id, completion_window))
        except ProviderError as error:
            if not error.refused:
                raise _with_advice(error, _UNKNOWN.format(file_id)) from error.__cause__
            with suppress(ProviderError):
                await provider.delete_file(file_id)
            raise
        return self._submitted(remote, items, template)

    async def apoll_status(self, job_id: str) -> BatchJobInfo:
        """As `poll_status`."""
        provider = await self._async_provider()
        return (await provider.retrieve(job_id)).job_info(self.provider)

    async def aget_results(self, job_id: str) -> list[BatchResult]:
        """As `get_results`."""
        provider = await self._async_provider()
        remote = _ended(await provider.retrieve(job_id))
        asked, output_type = self._asked(job_id)
        if asked is None and remote.input_file_id:
            sent = io.BytesIO()
            with _unless_refused():
                await provider.download(remote.input_file_id, sent)
                asked = _ids(sent)
        answers = io.BytesIO()
        for file_id in _files(remote):
            await provider.download(file_id, answers)
            answers.write(b"\n")
        return _results(asked, answers, remote.status, output_type)

    async def asubmit_and_wait(
        self,
        items: Sequence[BatchItem],
        *,
        prompt: Prompt | str | None = None,
        completion_window: str = "24h",
        poll_interval_s: float = 60.0,
        max_wait_s: float = 86_400.0,
    ) -> list[BatchResult]:
        """As `submit_and_wait`."""
        job = await self.asubmit_batch(items, prompt=prompt, completion_window=completion_window)
        with _Wait(job, len(items), max_wait_s) as wait:
            while True:
                try:
                    ended = wait.seen(await self.apoll_status(job.job_id))
                except ProviderError as error:
                    ended = wait.failed(error)
                if ended:
                    break
                await asyncio.sleep(wait.pause(poll_interval_s))
        try:
            return await self.aget_results(job.job_id)
        except ProviderError as error:
            raise _with_advice(error, _COLLECT.format(job.job_id)) from error.__cause__

    async def _async_provider(self) -> AsyncProvider:
        """The provider of the running event loop."""
        from ractobatch_dagster.provider.client import AsyncProvider

        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops = {old: its for old, its in self._loops.items() if not old.is_closed()}
            self._loops[loop] = _Lifetime(AsyncProvider(self._account, client=self._async_client))
            await self._loops[loop].begin()
        return self._loops[loop].provider

    def _template(self, prompt: Prompt | str | None) -> RequestTemplate:
        chosen = self._default_prompt if prompt is None else prompt
        if chosen is None:
            raise ConfigurationError("No prompt provided and no default_prompt on the processor.")
        return RequestTemplate.of(self._model, chosen)

    def _submitted(self, remote: RemoteBatch, items: Sequence[BatchItem], template: RequestTemplate) -> BatchJobInfo:
        self._sent[remote.id] = [item.custom_id for item in items], template.output_type
        log.info("Created batch %s with %d requests.", remote.id, len(items))
        info = remote.job_info(self.provider)
        return info.model_copy(update={"request_count": info.request_count or len(items)})

    def _asked(self, job_id: str) -> tuple[list[str] | None, type[BaseModel] | None]:
        """The batch's `custom_id`s and output model, if this processor sent it."""
        return self._sent.get(job_id, (None, output_model(self._default_prompt)))


class _Lifetime:
    """An asynchronous provider whose connections are closed when its event loop shuts down, as `asyncio.run` does."""

    def __init__(self, provider: AsyncProvider) -> None:
        self.provider = provider
        self._generator = self._live()

    async def begin(self) -> None:
        """Have the running event loop know of it."""
        await self._generator.__anext__()

    async def _live(self) -> AsyncGenerator[None, None]:
        # a loop that shuts down closes the asynchronous generators that were begun in it
        try:
            yield
        finally:
            await self.provider.close()


class _Wait:
    """The bookkeeping of a wait: its end, its progress bar, and how many looks failed in a row."""

    def __init__(self, job: BatchJobInfo, requests: int, max_wait_s: float) -> None:
        from tqdm import tqdm

        self._job_id = job.job_id
        self._end = time.time() + max_wait_s  # the wall clock, for a laptop that sleeps
        self._failures = 0
        self._last = job.status.value
        # no bar where nobody looks at a terminal
        self._bar = tqdm(total=requests, desc=f"{job.job_id} {self._last}", unit="request", disable=None)

    def __enter__(self) -> _Wait:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def seen(self, info: BatchJobInfo) -> bool:
        """Note what a look showed; whether the batch has ended."""
        self._failures = 0
        self._last = info.status.value
        self._bar.set_description(f"{self._job_id} {self._last}")
        self._bar.update(max(0, info.completed_count + info.failed_count - self._bar.n))
        return info.status.terminal

    def failed(self, error: ProviderError) -> bool:
        """Note that a look failed; the batch goes on all the same.

        Raises:
            ProviderError: Looking again is of no use, or too many looks in a row have failed.
        """
        self._failures += 1
        hopeless = error.refused and error.status_code != 429
        if hopeless or self._failures >= _MAX_FAILED_POLLS:
            raise error
        log.warning("Looking at batch %s failed, trying again: %s", self._job_id, error)
        return False

    def pause(self, poll_interval_s: float) -> float:
        """How long to wait before the next look.

        Raises:
            BatchWaitTimeoutError: The time is up.
        """
        left = self._end - time.time()
        if left <= 0:
            raise BatchWaitTimeoutError(
                f"Batch {self._job_id!r} is still {self._last!r} and we stopped waiting. It goes on: "
                f"get_results({self._job_id!r}) collects it once it has ended."
            )
        return min(poll_interval_s, left)


def _file_name() -> str:
    """A name of its own for each input file: after an upload of which nobody knows, the file is looked for by it."""
    return f"batch_input-{secrets.token_hex(8)}.jsonl"


def _create(file_id: str, completion_window: str) -> dict[str, Any]:
    return {"input_file_id": file_id, "endpoint": CHAT, "completion_window": completion_window, "metadata": None}


@contextmanager
def _unless_refused() -> Iterator[None]:
    """Do what is inside, unless the provider surely refuses to: an input file may be gone, or not be handed out."""
    try:
        yield
    except ProviderError as error:
        if not error.refused:
            raise


def _with_advice(error: ProviderError, advice: str) -> ProviderError:
    return type(error)(
        f"{error}. {advice}", status_code=error.status_code, code=error.code, retry_after=error.retry_after
    )


_UNKNOWN = (
    "Whether the batch was created is not known: look for one with input file {} before you send these items again."
)
_COLLECT = "The batch has ended: get_results({!r}) collects it."


def _input_file(items: Sequence[BatchItem], template: RequestTemplate, profile: Profile) -> bytes:
    from ractobatch_dagster.requests.cut import Limits
    from ractobatch_dagster.requests.items import input_file

    return input_file(items, template, Limits(profile.max_requests, profile.max_bytes))


def _results(
    asked: list[str] | None, answers: io.BytesIO, status: BatchStatus, output_type: type[BaseModel] | None
) -> list[BatchResult]:
    from ractobatch_dagster.results.items import item_results

    return item_results(asked, answers.getvalue(), status, output_type)


def _ended(remote: RemoteBatch) -> RemoteBatch:
    if remote.status is BatchStatus.FAILED and not _files(remote):
        issues = [str(issue) for issue in remote.issues]
        why = "; ".join(issues[:5]) or "the provider gave no reason"
        raise BatchFailedError(f"Batch {remote.id!r} was refused: {why}", batch_id=remote.id, issues=issues)
    if not remote.status.terminal:
        raise BatchNotReadyError(
            f"Batch {remote.id!r} is not completed yet: it is {remote.status.value!r}, with {remote.completed} of "
            f"{remote.total} requests answered."
        )
    return remote


def _files(remote: RemoteBatch) -> list[str]:
    return [file_id for file_id in (remote.output_file_id, remote.error_file_id) if file_id]


def _ids(sent: io.BytesIO) -> list[str]:
    from ractobatch_dagster.results.lines import BadLine, read_lines

    lines = read_lines([sent.getvalue()])
    return [str(line.get("custom_id")) for line in lines if not isinstance(line, BadLine)]
