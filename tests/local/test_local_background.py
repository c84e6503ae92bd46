"""The server in the background: found, started and ended from any process."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import LocalServer, ensure_server, stop_server
from ractobatch_dagster.local.background import read_address, running_server, write_address
from tests.local.helpers import connect, finish, lines, start_process, submit, wait_for


@pytest.fixture
def folder(tmp_path: Path):
    yield tmp_path / "state"
    stop_server(tmp_path / "state")


def test_processes_that_start_at_once_get_one_server(folder: Path):
    """Whoever is first starts it; the others are given the same."""
    code = "import sys; from ractobatch_dagster.local import ensure_server; print(ensure_server(sys.argv[1]).pid)"
    started = [subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE) for _ in range(3)]
    pids = {process.communicate()[0].strip() for process in started}
    assert pids == {str(ensure_server(folder).pid).encode()}


def test_the_server_outlives_its_starter_and_answers(folder: Path):
    """A batch made through it is done, at the speed that was asked for."""
    address = ensure_server(folder, seconds=0)
    client = connect(address)
    assert finish(client, submit(client, lines(3))).status == "completed"
    assert address == ensure_server(folder)


@pytest.mark.skipif(os.name != "posix", reason="modes are a POSIX thing")
def test_the_key_is_for_this_user_only(folder: Path):
    """It is random, in a file nobody else reads, and in no log and no `repr`."""
    address = ensure_server(folder)
    assert (folder / "server.json").stat().st_mode & 0o777 == 0o600
    assert len(address.api_key) > 30
    assert address.api_key not in repr(address)
    assert address.api_key not in (folder / "server.log").read_text()


def test_a_killed_server_is_replaced(folder: Path):
    """What the file says about a server that is gone is not believed; key and port stay."""
    first = ensure_server(folder)
    os.kill(first.pid, 9)
    wait_for(lambda: running_server(folder) is None)
    second = ensure_server(folder)
    assert second.pid != first.pid
    assert (second.api_key, second.base_url) == (first.api_key, first.base_url)


def test_another_server_on_the_port_is_not_taken_for_ours(folder: Path):
    """A stale address whose port now belongs to another server is noticed by its nonce."""
    first = ensure_server(folder)
    assert stop_server(folder)
    with LocalServer(port=first.port) as other:
        assert running_server(folder) is None
        second = ensure_server(folder)
        assert second.base_url != other.base_url
        assert stop_server(folder)


def test_stopping_is_idempotent(folder: Path):
    """It says whether there was a server, and there is none afterwards."""
    ensure_server(folder)
    assert stop_server(folder)
    assert not stop_server(folder)
    assert running_server(folder) is None


def test_an_unused_server_ends_by_itself(folder: Path):
    """With `--idle-exit`, but not while a batch is open."""
    process, address = start_process(folder, "--seconds", "1.5", "--idle-exit", "0.3", "--quiet")
    client = connect(address)
    batch = submit(client, lines(2))
    assert process.wait(15) == 0
    with LocalServer(folder) as server:
        assert server.batches()[0]["id"] == batch.id
        assert server.batches()[0]["status"] == "completed"


def test_a_server_that_cannot_start_says_why(folder: Path):
    """The error holds the end of its log."""
    folder.mkdir()
    (folder / "batches").mkdir()
    (folder / "batches" / "batch_1.json").write_text("no json")
    with pytest.raises(ConfigurationError, match="is not a document"):
        ensure_server(folder)


def test_an_unreadable_address_counts_as_none(folder: Path):
    """A file that is cut or from another version does not stop anybody."""
    address = ensure_server(folder)
    for content in ("", "{", "[]", '{"pid": 1}'):
        (folder / "server.json").write_text(content)
        assert read_address(folder) is None
    write_address(folder, address)
    assert running_server(folder) == address
    assert running_server(folder) != dataclasses.replace(address, nonce="other")
