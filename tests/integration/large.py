"""A large frame from end to end in one process: `python -m tests.integration.large FOLDER ROWS BASE_URL KEY`.

Prints how many megabytes the process held at most, beyond what it held before, and how many rows have their answer.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from ractobatch_dagster.form import Form
from ractobatch_dagster.provider.client import Account, Provider
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.results.table import ResultTable
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.assembling import Assembly
from ractobatch_dagster.submission.engine import Engine
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.opening import Terms, open_submission
from ractobatch_dagster.submission.parallel import Workers
from ractobatch_dagster.submission.state import Owner
from ractobatch_dagster.table_file import write_table_file

LIMITS = Limits(max_requests=20_000, max_bytes=100_000_000)


def frames(rows: int) -> Iterator[pd.DataFrame]:
    """Rows whose answers tell them apart, each with half a kilobyte beside it, a thousand at a time."""
    for start in range(0, rows, 1_000):
        numbers = range(start, min(start + 1_000, rows))
        notes = [f"{number} " + "A note that nobody asks anything about. " * 12 for number in numbers]
        asked = [f"What is {number}+1000?" for number in numbers]
        yield pd.DataFrame({"id": numbers, "note": notes, "user_message": asked})


def run(folder: Path, rows: int, provider: Provider) -> Path:
    """From the first frame to the table."""
    store = Store(folder)
    table = TableFiles(store, "sums")
    terms = Terms(provider=provider.identity, template=RequestTemplate("m"), limits=LIMITS)
    opened = open_submission(table, Owner(asset="sums"), {None: frames(rows)}, terms, now=time.time)
    files = table.submission(opened.submissions[None])
    engine = Engine(store, provider, limits=LIMITS, workers=Workers(4))
    while not engine.advance(files).collected:
        time.sleep(0.2)
    state = files.state()
    share = state.partition(None)
    assert share is not None
    assembly = Assembly(files, state, share, ResultTable(Form(), "f"), ("id", "note"))
    return write_table_file(folder / "sums.parquet", assembly.schema, assembly.blocks()).path


def held(what: str) -> float:
    """Megabytes, as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(what))


def main() -> None:
    """Run it, after a small one that loads what there is to load."""
    folder, rows, base_url, key = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    provider = Provider(Account(api_key=key, base_url=base_url))
    run(folder / "small", 1_000, provider)
    Path("/proc/self/clear_refs").write_text("5")  # the most that was held is counted anew
    before = held("VmRSS")
    made = run(folder / "large", rows, provider)
    most = held("VmHWM") - before
    table = pq.ParquetFile(made).read(columns=["id", "llm_status", "llm_text"])
    answered = sum(
        status == "ok" and text == str(number + 1000)
        for number, status, text in zip(*(table[name].to_pylist() for name in table.column_names), strict=True)
    )
    print(f"{most:.0f} {answered}")


if __name__ == "__main__":
    main()
