"""The engine against a real server: what was interrupted is taken up, and nothing is created twice."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from ractobatch_dagster.errors import ConfigurationError, ProviderError
from ractobatch_dagster.local import CallFault, Faults, LocalServer
from ractobatch_dagster.provider.client import Account, Provider
from ractobatch_dagster.provider.remote import RemoteBatch
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.answered import Answered, Copies
from ractobatch_dagster.submission.engine import SUBMIT, Engine
from ractobatch_dagster.submission.files import SubmissionFiles, TableFiles
from ractobatch_dagster.submission.opening import Terms, open_submission
from ractobatch_dagster.submission.plan import INTENT_AGE, Create, Upload
from ractobatch_dagster.submission.state import Owner, TableState
from ractobatch_dagster.submission.uploading import file_name

LIMITS = Limits(max_requests=10, max_bytes=1_000_000)


class Bench:
    """A store, a provider, and engines over them."""

    def __init__(self, server: LocalServer, root: Path | str) -> None:
        self.server = server
        self.store = Store(root)
        self.table = TableFiles(self.store, "answers")
        self.clock = time.time()
        self.kind: str | None = None

    def engine(self, **account: object) -> Engine:
        """An engine as another process would have it."""
        given = {
            "api_key": self.server.api_key,
            "base_url": self.server.base_url,
            "max_retries": 4,
            "kind": self.kind,
            **account,
        }
        provider = Provider(Account(**given), sleep=lambda _: None)
        return Engine(self.store, provider, limits=LIMITS, now=lambda: self.clock)

    def open(self, *texts: str, model: str = "gpt-4o-mini", **terms: object) -> SubmissionFiles:
        """Open a submission of these prompts."""
        opened = open_submission(
            self.table,
            Owner(asset="answers"),
            {None: pd.DataFrame({"user_message": list(texts)})},
            Terms(
                **{"provider": self.engine().identity, "template": RequestTemplate(model), "limits": LIMITS, **terms}
            ),
            now=lambda: self.clock,
        )
        return self.table.submission(opened.submissions[None])

    def land(self) -> None:
        """Say that everything has landed."""

        def landed(state: TableState | None) -> TableState | None:
            return state and msgspec.structs.replace(
                state, partitions=tuple(msgspec.structs.replace(one, landed=one.submission) for one in state.partitions)
            )

        self.table.log.update(landed)

    def outcomes(self, files: SubmissionFiles) -> pa.Table:
        """The final outcomes of a submission's rows, by row, those of copies left out."""
        state = files.state()
        return Answered(files, state, 0, state.sealed).until(state.sealed)

    def answers(self, files: SubmissionFiles) -> list[str]:
        """The statuses of a collected submission's rows, in order, those included that were taken over."""
        state = files.state()
        copied, _, _ = Copies(files, state, 0, state.sealed).between(0, state.sealed)
        known = {row["row"]: str(row["status"]) for one in (self.outcomes(files), copied) for row in one.to_pylist()}
        return [known.get(row, "missing") for row in range(state.sealed)]

    def finish(self, files: SubmissionFiles, **options: object) -> list[str]:
        """Drive the submission to its end and return the statuses of its requests, in order."""
        engine, end = self.engine(), time.monotonic() + 20
        while not engine.advance(files, **options).collected:  # type: ignore[arg-type]
            assert time.monotonic() < end, files.state()
            self.clock += 10
            time.sleep(0.02)
        outcomes = self.outcomes(files)
        return [str(status) for status in outcomes.filter(pc.invert(outcomes["reused"]))["status"].to_pylist()]

    def input_files(self) -> list[list[dict[str, Any]]]:
        """The requests of each batch's input file, in the order of the batches."""
        files = [self.server.read(batch["input_file_id"]) for batch in self.server.batches()]
        return [[json.loads(line) for line in data.split(b"\n") if line] for data in files]


