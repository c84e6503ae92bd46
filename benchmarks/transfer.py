"""A file of 200 MB to the local server and back: time, memory, and whether a download cut short is noticed.

    python -m benchmarks.transfer --rounds 5

up-ours      the package
up-handle    `client.files.create` with an open file, the openai client's quickest way
up-path      the same with a path
down-ours    the package, which compares what arrived with what the provider says
down-stream  `with_streaming_response` and `stream_to_file`, the openai client's quickest way
down-content `client.files.content(...)`, written to a file
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from benchmarks import ours
from benchmarks.data import data_folder
from benchmarks.measure import Candidate, Work, once, rounds, scratch
from benchmarks.server import running

Upload = Callable[[Any, Path], str]
Download = Callable[[Any, str, Path], None]


def _client(arguments: Mapping[str, Any]) -> Any:
    import openai

    return openai.OpenAI(base_url=arguments["base_url"], api_key=arguments["api_key"], timeout=600)


def _up(upload: Upload, connect: Callable[[Mapping[str, Any]], Any] = _client) -> Candidate:
    def candidate(arguments: Mapping[str, Any]) -> Work:
        client, files = connect(arguments), _client(arguments)
        files.files.delete(upload(client, Path(arguments["small"])))

        def work() -> None:
            upload(client, Path(arguments["large"]))

        return work

    return candidate


def _down(download: Download, connect: Callable[[Mapping[str, Any]], Any] = _client) -> Candidate:
    def candidate(arguments: Mapping[str, Any]) -> Work:
        client = connect(arguments)
        download(client, arguments["small_id"], scratch(arguments["folder"]) / "small")

        def work() -> dict[str, int]:
            target = scratch(arguments["folder"]) / "large"
            download(client, arguments["large_id"], target)
            return {"bytes": target.stat().st_size}

        return work

    return candidate


def _provider(arguments: Mapping[str, Any]) -> Any:
    return ours.provider(arguments["base_url"], arguments["api_key"])


def _up_ours(client: Any, path: Path) -> str:
    with path.open("rb") as source:
        return str(client.upload(source, path.name).id)


def _up_handle(client: Any, path: Path) -> str:
    with path.open("rb") as source:
        return str(client.files.create(file=source, purpose="batch").id)


def _up_path(client: Any, path: Path) -> str:
    return str(client.files.create(file=path, purpose="batch").id)


def _down_ours(client: Any, file_id: str, target: Path) -> None:
    with target.open("wb") as file:
        client.download(file_id, file)


def _down_stream(client: Any, file_id: str, target: Path) -> None:
    with client.files.with_streaming_response.content(file_id) as response:
        response.stream_to_file(target)


def _down_content(client: Any, file_id: str, target: Path) -> None:
    target.write_bytes(client.files.content(file_id).content)


_CUTS = {
    "breaks off": {"cut_downloads": 1},
    "breaks off, of unknown length": {"cut_downloads": 1, "no_content_length": True},
    "ends early": {"short_downloads": 1},
    "ends early, of unknown length": {"short_downloads": 1, "no_content_length": True},
}
"""How a download is cut short: once each time, so that a second try succeeds."""


def cuts(arguments: Mapping[str, Any]) -> Work:
    """Downloads that are cut short once, of each client and in each way: what each comes to."""
    from ractobatch_dagster.local import Faults, LocalServer

    def outcome(download: Download, client: Any, file_id: str, size: int) -> str:
        target = scratch(arguments["folder"]) / "file"
        try:
            download(client, file_id, target)
        except Exception as error:  # noqa: BLE001 (whatever it is, it was noticed)
            return f"error: {type(error).__name__}"
        return "whole" if target.stat().st_size == size else "short, unnoticed"

    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # it tells of every reply that breaks off

    def work() -> dict[str, Any]:
        found: dict[str, dict[str, str]] = {}
        with LocalServer() as server:
            address = {"base_url": server.base_url, "api_key": server.api_key}
            client = _client(address)
            file_id = _up_handle(client, Path(arguments["small"]))
            size = Path(arguments["small"]).stat().st_size
            ways = {"ours": (_down_ours, _impatient(address)), "stream": (_down_stream, client)}
            for name, (download, one) in {**ways, "content": (_down_content, client)}.items():
                for cut, faults in _CUTS.items():
                    server.faults = replace(Faults(), **faults)
                    found.setdefault(cut, {})[name] = outcome(download, one, file_id, size)
        return {"cuts": found}

    return work


def _impatient(address: Mapping[str, str]) -> Any:
    from ractobatch_dagster.provider.client import Account, Provider

    return Provider(Account(api_key=address["api_key"], base_url=address["base_url"]), sleep=lambda _: None)


CANDIDATES: dict[str, Candidate] = {
    "up-ours": _up(_up_ours, _provider),
    "up-handle": _up(_up_handle),
    "up-path": _up(_up_path),
    "down-ours": _down(_down_ours, _provider),
    "down-stream": _down(_down_stream),
    "down-content": _down(_down_content),
    "cuts": cuts,
}


def _fill(file: IO[bytes], size: int) -> None:
    line = b'{"custom_id":"row-00000000","text":"' + b"x" * 955 + b'"}\n'
    while size > 0:
        size -= file.write(line[-size:] if size < len(line) else line)


def main() -> None:
    """Measure, and print the samples."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, help="a folder for the data; left out, a temporary one")
    options = parser.parse_args()
    with data_folder(options.data) as folder, running() as server:
        arguments: dict[str, Any] = {
            "base_url": server.base_url,
            "api_key": server.api_key,
            "folder": str(folder),
            "small": str(folder / "small.jsonl"),
            "large": str(folder / "large.jsonl"),
        }
        for name, size in (("small", 1_000_000), ("large", options.megabytes * 1_000_000)):
            with Path(arguments[name]).open("wb") as file:
                _fill(file, size)
            arguments[f"{name}_id"] = _up_handle(_client(arguments), Path(arguments[name]))
        samples = rounds("transfer", [name for name in CANDIDATES if name != "cuts"], arguments, options.rounds)
        found = once("transfer", "cuts", arguments)["cuts"]
    print(json.dumps({"megabytes": options.megabytes, "samples": samples, "cuts": found}))


if __name__ == "__main__":
    main()
