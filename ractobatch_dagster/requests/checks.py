"""What would lose rows or money later is refused; what tells rows and keys apart is hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.frame import PROMPT

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

__all__ = ["Digest", "check_block", "check_schema", "key_hashes", "row_names"]


def check_schema(schema: pa.Schema, *, key: str | None, reserved: Iterable[str], where: str) -> None:
    """Refuse what a frame's columns already tell.

    Args:
        schema: The user's columns.
        key: The column that must identify a row, if any.
        reserved: Names that the result table will add.
        where: How to call this frame in an error.

    Raises:
        InvalidInputError: Names the column.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if PROMPT not in schema.names:
        raise InvalidInputError(f"{where} has no column {PROMPT!r}; its columns are {schema.names}.")
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InvalidInputError(f"{where} has several columns named {twice[0]!r}.")
    taken = sorted(set(schema.names) & set(reserved))
    if taken:
        raise InvalidInputError(
            f"{where} has a column {taken[0]!r}, and the result table adds one of that name. Rename yours."
        )
    if key is None:
        return
    if key not in schema.names:
        raise InvalidInputError(f"{where} has no column {key!r}, which key= names; its columns are {schema.names}.")
    try:
        pc.value_counts(pa.array([], schema.field(key).type))
    except pa.ArrowNotImplementedError as error:
        raise InvalidInputError(
            f"{where}: column {key!r} of type {schema.field(key).type} cannot identify rows."
        ) from error


def check_block(
    block: pa.RecordBatch, start: int, *, key: str | None, where: str, on_null: str, prompt: str = repr(PROMPT)
) -> list[str]:
    """Refuse what only the rows tell.

    Args:
        block: Some rows, of a schema that `check_schema` let through.
        start: The number of the first of them in the frame, from 0.
        key: The column that must identify a row, if any. Whether it does across blocks, `key_hashes` tells.
        where: How to call this frame in an error.
        on_null: `error` refuses a row without a prompt; `skip` lets it through as a row that is not sent.
        prompt: Where the user has prompts, in an error.

    Returns:
        The prompt of each row, empty where there is nothing to ask.

    Raises:
        InvalidInputError: The prompts are no text; or names the row (counted from 0 in the frame) with its key.
    """
    import pyarrow.compute as pc

    named = row_names(block, start, key=key, where=where)
    kind = block.schema.field(PROMPT).type
    if not _holds_text(kind):  # of a frame without rows, pandas makes numbers
        raise InvalidInputError(f"{where}: column {PROMPT!r} holds {kind}, not text. Convert it with `.astype(str)`.")
    texts = _texts(block.column(PROMPT), start, named)
    prompts = [text if text and not text.isspace() else "" for text in texts]
    if on_null == "error" and not all(prompts):
        row = prompts.index("")
        raise InvalidInputError(
            f"{named(row)} has no text in {prompt}. Fill it, drop the row, or set on_null='skip' to land it unasked.",
            row=start + row,
        )
    if key is not None:
        row = pc.index(block.column(key).is_null(), True).as_py()
        if row >= 0:
            raise InvalidInputError(
                f"{where}: row {start + row} has no {key!r}, which must identify it.", row=start + row
            )
    return prompts


def row_names(block: pa.RecordBatch, start: int, *, key: str | None, where: str) -> Callable[[int], str]:
    """How to call a row of a block in an error, by its place there; `start` is the number of the block's first."""

    def named(row: int) -> str:
        return f"{where}: row {start + row}" + ("" if key is None else f" ({key}={block.column(key)[row].as_py()!r})")

    return named


def _texts(column: pa.Array, start: int, named: Callable[[int], str]) -> list[str | None]:
    """The column as Python's own text. Arrow takes files at their word that what they call text is UTF-8."""
    import pyarrow as pa

    column = column.cast(pa.string())
    try:
        texts: list[str | None] = column.to_pylist()
    except UnicodeDecodeError as error:
        row = next(row for row in range(len(column)) if not _is_utf8(column[row]))
        raise InvalidInputError(
            f"{named(row)}: {PROMPT!r} is not UTF-8: {error}. Decode it by the encoding that it was written in.",
            row=start + row,
        ) from error
    return texts


def _is_utf8(value: pa.Scalar) -> bool:
    try:
        value.as_py()
    except UnicodeDecodeError:
        return False
    return True


