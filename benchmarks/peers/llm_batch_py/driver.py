"""llm-batch-py: one run submits, and another, once the server is done, collects; it is made to be run by cron."""

from __future__ import annotations

import pandas as pd
import polars as pl
from llm_batch_py import (
    BatchConfig,
    OpenAIConfig,
    ResultCacheStoreConfig,
    Runner,
    StructuredOutputJob,
    structured_template,
)

from benchmarks.peers.driving import BATCH_ROWS, MODEL, SYSTEM, Label, Place, count_tokens_offline, drive


def run(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    job = StructuredOutputJob(
        name="labels",
        key_cols=["id"],
        input_df=pl.from_pandas(frame),
        prompt_builder=structured_template(system=SYSTEM, messages="{{ row.user_message }}", name="label", version="1"),
        output_model=Label,
        provider=OpenAIConfig(model=MODEL, api_key=place.api_key, base_url=place.base_url, timeout=600),
        result_cache=ResultCacheStoreConfig(root_uri=str(place.folder)),
        batch=BatchConfig(batch_size=BATCH_ROWS),
    )
    runner = Runner()
    runner.run(job, metadata_columns=["llm_batch_py_status"])
    place.wait_until_idle()
    answers = runner.run(job, metadata_columns=["llm_batch_py_status"])
    return answers.select("id", *Label.model_fields).to_pandas()


count_tokens_offline()
drive(run)