@pytest.fixture
def bench(batch_server: LocalServer, tmp_path: Path) -> Bench:
    """A bench on disk."""
    return Bench(batch_server, tmp_path / "store")


@pytest.mark.parametrize("forgets", [False, True])
def test_a_lost_reply_to_create_costs_nothing(bench: Bench, forgets: bool) -> None:
    """The batch exists but nobody was told: it is found at once, by its metadata or else by its input file."""
    bench.server.faults = Faults(lost_create_replies=1, no_metadata=forgets)
    files = bench.open("a", "b")
    assert bench.engine().advance(files, steps=SUBMIT).batches[0].batch_id
    assert bench.finish(files) == ["ok", "ok"]
    assert bench.server.creates == 1


def test_a_batch_that_the_list_does_not_show_yet_is_waited_for(bench: Bench) -> None:
    """Not to be seen is not to be absent: nothing is created again before the list has had time to show it."""
    bench.server.faults = Faults(lost_create_replies=1, list_lag=3600)
    files = bench.open("a")
    with pytest.raises(ProviderError):
        bench.engine().advance(files, steps=SUBMIT)
    assert bench.engine().advance(files, steps=SUBMIT).batches[0].stage == "creating"
    bench.clock += 119
    assert bench.engine().advance(files, steps=SUBMIT).batches[0].stage == "creating"
    bench.server.faults = Faults()  # the list catches up
    bench.clock += 1
    assert bench.finish(files) == ["ok"]
    assert bench.server.creates == 1


def test_a_create_that_never_happened_is_made_up_for(bench: Bench) -> None:
    """The create did not arrive: the file goes, a second look finds nothing, and the batch is created once."""
    files = bench.open("a")
    bench.engine().advance(files, steps={Upload})
    bench.server.faults = Faults(outage=50)
    with pytest.raises(ProviderError):
        bench.engine().advance(files, steps=SUBMIT)
    bench.server.faults = Faults()
    for _ in range(3):
        bench.engine().advance(files, steps=SUBMIT)
        bench.clock += 120
    assert bench.finish(files) == ["ok"]
    assert len(bench.server.batches()) == 1


def test_a_create_that_arrives_late_is_refused_for_want_of_its_file(bench: Bench) -> None:
    """A writer that slept through its own taking over cannot create a second batch."""
    files = bench.open("a")
    slow = bench.engine()
    slow.advance(files, steps={Upload})
    create = slow._provider.create

    def late(**arguments: object) -> RemoteBatch:
        """What happens while the writer sleeps."""
        bench.clock += INTENT_AGE
        bench.engine().advance(files, steps=SUBMIT)
        bench.clock += 120
        bench.engine().advance(files, steps=SUBMIT)
        return create(**arguments)  # type: ignore[arg-type]

    slow._provider.create = late  # type: ignore[method-assign, assignment]
    with pytest.raises(ProviderError, match="Cannot find file"):
        slow.advance(files, steps={Create})
    assert bench.finish(files) == ["ok"]
    assert len(bench.server.batches()) == 1


def test_two_engines_at_once_create_each_batch_once(bench: Bench) -> None:
    """Two runs of the same submission share its batches out between them."""
    files = bench.open(*(f"text {number}" for number in range(100)))
    threads = [threading.Thread(target=lambda: bench.engine().advance(files, steps=SUBMIT)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(bench.server.batches()) == 10
    assert bench.finish(files) == ["ok"] * 100


@pytest.mark.parametrize("shape", ["429", "400", "failed"])
def test_a_full_queue_waits_and_loses_nothing(bench: Bench, shape: str) -> None:
    """In each of its three shapes a full queue is a pause: the same requests go out later."""
    bench.server.faults = Faults(queue_full=shape, queue_full_times=2)  # type: ignore[arg-type]
    files = bench.open("a", "b", max_rounds=0)
    assert bench.finish(files) == ["ok", "ok"]


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (Faults(expire_at=0.5), {"ok", "expired"}),
        (Faults(drop_ids=frozenset({"row-00000001"})), {"ok", "missing"}),
        (Faults(ghost=0.5), {"ok", "error"}),
        (Faults(fail={500: 0.5}), {"ok", "error"}),
    ],
)
def test_each_request_has_one_outcome_whatever_comes_back(bench: Bench, faults: Faults, expected: set[str]) -> None:
    """Without further rounds every request says what became of it."""
    bench.server.faults = faults
    files = bench.open("a", "b", "c", "d", max_rounds=0)
    statuses = bench.finish(files)
    assert len(statuses) == 4
    assert set(statuses) == expected


