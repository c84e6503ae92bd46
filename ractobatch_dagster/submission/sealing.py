"""From frames to sealed rows: read once, block by block, checked, hashed and written. Nothing is spent yet."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.checks import Digest, check_block, check_schema, key_hashes, row_names
from ractobatch_dagster.requests.frame import PROMPT, REQUEST_HASH, blocks, open_frame
from ractobatch_dagster.requests.hashes import repeats, to_binary
from ractobatch_dagster.requests.rendering import Rendered, Requests
from ractobatch_dagster.submission.files import SubmissionFiles
from ractobatch_dagster.submission.rows import RowsWriter, read_rows, sealed_fields
from ractobatch_dagster.submission.state import PartitionRows

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

__all__ = ["Rules", "seal_rows"]

_TELL_EVERY = 5.0
"""Seconds between two lines that tell how far it is."""

_SHOWN = 5


class Rules:
    """What a frame must keep to.

    Args:
        key: The column that must identify a row, if any.
        reserved: Names that the result table will add.
        needed: Columns that must be there.
        on_null: `error` refuses a row without a prompt; `skip` lets it through as a row that is not sent.
        name: How to call the frames in an error.
        prompt: The same of the column of prompts, or of those that they are made of.
    """

    def __init__(
        self,
        *,
        key: str | None = None,
        reserved: Sequence[str] = (),
        needed: Sequence[str] = (),
        on_null: str = "skip",
        name: str = "the frame",
        prompt: str = repr(PROMPT),
    ) -> None:
        self.key = key
        self._needed = needed
        self.reserved = (*reserved, *(field.name for field in sealed_fields()))
        self.on_null = on_null
        self._name = name
        self._prompt = prompt

    def check(self, schema: pa.Schema, key: str | None) -> None:
        """Refuse what the columns of a partition's frame already tell."""
        check_schema(schema, key=self.key, reserved=self.reserved, where=self.where(key))
        absent = [name for name in self._needed if name not in schema.names]
        if absent:
            raise InvalidInputError(
                f"{self.where(key)} has no column {absent[0]!r}, which carry= names; its columns are {schema.names}."
            )

    def check_block(self, block: pa.RecordBatch, start: int, key: str | None) -> list[str]:
        """The prompts of some rows of a partition, empty where there is nothing to ask; `start` numbers the first."""
        return check_block(block, start, key=self.key, where=self.where(key), on_null=self.on_null, prompt=self._prompt)

    def where(self, key: str | None) -> str:
        """How to call the frame of a partition."""
        return self._name + (f", partition {key!r}" if key is not None else "")


def seal_rows(
    files: SubmissionFiles,
    frames: Mapping[str | None, Any],
    rules: Rules,
    requests: Requests,
    folder: Path,
    now: Callable[[], float],
    progress: Callable[[str], None],
) -> list[PartitionRows]:
    """Write the rows of all partitions, one after the other, with the hash and the length of each one's request.

    Args:
        files: Where.
        frames: By partition, whatever `open_frame` takes. Each is read once.
        rules: What they must keep to.
        requests: Tells hash and length.
        folder: Where files are made before they go into the store.
        now: The clock, in seconds.
        progress: Told how far it is.

    Raises:
        InvalidInputError: A row or a column cannot be sent.
    """
    import pyarrow as pa

    streams = {key: open_frame(frame, what=rules.where(key)) for key, frame in frames.items()}
    for key, stream in streams.items():
        rules.check(stream.schema, key)
        requests.check(stream.schema, rules.where(key))
    begun = {key: _begun(stream) for key, stream in streams.items()}
    telling = [stream.schema for stream, rows in begun.values() if rows]
    schema = one_schema(telling or [stream.schema for stream in streams.values()][:1], rules)
    fields = sealed_fields(own=requests.overrides is not None)
    writer, shares = RowsWriter(files, pa.schema([*schema, *fields]), folder), []
    told = now()
    for key, (stream, _) in begun.items():
        start, digest = writer.rows, Digest(_told_apart(stream.schema))
        for block in (part for whole in blocks(stream) for part in requests.parts(whole)):
            place = writer.rows - start
            prompts = rules.check_block(block, place, key)
            named = row_names(block, place, key=rules.key, where=rules.where(key))
            made = requests.render(block, prompts, named)
            sealed = _sealed(_cast(block, schema, rules.where(key)), prompts, made)
            digest.add(block.append_column(REQUEST_HASH, sealed.column(REQUEST_HASH)).drop_columns([PROMPT]))
            writer.add(sealed)
            if now() - told > _TELL_EVERY:
                told = now()
                progress(f"sealed {writer.rows:,} rows")
        shares.append(PartitionRows(key=key, start=start, rows=writer.rows - start, digest=digest.value()))
    writer.close()
    if rules.key is not None:
        _check_keys(files, shares, rules, writer.rows)
    return shares


