"""What would lose rows or money later is refused, and hashes tell rows and keys apart."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests import frame as frame_module
from ractobatch_dagster.requests.checks import Digest, check_block, check_schema, key_hashes
from ractobatch_dagster.requests.frame import blocks, open_frame
from tests.requests.test_request_frame import cut

TABLE = pa.table({"user_message": ["a", "b"], "n": [1, 2]})


def check(table: Any, *, key: str | None = None, reserved: Any = (), on_null: str = "error", start: int = 0) -> None:
    stream = open_frame(table)
    check_schema(stream.schema, key=key, reserved=reserved, where="frame")
    for block in blocks(stream):
        check_block(block, start, key=key, where="frame", on_null=on_null)
        start += len(block)


def test_prompts_are_handed_over() -> None:
    """Empty where there is nothing to ask."""
    (block,) = blocks(open_frame(pa.table({"user_message": [" a ", None, "", "\u2003", "ä"]})))
    assert check_block(block, 0, key=None, where="frame", on_null="skip") == [" a ", "", "", "", "ä"]


def test_a_good_frame_passes() -> None:
    """Text in the prompt column and a key in every row are all it takes; an empty frame is fine."""
    check(TABLE, key="n")
    check(TABLE.slice(0, 0))
    check(pd.DataFrame({"user_message": []}))
    check(pa.table({"user_message": pa.array(["a"]).dictionary_encode()}), key="user_message")


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        (pa.table({"n": [1]}), {}, "no column 'user_message'"),
        (pa.table({"user_message": [1]}), {}, "holds int64, not text"),
        (pa.table([["a"], [1], [2]], names=["user_message", "n", "n"]), {}, "several columns named 'n'"),
        (TABLE, {"reserved": ["llm_status", "n"]}, "a column 'n'"),
        (TABLE, {"key": "id"}, "no column 'id'"),
        (pa.table({"user_message": ["a", "b"], "n": [1, None]}), {"key": "n"}, "row 1 has no 'n'"),
        (pa.table({"user_message": ["a"], "n": [{"x": 1}]}), {"key": "n"}, "cannot identify rows"),
        (pa.table({"user_message": ["a"], "n": [[1]]}), {"key": "n"}, "cannot identify rows"),
    ],
)
def test_a_bad_frame_is_refused(table: pa.Table, options: dict[str, Any], said: str) -> None:
    """What is wrong is said, with the column."""
    with pytest.raises(InvalidInputError, match=said):
        check(table, **options)


@pytest.mark.parametrize("prompt", [None, "", " \n\t"])
def test_a_row_without_a_prompt_is_named(prompt: str | None) -> None:
    """The row is told by its number in the frame and its key, and can be let through."""
    table = pa.table({"user_message": [*["a"] * 700, prompt], "n": range(701)})
    with pytest.raises(InvalidInputError, match=r"row 700 \(n=700\) has no text") as caught:
        check(table, key="n")
    assert caught.value.row == 700
    check(table, on_null="skip")


@pytest.mark.parametrize("on_null", ["error", "skip"])
@pytest.mark.parametrize("encoded", [False, True])
def test_a_prompt_that_is_no_utf8_is_named(encoded: bool, on_null: str) -> None:
    """Arrow does not look into what a file calls text; a row is not sent, and not lost, for what is in it."""
    prompts = pa.array([*[b"a"] * 700, "naïve".encode("latin-1")]).view(pa.string())
    table = pa.table({"user_message": prompts.dictionary_encode() if encoded else prompts, "n": range(701)})
    with pytest.raises(InvalidInputError, match=r"row 700 \(n=700\): 'user_message' is not UTF-8: .* 0xef") as caught:
        check(table, key="n", on_null=on_null)
    assert caught.value.row == 700


def test_a_row_without_a_key_is_counted_in_the_frame() -> None:
    """The number of the block's first row is added, whatever becomes of prompts."""
    for on_null in ("error", "skip"):
        with pytest.raises(InvalidInputError, match="row 601 has no 'n'") as caught:
            check(pa.table({"user_message": ["a"] * 602, "n": [*range(601), None]}), key="n", on_null=on_null)
        assert caught.value.row == 601


