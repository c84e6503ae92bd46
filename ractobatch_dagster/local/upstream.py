"""A model that hands each request to an OpenAI-compatible server: Ollama, vLLM, or OpenAI itself."""

from __future__ import annotations

import http.client
import ipaddress
import logging
import random
import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import BaseHandler, ProxyHandler, Request, build_opener

import msgspec

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local.answers import Answer
from ractobatch_dagster.local.problems import error_body

__all__ = ["UpstreamModel"]

logger = logging.getLogger(__name__)

_LONGEST_WAIT = 60.0
_WORTH_RETRYING = frozenset({408, 409, 429})


class UpstreamModel:
    """Hands each request to an OpenAI-compatible server, and retries what may go well later.

    What it answers in the end is the request's answer: a failure becomes that request's error, with the
    status and the body the server gave, or with 503 where there was no reply.

    Args:
        url: Its base URL, which ends in `/v1` with most servers.
        api_key: Its key, where it wants one.
        concurrency: How many requests it is sent at once.
        model: Ask for this model, whatever the request says; `None` leaves it.
        timeout: For how many seconds one reply may take.
        attempts: How often a request is sent at most.
        backoff: The first pause between two attempts in seconds; it doubles each time. Where the server says
            how long to wait, that is done instead, up to a minute.

    Raises:
        ConfigurationError: `url` is no `http` or `https` address.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None = None,
        concurrency: int = 8,
        model: str | None = None,
        *,
        timeout: float = 600.0,
        attempts: int = 5,
        backoff: float = 0.5,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"The upstream must be an http:// or https:// address, not {url!r}.")
        if concurrency < 1:
            raise ConfigurationError(f"The upstream's concurrency must be above zero, not {concurrency}.")
        self.concurrency = concurrency
        self._url, self._model = url.rstrip("/"), model
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout, self._attempts, self._backoff = timeout, attempts, backoff
        direct: list[BaseHandler] = [ProxyHandler({})] if _is_near(parts.hostname) else []
        self._opener = build_opener(*direct)

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """Have the server answer one request."""
        if self._model is not None:
            body = {**body, "model": self._model}
        data = msgspec.json.encode(body)
        url = self._url + endpoint.removeprefix("/v1")
        for attempt in range(1, self._attempts + 1):
            answer, wait = self._send(url, data)
            retryable = answer.status_code in _WORTH_RETRYING or answer.status_code >= 500
            if not retryable or attempt == self._attempts:
                break
            pause = self._backoff * 2 ** (attempt - 1) * random.uniform(0.75, 1.0) if wait is None else wait
            logger.warning("the upstream answered %s; trying again in %.1f s", answer.status_code, pause)
            time.sleep(min(pause, _LONGEST_WAIT))
        return answer

    def _send(self, url: str, data: bytes) -> tuple[Answer, float | None]:
        """One attempt, and for how long the server wants to be left alone."""
        request = Request(url, data, self._headers, method="POST")  # noqa: S310 - the scheme was checked
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                return Answer(response.status, _json_body(response.status, response.read())), None
        except HTTPError as error:
            with error:
                return Answer(error.code, _json_body(error.code, error.read())), _retry_after(error)
        except (OSError, http.client.HTTPException) as error:
            message = f"The upstream server could not be reached: {type(error).__name__}: {error}"
            return Answer(503, error_body(503, message)), None


def _json_body(status_code: int, data: bytes) -> Mapping[str, Any]:
    """The reply's JSON object, or an error that quotes a reply which is none."""
    try:
        body = msgspec.json.decode(data)
    except msgspec.DecodeError:
        body = None
    if isinstance(body, dict) and (status_code < 400 or body.get("error")):
        return body
    quoted = data[:500].decode("utf-8", "replace")
    return error_body(status_code, f"The upstream server answered {status_code} with: {quoted}")


def _retry_after(error: HTTPError) -> float | None:
    try:
        return max(0.0, float(error.headers.get("Retry-After", "")))
    except ValueError:
        return None


def _is_near(host: str) -> bool:
    """Whether a host is on this machine, so that no proxy must come between."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
