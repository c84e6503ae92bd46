"""The store fails in the middle of a submission: a full disk, an S3 that goes away. Going on finishes it, paid once."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.store import Store
from tests.integration.counting import Bill
from tests.integration.definitions import PARTITIONS, PER_BATCH, HastyResource, questions, waiting
from tests.integration.s3 import BUCKET, Proxy, moto, options
from tests.integration.world import ROOT, wait_for
from tests.project import failure

pytestmark = pytest.mark.integration

BATCHES = len(questions(PARTITIONS)) // PER_BATCH


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """The way to an S3."""
    with moto() as port, Proxy(port) as proxy:
        yield proxy


def audit(server: Path, store: Store) -> None:
    """Each row once, with its answer, each question paid for once, and nothing left at the server."""
    bill, expected = Bill.read(server), questions(PARTITIONS)
    data = store.read("tables/waiting.parquet")
    assert data is not None
    table: pa.Table = pq.read_table(io.BytesIO(data))
    assert table["llm_text"].to_pylist() == [str(number + 1000) for number in expected["id"]]
    assert bill.doubles == {}
    assert len(bill.answered) == len(expected)
    assert bill.orphans(store, "waiting") == []
    assert bill.unused == []


@pytest.fixture
def materialise(batch_server: LocalServer, tmp_path: Path) -> Callable[..., tuple[bool, str]]:
    """Materialises `waiting` in a process of its own; whether that went well, and what the error says."""
    (tmp_path / "temp").mkdir()
    environ = {
        **os.environ,
        "RACTOBATCH_TEST_ROOT": str(tmp_path / "disk" / "store"),
        "RACTOBATCH_TEST_URL": batch_server.base_url,
        "RACTOBATCH_TEST_HASTE": str(tmp_path / "haste"),
        "TMPDIR": str(tmp_path / "temp"),
    }

    def run(*arguments: str) -> tuple[bool, str]:
        command = [sys.executable, "-m", "tests.integration.full_disk", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120, check=False)
        return done.returncode == 0, done.stdout + done.stderr

    return run


def goes_on(materialise: Callable[..., tuple[bool, str]], folder: Path) -> None:
    """With room again, and a little later, the run finishes what is there."""
    (folder / "haste").touch()
    well, said = materialise()
    assert well, said
    audit(folder / "batch-server", Store(folder / "disk" / "store"))
    assert list((folder / "temp").glob("ractobatch-*")) == []


@pytest.mark.parametrize(
    ("most", "what"),
    [
        (5, "store/probe"),
        (1_000, "rows.parquet"),
        (5_000, "answers.jsonl"),
        (10_000, "where a table is made"),
    ],
)
def test_a_file_that_cannot_grow_is_said_and_survived(
    materialise: Callable[..., tuple[bool, str]], tmp_path: Path, most: int, what: str
) -> None:
    """Whichever write fails, the error names the file and the reason, and going on finishes it."""
    well, said = materialise(str(most))
    assert not well
    error = next((line for line in said.splitlines() if "StoreError" in line), said)
    assert "Could not write" in error
    assert f"{tmp_path}/" in error
    assert what in error
    assert "File too large" in error
    goes_on(materialise, tmp_path)


SEALING = ("encoder.json", "copies.parquet", "/asked/", "known.parquet", "/log/00000000.json.gz")


@pytest.mark.parametrize(
    ("pages", "what"),
    [
        *enumerate(SEALING, start=2),
        (7, "submissions/waiting/log/00000000.json.gz"),
        (9, "/log/00000002.json.gz"),
        (13, ""),
        (33, "tables/waiting.parquet"),
    ],
    ids=lambda value: f"{value}" if isinstance(value, int) else value.strip("/").replace("/", "-") or "collecting",
)
def test_a_full_disk_is_said_and_survived(
    materialise: Callable[..., tuple[bool, str]], tmp_path: Path, pages: int, what: str
) -> None:
    """Room for so many files of the store: sealing fails, or opening, recording, collecting, storing the table.

    What was sealed does not stay where it was not opened.
    """
    with small_disk(tmp_path / "disk", pages) as grow:
        well, said = materialise()
        assert not well
        error = next((line for line in said.splitlines() if "StoreError" in line), said)
        assert f"Could not write {tmp_path}/disk/" in error
        assert what in error
        assert "No space left on device" in error
        if what in SEALING:
            assert Store(tmp_path / "disk" / "store").folders("submissions/waiting") == []
        grow()
        goes_on(materialise, tmp_path)


def test_a_full_temporary_folder_is_said_and_survived(
    materialise: Callable[..., tuple[bool, str]], tmp_path: Path
) -> None:
    """Room for the input file of one batch, where several are uploaded at once; those that went up are recorded."""
    with small_disk(tmp_path / "temp", 1) as grow:
        well, said = materialise()
        assert not well
        error = next((line for line in said.splitlines() if "StoreError" in line), said)
        assert f"Could not write {tmp_path}/temp/" in error
        assert "input.jsonl" in error
        assert "No space left on device" in error
        assert list((tmp_path / "temp").iterdir()) == []
        grow()
        goes_on(materialise, tmp_path)


@contextmanager
def small_disk(path: Path, pages: int) -> Iterator[Callable[[], object]]:
    """A disk of so many pages at this path, and what makes it large."""
    path.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={pages * 4}k", "tmpfs", str(path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes more rights")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=8m", str(path)], check=True)
    finally:
        subprocess.run(["umount", str(path)], check=True)


MOMENTS: dict[str, Callable[[LocalServer, Store], object]] = {
    "the rows are sealed": lambda _, store: store.folders("submissions/waiting"),
    "the first batch": lambda server, _: server.batches(),
    "the fourth batch": lambda server, _: server.batches()[3:],
    "the last batch": lambda server, _: server.batches()[BATCHES - 1 :],
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_s3_that_goes_away_is_said_and_survived(
    batch_server: LocalServer, proxy: Proxy, tmp_path: Path, moment: str
) -> None:
    """The run fails with the reason; once the S3 is back, running it again finishes what is there."""
    resource, store = reached(batch_server, proxy, tmp_path)

    def cut() -> None:
        wait_for(lambda: MOMENTS[moment](batch_server, store), moment)
        proxy.go_away()

    cutter = threading.Thread(target=cut)
    cutter.start()
    result = materialised(resource)
    cutter.join()
    assert not result.success
    assert "StoreError: Could not" in failure(result)
    assert f"s3://{BUCKET}/" in failure(result)
    proxy.come_back()
    Path(resource.haste).touch()
    again = materialised(resource)
    assert again.success, failure(again)
    audit(tmp_path / "batch-server", store)


def test_an_s3_that_is_away_for_a_moment_is_waited_for(batch_server: LocalServer, proxy: Proxy, tmp_path: Path) -> None:
    """Half a second of refused connections, and lost replies before and after, go unnoticed."""
    resource, store = reached(batch_server, proxy, tmp_path)

    def blink() -> None:
        wait_for(batch_server.batches, "a batch")
        proxy.go_away()
        threading.Timer(0.5, proxy.come_back).start()

    blinker = threading.Thread(target=blink)
    blinker.start()
    proxy.lose_replies(3)
    result = materialised(resource)
    blinker.join()
    assert result.success, failure(result)
    audit(tmp_path / "batch-server", store)


def reached(server: LocalServer, proxy: Proxy, folder: Path) -> tuple[HastyResource, Store]:
    """The resource whose root is reached through the proxy, and the same root reached past it."""
    root = f"s3://{BUCKET}/root"
    resource = HastyResource(
        root=root,
        store_options=options(proxy.port),
        base_url=server.base_url,
        api_key=server.api_key,
        haste=str(folder / "haste"),
        max_requests_per_batch=PER_BATCH,
    )
    return resource, Store(root, options(proxy.target))


def materialised(resource: HastyResource) -> dg.ExecuteInProcessResult:
    """A run of the asset that submits, waits and lands."""
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            waiting.assets, resources={"openai_batch": resource}, instance=instance, raise_on_error=False
        )
