"""Real processes, killed with `kill -9` at moments that are watched for; then started again as a person would."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from tests.integration.world import World, kill, run_pid, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A world with nothing running in it."""
    world = World(tmp_path)
    yield world
    world.close()


def submitted(world: World) -> None:
    """A submission run, from its start to its end."""
    assert world.submit().wait(120) == 0, world.log("submit")


MOMENTS: dict[str, Callable[[World], object]] = {
    "rows are sealed": lambda world: world.objects("*/rows/*.parquet"),
    "it is open": lambda world: world.objects("log/*.json.gz"),
    "its second commit": lambda world: world.objects("2*/log/00000001.json.gz"),
    "its third commit": lambda world: world.objects("2*/log/00000002.json.gz"),
    "the first batch": lambda world: world.server_batches(),
    "the fourth batch": lambda world: world.server_batches()[3:],
}


@pytest.mark.parametrize(
    "moments",
    [
        ("rows are sealed", "it is open", "its second commit"),
        ("its third commit",),
        ("the first batch",),
        ("the fourth batch", "the fourth batch"),
    ],
    ids=", then ".join,
)
def test_a_submission_run_is_killed(world: World, moments: tuple[str, ...]) -> None:
    """However far it had come, and however often it is killed, running it again asks each question once."""
    world.serve()
    for moment in moments:
        process = world.submit()
        wait_for(lambda: MOMENTS[moment](world) or process.poll() is not None, world.explain)  # noqa: B023
        kill(process)
        assert process.returncode == -signal.SIGKILL, world.log("submit")
    submitted(world)
    world.finish()
    world.audit()


@pytest.mark.parametrize("seed", [1, 2])
def test_two_submission_runs_of_the_same_partitions_meet(world: World, seed: int) -> None:
    """Both at once, and one of them killed at some moment: one submission, each question asked once."""
    world.serve()
    runs = [world.submit(), world.submit()]
    wait_for(lambda: world.objects("*/rows/*.parquet"), world.explain)
    time.sleep(random.Random(seed).uniform(0, 0.3))
    kill(runs[seed % 2])
    assert runs[1 - seed % 2].wait(120) == 0, world.log("submit")
    submitted(world)
    world.finish()
    world.audit()


def test_two_submission_runs_share_the_batches_out(world: World) -> None:
    """Both at once and both to their end: neither fails, and each question is asked once."""
    world.serve()
    runs = [world.submit(), world.submit()]
    assert [run.wait(120) for run in runs] == [0, 0], world.log("submit")
    world.finish()
    world.audit()


@pytest.mark.parametrize("moment", ["while it polls", "while the table run works"])
def test_the_daemon_is_killed_with_all_that_it_started(world: World, moment: str) -> None:
    """As when the machine goes down. A run that was under way stays `STARTED` in Dagster until a person ends it."""
    world.serve()
    submitted(world)
    daemon = world.daemon()
    if moment == "while it polls":
        commits = len(world.objects("2*/log/*.json.gz"))
        wait_for(lambda: len(world.objects("2*/log/*.json.gz")) > commits, world.explain)
    else:
        wait_for(lambda: table_run(world), world.explain)
        time.sleep(0.5)
    kill(daemon)
    unfinished = [run for run in world.instance.get_runs() if not run.is_finished]
    assert unfinished or moment == "while it polls"
    for run in unfinished:
        world.instance.report_run_canceled(run)  # what "force termination" in the UI does
    world.finish()
    world.audit()


@pytest.mark.parametrize("moment", ["as it starts", "responses/*", "results/*"])
def test_the_table_run_is_killed(world: World, moment: str) -> None:
    """Dagster sees that the process is gone and fails the run, and the sensor asks for another."""
    world.serve()
    submitted(world)
    daemon = world.daemon()
    pid = wait_for(lambda: table_run(world), world.explain)
    if moment != "as it starts":
        wait_for(lambda: world.objects(f"2*/{moment}"), world.explain)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: world.runs("answers")[-1].status == dg.DagsterRunStatus.FAILURE, world.explain)
    kill(daemon)
    world.finish()
    world.audit()


@pytest.mark.parametrize("moment", ["the first batch", "the fourth batch", "while it answers"])
def test_the_batch_server_is_killed(world: World, moment: str) -> None:
    """Started again on its folder and port it goes on, and so does the submission run once it is started again."""
    server = world.serve(seconds=3)
    run = world.submit()
    if moment == "while it answers":
        assert run.wait(120) == 0, world.log("submit")
    else:
        wait_for(lambda: MOMENTS[moment](world), world.explain)
    kill(server)
    run.wait(120)  # well or not, but it does not hang
    world.serve()
    submitted(world)
    world.finish()
    world.audit()


def table_run(world: World) -> int | None:
    """The process of the first table run, once it has one."""
    runs = world.runs("answers")
    return run_pid(world.instance, runs[-1].run_id) if runs else None