@pytest.mark.parametrize(
    "faults",
    [
        Faults(expire_at=0.5, first_attempts=1),
        Faults(drop=0.5, first_attempts=1),
        Faults(ghost=1.0, first_attempts=1),
        Faults(fail={429: 0.5}, first_attempts=1),
        Faults(duplicate_lines=2, unknown_lines=2),
        Faults(bad_lines=1, first_attempts=1),
        Faults(lying_counts=True, drop=0.5, first_attempts=1),
        Faults(separators=True),
        Faults(empty_file_ids=True),
        Faults(upper_case_statuses=True),
        Faults(cut_downloads=2),
        Faults(bad_gateway_downloads=2),
        Faults(not_found_after_upload=2),
    ],
)
def test_one_further_round_heals_what_passes(bench: Bench, faults: Faults) -> None:
    """What fails once is asked again, and only that; what the server garbles otherwise changes nothing."""
    bench.server.faults = faults
    files = bench.open("a", "b", "c", "d")
    assert bench.finish(files) == ["ok"] * 4


def test_a_refused_batch_names_the_line_and_the_rest_goes_on(bench: Bench) -> None:
    """A line that the provider refuses is an error that says so; the others are sent without it, free of charge."""
    files = bench.open("a", "b", max_rounds=0)
    state = bench.engine().advance(files, steps={Upload})
    stored = bench.server._running.work.disk.data(str(state.batches[0].file_id))
    stored.write_bytes(stored.read_bytes().replace(b"/v1/chat/completions", b"/v1/embeddings", 1))
    assert bench.finish(files) == ["error", "ok"]
    assert "line 1" in bench.outcomes(files)["error"][0].as_py()


def test_wrong_keys_leave_the_batch_planned(bench: Bench) -> None:
    """A create that was certainly refused leaves no doubt behind, and the right key goes on."""
    files = bench.open("a")
    with pytest.raises(ProviderError):
        bench.engine(api_key="wrong").advance(files, steps=SUBMIT)
    assert files.state().batches[0].stage == "planned"
    assert bench.finish(files) == ["ok"]


def test_the_store_may_be_in_memory(batch_server: LocalServer) -> None:
    """The engine needs nothing of the store but its five verbs."""
    bench = Bench(batch_server, "memory:///")
    assert bench.finish(bench.open("a")) == ["ok"]


Stop = Callable[[], None]


@pytest.mark.parametrize("stop_at", range(1, 12))
def test_a_crash_between_any_two_commits_is_healed_by_going_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    """Whichever write to the store is the last before the machine dies, the next engine finishes with one batch."""
    files = bench.open("a", "b")
    write, create, count = Store.write, Store.create, iter(range(1, 1000))

    class Died(BaseException):
        """The machine."""

    def dies_after(verb: Callable[..., object]) -> Callable[..., object]:
        def verb_then_die(*args: object) -> object:
            done = verb(*args)
            if next(count) == stop_at:
                raise Died
            return done

        return verb_then_die

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", dies_after(write))
        patch.setattr(Store, "create", dies_after(create))
        with contextlib.suppress(Died):
            bench.finish(files)
    for pause in (INTENT_AGE, 120):
        bench.clock += pause
        bench.engine().advance(files)
    assert bench.finish(files) == ["ok", "ok"]
    assert len(bench.server.batches()) == 1


