"""The result table: the user's rows in their order, the typed answers, and one fixed block of `llm_` columns."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.embedding import Embedding
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.form import Form
from ractobatch_dagster.requests.frame import CUSTOM_ID, PROMPT, REQUEST_HASH
from ractobatch_dagster.requests.hashes import to_hex
from ractobatch_dagster.results.answers import Answers
from ractobatch_dagster.results.cost import Prices, as_priced, batch_costs
from ractobatch_dagster.results.forms import Forms, More, raw_text, read_more

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ResultTable", "cell", "check_answers", "llm_fields", "reserved_names"]


def llm_fields() -> list[pa.Field]:
    """The fixed block, in order; the same types in every table, whatever the data."""
    import pyarrow as pa

    words = pa.dictionary(pa.int32(), pa.string())
    described = [
        ("llm_status", words, "What became of the row: ok, or why there is no answer to use."),
        ("llm_text", pa.string(), "The raw answer."),
        ("llm_error_code", pa.string(), "The provider's code for the error."),
        ("llm_error", pa.string(), "What the provider, or the validation, said."),
        ("llm_finish_reason", words, "Why the model stopped."),
        ("llm_model", words, "The model as served."),
        ("llm_prompt_tokens", pa.int64(), "Input tokens, cached ones included."),
        ("llm_cached_tokens", pa.int64(), "Input tokens read from the provider's cache."),
        ("llm_completion_tokens", pa.int64(), "Output tokens, reasoning included."),
        ("llm_reasoning_tokens", pa.int64(), "Output tokens spent on reasoning."),
        ("llm_cost_usd", pa.float64(), "Price at the batch rate; 0 for a reused answer, null where it is not known."),
        (REQUEST_HASH, pa.string(), "Identity of the question: provider and request body."),
        ("llm_fingerprint", words, "Hash of what all requests of the submission share."),
        ("llm_batch_id", words, "The batch that answered, at the provider."),
        ("llm_request_id", pa.string(), "The provider's id of the request."),
        ("llm_round", pa.int32(), "0 for the first try."),
        ("llm_reused", pa.bool_(), "Whether the answer was already paid for, by another row or an earlier submission."),
        (CUSTOM_ID, pa.string(), "The line in the batch's file that answers the row; null where nothing was asked."),
    ]
    return [pa.field(name, kind, metadata={b"description": text.encode()}) for name, kind, text in described]


def cell(value: Any) -> str:
    """A value as a person is shown it: on one line, and cut short."""
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


_CELL = 60


def reserved_names(form: Form) -> list[str]:
    """Every name the result table adds to the user's columns."""
    return [*form.names, *(field.name for field in llm_fields())]


