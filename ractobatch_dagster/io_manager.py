"""Tables as Parquet files in a store, loaded as whatever the downstream's annotation names."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

import dagster as dg
from pydantic import Field, PrivateAttr

from ractobatch_dagster.errors import ConfigurationError, StoreError
from ractobatch_dagster.store import Store, partition_name

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "EACH_PARTITION",
    "ParquetIOManager",
    "ParquetTables",
    "as_annotated",
    "hive_columns",
    "is_stream",
    "table_as",
    "table_path",
    "written",
]

EACH_PARTITION = "ractobatch/each_partition"
"""Input metadata with which a consumer asks for several partitions as a dict of frames instead of one frame."""

_BATCH_ROWS = 8_192

_ALLOW_MISSING = "allow_missing_partitions"
"""As Dagster's own IO managers call it."""


def table_path(asset_key: Sequence[str], partition: str | None, hive: Mapping[str, str] | None = None) -> str:
    """Where a table, or one partition of it, lies in the store.

    Args:
        asset_key: The table's asset.
        partition: The partition, if there is one.
        hive: The partition as columns of Hive directories, where those are wanted.
    """
    folder = "/".join(("tables", *asset_key))
    if partition is None:
        return f"{folder}.parquet"
    if hive:
        folders = "/".join(f"{name}={partition_name(value)}" for name, value in hive.items())
        return f"{folder}/{folders}/data.parquet"
    return f"{folder}/{partition_name(partition)}.parquet"


def hive_columns(
    partition: str | None, column: str | None, partitions_def: dg.PartitionsDefinition[Any] | None = None
) -> dict[str, str] | None:
    """A partition as the columns of Hive directories: one, or of a multi-dimensional key each dimension."""
    if column is None or partition is None:
        return None
    if isinstance(partitions_def, dg.MultiPartitionsDefinition):
        return dict(partitions_def.get_partition_key_from_str(partition).keys_by_dimension)
    return {column: partition}


def written(store: Store, path: str, rows: int, *, partitioned: bool) -> dict[str, Any]:
    """The metadata of one table, or partition of one, that was written."""
    uri = store.uri(path)
    return {
        "dagster/partition_row_count" if partitioned else "dagster/row_count": rows,
        "path": dg.MetadataValue.path(uri),
        "dagster/uri": uri if "://" in uri else f"file://{uri}",
    }


class ParquetTables(dg.IOManager):
    """Stores anything that speaks Arrow as Parquet, one file per asset or partition, whole or not at all.

    Args:
        store: Where.
        hive_column: Makes each partition a directory `<column>=<key>`, as Hive has them.
    """

    def __init__(self, store: Store, hive_column: str | None = None) -> None:
        self._store = store
        self._hive_column = hive_column

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write one table; in a run over several partitions `obj` is a dict of tables by partition key."""
        keys = sorted(context.asset_partition_keys) if context.has_asset_partitions else [None]
        if len(keys) == 1:
            key = keys[0]
            # a run over a range of one partition may bring a dict all the same
            one = obj[key] if key is not None and isinstance(obj, Mapping) and set(obj) == {key} else obj
            where = self._path(context, key)
            rows = self._write(where, one)
            context.add_output_metadata(written(self._store, where, rows, partitioned=key is not None))
            return
        if not isinstance(obj, Mapping) or set(obj) != set(keys):
            raise ConfigurationError(
                f"This run covers the partitions {keys} of {context.asset_key.to_user_string()!r}. Return a dict with "
                "one table for each of them."
            )
        for key in keys:
            self._write(self._path(context, key), obj[key])

    def load_input(self, context: dg.InputContext) -> Any:
        """Read one table as the annotated type; several partitions as one table, or as a dict where annotated so."""
        wanted = _annotation(context)
        if not context.has_asset_partitions:
            return self._load(self._path(context, None), wanted)
        keys = sorted(context.asset_partition_keys)
        settings = {
            **context.definition_metadata,
            **((context.upstream_output and context.upstream_output.definition_metadata) or {}),
        }
        asked_each = bool(context.definition_metadata.get(EACH_PARTITION))
        if len(keys) == 1 and not _is_dict(wanted):
            return self._load(self._path(context, keys[0]), wanted)
        paths = {key: self._path(context, key) for key in keys}
        if settings.get(_ALLOW_MISSING):
            folder = "/".join(("tables", *context.asset_key.path))
            there = {path for path, _ in self._store.below(folder, folder)}
            paths = {key: path for key, path in paths.items() if path in there}
        if _is_dict(wanted) or asked_each:
            return {key: self._load(path, _inner(wanted)) for key, path in paths.items()}
        if is_stream(wanted):
            return self._stream(list(paths.values()))
        return as_annotated(_concat([self._read(path) for path in paths.values()]), wanted)

    def _path(self, context: dg.OutputContext | dg.InputContext, key: str | None) -> str:
        partitions = context.asset_partitions_def if key is not None else None
        return table_path(context.asset_key.path, key, hive_columns(key, self._hive_column, partitions))

    def _write(self, path: str, obj: Any) -> int:
        from ractobatch_dagster.requests.frame import open_frame
        from ractobatch_dagster.table_file import TableFile, write_table_file

        if isinstance(obj, TableFile):
            self._store.take(path, obj.path)
            return obj.rows
        stream = open_frame(obj, what="the output")
        with tempfile.TemporaryDirectory(prefix="ractobatch-") as folder:
            made = write_table_file(Path(folder) / "table.parquet", stream.schema, stream)
            self._store.take(path, made.path)
        return made.rows

    def _read(self, path: str) -> pa.Table:
        from ractobatch_dagster.submission.files import read_parquet

        table = read_parquet(self._store, path)
        if table is None:
            raise StoreError(f"There is no table at {self._store.uri(path)}. Materialise it first.")
        return table

    def _stream(self, paths: Sequence[str]) -> pa.RecordBatchReader:
        """The rows of these tables, one table after the other, with no more than a part of one in memory."""
        import pyarrow as pa

        from ractobatch_dagster.submission.files import parquet_file

        missing = [path for path in paths if not self._store.exists(path)]
        if missing:
            raise StoreError(f"There is no table at {self._store.uri(missing[0])}. Materialise it first.")
        schemas = []
        for path in paths:
            with parquet_file(self._store, path) as file:
                schemas.append(file.schema_arrow)
        schema = pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])

        def batches() -> Iterator[pa.RecordBatch]:
            for path in paths:
                with parquet_file(self._store, path) as file:
                    for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                        yield from pa.Table.from_batches([batch]).cast(schema).to_batches()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def _load(self, path: str, wanted: Any) -> Any:
        if is_stream(wanted):
            return self._stream([path])
        return as_annotated(self._read(path), wanted)


class ParquetIOManager(dg.ConfigurableIOManager):
    """Stores assets as Parquet on local disk or object storage; loads them by the downstream's type annotation.

    `pd.DataFrame` (and no annotation) gives pandas, `pl.DataFrame` and `pl.LazyFrame` Polars, `pa.Table` PyArrow,
    `duckdb.DuckDBPyRelation` a relation, and `pa.RecordBatchReader` a stream of what need not fit into memory. An
    output may be a stream as well.
    Several partitions come as one frame, or as a dict by partition key where the annotation is `dict[str, ...]`. A
    partition that is missing is an error unless the input's metadata has `allow_missing_partitions: True`.
    """

    root: str = Field(description="A directory or URL (`s3://`, `gs://`, `az://`); tables go below its `tables/`.")
    options: dict[str, str] = Field(
        default_factory=dict, description="Credentials and settings of the store, as obstore names them.", repr=False
    )
    hive_column: str | None = Field(
        default=None,
        description="Makes each partition a directory `<column>=<key>`, as engines that know Hive's partitions read "
        "them. Of a multi-dimensional key each dimension is a directory of its own name.",
    )
    _tables: ParquetTables | None = PrivateAttr(default=None)

    def _inner(self) -> ParquetTables:
        if self._tables is None:
            self._tables = ParquetTables(Store(self.root, self.options), self.hive_column)
        return self._tables

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Write one asset or partition."""
        self._inner().handle_output(context, obj)

    def load_input(self, context: dg.InputContext) -> Any:
        """Read one asset, or its partitions."""
        return self._inner().load_input(context)


