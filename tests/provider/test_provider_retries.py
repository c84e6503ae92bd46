"""Which calls are repeated and how, through the real client over real HTTP; pauses are noted, not waited."""

from __future__ import annotations

import asyncio
import gzip
import io
import logging
import resource
from collections.abc import Iterator
from contextlib import suppress
from email.utils import formatdate
from pathlib import Path
from typing import Any

import openai
import pytest

from ractobatch_dagster.errors import (
    ProviderAPIError,
    ProviderAuthError,
    ProviderError,
    ProviderTimeoutError,
    QueueFullError,
    StoreError,
)
from ractobatch_dagster.provider.client import Account, AsyncProvider, Provider
from tests.provider.scripted import HANGS_UP, HESITATES, Reply, Scripted, scripted_server

NOW = 1_700_000_000.0
BATCH = {"id": "b", "object": "batch", "status": "completed"}
DOWN: Reply = (503, {"error": {"message": "down"}})
OK_BATCH: Reply = (200, BATCH)
DATA = b'{"a": 1}\n'


@pytest.fixture
def script() -> Iterator[Scripted]:
    """A server that says what it is told to."""
    with scripted_server() as server:
        yield server


class Caller:
    """A provider called one way or the other, which notes its pauses."""

    def __init__(self, script: Scripted, kind: str) -> None:
        self.script, self.kind = script, kind
        self.pauses: list[float] = []

    def __call__(self, name: str, *arguments: Any, account: dict[str, Any] | None = None, **named: Any) -> Any:
        given = Account("k", self.script.base_url, **{"max_retries": 2, "timeout": 20, **(account or {})})
        fixed: Any = {"random": lambda: 0.5, "now": lambda: NOW}
        if self.kind == "sync":
            return getattr(Provider(given, sleep=self.pauses.append, **fixed), name)(*arguments, **named)

        async def pause(seconds: float) -> None:
            self.pauses.append(seconds)

        async def run() -> Any:
            provider = AsyncProvider(given, sleep=pause, **fixed)
            try:
                return await getattr(provider, name)(*arguments, **named)
            finally:
                await provider.close()

        return asyncio.run(run())

    def create(self, **account: Any) -> Any:
        return self(
            "create",
            input_file_id="f",
            endpoint="/v1/x",
            completion_window="24h",
            metadata=None,
            account=account,
        )


@pytest.fixture(params=["sync", "async"])
def call(request: pytest.FixtureRequest, script: Scripted) -> Caller:
    """Calls of that server, awaited and not."""
    return Caller(script, request.param)


@pytest.fixture
def waiting(script: Scripted) -> Caller:
    """Calls of that server, for those that only `Provider` has."""
    return Caller(script, "sync")


def file(name: str, size: int, made: int, file_id: str) -> dict[str, Any]:
    return {"id": file_id, "object": "file", "filename": name, "bytes": size, "created_at": made, "purpose": "batch"}


def listed(*files: dict[str, Any], more: bool = False) -> Reply:
    return 200, {"object": "list", "data": list(files), "has_more": more}


