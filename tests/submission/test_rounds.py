"""Rounds: who is asked again, how often, and what becomes of lines that belong to nobody."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ractobatch_dagster.errors import ProviderNotFoundError
from ractobatch_dagster.local import Faults, LocalServer
from ractobatch_dagster.submission.engine import HEAVY
from ractobatch_dagster.submission.plan import Collect, Poll
from tests.local.helpers import wait_for
from tests.submission.test_engine import Bench, bench

__all__ = ["bench"]


def asked(server: LocalServer) -> list[set[str]]:
    """The custom ids of each input file, in the order of the batches."""
    files = [server.read(batch["input_file_id"]) for batch in server.batches()]
    return [{json.loads(line)["custom_id"] for line in data.splitlines()} for data in files]


def test_rows_that_never_ran_use_up_no_attempt(bench: Bench) -> None:
    """Half of a batch expires: those rows go out again although no further rounds are allowed."""
    bench.server.faults = Faults(expire_at=0.5, first_attempts=1)
    assert bench.finish(bench.open("a", "b", "c", "d", max_rounds=0)) == ["ok"] * 4
    first, second = asked(bench.server)
    assert len(first) == 4
    assert len(second) == 2


def test_a_row_that_never_runs_does_not_circle_for_ever(bench: Bench) -> None:
    """After a handful of batches that all expire it lands as expired."""
    bench.server.faults = Faults(expire_at=0.0)
    assert bench.finish(bench.open("a", max_rounds=0)) == ["expired"]
    assert len(bench.server.batches()) == 6


def test_each_row_has_its_own_attempts(bench: Bench) -> None:
    """A row that fails for good is asked as often as allowed, one that works then no more."""
    bench.server.faults = Faults(fail_ids={"row-00000000": 500})
    assert bench.finish(bench.open("a", "b", max_rounds=2)) == ["error", "ok"]
    assert asked(bench.server) == [{"row-00000000", "row-00000001"}, {"row-00000000"}, {"row-00000000"}]


def test_permanent_errors_are_not_asked_again(bench: Bench) -> None:
    """A request that the provider calls wrong is wrong tomorrow as well."""
    bench.server.faults = Faults(fail_ids={"row-00000000": 400})
    assert bench.finish(bench.open("a", "b", max_rounds=3)) == ["error", "ok"]
    assert len(bench.server.batches()) == 1


def test_lines_that_belong_to_nobody_are_kept_and_counted(bench: Bench) -> None:
    """Unknown, doubled and unreadable lines can be looked at afterwards, with the batch that they came from."""
    bench.server.faults = Faults(duplicate_lines=1, unknown_lines=1, bad_lines=1, first_attempts=1)
    files = bench.open("a", "b", "c")
    assert bench.finish(files) == ["ok"] * 3
    assert sum(files.state().anomalies.values()) == 3
    kept = b"".join(bench.store.read(f"{files.odd_lines}/{name}") or b"" for name in bench.store.names(files.odd_lines))
    records = [json.loads(line) for line in kept.splitlines()]
    assert {record["what"].split(" ", 1)[0] for record in records} == {"lines", "further"}
    assert all(record["line"] and record["batch"] == bench.server.batches()[0]["id"] for record in records)


def test_an_invalid_answer_is_shown_to_the_model_once_more(bench: Bench) -> None:
    """The repair asks the same question with the refused answer and the reason; nobody else is asked again."""
    problems = iter(["too short"])

    def validate(text: str | None, _: str | None) -> str | None:
        return next(problems, None)

    files = bench.open("a", repairs=1, max_rounds=0)
    assert bench.finish(files, validate=validate) == ["ok"]
    first, second = (json.loads(bench.server.read(batch["input_file_id"])) for batch in bench.server.batches())
    assert second["custom_id"] == first["custom_id"]
    added = second["body"]["messages"][len(first["body"]["messages"]) :]
    assert [message["role"] for message in added] == ["assistant", "user"]
    assert "too short" in added[1]["content"]


def test_an_answer_that_stays_invalid_is_kept(bench: Bench) -> None:
    """After the last repair the row has the last answer, not nothing."""
    files = bench.open("a", repairs=2, max_rounds=0)
    assert bench.finish(files, validate=lambda *_: "no") == ["ok"]
    assert len(bench.server.batches()) == 3


def test_answers_that_the_provider_has_deleted_are_missing_and_asked_again(bench: Bench) -> None:
    """The batch is still known and its file is not: what it held can no longer be had."""
    files = bench.open("a", "b")
    engine = bench.engine()
    while not files.state().ready:
        engine.advance(files, steps=HEAVY - {Collect})
    client = engine._provider.client
    client.files.delete(str(files.state().batches[0].output_file_id))
    assert bench.finish(files) == ["ok", "ok"]
    assert files.state().batches[0].gone
    assert len(bench.server.batches()) == 2


def test_a_batch_of_another_account_is_not_taken_for_lost(bench: Bench, tmp_path: Path) -> None:
    """A provider that knows neither file nor batch may simply be the wrong one: an error, and nothing is sent again."""
    bench.kind = "local"  # whose address does not count
    files = bench.open("a")
    engine = bench.engine()
    while not files.state().ready:
        engine.advance(files, steps=HEAVY - {Collect})
    with LocalServer(tmp_path / "other") as other:
        stranger = bench.engine(base_url=other.base_url, api_key=other.api_key)
        with pytest.raises(ProviderNotFoundError):
            stranger.advance(files)
        assert not other.batches()
    assert bench.finish(files) == ["ok"]
    assert len(bench.server.batches()) == 1


def test_a_batch_that_the_provider_does_not_know_can_be_abandoned(bench: Bench, tmp_path: Path) -> None:
    """Only on request: its rows are missing then, and the table can land."""
    bench.kind = "local"  # whose address does not count
    files = bench.open("a", max_rounds=0)
    bench.engine().advance(files, steps=HEAVY - {Poll})
    with LocalServer(tmp_path / "other") as other:
        stranger = bench.engine(base_url=other.base_url, api_key=other.api_key)
        with pytest.raises(ProviderNotFoundError):
            stranger.cancel(files)
        stranger.cancel(files, abandon=True)
        assert stranger.advance(files).collected
    assert bench.answers(files) == ["missing"]


def test_a_batch_that_never_ends_is_given_up_only_on_request(bench: Bench) -> None:
    """Some servers forget a batch over a restart and show it as cancelling for ever; the second request gives it up."""
    bench.server.faults = Faults(stuck_in="in_progress", cancelling_takes=3600)
    files = bench.open("a")
    bench.engine().advance(files)
    wait_for(lambda: bench.server.batches()[0]["status"] == "in_progress")
    for _ in range(2):
        bench.engine().cancel(files)
        assert not bench.engine().advance(files).collected
    bench.engine().cancel(files, abandon=True)
    assert bench.engine().advance(files).collected
    assert bench.answers(files) == ["missing"]
