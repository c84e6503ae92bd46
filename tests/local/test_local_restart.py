"""A server that was stopped or killed, and the one that comes after it on the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import Faults, LocalServer
from tests.local.helpers import (
    GatedModel,
    SlowModel,
    connect,
    finish,
    lines,
    raw_lines,
    results,
    start_process,
    submit,
    wait_for,
)


def test_a_server_goes_on_where_the_last_one_was(tmp_path: Path):
    """After an orderly stop the next server on the folder knows everything and asks only what is open."""
    with LocalServer(tmp_path, model=GatedModel(4)) as server:
        client = connect(server)
        done = finish(client, submit(client, lines(2)))
        batch = submit(client, lines(10))
        wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed == 2)
    with LocalServer(tmp_path) as server:
        client = connect(server)
        assert client.batches.retrieve(done.id) == done
        batch = finish(client, batch)
        assert batch.request_counts.completed == 10
        assert len(results(client, batch.output_file_id)) == len(raw_lines(client, batch.output_file_id)) == 10


def test_a_server_that_stops_waits_for_the_answer_under_way(tmp_path: Path):
    """What the model is just answering is kept, so that the next server does not ask it again."""
    model = SlowModel()
    with LocalServer(tmp_path, model=model) as server:
        batch = submit(connect(server), lines(5))
        wait_for(lambda: len(model.asked) == 2)
    with LocalServer(tmp_path, model=model) as server:
        finish(connect(server), batch)
        assert server.billed.total() == 5 - 2
    assert len(model.asked) == 5


@pytest.mark.parametrize("moment", ["validating", "in_progress", "finalizing", "cancelling"])
def test_a_server_can_be_left_and_entered_again_at_any_moment(tmp_path: Path, moment):
    """The same `LocalServer` comes back on the same address, and each request has exactly one line."""
    server = LocalServer(tmp_path, faults=Faults(stuck_in=moment if moment != "cancelling" else "in_progress"))
    with server:
        address, client = server.base_url, connect(server)
        batch = submit(client, lines(10))
        if moment == "cancelling":
            wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed == 10)
            server.faults = Faults(cancelling_takes=60)
            client.batches.cancel(batch.id)
        wait_for(lambda: client.batches.retrieve(batch.id).status == moment)
    with server:
        assert server.base_url == address
        server.faults = Faults()
        ended = finish(connect(server), batch)
        assert ended.status == ("cancelled" if moment == "cancelling" else "completed")
        assert sorted(json.loads(one)["custom_id"] for one in raw_lines(connect(server), ended.output_file_id)) == [
            f"row-{number}" for number in range(10)
        ]
        assert set(server.billed.values()) == {1}
        assert len(server.files()) == 2


def test_a_half_written_answer_is_asked_for_again(tmp_path: Path):
    """What a killed process left of a line spoils neither the lines before it nor those after it."""
    for known in (3, 6):
        with LocalServer(tmp_path, model=GatedModel(3)) as server:
            client = connect(server)
            batch = server.batches()[0]["id"] if server.batches() else submit(client, lines(10)).id
            wait_for(lambda: client.batches.retrieve(batch).request_counts.completed == known)  # noqa: B023
        with next(tmp_path.glob("work/*.answers")).open("ab") as file:
            file.write(b'{"id":"batch_req_1","custom_id":"row-')
    with LocalServer(tmp_path) as server:
        server.wait_idle()
        (batch,) = server.batches()
        answered = [json.loads(one)["custom_id"] for one in raw_lines(connect(server), batch["output_file_id"])]
        assert sorted(answered) == [f"row-{number}" for number in range(10)]
        assert server.billed.total() == 10 - 6


def test_counts_are_the_same_after_a_restart(tmp_path: Path):
    """Also those of a request that is in both files."""
    server = LocalServer(tmp_path, faults=Faults(stuck_in="finalizing", requests={"row-0": "both", "row-1": 400}))
    with server:
        client = connect(server)
        batch = submit(client, lines(4))
        wait_for(lambda: client.batches.retrieve(batch.id).status == "finalizing")
        before = client.batches.retrieve(batch.id).request_counts
    with server:
        client = connect(server)
        wait_for(lambda: client.batches.retrieve(batch.id).request_counts == before)
        server.faults = Faults()
        assert finish(client, batch).request_counts == before
        assert (before.completed, before.failed) == (3, 1)


def test_a_killed_server_goes_on_after_a_restart(tmp_path: Path):
    """Kill -9 in the middle of a batch, again and again, loses nothing and answers nothing twice."""
    process, address = start_process(tmp_path, "--seconds", "4")
    try:
        batch = submit(connect(address), lines(40), metadata={"who": "me"})
        for reached in (5, 15, 25):
            client = connect(address)
            wait_for(lambda: client.batches.retrieve(batch.id).request_counts.completed >= reached)  # noqa: B023
            process.kill()
            process.wait(10)
            process, again = start_process(tmp_path, "--seconds", "4")
            assert (again.base_url, again.api_key) == (address.base_url, address.api_key)
        client = connect(again)
        batch = finish(client, batch)
        assert (batch.status, batch.metadata) == ("completed", {"who": "me"})
        assert batch.request_counts.completed == 40
        answered = [json.loads(one)["custom_id"] for one in raw_lines(client, batch.output_file_id)]
        assert sorted(answered) == sorted(f"row-{number}" for number in range(40))
        assert batch.error_file_id is None
    finally:
        process.kill()
        process.wait(10)


def test_what_a_killed_server_left_half_made_is_swept_away(tmp_path: Path):
    """Uploads, half documents, bytes and results that belong to nothing are gone when the next server starts."""
    with LocalServer(tmp_path) as server:
        finish(connect(server), submit(connect(server), lines(1)))
        kept = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    for stray in ("uploads/tmp1", "files/file-1.data", "files/.file-1.json.0a", "batches/.b.json.0a", "work/b.input"):
        (tmp_path / stray).write_bytes(b"x")
    orphan = json.loads(next(tmp_path.glob("files/*.json")).read_text()) | {"id": "file-2", "purpose": "batch_output"}
    (tmp_path / "files" / "file-2.json").write_text(json.dumps(orphan))
    with LocalServer(tmp_path):
        assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == kept


def test_a_folder_belongs_to_one_server(tmp_path: Path):
    """A second server on the same folder does not start."""
    with (
        LocalServer(tmp_path),
        pytest.raises(ConfigurationError, match="Another local batch server"),
        LocalServer(tmp_path),
    ):
        pass
