"""The Dagster resource: one provider account and one store, configured once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr, field_validator

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.store import Store, StoreClock, deployed

if TYPE_CHECKING:
    from ractobatch_dagster.processor import OpenAIBatchProcessor
    from ractobatch_dagster.provider.client import Provider
    from ractobatch_dagster.provider.profile import Kind, Profile
    from ractobatch_dagster.requests.cut import Limits
    from ractobatch_dagster.results.cost import Price
    from ractobatch_dagster.submission.alarms import Patience
    from ractobatch_dagster.submission.engine import Engine

__all__ = ["Budget", "Capabilities", "OpenAIBatchResource", "TokenPrice"]


class Budget(dg.Config):
    """So many US dollars at most, in a period, for one table or for all that use the resource's root.

    What a batch may cost (its prompts by their bytes, and `max_tokens` for each answer) is reserved before it is
    created, and settled to what it did cost once it is collected. What does not fit waits; with the next period, or
    once the budget is raised, the sensor goes on.
    """

    usd: float = Field(ge=0, description="US dollars.")
    per: str = Field(description="`submission`, `day`, `week` (from Monday), `month`, all by UTC, or `total`.")
    asset: str | None = Field(default=None, description="The key of a table; all tables where left out.")

    @field_validator("per")
    @classmethod
    def _known(cls, per: str) -> str:
        from ractobatch_dagster.submission.budget import PERIODS

        if per not in PERIODS:
            raise ValueError(f"{per!r} is none of {', '.join(PERIODS)}")
        return per


class TokenPrice(dg.Config):
    """What a model's tokens cost at the batch rate, in US dollars for a million of them."""

    input: float = Field(ge=0, description="US dollars for a million input tokens.")
    output: float = Field(default=0.0, ge=0, description="US dollars for a million output tokens.")
    cached_input: float | None = Field(
        default=None, ge=0, description="US dollars for a million cached input tokens; as other input where left out."
    )


class Capabilities(dg.Config):
    """What a server can do, where that is not what its kind of provider can; what is left out is as there."""

    max_requests: int | None = Field(default=None, ge=1, description="How many requests one input file takes.")
    max_bytes: int | None = Field(default=None, ge=1, description="How many bytes one input file takes.")
    batches_per_hour: int | None = Field(default=None, ge=1, description="How many batches may be created in an hour.")
    metadata: bool | None = Field(
        default=None,
        description="Whether a batch takes metadata. One that only forgets it is no trouble: say it where the server "
        "refuses it.",
    )
    endpoints: list[str] | None = Field(
        default=None, description="The endpoints that batches take, such as `/v1/chat/completions`; others are refused."
    )
    completion_windows: list[str] | None = Field(
        default=None, description="The completion windows that it takes, such as `24h`; others are refused."
    )
    statuses: dict[str, str] = Field(
        default_factory=dict,
        description="The server's own words for statuses, in any case, and which of ours each of them is: `pending`, "
        "`in_progress`, `finalizing`, `completed`, `failed`, `expired`, `cancelling` or `cancelled`. A word that "
        "nobody knows means that the batch goes on.",
    )
    list_seconds: float | None = Field(
        default=None, ge=0, description="For how many seconds its list of batches may not show a new one yet."
    )
    dashboard: str | None = Field(default=None, description="The address at which a person sees batches.")

    @field_validator("statuses")
    @classmethod
    def _known(cls, statuses: dict[str, str]) -> dict[str, str]:
        from ractobatch_dagster.models import BatchStatus

        for word, status in statuses.items():
            if status not in list(BatchStatus):
                raise ValueError(f"{word!r} is {status!r}, which is none of {', '.join(BatchStatus)}")
        return {word.strip().lower(): status for word, status in statuses.items()}

    def of(self, profile: Profile) -> Profile:
        """The profile with what is said here in place of its own."""
        from ractobatch_dagster.models import BatchStatus

        own = profile.endpoints or {}
        said: dict[str, Any] = {
            "max_requests": self.max_requests,
            "max_bytes": self.max_bytes,
            "batches_per_hour": self.batches_per_hour,
            "supports_metadata": self.metadata,
            "endpoints": None if self.endpoints is None else {one: own.get(one, one) for one in self.endpoints},
            "windows": None if self.completion_windows is None else tuple(self.completion_windows),
            "statuses": {word: BatchStatus(status) for word, status in self.statuses.items()} or None,
            "list_lag": self.list_seconds,
            "dashboard": self.dashboard,
        }
        return replace(profile, **{name: value for name, value in said.items() if value is not None})


class OpenAIBatchResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # generic only inside Dagster
    """One account at a Batch API and one store for what is submitted and answered.

    Example:
        ```python
        OpenAIBatchResource(api_key=dg.EnvVar("OPENAI_API_KEY"), root="s3://bucket/llm")
        ```
    """

    api_key: str | None = Field(
        default=None,
        repr=False,
        description="The API key; give it as `EnvVar`. Without one OPENAI_API_KEY is read, or ANTHROPIC_API_KEY.",
    )
    root: str = Field(
        description="Where submissions and tables live: a directory, `s3://`, `gs://` or `az://`. Every process that "
        "runs an asset or the sensor must see the same place."
    )
    base_url: str | None = Field(
        default=None, description="Another server's address: Azure's `…/openai/v1/`, or any compatible one."
    )
    provider: str | None = Field(
        default=None,
        description="What kind of server it is: `openai`, `azure`, `compatible`, `anthropic` or `local`; told from the "
        "address where left out. `local` starts the package's own batch server below the root when it is needed: no "
        "key, no cost, and answers by rules instead of a model.",
    )
    capabilities: Capabilities | None = Field(
        default=None, description="What a compatible server can do, where that is not what OpenAI's can."
    )
    organization: str | None = Field(default=None, description="OpenAI organisation.")
    project: str | None = Field(default=None, description="OpenAI project; batches and files belong to one.")
    timeout: float = Field(default=120.0, description="Seconds that one API call may take.")
    max_retries: int = Field(default=2, description="How often the client repeats a call that is safe to repeat.")
    default_headers: dict[str, str] = Field(default_factory=dict, repr=False, description="Sent with every call.")
    store_options: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Credentials and settings of the store, as obstore names them; read from the environment where "
        "left out.",
    )
    max_requests_per_batch: int | None = Field(default=None, description="Smaller batches than the provider's limit.")
    max_bytes_per_batch: int | None = Field(default=None, description="Smaller input files than the provider's limit.")
    max_tokens_per_batch: int | None = Field(
        default=None,
        description="Input tokens in one batch, estimated from its bytes; for a queue that takes only so many.",
    )
    transfers: int = Field(
        default=4, ge=1, description="Uploads or downloads at a time; each has a connection, a thread and a file."
    )
    processes: int = Field(
        default=0,
        ge=0,
        description="Processes that make input files and read answers, beside the run's own. None are needed to fill "
        "an uplink.",
    )
    deployment: str = Field(
        default="",
        description="Tells deployments apart that share one root, such as `staging` and `production`: each has a "
        "folder of its own below it.",
    )
    require_sensor: bool = Field(
        default=False, description="Refuse to send where no sensor has been looking, instead of warning."
    )
    stuck_after_hours: float = Field(
        default=12.0, description="A batch without progress for so long is reported as stuck, by a failed asset check."
    )
    files_kept_days: float = Field(
        default=30.0, description="For how long the provider keeps answers; a week before that they are an alarm."
    )
    budgets: list[Budget] = Field(default_factory=list, description="What batches may cost; each of them holds.")
    enqueued_tokens: dict[str, int] = Field(
        default_factory=dict,
        description="How many input tokens of a model the account takes into its queue, by model, as the provider's "
        "page of limits has it. Batches are created as others finish. Where left out it is learnt from a refusal.",
    )
    prices: dict[str, TokenPrice] = Field(
        default_factory=dict,
        description="Prices by model, as it is asked for or served, that go before those of the list: of a deployment "
        "on Azure, an embedding model, a contract of your own.",
    )
    hive_column: str | None = Field(
        default=None,
        description="Makes each partition of a table a directory `<column>=<key>`, as Hive has them. Of a "
        "multi-dimensional key each dimension is a directory of its own name.",
    )
    local_seconds: float = Field(default=5.0, description="How long a batch takes on the local server.")

    _provider: Any = PrivateAttr(default=None)
    _store: Any = PrivateAttr(default=None)
    _clock: Any = PrivateAttr(default=None)

    @property
    def store(self) -> Store:
        """The store below `root`, opened once."""
        if self._store is None:
            self._store = deployed(self.root, self.deployment, self.store_options)
        opened: Store = self._store
        return opened

    def now(self) -> float:
        """Seconds since 1970 by the store's clock, on which all machines agree."""
        if self._clock is None:
            self._clock = StoreClock(self.store)
        return float(self._clock())

    @property
    def patience(self) -> Patience:
        """When a delay is an alarm."""
        from ractobatch_dagster.submission.alarms import Patience

        return Patience(stuck_after=self.stuck_after_hours * 3600, kept_for=self.files_kept_days * 86_400)

    def get_provider(self) -> Provider:
        """The provider, its client built once.

        Raises:
            ConfigurationError: There is no key, or no such kind of provider.
        """
        if self._provider is None:
            from ractobatch_dagster.provider.connecting import profile_of

            base_url, api_key = self._address()
            variable = f"{profile_of(self._kind(), base_url).environ}_API_KEY"
            if not (api_key or os.environ.get(variable)):
                raise ConfigurationError(f"There is no API key: set {variable}, or give `api_key` to the resource.")
            self._provider = self._made(base_url, api_key)
        built: Provider = self._provider
        return built

    def unasked(self) -> Provider:
        """The provider for those who only want to know which it is: without a key, and without a local server.

        Raises:
            ConfigurationError: There is no such kind of provider.
        """
        built: Provider = self._provider or self._made(self.base_url, "none")
        return built

    def _made(self, base_url: str | None, api_key: str | Callable[[], str] | None) -> Provider:
        from ractobatch_dagster.provider.account import Account
        from ractobatch_dagster.provider.connecting import connect, profile_of

        kind = self._kind()
        account = Account(
            api_key=api_key,
            base_url=base_url,
            organization=self.organization,
            project=self.project,
            timeout=self.timeout,
            max_retries=self.max_retries,
            default_headers=self.default_headers or None,
            kind=kind,
            profile=None if self.capabilities is None else self.capabilities.of(profile_of(kind, base_url)),
        )
        return connect(account, lambda: self.store)

    def _kind(self) -> Kind | None:
        from ractobatch_dagster.provider.profile import PROFILES

        if self.provider not in (None, *PROFILES):
            raise ConfigurationError(f"provider={self.provider!r} is none of {', '.join(PROFILES)}.")
        return self.provider

    def processor(self, model: str = "gpt-4o-mini", *, default_prompt: Any = None) -> OpenAIBatchProcessor:
        """A batch processor on this account, for one batch at a time inside an asset or op of your own."""
        from ractobatch_dagster.processor import OpenAIBatchProcessor

        if self.get_provider().profile.kind == "anthropic":
            raise ConfigurationError(
                f"The processor speaks to OpenAI's API, and this is {self.get_provider().identity}."
            )
        base_url, api_key = self._address()
        return OpenAIBatchProcessor(
            model,
            api_key=api_key,
            base_url=base_url,
            default_prompt=default_prompt,
            organization=self.organization,
            project=self.project,
            timeout=self.timeout,
            max_retries=self.max_retries,
            default_headers=self.default_headers or None,
        )

    def limits(self) -> Limits:
        """How input files are cut: the provider's limits, or smaller ones if given."""
        from ractobatch_dagster.requests.cut import Limits

        profile = self.unasked().profile
        return Limits(
            max_requests=min(profile.max_requests, self.max_requests_per_batch or profile.max_requests),
            max_bytes=min(profile.max_bytes, self.max_bytes_per_batch or profile.max_bytes),
            max_tokens=self.max_tokens_per_batch,
        )

    def engine(
        self,
        *,
        log: Callable[[str], None],
        provider: Provider | None = None,
        enough: Callable[[], bool] = lambda: False,
        largest_upload: float = float("inf"),
    ) -> Engine:
        """An engine that steps submissions on this account and store."""
        from ractobatch_dagster.submission.budget import Limit
        from ractobatch_dagster.submission.engine import Engine
        from ractobatch_dagster.submission.parallel import Workers

        return Engine(
            self.store,
            provider or self.get_provider(),
            limits=self.limits(),
            now=self.now,
            log=log,
            enough=enough,
            largest_upload=largest_upload,
            workers=Workers(self.transfers, self.processes),
            enqueued=self.enqueued_tokens,
            budgets=[Limit(usd=one.usd, per=one.per, asset=one.asset) for one in self.budgets],  # type: ignore[arg-type]
        )

    def queue_limits(self) -> dict[str, int]:
        """How many tokens the provider's queue takes, by model, as far as that is given or was told by a refusal."""
        from ractobatch_dagster.submission.quota import queue_limits

        return queue_limits(self.store, self.unasked().identity, self.enqueued_tokens, time.time())

    def price_list(self) -> dict[str, Price]:
        """The prices that are given, by model."""
        from ractobatch_dagster.results.cost import Price

        return {model: Price(**price.model_dump()) for model, price in self.prices.items()}

    def get_api_key(self) -> str | Callable[[], str] | None:
        """The key; override it to give a function instead, which is asked for a token before each call.

        Example:
            ```python
            class AzureBatchResource(OpenAIBatchResource):
                def get_api_key(self):
                    scope = "https://cognitiveservices.azure.com/.default"
                    return azure.identity.get_bearer_token_provider(azure.identity.DefaultAzureCredential(), scope)
            ```
        """
        return self.api_key

    def _address(self) -> tuple[str | None, str | Callable[[], str] | None]:
        if self.provider != "local" or self.base_url is not None:
            return self.base_url, self.get_api_key()
        if self.store.local_path is None:
            raise ConfigurationError(
                f"provider='local' keeps its server below the root, and {self.root!r} is no local directory. Start one "
                "with `ractobatch serve` and give its address as base_url."
            )
        from ractobatch_dagster.local import ensure_server

        server = ensure_server(self.store.local_path / "local-server", seconds=self.local_seconds)
        return server.base_url, server.api_key