def check_answers(form: Form) -> None:
    """Refuse an output model, or tools, whose answers no table could hold, before any are paid for.

    Raises:
        ConfigurationError: Names the field.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    taken = {PROMPT, *(field.name for field in llm_fields())}
    for field in [*Answers(form.output_type).fields, *Forms(form).fields]:
        if field.name in taken:
            raise ConfigurationError(
                f"output: the result table has a column {field.name!r} beside the answers; call that field otherwise."
            )
        try:
            pq.write_table(pa.schema([field]).empty_table(), io.BytesIO())
        except (pa.ArrowException, OSError) as error:
            raise ConfigurationError(
                f"output: no Parquet file holds the field {field.name!r}, which is {field.type}: {error}."
            ) from error


class ResultTable:
    """Makes the result table of one form of answers, block by block.

    Args:
        form: What the answers should hold.
        fingerprint: The submission's.
        prices: Those that are given.
        asked: The model that each batch asked, by the batch's id; needed where prices are given.
    """

    def __init__(
        self, form: Form, fingerprint: str, prices: Prices | None = None, asked: Mapping[str, str] | None = None
    ) -> None:
        self._prices, self._asked = prices or {}, asked or {}
        self._output_type, self._tools = form.output_type, bool(form.tools)
        self._answers, self._forms = Answers(form.output_type), Forms(form)
        self._fields = [*self._answers.fields, *self._forms.fields]
        self._fingerprint = fingerprint

    def schema(self, carried: Iterable[pa.Field]) -> pa.Schema:
        """The table's columns: the user's, the typed answers, the fixed block."""
        import pyarrow as pa

        return pa.schema([*carried, *self._fields, *llm_fields()])

    def block(self, rows: pa.RecordBatch, outcomes: pa.Table, start: int, custom_ids: pa.Array) -> pa.Table:
        """Join rows to outcomes and type the answers.

        Args:
            rows: The user's rows, the request hash last.
            outcomes: Their outcomes, of the schema `FINAL`, by row; those of copies under the copies' own numbers.
            start: The number of the first of the rows.
            custom_ids: The line that answers each row.

        Returns:
            One row for each of `rows`, in the same order.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        found = _aligned(outcomes, start, len(rows))
        mores = _mores(found["more"])
        known, typed = self._typed(found, mores)
        if mores is not None:
            known = _with_calls(known, mores)
        if self._output_type is not None and issubclass(self._output_type, Embedding):  # a vector need not stand twice
            text = pc.if_else(pc.equal(known["status"], "ok"), None, _whole(known["text"]))
            known = known.set_column(known.schema.get_field_index("text"), "text", text)
        hashes = rows.column(REQUEST_HASH)
        given = {
            **_block(known, found["status"], pc.is_valid(hashes), self._prices, self._asked),
            "llm_fingerprint": pa.repeat(self._fingerprint, len(rows)),
            REQUEST_HASH: to_hex(hashes),
            CUSTOM_ID: custom_ids,
        }
        carried = [(field, column) for field, column in zip(rows.schema, rows.columns, strict=True)
                   if field.name != REQUEST_HASH]  # fmt: skip
        block = [_as_type(given[field.name], field.type) for field in llm_fields()]
        return pa.Table.from_arrays(
            [*(column for _, column in carried), *typed, *block], schema=self.schema(field for field, _ in carried)
        )

    def _typed(self, found: pa.Table, mores: Sequence[More] | None) -> tuple[pa.Table, list[pa.ChunkedArray]]:
        """The answers' columns, and the outcomes, of which those are `invalid_output` whose answer fits not."""
        import pyarrow as pa
        import pyarrow.compute as pc

        if not self._fields:
            return found, []
        given = pc.if_else(pc.equal(found["status"], "ok"), _whole(pc.fill_null(found["text"], "")), None)
        answers = given.to_pylist()
        if mores is not None and self._tools:  # whoever calls a tool need not say anything, and may say what he likes
            answers = [None if more.calls else text for text, more in zip(answers, mores, strict=True)]
        chunks: list[list[pa.Array]] = []
        problems: list[str | None] = []
        for start in range(0, len(answers), _TYPED_AT_ONCE):
            arrays, wrong = self._answers.read(answers[start : start + _TYPED_AT_ONCE])
            if self._forms.fields:
                some = (mores or [More()] * len(answers))[start : start + _TYPED_AT_ONCE]
                more, badly = self._forms.read(found.slice(start, _TYPED_AT_ONCE), some)
                arrays, wrong = [*arrays, *more], [one or two for one, two in zip(wrong, badly, strict=True)]
            chunks.append(arrays)
            problems += wrong
        typed = [
            pa.chunked_array([arrays[place] for arrays in chunks], field.type)
            for place, field in enumerate(self._fields)
        ]
        if any(problems):
            wrong_text = pa.array(problems, pa.string())
            changed = pc.is_valid(wrong_text)
            for name, value in {
                "status": "invalid_output",
                "error_code": "invalid_output",
                "error": wrong_text,
            }.items():
                column = pc.if_else(changed, value, _whole(found[name]))
                found = found.set_column(found.schema.get_field_index(name), name, column)
        return found, typed


