"""Handing requests to another server, tried on a second local one."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local import Faults, LocalServer, UpstreamModel
from tests.local.helpers import CHAT, CountingModel, connect, finish, line, lines, results, submit, text_of

BODY = {"model": "asked", "messages": [{"role": "user", "content": "What is 2+2?"}]}


def test_a_chat_server_gets_a_batch_api(tmp_path):
    """Each request of a batch is answered by the upstream server, with the model that was set."""
    model = CountingModel()
    with LocalServer(tmp_path / "chat", model=model, api_key="secret") as chat:
        upstream = UpstreamModel(chat.base_url, "secret", concurrency=4, model="theirs")
        with LocalServer(tmp_path / "batch", model=upstream) as server:
            client = connect(server)
            batch = finish(client, submit(client, lines(25)))
            answers = results(client, batch.output_file_id)
    assert model.asked == len(answers) == 25
    assert {text_of(answer) for answer in answers.values()} == {"4"}
    assert {answer["response"]["body"]["model"] for answer in answers.values()} == {"theirs"}


def test_an_upstream_error_is_the_requests_error(batch_server):
    """Status and body are the upstream's own."""
    upstream = UpstreamModel(batch_server.base_url, "wrong", backoff=0.01)
    answer = upstream.answer(CHAT, BODY)
    assert answer.status_code == 401
    assert answer.body["error"]["code"] == "invalid_api_key"
    right = UpstreamModel(batch_server.base_url, batch_server.api_key)
    assert right.answer(CHAT, {"model": "m", "messages": []}).status_code == 400


def test_what_may_go_well_later_is_tried_again(batch_server):
    """A server that is overloaded for a moment costs nothing but the moment."""
    upstream = UpstreamModel(batch_server.base_url, batch_server.api_key, attempts=3, backoff=0.01)
    batch_server.faults = Faults(outage=2)
    assert upstream.answer(CHAT, BODY).status_code == 200
    batch_server.faults = Faults(outage=3)
    assert upstream.answer(CHAT, BODY).status_code == 503


def test_a_server_that_says_when_is_left_alone_until_then():
    """`Retry-After` is obeyed, and a reply that is no JSON is quoted."""
    replies = [(429, {"Retry-After": "0"}, b"slow down"), (502, {}, b"<html>"), (500, {}, b"")]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, headers, body = replies.pop(0)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        answer = UpstreamModel(url, attempts=2, backoff=60).answer(CHAT, BODY)
        assert answer.status_code == 502
        assert "<html>" in answer.body["error"]["message"]
        server.shutdown()


def test_a_server_that_is_not_there_is_a_503():
    """After the last attempt the request fails, and the batch goes on."""
    with LocalServer() as gone:
        url = gone.base_url
    answer = UpstreamModel(url, attempts=2, backoff=0.01).answer(CHAT, BODY)
    assert answer.status_code == 503
    assert "could not be reached" in answer.body["error"]["message"]


@pytest.mark.parametrize(("url", "concurrency"), [("ftp://x", 1), ("nonsense", 1), ("http://x", 0)])
def test_a_bad_setting_is_refused_at_once(url, concurrency):
    """Before any request is sent."""
    with pytest.raises(ConfigurationError):
        UpstreamModel(url, concurrency=concurrency)


def test_a_model_that_crashes_fails_only_the_request(tmp_path):
    """Its exception becomes a 500 of that request."""

    class Broken(CountingModel):
        def answer(self, endpoint, body):
            if "bad" in body["messages"][0]["content"]:
                raise RuntimeError("out of order")
            return super().answer(endpoint, body)

    with LocalServer(tmp_path, model=Broken()) as server:
        client = connect(server)
        batch = finish(client, submit(client, [line("a", "bad"), line("b", "Capital of Italy?")]))
        assert text_of(results(client, batch.output_file_id)["b"]) == "Rome"
        error = results(client, batch.error_file_id)["a"]["response"]
        assert (error["status_code"], "out of order" in error["body"]["error"]["message"]) == (500, True)
