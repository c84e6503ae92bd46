"""A Dagster project whose prompts go out on a schedule, every minute, always the same."""

import dagster as dg
import pandas as pd

from ractobatch_dagster import batch_asset, build_batch_sensor
from tests.integration import definitions

ROWS = 5


@batch_asset(model="gpt-4o-mini", key="id")
def sums() -> pd.DataFrame:
    """The same rows whenever it is asked."""
    return pd.DataFrame({"id": range(ROWS), "user_message": [f"What is {number}+1000?" for number in range(ROWS)]})


(submit, _) = sums.jobs

every_minute = dg.ScheduleDefinition(
    name="every_minute", job=submit, cron_schedule="* * * * *", default_status=dg.DefaultScheduleStatus.RUNNING
)


@dg.definitions
def defs() -> dg.Definitions:
    """What the code server loads."""
    return dg.Definitions(
        assets=sums.assets,
        jobs=sums.jobs,
        schedules=[every_minute],
        sensors=[build_batch_sensor(minimum_interval_seconds=1)],
        resources={"openai_batch": definitions.resource()},
        executor=dg.in_process_executor,
    )
