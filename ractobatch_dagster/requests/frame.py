"""A DataFrame of prompts, of any kind, checked and made Arrow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CUSTOM_ID", "PROMPT", "REQUEST_HASH", "check_frame", "digest", "to_arrow"]

PROMPT = "user_message"
"""The column that holds the prompt."""

CUSTOM_ID = "custom_id"
REQUEST_HASH = "llm_request_hash"


def to_arrow(frame: Any, *, what: str = "the frame") -> pa.Table:
    """Anything that speaks Arrow as a table: pandas, Polars (lazy too), PyArrow, DuckDB, record batch readers.

    Raises:
        InvalidInputError: It is no DataFrame, or one of its columns holds values of several kinds.
    """
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return _plain_text(frame).replace_schema_metadata(None)
    module = type(frame).__module__.partition(".")[0]
    try:
        if module == "pandas" and hasattr(frame, "columns"):
            return pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        if module == "polars" and hasattr(frame, "collect"):
            frame = frame.collect()
        if module == "duckdb" and hasattr(frame, "to_arrow_table"):
            frame = frame.to_arrow_table()  # the stream of older ones takes no schema
        if hasattr(frame, "__arrow_c_stream__"):
            return _plain_text(pa.table(frame)).replace_schema_metadata(None)
    except (ValueError, TypeError, NotImplementedError) as error:  # Arrow's own errors among them
        reason = "; ".join(str(part) for part in error.args)
        raise InvalidInputError(
            f"A column of {what} cannot become Arrow: {reason}. Give it one type, and a name of its own."
        ) from error
    raise InvalidInputError(
        f"{what[0].upper()}{what[1:]} is a {type(frame).__name__}. Return a DataFrame: pandas, Polars, PyArrow, "
        "DuckDB, or anything else with `__arrow_c_stream__`."
    )


def check_frame(
    table: pa.Table, *, key: str | None, reserved: Iterable[str], where: str, on_null: str = "error"
) -> None:
    """Refuse what would lose rows or money later, before anything is sent.

    Args:
        table: The user's rows.
        key: The column that must identify a row, if any.
        reserved: Names that the result table will add.
        where: How to call this frame in an error.
        on_null: `error` refuses a row without a prompt; `skip` lets it through as a row that is not sent.

    Raises:
        InvalidInputError: Names the column, and the row (counted from 0) with its key.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if PROMPT not in table.column_names:
        raise InvalidInputError(f"{where} has no column {PROMPT!r}; its columns are {table.column_names}.")
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"{where} has several columns named {twice[0]!r}.")
    taken = sorted(set(table.column_names) & set(reserved))
    if taken:
        raise InvalidInputError(
            f"{where} has a column {taken[0]!r}, and the result table adds one of that name. Rename yours."
        )
    kind = table.schema.field(PROMPT).type
    if len(table) and not _holds_text(kind):
        raise InvalidInputError(f"{where}: column {PROMPT!r} holds {kind}, not text. Convert it with `.astype(str)`.")
    if on_null == "error":
        prompts = table[PROMPT].cast(pa.string()) if len(table) else table[PROMPT]
        empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(prompts), ""), True) if len(table) else None
        row = pc.index(empty, True).as_py() if empty is not None else -1
        if row >= 0:
            raise InvalidInputError(
                f"{where}: row {row}{_key_of(table, key, row)} has no text in {PROMPT!r}. "
                "Fill it, drop the row, or set on_null='skip' to land it unasked.",
                row=row,
            )
    if key is not None:
        _check_key(table, key, where)


def digest(table: pa.Table) -> str:
    """A hash of a table's schema and values, the same for the same rows in the same order."""
    import pyarrow as pa

    hasher = hashlib.sha256()
    with pa.ipc.new_stream(_HashSink(hasher), table.schema) as stream:
        stream.write_table(table.combine_chunks(), max_chunksize=65_536)
    return hasher.hexdigest()[:32]


class _HashSink:
    """A file that only hashes what is written to it."""

    def __init__(self, hasher: Any) -> None:
        self._hasher = hasher
        self.closed = False

    def write(self, data: Any) -> int:
        self._hasher.update(data)
        return len(memoryview(data))

    def flush(self) -> None:
        """Nothing is buffered."""

    def close(self) -> None:
        self.closed = True


def _check_key(table: pa.Table, key: str, where: str) -> None:
    import pyarrow as pa
    import pyarrow.compute as pc

    if key not in table.column_names:
        raise InvalidInputError(
            f"{where} has no column {key!r}, which key= names; its columns are {table.column_names}."
        )
    keys = table[key]
    if keys.null_count:
        row = pc.index(pc.is_null(keys), True).as_py()
        raise InvalidInputError(f"{where}: row {row} has no {key!r}, which must identify it.", row=row)
    try:
        counts = pc.value_counts(keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys)
    except pa.ArrowNotImplementedError as error:
        raise InvalidInputError(f"{where}: column {key!r} of type {keys.type} cannot identify rows.") from error
    several = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if several:
        shown = ", ".join(repr(value) for value in several[:5])
        raise InvalidInputError(
            f"{where}: {len(several)} values of the key {key!r} stand on more than one row: {shown}"
            f"{', …' if len(several) > 5 else ''}. Drop the duplicates or choose another key."
        )


def _key_of(table: pa.Table, key: str | None, row: int) -> str:
    if key is None or key not in table.column_names:
        return ""
    return f" ({key}={table[key][row].as_py()!r})"


def _holds_text(kind: pa.DataType) -> bool:
    """Whether a column of this type is text, or nothing but nulls."""
    import pyarrow as pa

    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_null(plain))


def _plain_text(table: pa.Table) -> pa.Table:
    """String views, which Polars hands over, as strings that every Parquet reader takes."""
    import pyarrow as pa

    return table.cast(pa.schema([field.with_type(_plain_type(field.type)) for field in table.schema]))


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """A type with plain strings and bytes in it, however deep."""
    import pyarrow as pa

    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), _plain_type(kind.value_type), kind.ordered)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    if pa.types.is_struct(kind):
        return pa.struct([part.with_type(_plain_type(part.type)) for part in kind])
    return kind
