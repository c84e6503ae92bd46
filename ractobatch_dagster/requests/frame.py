"""A DataFrame of prompts, of any kind, as a stream of Arrow record batches, and that stream in blocks of fixed rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ractobatch_dagster.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BLOCK", "CUSTOM_ID", "PROMPT", "REQUEST_HASH", "blocks", "joined", "open_frame", "size"]

PROMPT = "user_message"
"""The column that holds the prompt."""

CUSTOM_ID = "custom_id"
REQUEST_HASH = "llm_request_hash"

BLOCK = 512
"""Rows in a block; a power of two, so that it can be halved down to one row."""

BLOCK_BYTES = 32 << 20
"""A block of more than this many bytes is halved."""

_CSV_BYTES = 1 << 20
"""What is read of a CSV file at a time: no row may be longer."""

_READ_BYTES = 1 << 18
"""What is read of a Parquet column at a time; without it, a column of a row group is read whole."""

_SHOWN = 20
"""Characters of a text before and after what is wrong with it, in an error."""

_Opened: TypeAlias = "tuple[pa.Schema, Iterator[pa.RecordBatch]]"


def open_frame(frame: Any, *, what: str = "the frame") -> pa.RecordBatchReader:
    """Anything that speaks Arrow as a stream that is read once, in memory that does not grow with the rows.

    Args:
        frame: A DataFrame of pandas or Polars (lazy too), a PyArrow table, record batch, reader, dataset or scanner, a
            DuckDB relation, anything else with `__arrow_c_stream__`, the path of a `.parquet` or `.csv` file or of a
            folder of Parquet files, or an iterator or list of any of those. A Polars before 1.34 collects a lazy
            frame whole.
        what: How to call it in an error.

    Raises:
        InvalidInputError: It is no DataFrame, or one of its columns holds values of several kinds. Reading the stream
            raises it too, where only the values tell.
    """
    import pyarrow as pa

    if isinstance(frame, Iterator | list | tuple) and not isinstance(frame, pa.RecordBatchReader):
        schema, batches = _several(iter(frame), what)
    else:
        with _becoming(what):
            schema, batches = _opened(frame, what)
    plain = pa.schema([_plain_field(field) for field in schema])
    return pa.RecordBatchReader.from_batches(plain, _cast(batches, plain, what))


def blocks(stream: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """The same rows in blocks whose boundaries do not depend on how the stream was cut.

    A block is a run of `BLOCK` rows, the last of fewer. One of more than `BLOCK_BYTES` is cut after its first
    `BLOCK / 2` rows, each part over that again at half of its rows, until it is not or has one row.
    """
    place = 0  # of the first row held, in its run of BLOCK rows
    held: list[pa.RecordBatch] = []
    rows = weight = 0
    for batch in stream:
        start = 0
        while start < len(batch):
            part = batch.slice(start, BLOCK - place - rows)
            held.append(part)
            start, rows, weight = start + len(part), rows + len(part), weight + size(part)
            if place + rows < BLOCK and weight <= BLOCK_BYTES:
                continue
            rest = joined(held)
            for piece in _pieces(rest, place):
                place = (place + len(piece)) % BLOCK
                rest = rest.slice(len(piece))
                yield piece
            held, rows, weight = [rest] if len(rest) else [], len(rest), size(rest)
    if held:
        yield from _pieces(joined(held), place, last=True)


def _pieces(rows: pa.RecordBatch, place: int, *, last: bool = False) -> Iterator[pa.RecordBatch]:
    """The blocks that these rows begin with, the first of them at this place in its run of `BLOCK` rows."""
    while len(rows):
        step = place & -place or BLOCK  # as far as the half goes that begins here
        while step > 1 and size(rows.slice(0, step)) > BLOCK_BYTES:
            step //= 2
        if len(rows) < step and not last:
            return  # what is missing may still make it too large
        yield rows.slice(0, step)
        rows = rows.slice(step)
        place = (place + step) % BLOCK


def joined(batches: list[pa.RecordBatch]) -> pa.RecordBatch:
    """One record batch of several, without a copy where there is one; dictionaries that differ are made one."""
    import pyarrow as pa

    return batches[0] if len(batches) == 1 else pa.Table.from_batches(batches).combine_chunks().to_batches()[0]


def size(rows: pa.RecordBatch) -> int:
    """Bytes of the rows' values: the sum over the rows, however they are cut and whatever buffers they share."""
    return sum(map(_size, rows.columns))


