"""Azure Blob Storage from its emulator: `npm install -g azurite`, or AZURITE names its `azurite-blob`."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["AZURITE", "azurite", "create_container", "options"]

AZURITE = os.environ.get("AZURITE") or shutil.which("azurite-blob")

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The emulator's own account and key, which are the same everywhere and public."""


@contextmanager
def azurite(folder: Path) -> Iterator[int]:
    """A running emulator; its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(AZURITE), "--silent", "--location", str(folder), "--blobPort", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < end
            assert server.poll() is None
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def options(port: int) -> dict[str, str]:
    """The store's settings."""
    return {
        "azure_storage_account_name": ACCOUNT,
        "azure_storage_account_key": KEY,
        "azure_storage_endpoint": f"http://127.0.0.1:{port}/{ACCOUNT}",
        "azure_allow_http": "true",
    }


def create_container(port: int, name: str) -> None:
    """What a person does once in the portal, by Azure's "Authorize with Shared Key"."""
    now = dt.datetime.now(dt.UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    path, version = f"/{ACCOUNT}/{name}", "2021-08-06"
    signed = f"PUT{chr(10) * 12}x-ms-date:{now}\nx-ms-version:{version}\n/{ACCOUNT}{path}\nrestype:container"
    digest = hmac.new(base64.b64decode(KEY), signed.encode(), hashlib.sha256).digest()
    headers = {
        "x-ms-date": now,
        "x-ms-version": version,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
        "Content-Length": "0",
    }
    url = f"http://127.0.0.1:{port}{path}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers), timeout=30)