def test_nan_in_pandas_is_no_prompt() -> None:
    """The NaN that pandas has for a missing text is not sent as `nan`."""
    with pytest.raises(InvalidInputError, match="row 1 has no text"):
        check(pd.DataFrame({"user_message": ["a", float("nan")]}))


def digest(stream: pa.RecordBatchReader) -> str:
    hasher = Digest(stream.schema)
    for block in blocks(stream):
        hasher.add(block)
    return hasher.value()


VALUES = {
    "string": (st.text(max_size=9), pa.string()),
    "int8": (st.integers(-9, 9), pa.int8()),
    "bool": (st.booleans(), pa.bool_()),
    "float": (st.floats(), pa.float64()),
    "decimal": (st.decimals(0, 9, places=2), pa.decimal128(5, 2)),
    "time": (st.datetimes(dt.datetime(2000, 1, 1)), pa.timestamp("us")),
    "list": (st.lists(st.text(max_size=3) | st.none(), max_size=3), pa.list_(pa.string())),
    "struct": (st.fixed_dictionaries({"a": st.integers(0, 9) | st.none()}), pa.struct({"a": pa.int16()})),
    "words": (st.sampled_from("abc"), pa.dictionary(pa.int32(), pa.string())),
    "map": (st.lists(st.tuples(st.text(max_size=2), st.integers(0, 9)), max_size=2), pa.map_(pa.string(), pa.int8())),
    "fixed": (st.binary(min_size=3, max_size=3), pa.binary(3)),
    "null": (st.none(), pa.null()),
}
TABLES = st.sampled_from(sorted(VALUES)).flatmap(
    lambda kind: st.lists(VALUES[kind][0] | st.none(), max_size=40).map(
        lambda values: pa.table({"x": pa.array(values, VALUES[kind][1])})
    )
)