_TYPED_AT_ONCE = 1_000


def _mores(stored: pa.ChunkedArray) -> list[More] | None:
    """What answers hold beside their texts; `None` where none holds anything."""
    return None if stored.null_count == len(stored) else [read_more(one) for one in stored.to_pylist()]


def _with_calls(known: pa.Table, mores: Sequence[More]) -> pa.Table:
    """The outcomes with calls in the text, where there is no other or where they are what is wrong."""
    import pyarrow as pa

    told = zip(mores, known["text"].to_pylist(), known["status"].to_pylist(), strict=True)
    texts = [raw_text(text, more.calls, whole=status == "invalid_output") for more, text, status in told]
    return known.set_column(known.schema.get_field_index("text"), "text", pa.array(texts, pa.string()))


def _aligned(outcomes: pa.Table, start: int, count: int) -> pa.Table:
    """One outcome for each row, of nulls where there is none."""
    import numpy as np
    import pyarrow as pa

    places = outcomes["row"].to_numpy() - start
    if len(places) == count and (places == np.arange(count)).all():
        return outcomes
    index = np.full(count, -1)
    index[places] = np.arange(len(places))
    return outcomes.take(pa.array(index, mask=index < 0))


def _whole(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same in buffers of its own: before PyArrow 24 `if_else` takes texts from behind where they begin."""
    import pyarrow as pa

    if not any(chunk.offset for chunk in texts.chunks):
        return texts
    return pa.chunked_array([pa.concat_arrays([chunk, chunk.slice(0, 0)]) for chunk in texts.chunks], texts.type)


def _as_type(values: Any, kind: pa.DataType) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(kind) and not pa.types.is_dictionary(values.type):
        values = pc.dictionary_encode(values)
    return values.cast(kind)


def _block(
    found: pa.Table, answered: pa.ChunkedArray, sent: pa.Array, prices: Prices, asked: Mapping[str, str]
) -> dict[str, Any]:
    """The fixed block but for what does not come from the outcome.

    A copy of another row's answer, or of an earlier submission's, costs nothing, so its tokens count as 0.

    Args:
        found: The outcomes.
        answered: What the provider's word for them was, before the answers were typed.
        asked: Whether there was anything to ask.
    """
    import pyarrow.compute as pc

    reused = pc.fill_null(found["reused"], False)
    block: dict[str, Any] = {
        "llm_status": pc.coalesce(found["status"], pc.if_else(sent, "missing", "skipped")),
        "llm_cost_usd": pc.if_else(
            pc.or_(reused, pc.is_null(found["row"])), 0.0, _costs(found, answered, prices, asked)
        ),
        "llm_reused": reused,
    }
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "reasoning_tokens"):
        spent = found[name]
        block[f"llm_{name}"] = pc.if_else(pc.and_(reused, pc.is_valid(spent)), 0, spent)
    for name in ("text", "error_code", "error", "finish_reason", "model", "batch_id", "request_id", "round"):
        block[f"llm_{name}"] = found[name]
    return block


def _costs(found: pa.Table, answered: pa.ChunkedArray, prices: Prices, asked: Mapping[str, str]) -> pa.ChunkedArray:
    """What each request cost; null where its model's price is not known."""
    import pyarrow.compute as pc

    names = ("model", "prompt_tokens", "cached_tokens", "completion_tokens")
    model, prompt, cached, made = (found[name].combine_chunks() for name in names)
    if prices:
        model = as_priced(model, [asked.get(id_) for id_ in found["batch_id"].to_pylist()], prices)
    costs = batch_costs(model, prompt, cached, made, prices)
    # a request that failed without any usage was not billed
    unbilled = pc.and_(pc.is_null(found["prompt_tokens"]), pc.not_equal(answered, "ok"))
    return pc.if_else(pc.fill_null(unbilled, False), 0.0, costs)
