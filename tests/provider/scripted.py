"""An HTTP server that says what a test tells it to, for replies that no well-behaved server gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any] | tuple[int, Any, dict[str, str]]

HANGS_UP: Reply = (0, None)
"""The connection ends without a reply."""

HESITATES: Reply = (-1, None)
"""No reply comes as long as the test lasts."""


class Scripted:
    """The server: `replies` by method and path; what came in is in `requests`, with its body in `bodies`."""

    def __init__(self) -> None:
        self.replies: dict[str, Callable[[], Reply]] = {}
        self.requests: list[str] = []
        self.bodies: list[bytes] = []
        self.over = threading.Event()
        self.base_url = ""
        self.chunked = False  # whether replies come without their length

    def say(self, request: str, *replies: Reply) -> None:
        """Answer `request`, for example `GET /batches/b`, with these, the last of them for ever."""
        left = list(replies)
        self.replies[request] = lambda: left.pop(0) if len(left) > 1 else left[0]


@contextmanager
def scripted_server() -> Iterator[Scripted]:
    """A scripted server in a thread."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            script.bodies.append(self.rfile.read(int(self.headers.get("content-length") or 0)))
            request = f"{self.command} {self.path.removeprefix('/v1').partition('?')[0]}"
            script.requests.append(request)
            reply = script.replies.get(request, lambda: (404, {"error": {"message": "no such thing"}}))()
            status, body, headers = reply if len(reply) == 3 else (*reply, {})
            if status <= 0:
                self.close_connection = True
                script.over.wait(30 if status else 0)
                return
            kind, data = ("text/html", body.encode()) if isinstance(body, str) else ("application/json", body)
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            self.send_response(status)
            for name, value in {"Content-Type": kind, **headers}.items():
                self.send_header(name, value)
            if script.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                data = (b"%x\r\n%s\r\n" % (len(data), data) if data else b"") + b"0\r\n\r\n"
            else:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_any  # noqa: N815 - the base class's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    script.base_url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield script
    finally:
        script.over.set()
        server.shutdown()
        server.server_close()
