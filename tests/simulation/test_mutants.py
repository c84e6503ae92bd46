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
        played = (play(seed, stress=mutant.stress) for seed in range(MOST))
        noticed = next((one for one in played if one.found), None)
    assert noticed is not None, f"{MOST} schedules did not notice an engine that {mutant.name}"
    itself = [one for one in noticed.found if "TypeError(" in one or "AttributeError(" in one]
    assert not itself, f"the mutant no longer fits what it breaks: {itself}"
    assert play(noticed.seed, stress=mutant.stress).found == []
