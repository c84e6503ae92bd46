"""The Dagster project that the tests of this folder run and kill: sums, asked as batches, a few rows a partition."""

import os
import time
from pathlib import Path

import dagster as dg
import pandas as pd
from pydantic import Field

from ractobatch_dagster import OpenAIBatchResource, batch_asset, build_batch_sensor

PARTITIONS = [f"p{number:02}" for number in range(12)]
ROWS = 5
"""Rows of one partition."""

PER_BATCH = 10

_HASTE = 60.0


class HastyResource(OpenAIBatchResource):
    """The resource with a clock that a test can put into haste: nobody waits ten minutes for an intent to age."""

    haste: str = Field(description="A file; once it is there, a second counts as a minute.")

    def now(self) -> float:
        """Seconds since 1970."""
        now = super().now()
        try:
            since = Path(self.haste).stat().st_mtime
        except FileNotFoundError:
            return now
        return now + max(time.time() - since, 0.0) * _HASTE


def questions(keys: list[str]) -> pd.DataFrame:
    """The rows of these partitions, each with a question that nothing else asks, and whose answer is its number."""
    numbers = [PARTITIONS.index(key) * ROWS + row for key in keys for row in range(ROWS)]
    return pd.DataFrame(
        {
            "id": numbers,
            "part": [key for key in keys for _ in range(ROWS)],
            "user_message": [f"What is {number}+1000?" for number in numbers],
        }
    )


@batch_asset(
    model="gpt-4o-mini", key="id", partitions_def=dg.StaticPartitionsDefinition(PARTITIONS), partition_by="part"
)
def answers(context: dg.AssetExecutionContext) -> pd.DataFrame:
    """Packed: many partitions in few batches."""
    return questions(list(context.partition_keys))


@batch_asset(model="gpt-4o-mini", key="id", blocking=True, poll_seconds=0.05)
def waiting() -> pd.DataFrame:
    """All rows, submitted, waited for and landed in one run."""
    return questions(PARTITIONS)


def resource() -> HastyResource:
    """The resource, as the environment says."""
    return HastyResource(
        root=os.environ["RACTOBATCH_TEST_ROOT"],
        base_url=os.environ["RACTOBATCH_TEST_URL"],
        api_key="local",
        haste=os.environ["RACTOBATCH_TEST_HASTE"],
        max_requests_per_batch=PER_BATCH,
        timeout=20.0,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """What the code server loads."""
    return dg.Definitions(
        assets=[*answers.assets, *waiting.assets],
        sensors=[build_batch_sensor(minimum_interval_seconds=1)],
        resources={"openai_batch": resource()},
        executor=dg.in_process_executor,
    )
