"""An S3 on this machine, and a way to it that can be cut."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import URLError
from urllib.request import Request, urlopen

BUCKET = "bucket"


@contextmanager
def moto() -> Iterator[int]:
    """A `moto` server with an empty bucket, for as long as the `with` block lasts; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _make_bucket(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _make_bucket(port: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            urlopen(Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT"), timeout=10).close()
            return
        except URLError:
            assert process.poll() is None, "moto has ended"
            assert time.monotonic() < end, "moto does not answer"
            time.sleep(0.05)


def options(port: int) -> dict[str, str]:
    """What a `Store` needs to reach the S3 at this port."""
    return {
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "aws_endpoint": f"http://127.0.0.1:{port}",
        "allow_http": "true",
    }


class Proxy:
    """Passes connections on to a port, loses replies on request, and can be away for a while.

    Attributes:
        target: Where it passes connections on to.
        port: Where it listens.
        lost: The request lines whose replies were lost.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self._losing = 0
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = _listen(0)
        self.port = int(self._listener.getsockname()[1])
        self.lost: list[str] = []
        self._start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.go_away()

    def lose_replies(self, count: int) -> None:
        """Close the connection instead of passing on the reply to the next so many PUTs; each PUT itself arrives."""
        self._losing = count

    def go_away(self) -> None:
        """Cut every connection and refuse new ones."""
        with self._lock:
            _close(self._listener)
            for one in self._open:
                with contextlib.suppress(OSError):  # the other side was quicker
                    one.shutdown(socket.SHUT_RDWR)

    def come_back(self) -> None:
        """Listen again, on the same port."""
        self._listener = _listen(self.port)
        self._start()

    def _start(self) -> None:
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return  # closed: we are away
            with self._lock:
                self._open |= {client, server}
            asked = [b""]
            threading.Thread(target=self._pass_on, args=(client, server, asked), daemon=True).start()
            threading.Thread(target=self._pass_back, args=(server, client, asked), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket, asked: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                line, _, _ = data.partition(b"\r\n")
                if line.endswith(b" HTTP/1.1"):
                    asked[0] = line
                server.sendall(data)
        self._end(client, server)

    def _pass_back(self, server: socket.socket, client: socket.socket, asked: list[bytes]) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(1 << 16)) and not self._loses(asked[0]):
                client.sendall(data)
        self._end(client, server)

    def _loses(self, asked: bytes) -> bool:
        with self._lock:
            if not (self._losing and asked.startswith(b"PUT ")):
                return False
            self._losing -= 1
            self.lost.append(asked.decode())
            return True

    def _end(self, *ends: socket.socket) -> None:
        with self._lock:
            for one in ends:
                _close(one)
            self._open -= set(ends)


def _listen(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(64)
    return listener


def _close(one: socket.socket) -> None:
    with contextlib.suppress(OSError):  # a socket that is not connected any more
        one.shutdown(socket.SHUT_RDWR)  # wakes whoever waits in `accept` or `recv`, which `close` does not
    one.close()
