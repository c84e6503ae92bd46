"""This package, driven and measured as its peers are: a store on disk, the engine, the table as Parquet."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks import ours
from benchmarks.peers.driving import MODEL, POLL_SECONDS, Place, drive


def run(frame: pd.DataFrame, place: Place) -> Path:
    client = ours.provider(place.base_url, place.api_key)
    return ours.whole_client(frame, place, MODEL, client, POLL_SECONDS)


drive(run)