@pytest.mark.parametrize(
    "failure", [DOWN, HANGS_UP, *((status, {}) for status in (408, 409, 429, 500, 529)), (200, b'{"id": "b')]
)
def test_a_look_that_fails_in_passing_is_repeated(
    script: Scripted, call: Caller, failure: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    """After pauses that grow; each failure is logged, and the client itself repeats nothing."""
    script.say("GET /batches/b", failure, failure, OK_BATCH)
    with caplog.at_level(logging.WARNING):
        assert call("retrieve", "b").id == "b"
    assert script.requests == ["GET /batches/b"] * 3
    assert call.pauses == [0.25, 0.5]
    assert [record.levelname for record in caplog.records if "trying again in" in record.message] == ["WARNING"] * 2


@pytest.mark.parametrize(("retries", "requests"), [(0, 1), (1, 2), (5, 6)])
def test_tries_are_counted(script: Scripted, call: Caller, retries: int, requests: int) -> None:
    """One more than `max_retries`, then the last error is raised."""
    script.say("GET /batches/b", DOWN)
    with pytest.raises(ProviderAPIError, match="down"):
        call("retrieve", "b", account={"max_retries": retries})
    assert len(script.requests) == requests


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_refusal_is_not_repeated(script: Scripted, call: Caller, status: int) -> None:
    """What will be refused again is asked once."""
    script.say("GET /batches/b", (status, {"error": {"message": "no"}}))
    with pytest.raises(ProviderError):
        call("retrieve", "b")
    assert len(script.requests) == 1


def test_an_empty_account_is_not_asked_again(script: Scripted, call: Caller) -> None:
    """A 429 that means "no money" does not pass by waiting."""
    script.say("GET /batches/b", (429, {"error": {"message": "no", "code": "insufficient_quota"}}))
    with pytest.raises(ProviderError):
        call("retrieve", "b")
    assert len(script.requests) == 1


def test_the_provider_says_how_long_to_wait(script: Scripted, call: Caller) -> None:
    """`Retry-After` is waited out, and a little longer, so that not everybody comes back at once."""
    script.say(
        "GET /batches/b",
        (429, {}, {"Retry-After": "10"}),
        (503, {}, {"Retry-After": formatdate(NOW + 20, usegmt=True)}),
        OK_BATCH,
    )
    call("retrieve", "b")
    assert call.pauses == [10.25, 20.5]


def test_more_than_our_patience_is_not_waited(script: Scripted, call: Caller) -> None:
    """Where the provider asks for more than is left, the error is raised at once and says how long."""
    script.say("GET /batches/b", (429, {}, {"Retry-After": "100"}), (429, {}, {"Retry-After": "21"}))
    with pytest.raises(ProviderAPIError) as caught:
        call("retrieve", "b")
    assert caught.value.retry_after == 21.0
    assert call.pauses == [100.25]


def test_every_read_and_delete_is_repeated(script: Scripted, waiting: Caller) -> None:
    """Lists, file lists, deletes and downloads, as looks."""
    script.say("GET /batches", DOWN, listed())
    script.say("GET /files", DOWN, listed(file("a-1", 1, 1, "f")))
    script.say("DELETE /files/f", HANGS_UP, (404, {}))
    script.say("GET /files/f/content", DOWN, HANGS_UP, DOWN, (200, DATA))
    assert waiting("list_batches").batches == ()
    assert [one.id for one in waiting("find_files", "a")] == ["f"]
    assert waiting("delete_file", "f") is None
    assert waiting("download", "f", io.BytesIO()) == len(DATA)
    assert len(waiting.pauses) == 6


def test_files_on_many_pages_are_all_found(script: Scripted, waiting: Caller) -> None:
    """Pages are followed to the end, also where a server never says that there are no more."""
    one, two = file("a-1", 1, 1, "f1"), file("a-2", 1, 2, "f2")
    script.say("GET /files", listed(one, more=True), listed(two))
    assert [found.id for found in waiting("find_files", "a")] == ["f1", "f2"]
    script.say("GET /files", (200, {"data": [one]}), (200, {"data": [two]}), (200, {"data": [two]}))
    assert [found.id for found in waiting("find_files", "a")] == ["f1", "f2"]


# -- creating -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure", [DOWN, HANGS_UP, (408, {}), (409, {}), (429, {"error": {"message": "m", "code": "insufficient_quota"}})]
)
def test_no_create_is_repeated(script: Scripted, call: Caller, failure: Reply) -> None:
    """Each one that arrives is billed."""
    script.say("POST /batches", failure, OK_BATCH)
    with pytest.raises(ProviderError):
        call.create()
    assert script.requests == ["POST /batches"]


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        ((429, {}, {"Retry-After": "3600"}), 3600.0),
        ((429, {}, {"retry-after-ms": "1500"}), 1.5),
        ((429, {}, {"Retry-After": formatdate(NOW + 90, usegmt=True)}), 90.0),
        ((429, {}), None),
        ((400, {"error": {"message": "m", "code": "token_limit_exceeded"}}, {"Retry-After": "5"}), 5.0),
    ],
)
def test_a_full_queue_says_when_there_is_room(
    script: Scripted, call: Caller, reply: Reply, seconds: float | None
) -> None:
    """It is raised at once, with what the provider asked for."""
    script.say("POST /batches", reply)
    with pytest.raises(QueueFullError) as caught:
        call.create()
    assert caught.value.retry_after == seconds
    assert call.pauses == []


CANNOT_FIND: Reply = (400, {"error": {"message": "Cannot find file f, or project p has no access to it."}})


