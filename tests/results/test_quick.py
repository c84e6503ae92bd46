"""The quick way of reading plain answers comes to the same as the general one."""

from __future__ import annotations

import json
import random
from typing import Any

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.results.classify import no_line
from ractobatch_dagster.results.join import join_files, join_lines
from ractobatch_dagster.results.lines import read_lines
from ractobatch_dagster.results.outcomes import OUTCOMES, as_values
from ractobatch_dagster.results.quick import read_answer
from tests.results.fuzz_reader import ASKED, line, result_file, scrambled


def quick(data: bytes, odd: list[str]) -> list[tuple[Any, ...]]:
    """Each request's outcome by columns, plain answers the quick way."""
    table = join_files(ASKED, [data], lambda id_: no_line(id_, BatchStatus.COMPLETED), lambda what, _: odd.append(what))
    return list(zip(*(table[name].to_pylist() for name in OUTCOMES().names), strict=True))


def general(data: bytes, odd: list[str]) -> list[tuple[Any, ...]]:
    """Each request's outcome the general way."""
    outcomes = join_lines(ASKED, read_lines([data]), BatchStatus.COMPLETED, lambda what, _: odd.append(what))
    return [as_values(outcome) for outcome in outcomes.values()]


def test_both_ways_come_to_the_same() -> None:
    """Whatever is wrong with a file, outcomes and odd lines are those of the general reader."""
    for seed in range(3000):
        data = result_file(random.Random(seed))
        odd: tuple[list[str], list[str]] = ([], [])
        assert quick(data, odd[0]) == general(data, odd[1]), seed
        assert odd[0] == odd[1], seed


def test_one_thing_wrong_with_a_line_changes_nothing_between_the_two() -> None:
    """Each part of a line replaced by each kind of value."""
    for seed in range(4000):
        chance = random.Random(seed)
        data = json.dumps(scrambled(line("row-00000000", chance), chance)).encode()
        assert quick(data, []) == general(data, []), data


def test_plain_answers_do_go_the_quick_way() -> None:
    """Otherwise it would be of no use."""
    lines = (json.dumps(line("a", random.Random(seed))).encode() for seed in range(100))
    assert sum(read_answer(data) is not None for data in lines) > 15
