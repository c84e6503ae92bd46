"""What `batch_asset` makes of a function: a pair of assets, with their checks and jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from ractobatch_dagster.account import account_asset
from ractobatch_dagster.previewing import check_partition, estimate_asset, preview_asset
from ractobatch_dagster.resource import OpenAIBatchResource
from ractobatch_dagster.sensor import build_batch_sensor
from ractobatch_dagster.signature import Signature
from ractobatch_dagster.spec import BatchSpec

if TYPE_CHECKING:
    from ractobatch_dagster.submission.estimating import Estimate
    from ractobatch_dagster.submission.previewing import Preview

__all__ = ["BatchAsset"]


@dataclass(frozen=True)
class BatchAsset:
    """What `batch_asset` makes of a function.

    Attributes:
        submission: The asset that sends the prompts; `None` where one asset does all (`blocking=True`).
        table: The asset that is the table of answers.
        checks: The checks of the table.
        jobs: `<name>_submit`, which submits only (the one to backfill with), and `<name>_cancel`.
        spec: What `batch_asset` was told.
        signature: What the function takes.
    """

    submission: dg.AssetsDefinition | None
    table: dg.AssetsDefinition
    checks: Sequence[dg.AssetChecksDefinition]
    jobs: Sequence[Any]
    spec: BatchSpec
    signature: Signature

    @property
    def assets(self) -> list[dg.AssetsDefinition | dg.AssetSpec]:
        """Submission, table and checks, for `Definitions(assets=…)`; and the account's asset, which all share."""
        if self.submission is None:
            return [self.table, *self.checks]
        return [self.submission, self.table, *self.checks, account_asset(self.spec.resource_key)]

    @cached_property
    def definitions(self) -> dg.Definitions:
        """All of it with the sensor of its resource, for `Definitions.merge`; the resource itself is yours to add."""
        return dg.Definitions(assets=self.assets, jobs=self.jobs, sensors=[build_batch_sensor(self.spec.resource_key)])

    def preview(
        self,
        resource: OpenAIBatchResource,
        arguments: Mapping[str, Any] | None = None,
        *,
        rows: int = 5,
        seed: int | None = None,
        partition: str | None = None,
    ) -> Preview:
        """Ask a few rows at the endpoint that answers at once, at its full price, before a batch is paid for.

        The function is called as in a run, and all its rows are checked. Nothing is stored.

        Args:
            resource: The account.
            arguments: What the function takes, by name: frames, config, resources.
            rows: How many rows are asked.
            seed: Draws them at random; `None` takes the first.
            partition: The partition that the function's context names.

        Raises:
            ConfigurationError: Something that the function takes, or the partition, is not there.
            InvalidInputError: A row or a column cannot be sent.
            ProviderError: The provider could not be asked.

        Example:
            ```python
            print(verdicts.preview(resource, {"reviews": pd.read_csv("reviews.csv")}))
            ```
        """
        check_partition(self, partition)
        return preview_asset(
            self.spec,
            self.signature,
            resource.get_provider(),
            arguments or {},
            rows=rows,
            seed=seed,
            partition=partition,
            prices=resource.price_list(),
        )

    def estimate(
        self,
        resource: OpenAIBatchResource,
        arguments: Mapping[str, Any] | None = None,
        *,
        partition: str | None = None,
        inputs: str | Path | None = None,
    ) -> Estimate:
        """Count what a submission would ask and cost, and send nothing.

        The function is called as in a run, and its rows are checked, hashed and cut into batches as they would be;
        answers that were paid for count as such. Tokens are counted in some hundred requests, where the extra `tokens`
        is installed, and the rest is told from their lengths.

        Args:
            resource: The account, whose key is not used, and the store.
            arguments: What the function takes, by name: frames, config, resources.
            partition: The partition that the function's context names.
            inputs: A folder for the input files, as they would be sent.

        Raises:
            ConfigurationError: Something that the function takes, the partition, or the folder is not there.
            InvalidInputError: A row or a column cannot be sent.
        """
        check_partition(self, partition)
        return estimate_asset(
            self.spec,
            self.signature,
            resource,
            arguments or {},
            partition=partition,
            inputs=None if inputs is None else Path(inputs),
        )
