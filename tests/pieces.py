"""Labels in any number of pieces, and a job whose steps are processes of their own and import this."""

import os
from typing import Any, Literal

import dagster as dg
import pandas as pd
import polars as pl
from pydantic import BaseModel

from ractobatch_dagster import OpenAIBatchResource, RactoPrompt, batch_asset
from tests.project import RESOURCE

ROWS, PER_BATCH, PIECES = 23, 2, 3
"""Twelve batches, in three pieces of four."""


class Label(BaseModel):
    """The answer."""

    sentiment: Literal["positive", "neutral", "negative"]
    score: int | None


PROMPT = RactoPrompt(role="You label texts.", aim="Label one.", constraints="", tone="", output_format=Label)


@dg.asset
def texts() -> pd.DataFrame:
    """Texts."""
    return pd.DataFrame({"id": range(ROWS), "text": [f"text {number}" for number in range(ROWS)]})


def labels(texts: pd.DataFrame) -> pl.DataFrame:
    """Labels of texts."""
    return pl.from_pandas(texts.assign(user_message=texts["text"]))


def made(pieces: int, name: str = "labels", **settings: Any) -> Any:
    """The labels, in so many pieces."""
    return batch_asset(model="gpt-4o-mini", prompt=PROMPT, key="id", name=name, pieces=pieces, **settings)(labels)


def in_processes() -> dg.JobDefinition:
    """Both kinds of assets in one job, whose steps are processes of their own."""
    resource = OpenAIBatchResource(
        api_key="local",
        base_url=os.environ["RACTOBATCH_TEST_URL"],
        root=os.environ["RACTOBATCH_TEST_ROOT"],
        max_requests_per_batch=PER_BATCH,
    )
    executor = dg.multiprocess_executor.configured(
        {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": [__name__]}}}
    )
    return dg.Definitions(
        assets=[texts, *made(2).assets, *made(1, "whole").assets],
        jobs=[dg.define_asset_job("everything", selection="*")],
        resources={RESOURCE: resource},
        executor=executor,
    ).resolve_job_def("everything")
