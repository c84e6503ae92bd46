"""curator: its batch mode, with the viewer, the telemetry and the display of progress turned off."""

from __future__ import annotations

import os

os.environ.update(TELEMETRY_ENABLED="false", CURATOR_DISABLE_RICH_DISPLAY="1", HF_HUB_OFFLINE="1")
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", HF_DATASETS_DISABLE_PROGRESS_BARS="1")

import pandas as pd
from bespokelabs import curator
from datasets import Dataset
from openai.resources.files import AsyncFiles

from benchmarks.peers.driving import BATCH_ROWS, MODEL, POLL_SECONDS, SYSTEM, Label, Place, drive

_create = AsyncFiles.create


async def _create_named(files: AsyncFiles, *, file: bytes, purpose: str) -> object:
    """curator uploads bytes without a name, and the local server takes input files only by the name `.jsonl`."""
    return await _create(files, file=("input.jsonl", file), purpose=purpose)


AsyncFiles.create = _create_named


class Labeller(curator.LLM):
    """Asks for a label of each row."""

    response_format = Label

    def prompt(self, row: dict) -> str:
        return row["user_message"]

    def parse(self, row: dict, label: Label) -> dict:
        return {"id": row["id"], **label.model_dump()}


def run(frame: pd.DataFrame, place: Place) -> pd.DataFrame:
    labeller = Labeller(
        model_name=MODEL,
        batch=True,
        backend="openai",
        system_prompt=SYSTEM,
        backend_params={
            "base_url": place.base_url,
            "batch_size": BATCH_ROWS,
            "batch_check_interval": POLL_SECONDS,
        },
    )
    response = labeller(Dataset.from_pandas(frame, preserve_index=False), working_dir=str(place.folder))
    return response.dataset.to_pandas()


drive(run)
