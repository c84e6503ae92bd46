"""The Dagster project that the Celery workers of `test_celery` run: sums, asked as batches, cut in pieces."""

import os

import dagster as dg
import pandas as pd
from dagster_celery import celery_executor

from ractobatch_dagster import batch_asset, build_batch_sensor
from tests.integration.definitions import resource

ROWS = 400
PIECES = 8


def questions() -> pd.DataFrame:
    """The rows, each with a question that nothing else asks, and whose answer is its number."""
    return pd.DataFrame({"id": range(ROWS), "user_message": [f"What is {number}+1000?" for number in range(ROWS)]})


@batch_asset(model="gpt-4o-mini", key="id", pieces=PIECES)
def sums() -> pd.DataFrame:
    """All rows: forty batches."""
    return questions()


@dg.definitions
def defs() -> dg.Definitions:
    """What the code server, the runs and the Celery workers load."""
    return dg.Definitions(
        assets=sums.assets,
        sensors=[build_batch_sensor(minimum_interval_seconds=1)],
        resources={"openai_batch": resource()},
        executor=celery_executor.configured(
            {"broker": os.environ["RACTOBATCH_TEST_BROKER"], "backend": os.environ["RACTOBATCH_TEST_BROKER"]}
        ),
    )