def _annotation(context: dg.InputContext) -> Any:
    return getattr(context.dagster_type, "typing_type", Any)


def _is_dict(wanted: Any) -> bool:
    return wanted is dict or get_origin(wanted) in (dict, Mapping)


def _inner(wanted: Any) -> Any:
    arguments: tuple[Any, ...] = getattr(wanted, "__args__", ())
    return wanted if not _is_dict(wanted) else arguments[-1] if arguments else Any


def is_stream(wanted: Any) -> bool:
    """Whether an annotation asks for a stream of record batches."""
    module = getattr(wanted, "__module__", "").partition(".")[0]
    return module == "pyarrow" and getattr(wanted, "__name__", "") == "RecordBatchReader"


def _concat(tables: Sequence[pa.Table]) -> pa.Table:
    import pyarrow as pa

    return pa.concat_tables(tables, promote_options="permissive") if tables else pa.table({})


def as_annotated(table: pa.Table, wanted: Any) -> Any:
    """The table as the annotated type."""
    module = getattr(wanted, "__module__", "").partition(".")[0]
    name = getattr(wanted, "__name__", "")
    if module == "pyarrow":
        return table
    if module == "polars":
        import polars as pl

        frame = pl.from_arrow(table)
        return frame.lazy() if name == "LazyFrame" and isinstance(frame, pl.DataFrame) else frame
    if name == "DuckDBPyRelation":
        import duckdb

        return duckdb.from_arrow(table)  # on the module's connection, which nobody closes
    if wanted is Any or name in ("Any", "NoneType", "") or module == "pandas":
        return to_pandas(table)
    raise ConfigurationError(
        f"A Parquet table cannot be loaded as {wanted!r}. Annotate the parameter with pandas.DataFrame, "
        "polars.DataFrame, polars.LazyFrame, pyarrow.Table, pyarrow.RecordBatchReader, duckdb.DuckDBPyRelation, or a "
        "dict of one of them."
    )


def table_as(table: pa.Table, kind: str) -> Any:
    """The table as `pyarrow`, `pandas` or `polars` have it, for whoever stores it otherwise.

    A dictionary becomes its words: some databases make a type of their own of it, which the next partition fits not.
    """
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = field.type.value_type
            table = table.set_column(place, field.with_type(plain), table[field.name].cast(plain))
    if kind == "polars":
        import polars as pl

        return pl.from_arrow(table)
    return to_pandas(table) if kind == "pandas" else table


def to_pandas(table: pa.Table) -> Any:
    """A pandas frame in which whole numbers stay whole: a column with nulls becomes `Int64`, not float."""
    import pandas as pd
    import pyarrow as pa

    frame = table.to_pandas()
    for position, field in enumerate(table.schema):
        if pa.types.is_integer(field.type) and table.column(position).null_count:
            frame[field.name] = pd.array(table.column(position).to_pandas(types_mapper=_nullable), dtype="Int64")
    return frame


def _nullable(kind: pa.DataType) -> Any:
    import pandas as pd
    import pyarrow as pa

    return pd.Int64Dtype() if pa.types.is_integer(kind) else None
