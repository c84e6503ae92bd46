"""ractogateway: batches of 50,000, as it does not cut by itself; all are submitted, then polled and read in turn."""

from __future__ import annotations

import time

import pandas as pd
from ractogateway.batch import BatchItem, BatchStatus, OpenAIBatchProcessor
from ractogateway.prompts.engine import RactoPrompt

from benchmarks.peers.driving import AIM, BATCH_ROWS, MODEL, POLL_SECONDS, ROLE, RULES, Label, Place, columns, drive


def run(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    prompt = RactoPrompt(role=ROLE, aim=AIM, constraints=list(RULES), tone="neutral", output_format=Label)
    processor = OpenAIBatchProcessor(MODEL, api_key=place.api_key, base_url=place.base_url, default_prompt=prompt)
    jobs = []
    for start in range(0, len(frame), BATCH_ROWS):
        part = frame.iloc[start : start + BATCH_ROWS]
        items = [
            BatchItem(custom_id=f"row-{id_}", user_message=text)
            for id_, text in zip(part["id"].tolist(), part["user_message"].tolist(), strict=True)
        ]
        jobs.append(processor.submit_batch(items).job_id)
    answered = {}
    for job in jobs:
        while processor.poll_status(job).status is not BatchStatus.COMPLETED:
            time.sleep(POLL_SECONDS)
        for result in processor.get_results(job):
            if result.ok:
                answered[result.custom_id] = result.response.parsed
    return columns(frame["id"], [answered.get(f"row-{id_}") for id_ in frame["id"].tolist()])


drive(run)
