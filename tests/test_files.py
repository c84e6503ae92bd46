"""Pictures and PDFs in rows: addresses, paths and bytes become parts of the message."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ractobatch_dagster import BatchAsset, ConfigurationError, InvalidInputError, RactoFile, batch_asset
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.requests.body import RESPONSES, RequestTemplate
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.requests.rendering import Requests
from tests.project import Project
from tests.requests.test_request_overrides import block, named

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(40))
PDF = b"%PDF-1.7 and so on"
ADDRESS = "https://example.org/a.png"


def asset(frame: pd.DataFrame, **options: Any) -> BatchAsset:
    """An asset of these rows, which have files."""
    given = {"model": "gpt-4o-mini", "name": "seen", "overrides": {"files": "picture"}, **options}
    return batch_asset(**given)(lambda: frame)


def sent(server: LocalServer) -> list[Any]:
    """The content of every message that was sent."""
    files = [server.read(batch["input_file_id"]) for batch in server.batches()]
    return [json.loads(line)["body"]["messages"][-1]["content"] for data in files for line in data.splitlines()]


def url(data: bytes, kind: str) -> str:
    """A file as an address of itself."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_each_kind_of_file_goes_along(batch_server: LocalServer, tmp_path: Path) -> None:
    """Before the text; rows without one are plain; the table has what the user gave."""
    (tmp_path / "doc.pdf").write_bytes(PDF)
    (tmp_path / "note.txt").write_text("a note")
    rows: list[Any] = [[ADDRESS, str(tmp_path / "doc.pdf")], [str(tmp_path / "note.txt")], None, []]
    frame = pd.DataFrame({"user_message": [f"What is {n}?" for n in range(4)], "picture": rows})
    project = Project(batch_server, tmp_path, asset(frame).assets)
    assert project.run("seen_submission").success
    project.land()
    assert project.load("seen")["llm_status"].tolist() == ["ok"] * 4
    both, note, plain, none = sent(batch_server)
    assert both == [
        {"type": "image_url", "image_url": {"url": ADDRESS}},
        {"type": "file", "file": {"filename": "doc.pdf", "file_data": url(PDF, "application/pdf")}},
        {"type": "text", "text": "What is 0?"},
    ]
    assert note == [{"type": "text", "text": "a note"}, {"type": "text", "text": "What is 1?"}]
    assert (plain, none) == ("What is 2?", "What is 3?")


def test_bytes_are_told_by_how_they_begin(batch_server: LocalServer, tmp_path: Path) -> None:
    """A column of pictures; the same picture with the same prompt is asked once; the table may leave them out."""
    frame = pd.DataFrame({"user_message": ["what?"] * 3, "picture": [PNG, PNG, PDF]})
    project = Project(batch_server, tmp_path, asset(frame, carry=["user_message"]).assets)
    project.run("seen_submission")
    project.land()
    table = project.load("seen")
    assert table["llm_reused"].tolist() == [False, True, False]
    assert "picture" not in table
    picture, document = sent(batch_server)
    assert picture[0] == {"type": "image_url", "image_url": {"url": url(PNG, "image/png")}}
    assert document[0]["file"]["filename"] == "file.pdf"


def test_many_rows_with_files_are_made_a_few_at_a_time(batch_server: LocalServer, tmp_path: Path) -> None:
    """More than are in memory together, and all are sent."""
    frame = pd.DataFrame(
        {"user_message": [f"text {n}" for n in range(100)], "picture": [PNG + bytes([n]) for n in range(100)]}
    )
    made = asset(frame)
    project = Project(batch_server, tmp_path, made.assets, max_requests_per_batch=40)
    shown = made.preview(project.resource, rows=2)
    project.run("seen_submission")
    project.land()
    assert len(sent(batch_server)) == 100
    assert project.load("seen")["llm_status"].tolist() == ["ok"] * 100
    assert shown.requests[1]["messages"][-1]["content"] == sent(batch_server)[1]


def test_a_file_over_the_limit_fails_alone(batch_server: LocalServer, tmp_path: Path) -> None:
    """Its row says so, before anything of it is uploaded."""
    frame = pd.DataFrame({"user_message": ["a", "b"], "picture": [PNG + bytes(50_000), PNG]})
    project = Project(batch_server, tmp_path, asset(frame).assets, max_bytes_per_batch=20_000)
    project.run("seen_submission")
    project.land()
    table = project.load("seen")
    assert table["llm_status"].tolist() == ["error", "ok"]
    assert table["llm_error_code"].tolist()[0] == "request_too_large"


def test_responses_have_parts_of_their_own() -> None:
    """Under other names."""
    requests = Requests("p", RequestTemplate("m", endpoint=RESPONSES), Overrides({"files": "files"}, RESPONSES))
    (body,) = requests.bodies(block(files=[[PNG, PDF]]), ["what?"], named)
    assert body["input"][-1]["content"] == [
        {"type": "input_image", "image_url": url(PNG, "image/png"), "detail": "auto"},
        {"type": "input_file", "filename": "file.pdf", "file_data": url(PDF, "application/pdf")},
        {"type": "input_text", "text": "what?"},
    ]
    (address,) = requests.bodies(block(files=[ADDRESS]), ["what?"], named)
    assert address["input"][-1]["content"][0] == {"type": "input_image", "image_url": ADDRESS, "detail": "auto"}