def _size(array: pa.Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_struct(kind):
        return sum(_size(array.field(index)) for index in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        start, end = (array.offsets[index].as_py() for index in (0, -1))
        return 4 * len(array) + _size(array.values.slice(start, end - start))
    if _is_bytes(kind):
        return 4 * len(array) + int(pc.sum(pc.binary_length(array)).as_py() or 0)
    try:
        return len(array) * int((kind.bit_width + 7) // 8)  # that of a dictionary's is the index's
    except ValueError:
        return int(array.nbytes)


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    tests = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)
    return any(test(kind) for test in tests)


def _opened(frame: Any, what: str) -> _Opened:
    """The schema and the batches of a frame of any kind, its types as they are."""
    import pyarrow as pa

    module = type(frame).__module__.partition(".")[0]
    if isinstance(frame, str | Path):
        return _file(Path(frame), what)
    if module == "pandas" and hasattr(frame, "columns"):
        return _pandas(frame, what)
    if module == "polars" and hasattr(frame, "collect"):
        return _lazy(frame)
    if module == "duckdb" and hasattr(frame, "fetch_arrow_reader"):  # the stream of older ones takes no schema
        return _queried(frame, what)
    if module == "pyarrow" and hasattr(frame, "scanner"):
        return _dataset(frame)
    if module == "pyarrow" and hasattr(frame, "dataset_schema"):  # a scanner reads ahead as far as it was told to
        return _arrow(frame.to_reader())
    if isinstance(frame, pa.RecordBatchReader):  # as it is: through the C stream, what it raises would lose its type
        return _arrow(frame)
    if hasattr(frame, "__arrow_c_stream__"):
        return _arrow(pa.RecordBatchReader.from_stream(frame))
    raise InvalidInputError(
        f"{what[0].upper()}{what[1:]} is a {type(frame).__name__}. Return a DataFrame: pandas, Polars, PyArrow, "
        "DuckDB, or anything else with `__arrow_c_stream__`; an iterator of them; or the path of a .parquet or .csv "
        "file."
    )


def _arrow(reader: pa.RecordBatchReader) -> _Opened:
    return reader.schema, iter(reader)


def _queried(relation: Any, what: str) -> _Opened:
    """A relation of DuckDB's, which is run only now: what fails later comes as an error of the stream's."""
    import duckdb

    def failed(error: Exception) -> InvalidInputError:
        return InvalidInputError(f"The query of {what} fails: {error}")

    try:
        reader = getattr(relation, "to_arrow_reader", relation.fetch_arrow_reader)(BLOCK)
    except duckdb.Error as error:
        raise failed(error) from error

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except OSError as error:
            raise failed(error) from error

    return reader.schema, batches()


def _pandas(frame: Any, what: str) -> _Opened:
    """Some rows at a time, by types that are decided over all of them."""
    import pyarrow as pa

    schema = pa.Table.from_pandas(frame.iloc[:0], preserve_index=False).schema
    columns = [frame.iloc[:, index] for index in range(frame.shape[1])]
    for index, (field, column) in enumerate(zip(schema, columns, strict=True)):
        if column.dtype == object:  # only the values tell
            with _becoming(what, field.name):
                kind = pa.infer_type(column.to_numpy(), from_pandas=True)
            schema = schema.set(index, field.with_type(kind))
    # Categories are converted once, not with every slice.
    words = [column.array.categories if hasattr(column.array, "categories") else None for column in columns]
    dictionaries = [None if some is None else pa.array(some, from_pandas=True) for some in words]
    # Python objects are copied, and may be large; what is Arrow already is not
    step = BLOCK if any(column.dtype == object for column in columns) else 16 * BLOCK

    def convert(index: int, start: int) -> pa.Array:
        values, kind, dictionary = columns[index].iloc[start : start + step], schema.types[index], dictionaries[index]
        if dictionary is not None:
            codes = values.array.codes
            indices = pa.array(codes, kind.index_type, mask=codes < 0)
            return pa.DictionaryArray.from_arrays(indices, dictionary, ordered=kind.ordered)
        with _becoming(what, schema.names[index]):
            array = pa.array(values, kind, from_pandas=True)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(frame), step):
            arrays = [convert(index, start) for index in range(len(columns))]
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    return schema, batches()


def _lazy(frame: Any) -> _Opened:
    import polars as pl
    import pyarrow as pa

    if not hasattr(frame, "collect_batches"):  # Polars before 1.34
        return _arrow(pa.RecordBatchReader.from_stream(frame.collect()))
    none = pl.DataFrame(schema=frame.collect_schema())
    frames = frame.collect_batches(chunk_size=BLOCK, lazy=True)
    batches = (batch for some in frames for batch in pa.RecordBatchReader.from_stream(some))
    return pa.RecordBatchReader.from_stream(none).schema, batches


def _dataset(dataset: Any) -> _Opened:
    """Little of a dataset at a time; by default PyArrow reads many batches of several files ahead."""
    import pyarrow.dataset as ds

    options = {}
    if getattr(getattr(dataset, "format", None), "default_extname", None) == "parquet":
        options["fragment_scan_options"] = ds.ParquetFragmentScanOptions(
            pre_buffer=False, use_buffered_stream=True, buffer_size=_READ_BYTES
        )
    scanner = dataset.scanner(batch_size=BLOCK, batch_readahead=1, fragment_readahead=1, use_threads=False, **options)
    return _arrow(scanner.to_reader())


def _file(path: Path, what: str) -> _Opened:
    if path.is_dir():
        if any(path.glob("*/**/*.parquet")):
            raise InvalidInputError(
                f"{what[0].upper()}{what[1:]} is the folder {str(path)!r}, which has folders of Parquet files. Return "
                "`pyarrow.dataset.dataset(path, partitioning='hive')`, so that no column is lost."
            )
        files = sorted(path.glob("*.parquet"))
        if files:
            return _several(iter(files), what)
    elif path.suffix == ".parquet" and path.is_file():
        return _parquet(path)
    elif path.suffix == ".csv" and path.is_file():
        return _csv(path)
    raise InvalidInputError(
        f"{what[0].upper()}{what[1:]} is a path, and at {str(path)!r} there is neither a .parquet file, nor a folder "
        "of them, nor a .csv file."
    )


def _parquet(path: Path) -> _Opened:
    import pyarrow.parquet as pq

    file = pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_BYTES)
    groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
    row = sum(group.total_byte_size for group in groups) // max(file.metadata.num_rows, 1)
    rows = min(BLOCK, max(1, BLOCK_BYTES // 8 // max(row, 1)))
    return file.schema_arrow, file.iter_batches(rows, use_threads=False)


def _csv(path: Path) -> _Opened:
    """The rows of a CSV file by the types of its first ones: text where they are empty, and for prompts."""
    import pyarrow as pa
    from pyarrow import csv

    def opened(kinds: dict[str, pa.DataType]) -> Any:
        return csv.open_csv(
            path,
            read_options=csv.ReadOptions(block_size=_CSV_BYTES, use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=kinds),
        )

    with opened({PROMPT: pa.string()}) as first:
        empty = [field.name for field in first.schema if pa.types.is_null(field.type)]
    return _arrow(opened(dict.fromkeys([PROMPT, *empty], pa.string())))


def _several(frames: Iterator[Any], what: str) -> _Opened:
    """The frames of an iterator one after the other, all by the schema of the first."""

    def named(number: int) -> str:
        return f"frame {number} of {what}"

    for frame in frames:
        schema = (reader := open_frame(frame, what=named(0))).schema
        break
    else:
        raise InvalidInputError(
            f"{what[0].upper()}{what[1:]} is an iterator of no frames. Yield one at least, without rows if need be."
        )

    def batches() -> Iterator[pa.RecordBatch]:
        yield from reader
        for number, frame in enumerate(frames, 1):
            later = open_frame(frame, what=named(number))
            if sorted(later.schema.names) != sorted(schema.names):
                raise InvalidInputError(
                    f"Frame {number} of {what} has the columns {later.schema.names}, and the first one has "
                    f"{schema.names}. Give all of them the same."
                )
            yield from _cast((batch.select(schema.names) for batch in later), schema, named(number))

    return schema, batches()


def _cast(batches: Iterable[pa.RecordBatch], schema: pa.Schema, what: str) -> Iterator[pa.RecordBatch]:
    """The batches in these types; what must be converted for that, some rows at a time."""
    import pyarrow as pa

    def convert(field: pa.Field, column: pa.Array) -> pa.Array:
        with _becoming(what, field.name):
            return column if column.type == field.type else column.cast(field.type)

    remaining = iter(batches)
    while True:
        try:
            batch = next(remaining, None)
        except pa.ArrowException as error:  # not what a generator of the user's raises
            raise _unfit(error, what) from error
        if batch is None:
            return
        step = max(1, len(batch)) if batch.schema.types == schema.types else BLOCK
        for start in range(0, len(batch), step):
            columns = [convert(*pair) for pair in zip(schema, batch.slice(start, step).columns, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


@contextmanager
def _becoming(what: str, column: str | None = None) -> Iterator[None]:
    """Say of which frame, and which of its columns, Arrow speaks in its errors."""
    try:
        yield
    except InvalidInputError:
        raise
    except (ValueError, TypeError, NotImplementedError) as error:  # Arrow's own errors among them
        raise _unfit(error, what, column) from error


def _unfit(error: Exception, what: str, column: str | None = None) -> InvalidInputError:
    which = "A column" if column is None else f"Column {column!r}"
    if isinstance(error, UnicodeEncodeError):  # its own message may hold what cannot be printed
        text = error.object[max(error.start - _SHOWN, 0) : error.start + _SHOWN]
        return InvalidInputError(
            f"{which} of {what} holds half a character, which no UTF-8 has, in the text {text!a}. Replace it, "
            "as `.str.encode('utf-8', 'replace').str.decode('utf-8')` does."
        )
    reason = "; ".join(str(part) for part in error.args)
    return InvalidInputError(
        f"{which} of {what} cannot become Arrow: {reason}. Give it one type, and a name of its own."
    )


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(_plain_type(field.type)).remove_metadata()


def _plain_type(kind: pa.DataType) -> pa.DataType:
    """A type with plain strings and bytes in it, however deep, which every Parquet reader takes."""
    import pyarrow as pa

    if pa.types.is_string_view(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_dictionary(kind):
        return pa.dictionary(pa.int32(), _plain_type(kind.value_type), kind.ordered)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(part) for part in kind])
    return kind
