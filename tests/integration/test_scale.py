"""What a large frame takes of a machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ractobatch_dagster.local import LocalServer

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the most that was held"),
]


def test_memory_does_not_grow_with_the_rows(batch_server: LocalServer, tmp_path: Path) -> None:
    """Three times the rows, from a stream to the table, in about the same memory, and every row has its own answer."""
    most = {}
    for rows in (120_000, 360_000):
        command = [sys.executable, "-m", "tests.integration.large", tmp_path / str(rows), str(rows)]
        done = subprocess.run(
            [*command, batch_server.base_url, batch_server.api_key], capture_output=True, text=True, check=True
        )
        most[rows], answered = map(int, done.stdout.split())
        assert answered == rows
    assert most[360_000] < 250
    assert most[360_000] < 1.25 * most[120_000]
