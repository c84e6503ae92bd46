"""No client, but the steps that none can leave out, with the libraries that ours rests on, one after the other.

Nothing is kept for a crash, nothing is sealed, hashed, checked or recorded: rows become a file, the file is uploaded
and becomes a batch, which is asked for until it has ended, and its answers are downloaded, parsed and written.
"""

from __future__ import annotations

import time
from pathlib import Path

import openai
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import ours
from benchmarks.bare import Fields, Lines, beside, read_answers
from benchmarks.peers.driving import BATCH_ROWS, MODEL, POLL_SECONDS, Place, drive


def run(frame: pd.DataFrame, place: Place) -> Path:
    client = openai.OpenAI(base_url=place.base_url, api_key=place.api_key)
    lines, path = Lines(ours.template(MODEL).body), place.folder / "batch.jsonl"
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    batches = []
    for start in range(0, len(rows), BATCH_ROWS):
        with place.part("made"), path.open("wb", buffering=1 << 18) as file:
            for _ in lines.write(rows["user_message"].slice(start, BATCH_ROWS), file):
                pass
        with place.part("sent"), path.open("rb") as source:
            uploaded = client.files.create(file=("batch.jsonl", source, "application/jsonl"), purpose="batch")
            batches.append(
                client.batches.create(
                    input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h"
                ).id
            )
    with place.part("watched"):
        while any(one.status != "completed" for one in client.batches.list(limit=100) if one.id in batches):
            time.sleep(POLL_SECONDS)
    with place.part("landed"):
        return _land(client, rows.select(["id"]), batches, place)


def _land(client: openai.OpenAI, ids: pa.Table, batches: list[str], place: Place) -> Path:
    target, path, writer = place.folder / "labels.parquet", place.folder / "answers.jsonl", None
    for number, batch in enumerate(batches):
        with client.files.with_streaming_response.content(str(client.batches.retrieve(batch).output_file_id)) as reply:
            reply.stream_to_file(path)
        with path.open("rb") as answers:
            found = read_answers(answers)
        joined = beside(ids.slice(number * BATCH_ROWS, BATCH_ROWS), found)
        names = [*joined.column_names[: -len(Fields.__struct_fields__)], *Fields.__struct_fields__]
        joined = joined.rename_columns(names)
        writer = writer or pq.ParquetWriter(target, joined.schema, compression="zstd", compression_level=1)
        writer.write_table(joined)
    if writer is not None:
        writer.close()
    return target


drive(run)
