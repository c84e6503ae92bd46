"""One submission and one table, spread over Celery workers around a Redis and an S3; one worker is killed meanwhile."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.submission.files import TableFiles
from tests.integration.counting import Bill
from tests.integration.s3 import moto
from tests.integration.world import wait_for

if TYPE_CHECKING:
    from tests.integration.cluster import Cluster

pytest.importorskip("dagster_celery", reason="dagster-celery is not installed: pip install 'dagster-celery[redis]'")
pytest.importorskip("redis", reason="redis is not installed: pip install 'dagster-celery[redis]'")

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="there is no redis-server on this machine"),
]

WORKERS = 4


@pytest.fixture
def cluster(batch_server: LocalServer, tmp_path: Path) -> Iterator[Cluster]:
    """Four workers, idle."""
    from tests.integration.cluster import Cluster

    with moto() as s3:
        cluster = Cluster(tmp_path / "cluster", s3=s3, url=batch_server.base_url, workers=WORKERS)
        try:
            yield cluster
        finally:
            cluster.close()


def table(cluster: Cluster) -> pa.Table | None:
    """The result table, once it is there."""
    data = cluster.root.read("tables/sums.parquet")
    return pq.read_table(io.BytesIO(data)) if data is not None else None


def landed(cluster: Cluster) -> bool:
    """Whether the table is there and nothing is open."""
    version = TableFiles(cluster.root, "sums").log.load()
    return table(cluster) is not None and version is not None and not version.state.open


def audit(cluster: Cluster, server: Path) -> None:
    """One submission, each question asked and paid for once, each row once with its answer, nothing left behind."""
    from tests.integration.celery_location import questions

    bill, expected, found = Bill.read(server), questions(), table(cluster)
    assert found is not None
    assert found["id"].to_pylist() == list(expected["id"])
    assert found["llm_text"].to_pylist() == [str(number + 1000) for number in expected["id"]]
    assert len([name for name in cluster.root.folders("submissions/sums") if name != "log"]) == 1
    assert bill.doubles == {}
    assert bill.answered.total() == len(expected)
    assert bill.orphans(cluster.root, "sums") == []
    assert bill.unused == []


@pytest.mark.parametrize("step", ["sums_submission.prepare[", "sums.collect["])
def test_a_worker_is_killed_in_the_middle_of_a_piece(cluster: Cluster, tmp_path: Path, step: str) -> None:
    """Its piece goes to another worker, the run ends well, and each question was asked once."""
    asset = step.partition(".")[0]
    run = cluster.materialise("sums_submission")
    if asset == "sums_submission":
        lost, worker = cluster.kill_in(step)
    assert run.wait(300) == 0, cluster.explain()
    cluster.daemon()
    if asset == "sums":
        lost, worker = cluster.kill_in(step)
    wait_for(lambda: landed(cluster), cluster.explain, 300)
    again = [one for key, one in cluster.executions(asset) if key == lost]
    assert again[0] == worker
    assert len(again) > 1
    assert worker not in again[1:]
    audit(cluster, tmp_path / "batch-server")


def test_the_work_is_spread(cluster: Cluster, tmp_path: Path) -> None:
    """Both assets are cut in pieces, and every worker does some of them."""
    from tests.integration.celery_location import PIECES

    assert cluster.materialise("sums_submission").wait(300) == 0, cluster.explain()
    cluster.daemon()
    wait_for(lambda: landed(cluster), cluster.explain, 300)
    for asset in ("sums_submission", "sums"):
        mapped = [(key, worker) for key, worker in cluster.executions(asset) if key.endswith("]")]
        assert len(mapped) == len(set(mapped)) == PIECES
        assert {worker for _, worker in mapped} == set(cluster.workers)
    audit(cluster, tmp_path / "batch-server")
