"""The four promises, in a few hundred schedules: rows in = rows out, nothing paid twice, anything may run again."""

from __future__ import annotations

import pytest

from tests.simulation.run import play, play_many

BLOCKS, SEEDS = 12, 25


@pytest.mark.parametrize("block", range(BLOCKS))
def test_every_promise_holds_whatever_goes_wrong(block: int) -> None:
    """Whatever order, crash, fault or lost reply a seed decides, every row comes back once and is paid for once."""
    failed, counts = play_many(range(block * SEEDS, (block + 1) * SEEDS))
    assert {one.seed: one.found for one in failed} == {}
    assert (counts["doubles"], counts["losses"]) == (0, 0)
    assert counts["rows"] > 0


def test_misfortunes_do_happen() -> None:
    """Schedules without crashes, lost replies and late creates would prove nothing."""
    _, counts = play_many(range(1000, 1040))
    for what in ("crashes", "stalls", "store errors", "replies lost", "creates that arrive late", "batches expired"):
        assert counts[what] > 0, what


def test_a_seed_replays_to_the_letter() -> None:
    """What one seed does, it does again, so that a failure can be looked at."""
    first, second = play(5, trace=True), play(5, trace=True)
    assert first.trace == second.trace
    assert len(first.trace) > 100