class Digest:
    """A hash of a frame's schema and rows, told block by block; dictionaries count as the values they stand for.

    It is the same for the same rows in the same order, however they were cut before `blocks` did it. Arrow's own
    format will not do as what is hashed: it pads the buffers of a slice with whatever follows in memory, and keeps
    whatever lies under a null.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._hasher = hashlib.sha256()
        self._hasher.update(repr([(field.name, str(field.type)) for field in schema]).encode())

    def add(self, block: pa.RecordBatch) -> None:
        """Take the next block."""
        for column in block.columns:
            self._add(column)

    def value(self) -> str:
        """32 hex digits for all rows so far."""
        return self._hasher.hexdigest()[:32]

    def _add(self, array: pa.Array) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        array = _without_dictionary(array)
        self._hasher.update(b"%d %d;" % (len(array), array.null_count))
        if array.null_count:
            self._add(array.is_valid())
            array = array.drop_null()
        kind = array.type
        if pa.types.is_struct(kind):
            for part in array.flatten():
                self._add(part)
        elif pa.types.is_list(kind):
            self._add(pc.list_value_length(array))
            self._add(array.flatten())
        elif pa.types.is_string(kind) or pa.types.is_binary(kind):
            self._add(pc.binary_length(array))
            self._hasher.update(_text(array))
        elif pa.types.is_boolean(kind):
            self._add(array.cast(pa.uint8()))
        elif any(test(kind) for test in (pa.types.is_primitive, pa.types.is_decimal, pa.types.is_fixed_size_binary)):
            self._hasher.update(_bytes(array))
        else:
            self._hasher.update(repr(array.to_pylist()).encode())


def key_hashes(block: pa.RecordBatch, key: str) -> npt.NDArray[np.uint64]:
    """128 bits of each row's key, never all zero; equal values have equal bits in every block of a frame.

    Returns:
        An array of shape (rows, 2). No two integers, times or floats share their bits; of other values, two among a
        billion do by accident with a chance of about 1e-21. Zero has no sign here, and there is one NaN.
    """
    import numpy as np
    import pandas as pd
    import pyarrow as pa

    values = _without_dictionary(block.column(key))
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if pa.types.is_floating(values.type):
        with np.errstate(invalid="ignore"):  # a NaN may be a signalling one
            floats = values.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0  # -0.0 + 0.0 is 0.0
        floats[np.isnan(floats)] = np.nan
        halves = _mixed(floats.view(np.uint64))
    elif pa.types.is_primitive(values.type) and values.type.bit_width <= 64:
        numbers = np.frombuffer(_bytes(values), f"u{values.type.bit_width // 8}")
        halves = _mixed(numbers.astype(np.uint64))
    else:
        texts = values.to_numpy(zero_copy_only=False) if _is_text(values.type) else _written(values)
        halves = [pd.util.hash_array(texts, hash_key=half, categorize=False) for half in _HALVES]
    hashes = np.column_stack(halves)
    hashes[:, 0] |= ~hashes.any(axis=1)
    return hashes


_HALVES = ("the first 64 bit", "the other 64 bit")
"""The 16 bytes of SipHash's key, for each half."""


def _mixed(numbers: npt.NDArray[np.uint64]) -> list[npt.NDArray[np.uint64]]:
    """Two well-mixed permutations of the 64-bit numbers (the finaliser of SplitMix64)."""
    import numpy as np

    halves = []
    for seed in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03):
        mixed = numbers ^ np.uint64(seed)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        halves.append(mixed ^ (mixed >> np.uint64(31)))
    return halves


def _written(values: pa.Array) -> Any:
    import numpy as np

    return np.array([repr(value) for value in values.to_pylist()] + [None], object)[:-1]


def _without_dictionary(array: pa.Array) -> pa.Array:
    import pyarrow as pa

    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _bytes(array: pa.Array) -> memoryview:
    """The values' own bytes, of an array of whole bytes each and without nulls."""
    width = array.type.bit_width // 8
    if not len(array):
        return memoryview(b"")
    return memoryview(array.buffers()[1])[width * array.offset : width * (array.offset + len(array))]


def _text(array: pa.Array) -> memoryview:
    """The bytes of an array of strings without nulls, one after the other."""
    import numpy as np

    if not len(array):
        return memoryview(b"")
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    return memoryview(data)[ends[0] : ends[-1]] if data is not None else memoryview(b"")


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _holds_text(kind: pa.DataType) -> bool:
    """Whether a column of this type is text, or nothing but nulls."""
    import pyarrow as pa

    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_null(plain))
