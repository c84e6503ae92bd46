"""Prompts from a template over a frame's columns, block by block."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import ConfigurationError, InvalidInputError
from ractobatch_dagster.requests.frame import PROMPT, open_frame

if TYPE_CHECKING:
    import pyarrow as pa
    from jinja2 import nodes

__all__ = ["PromptTemplate"]

_AT_ONCE = 1_000
"""Rows that are rendered before they become Arrow."""


class PromptTemplate:
    """A Jinja template whose variables are columns: `"{{ subject }}\\n\\n{{ body }}"`.

    It runs in Jinja's sandbox, where it reaches neither Python's inside nor anything but the row. A null or NaN renders
    as nothing, and a row whose columns are all null has no prompt. A template of nothing but columns of text or whole
    numbers is joined in Arrow; any other is called for each row, with the values as Python has them.

    Args:
        text: The template.

    Raises:
        ConfigurationError: It is no template, or names no column.
    """

    def __init__(self, text: str) -> None:
        import jinja2
        from jinja2 import meta, sandbox

        self.text = text
        environment = sandbox.ImmutableSandboxedEnvironment(
            undefined=jinja2.StrictUndefined, finalize=_finalized, keep_trailing_newline=True, autoescape=False
        )
        environment.globals.clear()  # a column may be called `range`
        try:
            parsed = environment.parse(text)
            self.columns = sorted(meta.find_undeclared_variables(parsed))
            # a macro is a function of the columns' values: no dict is needed for each row
            macro = f"{{% macro prompt({', '.join(self.columns)}) %}}{text}{{% endmacro %}}"
            self._render: Callable[..., str] = vars(environment.from_string(macro).module)["prompt"]
        except jinja2.TemplateError as error:
            raise ConfigurationError(f"Jinja does not understand the template {text!r}: {error}") from error
        if not self.columns:
            raise ConfigurationError(f"The template {text!r} names no column, so that all its prompts would be one.")
        self._pieces = _pieces(parsed)

    def prompts(self, frame: Any, *, what: str = "the frame") -> pa.RecordBatchReader:
        """The frame with its prompts as column `user_message`, as a stream that is read once.

        Args:
            frame: Whatever `open_frame` takes.
            what: How to call it in an error.

        Raises:
            InvalidInputError: A column is not there, or there is a column `user_message` already. Reading the stream
                raises it where a row cannot be rendered.
        """
        import pyarrow as pa

        stream = open_frame(frame, what=what)
        if PROMPT in stream.schema.names:
            raise InvalidInputError(f"{what} has a column {PROMPT!r}, and its template would make one. Drop either.")
        absent = [name for name in self.columns if name not in stream.schema.names]
        if absent:
            raise InvalidInputError(
                f"{what} has no column {absent[0]!r}, which its template names; its columns are {stream.schema.names}."
            )
        schema = stream.schema.append(pa.field(PROMPT, pa.string()))
        return pa.RecordBatchReader.from_batches(schema, self._rendered(stream, schema, what))

    def _rendered(self, stream: pa.RecordBatchReader, schema: pa.Schema, what: str) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        row = 0
        for batch in stream:
            for start in range(0, len(batch), _AT_ONCE):
                part = batch.slice(start, _AT_ONCE)
                columns = [_without_nan(part.column(name)) for name in self.columns]
                prompts = self._joined(columns)
                if prompts is None:
                    prompts = self._called(columns, row, what)
                yield pa.RecordBatch.from_arrays([*part.columns, prompts], schema=schema)
                row += len(part)

    def _joined(self, columns: Sequence[pa.Array]) -> pa.Array | None:
        """The prompts, if joining is enough for this template and these types."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if self._pieces is None or not all(_joins(column.type) for column in columns):
            return None
        written = [pc.fill_null(column.cast(pa.string()), "") for column in columns]
        texts = dict(zip(self.columns, written, strict=True))
        parts = [texts[piece] if is_column else piece for is_column, piece in self._pieces]
        return pc.if_else(_some(columns), pc.binary_join_element_wise(*parts, ""), pa.scalar(None, pa.string()))

    def _called(self, columns: Sequence[pa.Array], first: int, what: str) -> pa.Array:
        """The prompts, row by row."""
        import pyarrow as pa

        prompts: list[str | None] = []
        for row, asked in enumerate(_some(columns).to_pylist()):
            try:
                prompts.append(self._render(*(column[row].as_py() for column in columns)) if asked else None)
            except Exception as error:
                raise InvalidInputError(
                    f"{what}: row {first + row} cannot be put into the template: {type(error).__name__}: {error}",
                    row=first + row,
                ) from error
        return pa.array(prompts, pa.string())


def _pieces(parsed: nodes.Template) -> list[tuple[bool, str]] | None:
    """Columns (`True`) and texts in their order, where the template is nothing else."""
    from jinja2 import nodes

    found: list[tuple[bool, str]] = []
    for output in parsed.body:
        for node in output.nodes if isinstance(output, nodes.Output) else [output]:
            if isinstance(node, nodes.Name):
                found.append((True, node.name))
            elif isinstance(node, nodes.TemplateData):
                found.append((False, node.data))
            else:
                return None
    return found


def _without_nan(column: pa.Array) -> pa.Array:
    """The column with nulls for what is no number, as pandas has them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    floats = pa.types.is_float64(column.type) or pa.types.is_float32(column.type)
    return pc.if_else(pc.is_nan(column), None, column) if floats else column


def _finalized(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _some(columns: Sequence[pa.Array]) -> pa.Array:
    """Where any of these columns has a value."""
    import pyarrow.compute as pc

    found = columns[0].is_valid()
    for column in columns[1:]:
        found = pc.or_(found, column.is_valid())
    return found


def _joins(kind: pa.DataType) -> bool:
    """Whether Arrow writes values of a type as Jinja does."""
    import pyarrow as pa

    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_integer(plain))