@pytest.mark.parametrize(
    "refusal",
    [
        CANNOT_FIND,
        (404, {"error": {"message": "No such File object: f"}}),
        (422, {"error": {"message": "Input file not found."}}),
    ],
)
def test_a_new_file_is_waited_for_a_minute(script: Scripted, call: Caller, refusal: Reply) -> None:
    """Until the provider sees the file everywhere; then the refusal is believed, in whichever words it comes."""
    script.say("POST /batches", refusal)
    with pytest.raises(ProviderAPIError, match=r"(?i)file"):
        call.create()
    assert 60 <= sum(call.pauses) < 65
    assert len(script.requests) == len(call.pauses) + 1


def test_a_new_file_is_waited_for_no_longer_than_our_patience(script: Scripted, call: Caller) -> None:
    """Somebody in a hurry waits less."""
    script.say("POST /batches", CANNOT_FIND)
    with pytest.raises(ProviderAPIError):
        call.create(patience=4.0)
    assert call.pauses == [0.5, 1.0, 2.0]


# -- uploading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [DOWN, HANGS_UP])
def test_an_upload_that_worked_after_all_is_taken(script: Scripted, call: Caller, failure: Reply) -> None:
    """After no reply or a server error the file is looked for by name and size before it is sent again."""
    script.say("POST /files", failure)
    script.say(
        "GET /files",
        listed(
            file("mine.jsonl", len(DATA), 5, "mine"),
            file("mine.jsonl", len(DATA) - 1, 9, "cut"),
            file("mine.jsonl.old", len(DATA), 9, "other"),
        ),
    )
    assert call("upload", io.BytesIO(DATA), "mine.jsonl").id == "mine"
    assert script.requests == ["POST /files", "GET /files"]


def test_of_several_uploads_the_newest_stays(script: Scripted, call: Caller) -> None:
    """The others are deleted, for the file is what tells one create from another."""
    script.say("POST /files", DOWN)
    script.say("GET /files", listed(*(file("mine.jsonl", len(DATA), made, f"f{made}") for made in (2, 3, 1))))
    for made in (1, 2):
        script.say(f"DELETE /files/f{made}", (200, {"id": f"f{made}", "deleted": True}))
    assert call("upload", io.BytesIO(DATA), "mine.jsonl").id == "f3"
    assert sorted(script.requests[2:]) == ["DELETE /files/f1", "DELETE /files/f2"]


@pytest.mark.parametrize("looked", [listed(), (404, {}), (405, {})])
def test_an_upload_that_did_not_work_is_repeated_whole(script: Scripted, call: Caller, looked: Reply) -> None:
    """Where there is no such file, or none is shown, it is sent again from its first byte."""
    script.say("POST /files", DOWN, (200, file("mine.jsonl", len(DATA), 1, "f")))
    script.say("GET /files", looked)
    assert call("upload", io.BytesIO(DATA), "mine.jsonl").id == "f"
    first, _, second = script.bodies
    assert DATA in first
    assert DATA in second


def test_a_rate_limit_leaves_no_doubt(script: Scripted, call: Caller) -> None:
    """After a certain refusal nothing is looked for."""
    script.say("POST /files", (429, {}), (200, file("mine.jsonl", len(DATA), 1, "f")))
    call("upload", io.BytesIO(DATA), "mine.jsonl")
    assert script.requests == ["POST /files"] * 2


def test_an_upload_has_one_budget_with_its_looks(script: Scripted, call: Caller) -> None:
    """A look that fails uses up a try, so an outage ends in three."""
    script.say("POST /files", DOWN)
    script.say("GET /files", DOWN)
    with pytest.raises(ProviderAPIError):
        call("upload", io.BytesIO(DATA), "mine.jsonl")
    assert script.requests == ["POST /files", "GET /files", "GET /files"]


# -- cancelling and hurrying ----------------------------------------------------------------------


@pytest.mark.parametrize("failure", [DOWN, HANGS_UP])
def test_a_cancel_is_repeated(script: Scripted, waiting: Caller, failure: Reply) -> None:
    """Cancelling twice is harmless: the second is told that it is too late, and the batch is looked at."""
    script.say("POST /batches/b/cancel", failure, (409, {}))
    script.say("GET /batches/b", failure, OK_BATCH)
    assert waiting("cancel", "b").id == "b"
    assert len(waiting.pauses) == 2


def test_a_cancel_is_repeated_after_a_time_out(script: Scripted, waiting: Caller) -> None:
    """As after any other silence."""
    script.say("POST /batches/b/cancel", HESITATES, OK_BATCH)
    assert waiting("cancel", "b", account={"timeout": 0.3}).id == "b"


