"""Input files without a store."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ractobatch_dagster.errors import InvalidInputError
from ractobatch_dagster.requests.body import RequestTemplate
from ractobatch_dagster.requests.cut import Limits
from ractobatch_dagster.requests.encode import Encoder, escape
from ractobatch_dagster.requests.inputs import write_inputs

ENCODER = Encoder.of("p", RequestTemplate("m", "Label it."))


def texts(path: Path) -> list[tuple[str, str]]:
    """The id and the prompt of each line."""
    found = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    return [(one["custom_id"], one["body"]["messages"][-1]["content"]) for one in found]


@settings(max_examples=50)
@given(
    prompts=st.lists(st.none() | st.sampled_from(["", " ", "a", "質問\u2028", "x" * 300]), min_size=1, max_size=40),
    most=st.integers(1, 9),
    size=st.integers(400, 2_000),
)
def test_every_prompt_is_in_one_file(
    prompts: list[str | None], most: int, size: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In order, under its row's number, within the limits, and no file could have held one more."""
    folder = tmp_path_factory.mktemp("inputs")
    frame = pd.DataFrame({"user_message": pd.array(prompts, dtype="string")})
    files = list(write_inputs(frame, ENCODER, Limits(most, size), folder))
    asked = [(f"row-{row:08d}", text) for row, text in enumerate(prompts) if text and text.strip()]
    assert [one for file in files for one in texts(file.path)] == asked
    assert b"".join(file.hashes for file in files) == b"".join(ENCODER.hashes(escape(text) for _, text in asked))
    for file in files:
        data = file.path.read_bytes()
        assert (file.size, file.requests) == (len(data), data.count(b"\n"))
        assert file.requests == 1 or (file.requests <= most and file.size <= size)
    for file, after in pairwise(files):
        following = after.path.read_bytes().partition(b"\n")[0] + b"\n"
        assert file.requests == most or file.size + len(following) > size


def test_other_processes_write_the_same(tmp_path: Path) -> None:
    """The same lines and hashes, in order, whoever made them."""
    frame = pd.DataFrame({"user_message": [f"question {number}" for number in range(2_500)]})
    limits = Limits(1_000, 1_000_000)
    made = {}
    for processes in (0, 2):
        folder = tmp_path / str(processes)
        folder.mkdir()
        files = list(write_inputs(frame, ENCODER, limits, folder, processes=processes))
        made[processes] = [(file.path.read_bytes(), file.hashes, file.requests) for file in files]
        assert sorted(folder.iterdir()) == sorted(file.path for file in files)
    assert made[0] == made[2]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (pa.table({"text": ["a"]}), "no column 'user_message'"),
        (pa.table({"user_message": [1]}), "holds int64, not text"),
        (pa.table({"user_message": pa.array([b"a", b"\xff"]).view(pa.string())}), "row 1: 'user_message' is not UTF-8"),
    ],
)
def test_what_cannot_be_sent_is_refused(table: pa.Table, said: str, tmp_path: Path) -> None:
    """As a submission refuses it: a frame without prompts, prompts that are no text."""
    with pytest.raises(InvalidInputError, match=said):
        list(write_inputs(table, ENCODER, Limits(10, 1_000), tmp_path))
