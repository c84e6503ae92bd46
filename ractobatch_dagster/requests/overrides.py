"""What a row says of its own request: model, parameters, system prompt, or the whole body, each in a column."""

from __future__ import annotations

import json
import math
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote_to_bytes

from ractobatch_dagster.attachment import RactoFile, may_be_picture
from ractobatch_dagster.errors import ConfigurationError, InvalidInputError
from ractobatch_dagster.requests.body import CHAT, MODERATIONS, TURNS, endpoint_name, is_raw, needless, prompt_name
from ractobatch_dagster.requests.frame import PROMPT, open_frame

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["OVERRIDES", "Overrides", "Own"]


class Own(NamedTuple):
    """What one row says; `None` for what it leaves to all.

    `extra` is JSON, so that equal ones are told; `files` go with the prompt, those that are text being addresses;
    `body` takes the place of everything else.
    """

    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    system: str | None = None
    extra: str | None = None
    files: tuple[RactoFile | str, ...] | None = None
    body: dict[str, Any] | None = None


OVERRIDES = Own._fields
"""What a column may say of its row's request."""


class Overrides:
    """The columns by which rows say something of their own requests.

    Args:
        columns: By what it says (one of `OVERRIDES`), the column.
        endpoint: Where the requests go.

    Raises:
        ConfigurationError: A row can say no such thing, or a column is no name.
    """

    def __init__(self, columns: Mapping[str, str], endpoint: str = CHAT) -> None:
        if not isinstance(columns, Mapping):
            raise ConfigurationError(
                f"overrides: {columns!r} names no columns by what they say. Give a dict, such as {{'model': 'column'}}."
            )
        for name, column in columns.items():
            if name not in OVERRIDES:
                raise ConfigurationError(f"overrides: {name!r} is none of {', '.join(OVERRIDES)}.")
            if not isinstance(column, str) or not column:
                raise ConfigurationError(f"overrides: {name!r} needs the name of a column, and {column!r} is none.")
        if refused := sorted(columns.keys() & _refused(endpoint)):
            raise ConfigurationError(f"overrides: the {endpoint_name(endpoint)} endpoint takes no {refused[0]!r}.")
        self.columns, self._endpoint, self._turns = dict(columns), endpoint, TURNS.get(endpoint)
        self._readers: Mapping[str, Callable[[Any], Any]] = {
            "model": _text,
            "temperature": _temperature,
            "max_tokens": _max_tokens,
            "system": _text,
            "extra": self._extra,
            "files": self._files,
            "body": self._body,
        }

    def check(self, schema: pa.Schema, where: str) -> None:
        """Refuse a frame that lacks one of the columns.

        Raises:
            InvalidInputError: Names it.
        """
        absent = [(name, column) for name, column in self.columns.items() if column not in schema.names]
        if absent:
            name, column = absent[0]
            raise InvalidInputError(
                f"{where} has no column {column!r}, which overrides= names as {name!r}; its columns are {schema.names}."
            )

    def rows(self, block: pa.RecordBatch, named: Callable[[int], str]) -> list[Own]:
        """What each row says.

        Args:
            block: Some rows.
            named: How to call one of them in an error.

        Raises:
            InvalidInputError: A value is none such; names the row.
        """
        said = {name: self._read(name, block, named) for name in self.columns}
        if not said:
            return [Own()] * len(block)
        made = [Own(**dict(zip(said, values, strict=True))) for values in zip(*said.values(), strict=True)]
        both = next((row for row, own in enumerate(made) if own.body is not None and own.files), None)
        if both is not None:
            raise InvalidInputError(
                f"{named(both)} has files, in {self.columns['files']!r}, and a whole body, which is sent as it is. Put "
                "them into the body."
            )
        return made

    def prompts(self, frame: Any, *, what: str) -> Any:
        """The frame with a `user_message` for every row that gives its whole body: what the last message says.

        Raises:
            InvalidInputError: A column is not there. Reading the stream raises it where a row's body is none.
        """
        import pyarrow as pa

        if "body" not in self.columns:
            return frame
        stream = open_frame(frame, what=what)
        self.check(stream.schema, what)
        schema, text = stream.schema, pa.field(PROMPT, pa.string())
        place = schema.get_field_index(PROMPT)
        schema = schema.append(text) if place < 0 else schema.set(place, text)
        return pa.RecordBatchReader.from_batches(schema, self._with_prompts(stream, schema, what))

    def _with_prompts(self, stream: pa.RecordBatchReader, schema: pa.Schema, what: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        first = 0
        for batch in stream:
            start = first
            bodies = self._read("body", batch, lambda row, start=start: f"{what}: row {start + row}")  # type: ignore[misc]
            given = batch.column(PROMPT).cast(pa.string()).to_pylist() if PROMPT in batch.schema.names else bodies
            prompts = [
                text if body is None or (isinstance(text, str) and text.strip()) else self._last_words(body)
                for text, body in zip(given, bodies, strict=True)
            ]
            columns = dict(zip(batch.schema.names, batch.columns, strict=True)) | {PROMPT: pa.array(prompts, "string")}
            yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
            first += len(batch)

    def _read(self, name: str, block: pa.RecordBatch, named: Callable[[int], str]) -> list[Any]:
        import pyarrow as pa

        column = block.column(self.columns[name])
        read, values = self._readers[name], column.to_pylist()
        if pa.types.is_struct(column.type):
            values = [_told(value) for value in values]
        made = []
        for row, value in enumerate(values):
            try:
                made.append(None if _unsaid(value) else read(value))
            except ValueError as error:
                raise InvalidInputError(f"{named(row)}: {self.columns[name]!r}, its {name}, {error}") from error
        return made

    def _body(self, value: Any) -> dict[str, Any]:
        body, turns = _object(value), self._turns
        if not isinstance(body.get("model", ""), str):
            raise ValueError(f"names no model but {body['model']!r}")
        if turns is None:
            if not is_raw(self._endpoint):
                _check_prompt(body, self._endpoint)
            return body
        told = body.get(turns)
        if isinstance(told, str) and turns == "input":
            told = body[turns] = [{"role": "user", "content": told}]  # the same to the API
        if not (isinstance(told, list) and told and all(isinstance(one, dict) for one in told)):
            raise ValueError(f"has no `{turns}`, which a request needs: a list of objects")
        return body

    def _last_words(self, body: Mapping[str, Any]) -> str:
        last = body[self._turns][-1] if self._turns else {"content": body.get(prompt_name(self._endpoint)) or body}
        words = last.get("content") or last  # a call of a tool has no content
        if not isinstance(words, str) or not words.strip():
            words = json.dumps(words, ensure_ascii=False)
        # half a character is refused with the body, which names its row
        return words.encode("utf-8", "replace").decode("utf-8")

    def _extra(self, value: Any) -> str:
        given, turns = _object(value), self._turns or prompt_name(self._endpoint)
        if "model" in given:
            raise ValueError("names a model, which has a column of its own: overrides={'model': …}")
        if turns in given:
            raise ValueError(f"must not replace `{turns}`; a whole body may say them: overrides={{'body': …}}")
        try:
            return json.dumps(given, sort_keys=True)
        except TypeError as error:
            raise ValueError(f"cannot be written as JSON: {error}") from error

    def _files(self, value: Any) -> tuple[RactoFile | str, ...] | None:
        return tuple(map(self._file, value if isinstance(value, list) else [value])) or None

    def _file(self, value: Any) -> RactoFile | str:
        if isinstance(value, bytes):
            return RactoFile.from_content(value)
        if not isinstance(value, str):
            raise ValueError(f"holds no file but {value!r}")
        if value.startswith(("https://", "http://", "data:")):
            return value if may_be_picture(value) else self._other(value)
        try:
            path = Path(value)
            return RactoFile.from_content(path.read_bytes(), path.name, texts=True)
        except OSError as error:
            raise ValueError(f"is neither an address nor a file: {error}") from error

    def _other(self, address: str) -> RactoFile | str:
        """What is no picture: within a `data:` URL the file, and by an address what the Responses API fetches."""
        if address.startswith("data:"):
            said, _, rest = address.removeprefix("data:").partition(",")
            data = unquote_to_bytes(rest)
            return RactoFile.from_content(b64decode(data) if said.endswith(";base64") else data, texts=True)
        if self._turns == "messages":
            raise ValueError(
                f"names {address!r}, and by their addresses chat takes pictures only. Give its path or its bytes, or "
                "set endpoint='responses'"
            )
        return address


def _refused(endpoint: str) -> set[str]:
    """What no row can say of a request to this endpoint."""
    if is_raw(endpoint):
        return set(OVERRIDES) - {"body", "model"}
    return set() if endpoint in TURNS else {*needless(endpoint), "system", "files"}


def _check_prompt(body: Mapping[str, Any], endpoint: str) -> None:
    name = prompt_name(endpoint)
    asked = body.get(name)
    if isinstance(asked, str) and asked.strip():
        return
    if endpoint == MODERATIONS and isinstance(asked, list) and asked and all(isinstance(one, dict) for one in asked):
        return  # texts and pictures, on which there is one judgement
    raise ValueError(f"has no `{name}`, which a request needs: a text")


def _unsaid(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def _told(value: Any) -> Any:
    """A struct without its nulls: a row of a struct has every field that any row has."""
    if isinstance(value, dict):
        return {name: _told(part) for name, part in value.items() if part is not None}
    return [_told(part) for part in value] if isinstance(value, list) else value


def _text(value: Any) -> str | None:
    if not isinstance(value, str):
        raise ValueError(f"is no text but {value!r}")
    return value if value.strip() else None


def _temperature(value: Any) -> float:
    number = _number(value)
    if not 0 <= number <= 2:
        raise ValueError(f"is {value!r}, and takes 0 to 2")
    return number


def _max_tokens(value: Any) -> int:
    number = _number(value)
    if number < 1 or not number.is_integer():
        raise ValueError(f"is {value!r}, and takes whole numbers from 1")
    return int(number)


def _number(value: Any) -> float:
    if isinstance(value, bool | str | bytes):
        raise ValueError(f"is no number but {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"is no number but {value!r}") from error


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"is no object but {value!r}")
    return value