def _begun(stream: pa.RecordBatchReader) -> tuple[pa.RecordBatchReader, bool]:
    """The stream, and whether it has rows: where it has none, the types of its columns mean nothing."""
    import pyarrow as pa

    for batch in stream:
        if len(batch):
            return pa.RecordBatchReader.from_batches(stream.schema, chain([batch], stream)), True
    return stream, False


def _told_apart(schema: pa.Schema) -> pa.Schema:
    """What makes rows others than before: the columns of the partition as it is, whatever it is submitted with.

    What is asked is in the hash already.
    """
    return schema.append(sealed_fields()[0]).remove(schema.get_field_index(PROMPT))


def one_schema(schemas: Sequence[pa.Schema], rules: Rules) -> pa.Schema:
    """The columns of all partitions; one that is all null somewhere has the type that it has elsewhere."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    where = rules.where(None)
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise InvalidInputError(f"The partitions of {where} have columns of different types: {error}") from error
    for field in schema:
        try:
            pq.write_table(pa.schema([field]).empty_table(), io.BytesIO())
        except pa.ArrowException as error:
            kind = f"column {field.name!r} of type {field.type}"
            raise InvalidInputError(f"{where}: {kind} cannot be stored as Parquet: {error}") from error
    return schema


def _cast(block: pa.RecordBatch, schema: pa.Schema, where: str) -> pa.RecordBatch:
    import pyarrow as pa

    try:
        return block.cast(schema)
    except pa.ArrowException as error:
        raise InvalidInputError(f"{where} does not fit the columns of the other partitions: {error}") from error


def _sealed(block: pa.RecordBatch, prompts: Sequence[str], made: Rendered) -> pa.RecordBatch:
    """A block with what `sealed_fields` are; no hash where there is nothing to ask."""
    import numpy as np
    import pyarrow as pa

    hashes = np.frombuffer(b"".join(made.hashes), np.uint64).reshape(-1, 2)
    if not all(prompts):
        hashes = np.where(np.array([bool(prompt) for prompt in prompts])[:, None], hashes, np.uint64(0))
    fields = sealed_fields(own=made.models is not None)
    columns = [to_binary(hashes), pa.array([len(one) for one in made.parts], pa.int64())]
    if made.models is not None:
        columns += [pa.array(made.parts, pa.binary()), pa.array(made.models, pa.string())]
    return pa.RecordBatch.from_arrays([*block.columns, *columns], schema=pa.schema([*block.schema, *fields]))


def _check_keys(files: SubmissionFiles, shares: Sequence[PartitionRows], rules: Rules, rows: int) -> None:
    """Refuse keys that stand on more than one row of a partition."""
    import numpy as np

    starts = np.array([share.start for share in shares])

    def hashes() -> Iterator[np.ndarray]:
        row = 0
        for batch in read_rows(files, 0, rows, [str(rules.key)]):
            found = key_hashes(batch, str(rules.key))
            partition = np.searchsorted(starts, np.arange(row, row + len(batch)), side="right").astype(np.uint64)
            found[:, 1] ^= partition << np.uint64(32)  # the same key may stand in another partition
            row += len(batch)
            yield found

    again, firsts = repeats(hashes, rows)
    if not len(again):
        return
    share = shares[int(np.searchsorted(starts, again[0], side="right")) - 1]
    mine = np.unique(firsts[(firsts >= share.start) & (firsts < share.start + share.rows)])
    values = [next(read_rows(files, row, row + 1, [str(rules.key)])).column(0)[0].as_py() for row in mine[:_SHOWN]]
    shown = ", ".join(map(repr, values)) + (", …" if len(mine) > _SHOWN else "")
    raise InvalidInputError(
        f"{rules.where(share.key)}: {len(mine)} values of the key {rules.key!r} stand on more than one row: {shown}. "
        "Drop the duplicates or choose another key."
    )
