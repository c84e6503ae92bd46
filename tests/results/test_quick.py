"""The quick way of reading plain answers comes to the same as the general one."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.results import join as join_module
from ractobatch_dagster.results.classify import classify, no_line
from ractobatch_dagster.results.join import join_files
from ractobatch_dagster.results.lines import read_line
from ractobatch_dagster.results.outcomes import Columns, as_values
from ractobatch_dagster.results.quick import PlainAnswer, read_answer
from tests.results.fuzz_reader import ASKED, line, result_file, scrambled


def generally(data: bytes) -> Any:
    """What the general reader says of a line that the quick one has taken: all that is stored of it."""
    read = read_line(2, data)
    assert isinstance(read, dict), data
    outcome = classify(read)
    columns = Columns()
    columns.add(as_values(outcome))
    return outcome.custom_id, columns.table()


def quickly(answer: PlainAnswer) -> Any:
    """The same of what the quick one made of it."""
    columns = Columns()
    columns.add_answers([answer])
    return answer[0], columns.table()


def test_both_ways_come_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with a file, the table and the kinds of odd lines are those of the general reader alone."""

    def joined(data: bytes) -> tuple[list[dict[str, object]], list[str]]:
        odd: list[str] = []
        table = join_files(
            ASKED, [data], lambda id_: no_line(id_, BatchStatus.COMPLETED), lambda what, _: odd.append(what)
        )
        return table.to_pylist(), odd

    for seed in range(3000):
        data = result_file(random.Random(seed))
        quick = joined(data)
        with monkeypatch.context() as patch:
            patch.setattr(join_module, "read_answer", lambda data: None)
            assert joined(data) == quick, seed


def test_one_thing_wrong_with_a_line_changes_nothing_between_the_two() -> None:
    """Each part of a line replaced by each kind of value: what the quick way takes, the general one takes for that."""
    taken = 0
    for seed in range(6000):
        chance = random.Random(seed)
        data = json.dumps(scrambled(line("row-00000000", chance), chance)).encode()
        quick = read_answer(data)
        if quick is not None:
            taken += 1
            assert quickly(quick) == generally(data), data
    assert taken > 500


def test_plain_answers_do_go_the_quick_way() -> None:
    """Otherwise it would be of no use."""
    seeds = (random.Random(seed) for seed in range(100))
    found = [read_answer(json.dumps(line("a", chance)).encode()) for chance in seeds]
    assert sum(one is not None for one in found) > 30


def test_details_of_the_usage_are_read_as_well() -> None:
    """Cached and reasoning tokens are part of a plain answer, there or not."""
    for details in (None, {}, {"cached_tokens": 4, "audio_tokens": 0}, {"cached_tokens": None}):
        answer = line("a", random.Random(2))
        answer["response"]["body"]["usage"]["prompt_tokens_details"] = details
        answer["response"]["body"]["usage"]["completion_tokens_details"] = {"reasoning_tokens": 2}
        data = json.dumps(answer).encode()
        quick = read_answer(data)
        assert quick is not None
        assert quickly(quick) == generally(data)