def test_somebody_in_a_hurry_shares_the_connections(script: Scripted) -> None:
    """Two tries that time out sooner, a shorter pause between them, on the same client and identity."""
    pauses: list[float] = []
    provider = Provider(
        Account("k", script.base_url, timeout=20, kind="local"), sleep=pauses.append, random=lambda: 0.5
    )
    hurried = provider.hurried(0.3, 0.3)
    script.say("GET /batches/b", HESITATES, DOWN)
    with pytest.raises(ProviderAPIError):
        hurried.retrieve("b")
    assert pauses == [0.25]
    script.say("GET /batches/b", HESITATES)
    with pytest.raises(ProviderTimeoutError):
        provider.hurried(0.3, 0.0).retrieve("b")
    assert hurried.client._client is provider.client._client
    assert (hurried.identity, hurried.profile) == (provider.identity, provider.profile)
    assert (provider.client.timeout, hurried.client.timeout) == (20, 0.3)


@pytest.mark.parametrize(("retries", "requests"), [(0, 1), (3, 4)])
def test_a_clients_own_number_of_retries_is_kept(script: Scripted, retries: int, requests: int) -> None:
    """A client of the user's own says how often, and we do it."""
    script.say("GET /batches/b", DOWN)
    mine = openai.OpenAI(base_url=script.base_url, api_key="k", max_retries=retries)
    pauses: list[float] = []
    with pytest.raises(ProviderError):
        Provider(client=mine, sleep=pauses.append).retrieve("b")
    assert len(script.requests) == requests
    assert len(pauses) == requests - 1


# -- downloading ----------------------------------------------------------------------------------


def test_an_empty_file_is_a_file(script: Scripted, call: Caller) -> None:
    """Azure writes an error file of 0 bytes, with its length or without."""
    script.say("GET /files/f/content", (200, b""))
    script.say("GET /files/f", (200, file("a", 0, 1, "f")))
    for script.chunked in (False, True):
        assert call("download", "f", io.BytesIO()) == 0


def test_a_compressed_download(script: Scripted, call: Caller) -> None:
    """The length of a compressed reply is not the file's, which is asked for; one cut short is noticed."""
    packed = gzip.compress(DATA * 100)
    zipped = {"Content-Encoding": "gzip"}
    script.say("GET /files/f", (200, file("a", 100 * len(DATA), 1, "f")))
    script.say("GET /files/f/content", (200, packed[:-20], zipped), (200, packed, zipped))
    target = io.BytesIO()
    assert call("download", "f", target) == 100 * len(DATA)
    assert target.getvalue() == DATA * 100
    assert len(call.pauses) == 1


def test_a_garbled_download_is_repeated(script: Scripted, call: Caller) -> None:
    """What is no gzip in spite of its header is a broken connection."""
    script.say("GET /files/f", (200, file("a", len(DATA), 1, "f")))
    script.say("GET /files/f/content", (200, b"no gzip", {"Content-Encoding": "gzip"}), (200, DATA))
    target = io.BytesIO()
    assert call("download", "f", target) == len(DATA)
    assert target.getvalue() == DATA


def test_a_refused_download_leaves_the_target_alone(script: Scripted, call: Caller) -> None:
    """What was there before is there still, and nothing else."""
    script.say("GET /files/f/content", (403, {"error": {"message": "no"}}))
    target = io.BytesIO(b"before")
    target.seek(0, io.SEEK_END)
    with pytest.raises(ProviderAuthError):
        call("download", "f", target)
    assert target.getvalue() == b"before"


@pytest.fixture
def full_disk() -> Iterator[None]:
    """No file may grow beyond 1 MB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("size", [1_000_001, 3_000_000])
def test_a_full_disk_is_said_to_be_one(script: Scripted, call: Caller, tmp_path: Path, size: int) -> None:
    """It is no fault of the provider's and not tried again; the last bytes count, which wait in a buffer."""
    script.say("GET /files/f/content", (200, b"x" * size))
    target = (tmp_path / "part").open("wb")
    with pytest.raises(StoreError, match=r"could not be written: .*File too large.* Is the disk full"):
        call("download", "f", target)
    assert call.pauses == []
    with suppress(OSError):  # what is left in the buffer does not fit now either
        target.close()
