"""The Files API of the local server, seen through the real client."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import httpx2
import openai
import pytest

from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.local.validation import Limits
from tests.local.helpers import connect, line, start_process, submit, upload


@pytest.fixture
def client(batch_server: LocalServer) -> openai.OpenAI:
    return connect(batch_server)


def test_what_is_uploaded_comes_back_byte_for_byte(client: openai.OpenAI):
    """A file's object and its content are what was uploaded."""
    data = b'{"a": "\xe2\x80\xa8 line separator"}\n' * 3
    file = client.files.create(file=("some.jsonl", data), purpose="batch")
    assert (file.filename, file.bytes, file.purpose, file.object) == ("some.jsonl", len(data), "batch", "file")
    assert file.expires_at - file.created_at == 30 * 24 * 3600
    assert client.files.retrieve(file.id) == file
    response = client.files.with_raw_response.content(file.id)
    assert response.content == data
    assert response.headers["content-length"] == str(len(data))


def test_a_file_can_be_empty(client: openai.OpenAI):
    """Zero bytes are a file, too: only validation says what is wrong with it."""
    file = client.files.create(file=("empty.jsonl", b""), purpose="batch")
    assert file.bytes == 0
    assert client.files.content(file.id).content == b""


def test_files_are_listed_page_by_page_newest_first(client: openai.OpenAI):
    """Paging with `after` shows every file once, in either order, and `purpose` filters."""
    made = [upload(client, [line(str(number))]) for number in range(5)]
    other = client.files.create(file=("notes.txt", b"x"), purpose="user_data").id
    assert [file.id for file in client.files.list(limit=2, purpose="batch")] == made[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == [*made, other]
    page = client.files.list(limit=2)
    assert page.has_more
    assert not client.files.list(limit=6).has_more


def test_a_deleted_file_is_gone(client: openai.OpenAI):
    """Deleting is confirmed, and after it the file is a 404 wherever it is asked for."""
    file_id = upload(client, [line("a")])
    assert client.files.delete(file_id).deleted
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError, match="No such File object"):
            call(file_id)
    assert list(client.files.list()) == []


def test_an_input_file_must_be_jsonl_and_within_the_limit(tmp_path: Path):
    """A wrong name or too many bytes are refused at upload."""
    with LocalServer(tmp_path, limits=Limits(max_bytes=100)) as server:
        client = connect(server)
        with pytest.raises(openai.BadRequestError, match=r"Must be \.jsonl"):
            client.files.create(file=("input.txt", b"{}"), purpose="batch")
        with pytest.raises(openai.BadRequestError, match="too large"):
            client.files.create(file=("input.jsonl", b"x" * 101), purpose="batch")
        assert server.files() == []
        assert list((tmp_path / "uploads").iterdir()) == []


def test_a_form_without_file_or_purpose_is_refused(batch_server: LocalServer):
    """What is missing is named, in the shape of OpenAI's errors."""
    url, headers = batch_server.base_url + "/files", {"Authorization": "Bearer local"}
    reply = httpx2.post(url, headers=headers, files={"file": ("a.jsonl", b"{}")})
    assert reply.status_code == 400
    assert reply.json()["error"] == {
        "message": "Missing required parameter: 'purpose'.",
        "type": "invalid_request_error",
        "param": "purpose",
        "code": "missing_required_parameter",
    }
    reply = httpx2.post(url, headers=headers, data={"purpose": "batch"}, files={"other": (None, b"x")})
    assert reply.json()["error"]["param"] == "file"
    assert httpx2.post(url, headers=headers, json={}).status_code == 400


def test_a_files_life_can_be_set(client: openai.OpenAI):
    """`expires_after` decides when a file expires, within the API's bounds."""
    file = client.files.create(
        file=("a.jsonl", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600}
    )
    assert file.expires_at - file.created_at == 3600
    with pytest.raises(openai.BadRequestError, match=r"expires_after\.seconds"):
        client.files.create(
            file=("a.jsonl", b"x"), purpose="batch", expires_after={"anchor": "created_at", "seconds": 5}
        )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_big_upload_and_download_do_not_sit_in_memory(tmp_path: Path):
    """Fifty megabytes go in and out with hardly any more memory."""
    big = tmp_path / "big.jsonl"
    with big.open("wb") as file:
        for _ in range(50):
            file.write(os.urandom(500_000).hex().encode() + b"\n")
    process, address = start_process(tmp_path / "state")
    try:
        client = connect(address)
        upload(client, [line("warm-up")])
        before = _peak_memory(process.pid)
        with big.open("rb") as file:
            uploaded = client.files.create(file=("big.jsonl", file), purpose="batch")
        with client.files.with_streaming_response.content(uploaded.id) as response:
            size = sum(len(chunk) for chunk in response.iter_bytes())
        assert size == uploaded.bytes == big.stat().st_size > 50_000_000
        assert _peak_memory(process.pid) - before < 20_000_000
    finally:
        process.terminate()
        process.wait(10)


def test_many_clients_at_once_do_not_disturb_each_other(batch_server: LocalServer):
    """Uploads and batches from several threads all arrive whole."""
    made: list[str] = []

    def work(number: int) -> None:
        client = connect(batch_server)
        made.append(submit(client, [line(f"{number}-{row}") for row in range(20)]).id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    batch_server.wait_idle()
    assert len(set(made)) == 8
    assert {(b["status"], b["request_counts"]["completed"]) for b in batch_server.batches()} == {("completed", 20)}


def _peak_memory(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