def test_a_path_is_told_by_what_the_file_holds(tmp_path: Path) -> None:
    """Not by its name, of which every machine has its own opinion; what is UTF-8 is a text, and nothing else goes."""
    requests = Requests("p", RequestTemplate("m"), Overrides({"files": "files"}))

    def content(name: str, data: bytes) -> dict[str, Any]:
        (tmp_path / name).write_bytes(data)
        (body,) = requests.bodies(block(files=[str(tmp_path / name)]), ["what?"], named)
        return dict(body["messages"][-1]["content"][0])

    for name in ("photo", "photo.bin", "photo.txt"):
        assert content(name, PNG)["image_url"]["url"] == url(PNG, "image/png")
    assert content("scan", PDF)["file"] == {"filename": "scan", "file_data": url(PDF, "application/pdf")}
    for name in ("notes", "notes.md", "lines.jsonl"):
        assert content(name, "Größe".encode()) == {"type": "text", "text": "Größe"}
    for name, data in {
        "notes.txt.gz": b"\x1f\x8b\x08\x00", "x.zip": b"PK\x03\x04\xff", "latin.txt": "Größe".encode("latin-1"),
        "clip.ts": b"G\x40\x00\xff", "wide.txt": "a".encode("utf-16-le"), "empty.txt": b"",
    }.items():  # fmt: skip
        with pytest.raises(InvalidInputError, match=f"row 0: 'files', its files, .* of '{name}' are neither JPEG"):
            content(name, data)


def test_addresses_are_of_pictures_or_say_what_they_are() -> None:
    """What a `data:` address holds goes as the file that it is; at other addresses chat finds pictures only."""
    requests = Requests("p", RequestTemplate("m"), Overrides({"files": "files"}))
    held = [url(PDF, "application/pdf"), url(b"a note", "text/plain"), "data:,a%20note", url(PNG, "image/png")]
    (body,) = requests.bodies(block(files=[held]), ["what?"], named)
    document, *notes, picture, _ = body["messages"][-1]["content"]
    assert document["file"] == {"filename": "file.pdf", "file_data": url(PDF, "application/pdf")}
    assert notes == [{"type": "text", "text": "a note"}] * 2
    assert picture == {"type": "image_url", "image_url": {"url": url(PNG, "image/png")}}
    for wrong, why in {
        "https://example.org/a.PDF?v=1": "by their addresses chat takes pictures only",
        url(b"\xff", "audio/wav"): "neither JPEG, PNG, GIF, WebP nor PDF, nor text in UTF-8",
        "data:application/pdf;base64,&": "",
    }.items():
        with pytest.raises(InvalidInputError, match=f"row 0: 'files', its files, .*{why}"):
            requests.bodies(block(files=[wrong]), ["what?"], named)


def test_responses_fetch_documents_too() -> None:
    """What by its address is none of pictures is a file."""
    requests = Requests("p", RequestTemplate("m", endpoint=RESPONSES), Overrides({"files": "files"}, RESPONSES))
    (body,) = requests.bodies(block(files=[["https://example.org/a.pdf", "https://example.org/a"]]), ["what?"], named)
    assert body["input"][-1]["content"][:2] == [
        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
        {"type": "input_image", "image_url": "https://example.org/a", "detail": "auto"},
    ]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("/nowhere/at/all.png", "is neither an address nor a file"),
        (b"GARBAGE", "7 bytes are neither JPEG, PNG, GIF, WebP nor PDF"),
        ([3], "holds no file but 3"),
    ],
)
def test_what_is_no_file_is_refused_with_its_row(value: Any, why: str) -> None:
    """Before anything is spent."""
    requests = Requests("p", RequestTemplate("m"), Overrides({"files": "files"}))
    with pytest.raises(InvalidInputError, match=why) as caught:
        requests.render(block(files=[None, value]), ["a", "b"], named)
    assert str(caught.value).startswith("row 1: 'files', its files, ")


def test_embeddings_take_no_files() -> None:
    """Said when the asset is defined."""
    with pytest.raises(ConfigurationError, match="the embeddings endpoint takes no 'files'"):
        asset(pd.DataFrame(), endpoint="embeddings")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xff\xd8\xff\xe0", "image/jpeg"), (PNG, "image/png"), (b"GIF89a", "image/gif"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"), (PDF, "application/pdf"),
    ],
)  # fmt: skip
def test_kinds_are_told_from_the_content(data: bytes, kind: str) -> None:
    """By their first bytes."""
    assert RactoFile.from_content(data).mime_type == kind


def test_what_an_address_costs_is_not_known() -> None:
    """So a budget cannot be kept with one; with bytes it can."""
    requests = Requests("p", RequestTemplate("m", max_tokens=9), Overrides({"files": "files"}))
    requests.render(block(files=[PNG]), ["a"], named)
    assert requests.most_tokens == 9
    requests.render(block(files=[ADDRESS]), ["a"], named)
    assert requests.most_tokens is None
