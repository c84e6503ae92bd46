"""What one batch asset is, as plain data that its runs and its checks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.frame import PROMPT
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.requests.template import PromptTemplate
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.reuse import Reuse

if TYPE_CHECKING:
    from ractobatch_dagster.provider.client import Provider
    from ractobatch_dagster.submission.files import TableFiles
    from ractobatch_dagster.submission.opening import OnChange, Terms
    from ractobatch_dagster.submission.sealing import Rules
    from ractobatch_dagster.submission.state import Owner
    from ractobatch_dagster.submission.validating import Validator

__all__ = ["RESOURCE", "SUBMISSION", "BatchSpec", "Metrics", "OnTerminate", "TableType"]

OnTerminate = Literal["keep", "cancel"]
"""What becomes of the batches when somebody terminates the run that sends them or waits for them."""

TableType = Literal["pyarrow", "pandas", "polars"]
"""As what somebody else's IO manager is given the table."""

Metrics = Callable[[Any], Mapping[str, Any]]
"""What somebody wants to know of each table, by name."""

SUBMISSION = "ractobatch/submission"
"""Run tag and metadata key that carry the submission's id."""

RESOURCE = "ractobatch/resource"
"""Metadata key by which a sensor knows the table assets it looks after: the key of their resource."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSpec:
    """One batch asset, as `batch_asset` was told, whose docstring says what each part means.

    `upstream` is the asset that the function takes its frame from, where that is one.
    """

    asset: dg.AssetKey
    submission_asset: dg.AssetKey | None
    template: RequestTemplate
    resource_key: str
    key: str | None
    partition_by: str | None
    carry: tuple[str, ...] | None
    on_null: Literal["error", "skip"]
    dedupe: bool
    reuse: Reuse | None
    max_rounds: int
    repairs: int
    on_change: OnChange
    on_terminate: OnTerminate
    completion_window: str
    ranges: bool
    own_storage: bool
    poll_seconds: float
    table_type: TableType = "pyarrow"
    pack: bool = True
    prompts: PromptTemplate | None = None
    overrides: Overrides | None = None
    upstream: dg.AssetKey | None = None
    metrics: Metrics | None = None

    @property
    def name(self) -> str:
        """The asset key as text."""
        return "/".join(self.asset.path)

    @property
    def op_name(self) -> str:
        """The asset key as a name that ops and jobs may have."""
        return "__".join(self.asset.path)

    @property
    def code_version(self) -> str:
        """Hash of prompt, template, parameters, schema and overrides."""
        from ractobatch_dagster.requests.encode import request_hash

        text = self.prompts.text if self.prompts is not None else ""
        body = self.template.body(text)
        if self.overrides is not None:
            body = {**body, "overrides": self.overrides.columns}
        return request_hash("", self.template.endpoint, body)[:16]

    def table(self, resource: OpenAIBatchResource) -> TableFiles:
        """The table's corner of the store."""
        from ractobatch_dagster.submission.files import TableFiles

        return TableFiles(resource.store, self.name)

    def owner(self) -> Owner:
        """Whose submissions these are."""
        from ractobatch_dagster.submission.state import Owner

        submission = "/".join(self.submission_asset.path) if self.submission_asset else None
        return Owner(asset=self.name, submission_asset=submission, ranges=self.ranges)

    @property
    def validate(self) -> Validator | None:
        """What is wrong with an answer, held against the output model."""
        from ractobatch_dagster.submission.validating import validator

        return validator(self.template)

    @property
    def rules(self) -> Rules:
        """What the function's frames must keep to."""
        from ractobatch_dagster.results.table import reserved_names
        from ractobatch_dagster.submission.sealing import Rules

        prompt = [PROMPT] if self.prompts is None else self.prompts.columns
        return Rules(
            key=self.key,
            reserved=reserved_names(self.template.form),
            needed=self.carry or (),
            on_null=self.on_null,
            name=f"the frame of {self.name!r}",
            prompt=" or ".join(map(repr, prompt)),
        )

    def terms(self, resource: OpenAIBatchResource, run_id: str, provider: Provider | None = None) -> Terms:
        """What the requests of one submission share; the provider is the resource's own where none is given."""
        from ractobatch_dagster.submission.opening import Terms

        provider = provider or resource.get_provider()
        windows = provider.profile.windows
        if windows is not None and self.completion_window not in windows:
            raise ConfigurationError(
                f"completion_window={self.completion_window!r}: {provider.identity} takes {', '.join(windows)}."
            )
        return Terms(
            provider=provider.identity,
            template=self.template.at(provider.profile),
            limits=resource.limits(),
            completion_window=self.completion_window,
            max_rounds=self.max_rounds,
            repairs=self.repairs,
            dedupe=self.dedupe,
            reuse=self.reuse,
            rules=self.rules,
            overrides=self.overrides,
            on_change=self.on_change,
            prices=resource.price_list(),
            run_id=run_id,
        )
