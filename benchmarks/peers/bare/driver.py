"""No client, but the steps that none can leave out, with the libraries that ours rests on, one after the other.

The least that a client has to keep for a crash is kept: each row and the hash of its request, on the disk before
anything is sent. Then the rows become a file, the file is uploaded and becomes a batch, which is asked for until it has
ended, and its answers are downloaded, parsed and written. Nothing is checked, limited, recorded or tried again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import openai
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import ours
from benchmarks.bare import BLOCK, Lines, beside, read_answers
from benchmarks.peers.driving import BATCH_ROWS, MODEL, POLL_SECONDS, Place, drive


def run(frame: pd.DataFrame, place: Place) -> Path:
    client = openai.OpenAI(base_url=place.base_url, api_key=place.api_key)
    lines = Lines(ours.template(MODEL).body)
    rows = pa.Table.from_pandas(frame, preserve_index=False)
    starts = range(0, len(rows), BATCH_ROWS)
    with place.part("sealed"):
        kept = [_keep(rows.slice(start, BATCH_ROWS), lines, place.folder / f"rows-{start}.parquet") for start in starts]
    with place.part("sent"):
        batches = [_send(client, path, lines, place.folder / "batch.jsonl") for path in kept]
    with place.part("watched"):
        while any(one.status != "completed" for one in client.batches.list(limit=100) if one.id in batches):
            time.sleep(POLL_SECONDS)
    with place.part("landed"):
        return _land(client, dict(zip(batches, kept, strict=True)), place.folder)


def _keep(rows: pa.Table, lines: Lines, path: Path) -> Path:
    prompts, hashes = rows["user_message"].cast(pa.binary()), list[bytes]()
    for start in range(0, len(prompts), BLOCK):
        hashes += lines.hashes(prompts.slice(start, BLOCK).to_pylist())
    kept = rows.append_column("request_hash", pa.array(hashes, pa.binary(16)))
    with path.open("wb") as file:
        pq.write_table(kept, file, compression="lz4", use_dictionary=False, write_statistics=False)
        file.flush()
        os.fsync(file.fileno())
    return path


def _send(client: openai.OpenAI, rows: Path, lines: Lines, path: Path) -> str:
    prompts = pq.ParquetFile(rows).read(columns=["user_message"], use_threads=False)["user_message"]
    with path.open("wb", buffering=1 << 18) as file:
        for _ in lines.write(prompts, file):
            pass
    with path.open("rb") as source:
        uploaded = client.files.create(file=("batch.jsonl", source, "application/jsonl"), purpose="batch")
    made = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/chat/completions", completion_window="24h")
    return made.id


def _land(client: openai.OpenAI, batches: dict[str, Path], folder: Path) -> Path:
    target, path, writer = folder / "labels.parquet", folder / "answers.jsonl", None
    for batch, rows in batches.items():
        with client.files.with_streaming_response.content(str(client.batches.retrieve(batch).output_file_id)) as reply:
            reply.stream_to_file(path)
        with path.open("rb") as answers:
            found = read_answers(answers)
        joined = beside(pq.ParquetFile(rows).read(columns=["id"], use_threads=False), found)
        writer = writer or pq.ParquetWriter(target, joined.schema, compression="zstd", compression_level=1)
        writer.write_table(joined)
    if writer is not None:
        writer.close()
    return target


drive(run)
