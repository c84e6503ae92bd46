"""Finding the server of a folder from any process, and starting it in the background where there is none.

A running server writes its address to `server.json` in its folder. What stands there is believed only when
the server at that address answers with the same nonce: the file may be left over from one that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from filelock import FileLock, Timeout

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local.disk import write_atomically

__all__ = ["ServerAddress", "ensure_server", "read_address", "stop_server", "write_address"]

IDLE_EXIT = 900
"""After how many seconds without use a server that was started in the background ends."""

_START_TIMEOUT = 60.0
_LOG_TAIL = 2000


@dataclass(frozen=True)
class ServerAddress:
    """Where a server is and how to get in.

    Attributes:
        base_url: What clients take as their `base_url`; it ends in `/v1`.
        api_key: What clients must send.
        pid: Its process.
        port: Its port.
        nonce: What its `/health` says; tells it from another server on the same port.
    """

    base_url: str
    api_key: str = field(repr=False)
    pid: int
    port: int
    nonce: str = field(repr=False)


def ensure_server(folder: str | Path, *, seconds: float = 5.0) -> ServerAddress:
    """The server of `folder`, started in the background where none runs.

    It may be called by many processes at once; they get the same server. A server that was started this way
    ends by itself when it was not used for a quarter of an hour, and the next one has the same key and, where
    it is free, the same port.

    Args:
        folder: Where the server keeps its files and batches.
        seconds: How long a batch takes at least; it has no effect on a server that runs already.

    Raises:
        ConfigurationError: It cannot be started; the message holds the end of its log.
    """
    folder = Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "start.lock", timeout=2 * _START_TIMEOUT):
            return running_server(folder) or _start(folder, seconds)
    except Timeout as error:
        raise ConfigurationError(
            f"Another process has been starting the local batch server in {folder} for too long."
        ) from error


def running_server(folder: Path) -> ServerAddress | None:
    """The server that runs on `folder`, if one does."""
    address = read_address(folder)
    return address if address is not None and _is_alive(address) else None


def stop_server(folder: str | Path, *, timeout: float = 10.0) -> bool:
    """End the server of `folder`. What it has not finished, the next one goes on with.

    Returns:
        Whether there was one.

    Raises:
        ConfigurationError: It did not end within `timeout` seconds.
    """
    address = running_server(Path(folder))
    if address is None:
        return False
    os.kill(address.pid, signal.SIGTERM)
    end = time.monotonic() + timeout
    while _is_alive(address):
        if time.monotonic() > end:
            raise ConfigurationError(f"The local batch server, process {address.pid}, does not end.")
        time.sleep(0.02)
    return True


def read_address(folder: Path) -> ServerAddress | None:
    """The address that the last server of `folder` wrote, whether it still runs or not."""
    try:
        return ServerAddress(**json.loads((folder / "server.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def write_address(folder: Path, address: ServerAddress) -> None:
    """Tell other processes of this user where the server is."""
    write_atomically(folder / "server.json", json.dumps(asdict(address)).encode(), mode=0o600)


def _is_alive(address: ServerAddress) -> bool:
    url = address.base_url.removesuffix("/v1") + "/health"
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=5) as response:
            return bool(json.load(response).get("nonce") == address.nonce)
    except (URLError, OSError, ValueError, AttributeError):
        return False


def _start(folder: Path, seconds: float) -> ServerAddress:
    command = [sys.executable, "-m", "ractobatch_dagster.cli", "serve", "--folder", str(folder)]
    command += ["--port", "0", "--seconds", str(seconds), "--idle-exit", str(IDLE_EXIT), "--quiet"]
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603 - our own module, with this interpreter
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < end:
        address = read_address(folder)
        if address is not None and address.pid == process.pid and _is_alive(address):
            return address
        if process.poll() is not None:
            break
        time.sleep(0.05)
    else:
        process.terminate()
    tail = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
    raise ConfigurationError(f"The local batch server did not start in {folder}. The end of its log:\n{tail}")