def test_many_batches_take_few_commits(bench: Bench) -> None:
    """One commit for the uploads, two for a wave of fifty creates: the log of 2,000 batches stays short."""
    one_each = Limits(max_requests=1, max_bytes=1_000_000)
    files = bench.open(*(f"text {number}" for number in range(120)), limits=one_each)
    bench.engine().advance(files, steps=SUBMIT)
    assert len(bench.server.batches()) == 120
    assert len(bench.store.names(f"{files.prefix}/log")) == 1 + 1 + 2 * 3


def test_the_hourly_cap_waits_for_as_long_as_the_provider_says(bench: Bench) -> None:
    """The third create of the hour is refused with Retry-After: so long the batch waits, and no attempt is used up."""
    bench.server.faults = Faults(creates_per_hour=2, hour=1800)
    files = bench.open(*(f"text {number}" for number in range(30)), max_rounds=0)
    state = bench.engine().advance(files, steps=SUBMIT)
    assert [batch.stage for batch in state.batches].count("uploaded") == 1
    assert max(batch.not_before for batch in state.batches) >= bench.clock + 1700
    bench.server.faults = Faults()
    assert bench.finish(files) == ["ok"] * 30


def test_an_upload_that_nobody_recorded_is_deleted_in_the_end(bench: Bench) -> None:
    """A run died between uploading and recording: its file does not stay at the provider for ever."""
    files = bench.open("a")
    leftover = bench.engine()._provider.upload(io.BytesIO(b"{}\n"), file_name(files.id, 0, 1))
    assert bench.finish(files) == ["ok"]
    left = {file["id"] for file in bench.server.files()}
    assert leftover.id not in left
    assert files.state().batches[0].file_id in left


def test_one_failing_step_stops_no_other(bench: Bench) -> None:
    """A batch that cannot be created does not keep others from being looked at and collected."""
    files = bench.open(*(f"text {number}" for number in range(20)), max_rounds=0)
    refusal = CallFault("POST", "/v1/batches", skip=1, status=400, message="Something is wrong with it.")
    bench.server.faults = Faults(calls=[refusal])
    with pytest.raises(ProviderError, match="Something is wrong"):
        bench.engine().advance(files)
    bench.server.wait_idle()
    bench.clock += 100
    with pytest.raises(ProviderError, match="Something is wrong"):
        bench.engine().advance(files)
    assert sorted(batch.stage for batch in files.state().batches) == ["collected", "uploaded"]
    bench.server.faults = Faults()
    bench.clock += 1000
    assert bench.finish(files) == ["ok"] * 20


def test_another_provider_is_not_asked_about_a_submission(bench: Bench, tmp_path: Path) -> None:
    """What was sent to one server is neither sought nor sent at another, whatever the resource says now."""
    bench.server.faults = Faults(lost_create_replies=1, list_lag=3600)
    files = bench.open("a")
    with pytest.raises(ProviderError):
        bench.engine().advance(files, steps=SUBMIT)
    with LocalServer(tmp_path / "other") as other:
        stranger = bench.engine(base_url=other.base_url, api_key=other.api_key)
        bench.clock += 10_000
        for _ in range(3):
            with pytest.raises(ConfigurationError, match="was sent to"):
                stranger.advance(files)
        assert not other.calls


def test_a_batch_that_fails_for_want_of_its_file_is_sent_again(bench: Bench) -> None:
    """Some servers create a batch whose input file is gone, and fail it: nothing of it ran."""
    files = bench.open("a", max_rounds=0)
    state = bench.engine().advance(files, steps={Upload})
    bench.server.faults = Faults(missing_file_accepted=True)
    bench.engine()._provider.delete_file(str(state.batches[0].file_id))
    assert bench.finish(files) == ["ok"]
    assert len(bench.server.batches()) == 2
