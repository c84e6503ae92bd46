"""Finding a batch among others: nothing is taken for absent before that is proven."""

from __future__ import annotations

import pytest

from ractobatch_dagster.errors import ProviderAPIError, ProviderError
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from ractobatch_dagster.submission.engine import SUBMIT
from ractobatch_dagster.submission.looking import look, scan
from tests.local.helpers import connect, create, lines, upload
from tests.submission.test_engine import Bench, bench

__all__ = ["bench"]


def crowd(server: LocalServer, count: int) -> list[str]:
    """Batches of other people, oldest first."""
    client = connect(server)
    file_id = upload(client, lines(1))
    return [create(client, file_id, metadata={"who": "others"}).id for _ in range(count)]


@pytest.mark.parametrize("oldest_first", [False, True])
def test_a_batch_is_found_whichever_way_the_list_goes(bench: Bench, oldest_first: bool) -> None:
    """A list that begins with the oldest is read to its end, however old its first pages are."""
    crowd(bench.server, 220)
    files = bench.open("a")
    state = bench.engine().advance(files, steps=SUBMIT)
    bench.server.faults = Faults(oldest_first=oldest_first)
    batch = state.batches[0]
    found = scan(bench.engine()._provider, ["unknown"], {str(batch.file_id): batch.created_at + 1e9})
    assert set(found) == ({str(batch.file_id)})


@pytest.mark.parametrize("status", [404, 405, 501])
def test_a_server_without_a_list(bench: Bench, status: int) -> None:
    """Batches are looked at one by one, and whether one exists is not known."""
    ids = crowd(bench.server, 5)
    bench.server.faults = Faults(calls=[CallFault("GET", "/v1/batches", status=status)])
    provider = bench.engine()._provider
    assert set(look(provider, ids).found) == set(ids)
    with pytest.raises(ProviderAPIError, match="--abandon"):
        scan(provider, ["s/0/1"], {"file-x": 0.0})


def test_a_look_in_turns_reaches_all(bench: Bench) -> None:
    """Where only some can be asked by id in one look, the others have their turn."""
    ids = crowd(bench.server, 12)
    bench.server.faults = Faults(calls=[CallFault("GET", "/v1/batches", status=404)])
    provider = bench.engine()._provider
    seen: set[str] = set()
    for turn in range(0, 3000, 60):
        seen |= look(provider, ids, calls=4, turn=turn).found.keys()
    assert seen == set(ids)


def test_one_bad_batch_does_not_block_the_others(bench: Bench) -> None:
    """A create, an upload or a download that is refused each time is one batch's trouble."""
    files = bench.open(*(f"text {number}" for number in range(30)), max_rounds=0)
    bench.server.faults = Faults(calls=[CallFault("POST", "/v1/files", times=1, status=400)])
    with pytest.raises(ProviderError):
        bench.engine().advance(files, steps=SUBMIT)
    assert sorted(batch.stage for batch in files.state().batches) == ["planned", "running", "running"]
    bench.server.faults = Faults(calls=[CallFault("POST", "/v1/batches", times=1, status=400)])
    bench.clock += 100
    with pytest.raises(ProviderError):
        bench.engine().advance(files, steps=SUBMIT)
    bench.clock += 1000
    assert bench.finish(files) == ["ok"] * 30


def test_a_batch_that_shows_its_files_late_is_waited_for(bench: Bench) -> None:
    """It has ended and says that it answered, but not where: nothing is asked again."""
    bench.server.faults = Faults(null_fields={"output_file_id", "error_file_id"})
    files = bench.open("a")
    bench.engine().advance(files)
    bench.server.wait_idle()
    assert not bench.engine().advance(files).collected
    bench.server.faults = Faults()
    assert bench.finish(files) == ["ok"]
    assert len(bench.server.batches()) == 1


def test_what_a_page_of_the_list_shows_is_not_asked_for_again(bench: Bench) -> None:
    """One call for a hundred batches, and none for each."""
    ids = crowd(bench.server, 120)
    before = bench.server.calls
    assert set(look(bench.engine()._provider, ids).found) == set(ids)
    after = bench.server.calls - before
    assert after == {("GET", "/v1/batches"): 2}
