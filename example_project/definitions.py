"""The example's Dagster code: reviews go out as batches of prompts, and come back as a table of labels."""

import os
from pathlib import Path

import dagster as dg
import pandas as pd
import polars as pl

from example_project.labels import REVIEW_PROMPT, agreement
from example_project.reviews import example_reviews, review_years, year_of
from ractobatch_dagster import (
    CostCheck,
    DriftCheck,
    OpenAIBatchResource,
    ParquetIOManager,
    RateCheck,
    batch_asset,
    build_batch_sensor,
)

STORE = os.environ.get("RACTOBATCH_STORE") or str(Path(__file__).resolve().parent.parent / ".demo" / "store")
MODEL = os.environ.get("RACTOBATCH_MODEL") or "gpt-4o-mini"
LOCAL = not (os.environ.get("OPENAI_API_KEY") or os.environ.get("OPENAI_BASE_URL"))

years = dg.StaticPartitionsDefinition(review_years(example_reviews()))


@dg.asset(
    partitions_def=years,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name="reviews",
    kinds={"pandas", "parquet"},
)
def reviews(context: dg.AssetExecutionContext) -> dg.Output[object]:
    """What patients wrote about their medicines, by the year of the review."""
    frame = example_reviews()
    parts = {str(year): part for year, part in frame.groupby(year_of(frame))}
    wanted = {key: parts[key] for key in context.partition_keys}
    for key, part in wanted.items():
        context.add_asset_metadata({"rows": len(part)}, partition_key=key)
    return dg.Output(wanted if len(wanted) > 1 else wanted[context.partition_key])


@batch_asset(
    model=MODEL,
    prompt=REVIEW_PROMPT,
    key="review_id",
    temperature=0,
    partitions_def=years,
    group_name="reviews",
    checks=[RateCheck("refusal", at_most=0.02), DriftCheck("sentiment", at_most=0.3), CostCheck(at_most_usd=1.0)],
)
def review_labels(reviews: pd.DataFrame) -> pd.DataFrame:
    """Sentiment, side effects and their severity, for every review."""
    return reviews.assign(user_message=reviews["review"])


@dg.asset_check(asset=review_labels.table)
def sentiment_agrees_with_rating(review_labels: pd.DataFrame) -> dg.AssetCheckResult:
    """The model's sentiment is the patient's own rating in more than half of the reviews that have one."""
    found = agreement(review_labels)
    return dg.AssetCheckResult(
        passed=found["agreement"] is None or found["agreement"] > 0.5,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=found,
    )


@dg.asset(
    ins={"review_labels": dg.AssetIn(metadata={"allow_missing_partitions": True})},
    group_name="reviews",
    kinds={"polars", "parquet"},
)
def side_effects(review_labels: pl.DataFrame) -> pl.DataFrame:
    """How often each side effect was told, how often it was severe, and with how many medicines."""
    drug = pl.col("drug") if "drug" in review_labels.columns else pl.lit(None, pl.String).alias("drug")
    return (
        review_labels.select(drug, "severity", pl.col("side_effects").alias("side_effect"))
        .explode("side_effect")
        .drop_nulls("side_effect")
        .group_by("side_effect")
        .agg(
            pl.len().alias("reviews"),
            pl.col("drug").drop_nulls().n_unique().alias("medicines"),
            (pl.col("severity") == "severe").sum().alias("severe"),
        )
        .sort("reviews", "side_effect", descending=[True, False])
    )


defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[reviews, *review_labels.assets, side_effects],
        asset_checks=[sentiment_agrees_with_rating],
        jobs=review_labels.jobs,
        sensors=[build_batch_sensor(minimum_interval_seconds=5 if LOCAL else 30)],
        resources={
            "openai_batch": OpenAIBatchResource(
                root=STORE,
                provider="local" if LOCAL else None,
                api_key=None if LOCAL else dg.EnvVar("OPENAI_API_KEY"),
                base_url=os.environ.get("OPENAI_BASE_URL"),
            ),
            "io_manager": ParquetIOManager(root=STORE),
        },
        executor=dg.in_process_executor,  # each run has one step, which a process of its own would not make quicker
    ),
    # and the pair that is written in YAML, in the folder `defs`
    dg.load_from_defs_folder(path_within_project=Path(__file__).parent),
)
