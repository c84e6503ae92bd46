"""The test of the test: an engine that is broken on purpose does not get through the simulation."""

from __future__ import annotations

import pytest

from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.run import play

MOST = 300
"""Schedules in which a mutant must be noticed; most are in the first ten."""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_broken_engine_is_noticed(mutant: Mutant) -> None:
    """Within some hundred schedules one breaks a promise, and it is one in which the engine as it is keeps it."""
    with mutant():
        seed = next((seed for seed in range(MOST) if play(seed, stress=mutant.stress).found), None)
    assert seed is not None, f"{MOST} schedules did not notice an engine that {mutant.name}"
    assert play(seed, stress=mutant.stress).found == []