@given(table=TABLES, one=st.lists(st.integers(0, 9)), two=st.lists(st.integers(0, 9)), limit=st.integers(1, 200))
@settings(deadline=None, max_examples=300)
def test_the_digest_does_not_depend_on_the_cut(table: pa.Table, one: list[int], two: list[int], limit: int) -> None:
    """The same rows have the same digest, of every type, whatever lies beside and beneath them in memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_module, "BLOCK", 16)
        patch.setattr(frame_module, "BLOCK_BYTES", limit)
        assert digest(cut(table, one)) == digest(cut(table, two))


@given(table=TABLES, other=TABLES)
@settings(deadline=None, max_examples=300)
def test_other_rows_have_another_digest(table: pa.Table, other: pa.Table) -> None:
    """Other values, types, order or names are another frame."""
    same = table.schema == other.schema and repr(table.to_pydict()) == repr(other.to_pydict())
    assert (digest(table.to_reader()) == digest(other.to_reader())) == same
    assert digest(table.to_reader()) != digest(table.rename_columns(["y"]).to_reader())


def test_rows_and_cells_are_told_apart() -> None:
    """Text does not run from one row, list or column into the next, and nothing is not the empty text."""
    columns = [["ab", "c"], ["a", "bc"], ["", "abc"], [None, "abc"], ["abc", None]]
    tables = [pa.table({"x": pa.array(column)}) for column in columns]
    tables += [pa.table({"x": pa.array([[*value] for value in ("ab", "c")])}), pa.table({"x": [["a"], ["b", "c"]]})]
    tables += [pa.table({"x": ["a"], "y": ["b"]}), pa.table({"x": ["ab"], "y": [""]})]
    assert len({digest(table.to_reader()) for table in tables}) == len(tables)


def test_what_lies_under_a_null_does_not_count() -> None:
    """Garbage that an engine leaves where a value is missing is no part of the rows."""
    numbers = [pa.array(np.array([1, left]), mask=np.array([False, True])) for left in (7, 8)]
    assert numbers[0].buffers()[1].to_pybytes() != numbers[1].buffers()[1].to_pybytes()
    assert len({digest(pa.table({"n": array}).to_reader()) for array in numbers}) == 1


def hashes(values: pa.Array) -> list[tuple[int, ...]]:
    return [tuple(row) for row in key_hashes(pa.record_batch({"k": values}), "k").tolist()]


KEYS = {
    "string": (st.text(), pa.string()),
    "binary": (st.binary(), pa.binary()),
    "int8": (st.integers(-128, 127), pa.int8()),
    "int64": (st.integers(-(2**63), 2**63 - 1), pa.int64()),
    "uint64": (st.integers(0, 2**64 - 1), pa.uint64()),
    "float": (st.floats(), pa.float64()),
    "float32": (st.floats(width=32), pa.float32()),
    "bool": (st.booleans(), pa.bool_()),
    "decimal": (st.decimals(-9, 9, places=2), pa.decimal128(5, 2)),
    "date": (st.dates(), pa.date32()),
    "time": (st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2200, 1, 1)), pa.timestamp("ns", "UTC")),
    "span": (st.timedeltas(dt.timedelta(-9), dt.timedelta(9)), pa.duration("us")),
    "fixed": (st.binary(min_size=3, max_size=3), pa.binary(3)),
    "words": (st.text(), pa.dictionary(pa.int32(), pa.string())),
}


@pytest.mark.parametrize("kind", KEYS)
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_keys_that_are_equal_hash_equal(kind: str, data: st.DataObject) -> None:
    """Two rows have the same bits exactly if their keys are equal, wherever they stand; no bits are all zero."""
    values, of = KEYS[kind]
    array = pa.array(data.draw(st.lists(values, min_size=1)), of)
    plain = array.dictionary_decode() if pa.types.is_dictionary(of) else array
    if pa.types.is_floating(of):
        plain = pc.add(plain, pa.scalar(0.0, of))  # zero has no sign
        plain = pc.if_else(pc.is_nan(plain), pa.scalar(float("nan"), of), plain)  # and there is one NaN
    found = hashes(array)
    assert len(set(found)) == len(pc.unique(plain))
    assert (0, 0) not in found
    start = data.draw(st.integers(0, len(array) - 1))
    assert hashes(array.slice(start)) == found[start:]
    assert hashes(pa.array(array.slice(start).to_pylist(), of)) == found[start:]


def test_keys_are_hashed_as_ever() -> None:
    """The bits are the same in every process and version."""
    assert hashes(pa.array([0, -1, 5])) == EXPECTED["int"]
    assert hashes(pa.array(["", "a", "ä"])) == EXPECTED["str"]
    assert hashes(pa.array([Decimal("1.50")])) == EXPECTED["decimal"]


def test_zero_and_nan_are_one_key_each() -> None:
    """Signs of zero and kinds of NaN do not make a key another."""
    assert len(set(hashes(pa.array([0.0, -0.0])))) == 1
    other = np.array([0x7FF8000000000000, 0xFFF8000000000001], "u8").view("f8")
    assert len(set(hashes(pa.array(other)))) == 1


EXPECTED: dict[str, list[tuple[int, ...]]] = {
    "int": [
        (16294208416658607535, 9370218965779684112),
        (15999695513772384452, 7905036713375737238),
        (1635312068028924514, 13566692508980049002),
    ],
    "str": [
        (7121485613790885006, 11351276528665750117),
        (11673594954577573422, 9391341041368003677),
        (9301170761364259565, 6669508833053558339),
    ],
    "decimal": [
        (8493410958162415276, 2342871093890340892),
    ],
}
