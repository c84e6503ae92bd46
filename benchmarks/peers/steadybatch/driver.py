"""steadybatch: its runner cuts, submits, polls and checks each answer against the schema; a checkpoint on disk."""

from __future__ import annotations

import openai
import pandas as pd
from steadybatch import Request, Runner
from steadybatch.providers.openai_batch import OpenAIBatch

from benchmarks.peers.driving import BATCH_ROWS, MODEL, POLL_SECONDS, SYSTEM, Label, Place, columns, drive


def run(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    client = openai.OpenAI(base_url=place.base_url, api_key=place.api_key)
    runner = Runner(
        OpenAIBatch(client),
        MODEL,
        response_schema={**Label.model_json_schema(), "additionalProperties": False},
        checkpoint=place.folder / "checkpoint.sqlite",
        poll_every=POLL_SECONDS,
        batch_size=BATCH_ROWS,
    )
    requests = (
        Request(key=str(id_), messages=[{"role": "user", "content": text}], system=SYSTEM)
        for id_, text in zip(frame["id"].tolist(), frame["user_message"].tolist(), strict=True)
    )
    results = {result.key: result.data for result in runner.run(requests).results}
    return columns(frame["id"], [results.get(str(id_)) for id_ in frame["id"].tolist()])


drive(run)
