"""The quick way of reading plain answers comes to the same as the general one."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from typing import Any

from ractobatch_dagster.models import BatchStatus
from ractobatch_dagster.results.join import join_lines
from ractobatch_dagster.results.lines import read_lines
from ractobatch_dagster.results.quick import Answered, answer_lines
from tests.results.fuzz_reader import ASKED, line, result_file, scrambled


def compared(outcomes: dict[str, Any]) -> list[dict[str, Any]]:
    """What of each outcome is kept."""
    return [{name: value for name, value in asdict(one).items() if name != "line"} for one in outcomes.values()]


def test_both_ways_come_to_the_same() -> None:
    """Whatever is wrong with a file, outcomes and odd lines are those of the general reader."""
    for seed in range(3000):
        data = result_file(random.Random(seed))
        odd: tuple[list[str], list[str]] = ([], [])
        quick = join_lines(ASKED, answer_lines([data]), BatchStatus.COMPLETED, lambda what, _, o=odd: o[0].append(what))
        plain = join_lines(ASKED, read_lines([data]), BatchStatus.COMPLETED, lambda what, _, o=odd: o[1].append(what))
        assert compared(quick) == compared(plain), seed
        assert odd[0] == odd[1], seed


def test_one_thing_wrong_with_a_line_changes_nothing_between_the_two() -> None:
    """Each part of a line replaced by each kind of value."""
    for seed in range(4000):
        chance = random.Random(seed)
        value = scrambled(line("row-00000000", chance), chance)
        data = json.dumps(value).encode()
        quick, plain = (join_lines(ASKED, ways([data]), BatchStatus.COMPLETED) for ways in (answer_lines, read_lines))
        assert compared(quick) == compared(plain), data


def test_plain_answers_do_go_the_quick_way() -> None:
    """Otherwise it would be of no use."""
    seeds = (random.Random(seed) for seed in range(100))
    found = [one for chance in seeds for one in answer_lines([json.dumps(line("a", chance)).encode()])]
    assert sum(isinstance(one, Answered) for one in found) > 30
