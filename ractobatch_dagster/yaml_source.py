"""Where a component's rows come from."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import dagster as dg

from ractobatch_dagster.errors import ConfigurationError, InvalidInputError

__all__ = ["Source"]

_IN_PATH, _IN_SQL = "{partition}", "$partition"


class Source(dg.Model, dg.Resolvable):
    """One of an upstream asset, files, and a query."""

    asset: Annotated[
        str | None,
        dg.Resolver.default(description="The key of an upstream asset that is a frame.", examples=["tickets"]),
    ] = None
    file: Annotated[
        str | None,
        dg.Resolver.default(
            description="The path of a Parquet or CSV file, or a pattern for several, from the folder of this file. "
            "`{partition}` in it is the key of the run's partition.",
            examples=["tickets/*.parquet", "tickets/{partition}.csv"],
        ),
    ] = None
    sql: Annotated[
        str | None,
        dg.Resolver.default(
            description="A query for DuckDB, which finds files from the folder of this file. `$partition` in it is the "
            "key of the run's partition.",
            examples=["select * from 'tickets.parquet' where day = $partition"],
        ),
    ] = None
    database: Annotated[
        str | None, dg.Resolver.default(description="The DuckDB file that the query reads, if any.")
    ] = None

    def check(self) -> None:
        """Refuse what names no source, or several.

        Raises:
            ConfigurationError: It does.
        """
        given = [name for name in ("asset", "file", "sql") if getattr(self, name)]
        if len(given) != 1:
            raise ConfigurationError(f"source: give one of `asset`, `file` and `sql`; it has {given or 'none'}.")
        if self.database and not self.sql:
            raise ConfigurationError("source: `database` is what `sql` reads; there is no `sql`.")

    @property
    def by_partition(self) -> bool:
        """Whether it reads the rows of one partition at a time."""
        return _IN_PATH in (self.file or "") or _IN_SQL in (self.sql or "")

    def read(self, folder: Path, partition: str | None) -> Any:
        """The rows of a file or a query, as a stream.

        Args:
            folder: What paths are counted from.
            partition: The key of the run's partition, if it has one.

        Raises:
            ConfigurationError: It names the partition, and the run is not for one; or DuckDB is not installed.
            InvalidInputError: There is no such file, or the query fails; reading the rows raises it too.
        """
        if self.by_partition and partition is None:
            raise ConfigurationError("source: it names the partition, and this run is not for exactly one.")
        return self._files(folder, partition) if self.file else self._query(folder, partition)

    def _files(self, folder: Path, partition: str | None) -> Any:
        pattern = str(Path(glob.escape(str(folder))) / str(self.file).replace(_IN_PATH, glob.escape(str(partition))))
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        if not paths:
            raise InvalidInputError(f"There is no file {pattern!r}.")
        return iter(paths)

    def _query(self, folder: Path, partition: str | None) -> Any:
        try:
            import duckdb
        except ImportError as error:
            raise ConfigurationError("source: `sql` needs DuckDB: pip install duckdb") from error
        try:
            database = str(folder / self.database) if self.database else ":memory:"
            connection = duckdb.connect(database, read_only=bool(self.database))
            connection.execute("set file_search_path = $folder", {"folder": str(folder)})
            values = {"partition": partition} if self.by_partition else None
            return _kept(connection, connection.sql(str(self.sql), params=values))
        except duckdb.Error as error:
            raise InvalidInputError(f"The query of the source fails: {error}") from error


def _kept(connection: object, relation: Any) -> Iterator[Any]:
    """The relation, with its connection open until it has been read: DuckDB 1.1 closes one that nobody holds."""
    yield relation
    del connection
