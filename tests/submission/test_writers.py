"""Writers: a process that has ended on this machine need not be waited for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ractobatch_dagster.submission.writers import is_dead, new_writer

CODE = "import time; from ractobatch_dagster.submission.writers import new_writer; print(new_writer(), flush=True)"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells its boots and processes apart")
def test_a_process_that_has_ended_is_known_to_be_dead() -> None:
    """While it lives it may report back; once it is killed it never will."""
    process = subprocess.Popen([sys.executable, "-c", f"{CODE}; time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    writer = process.stdout.readline().strip()
    assert not is_dead(writer)
    process.kill()
    process.wait()
    assert is_dead(writer)


def test_nobody_else_is_taken_for_dead() -> None:
    """Not this process, none on another machine, none of another release."""
    assert not is_dead(new_writer())
    assert not is_dead(f"another-boot/1 1 2 {'0' * 16}")
    assert not is_dead("0123456789abcdef")
