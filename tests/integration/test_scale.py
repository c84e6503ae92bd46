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


def test_a_large_frame_needs_little_memory(batch_server: LocalServer, tmp_path: Path) -> None:
    """From a stream to the table, in less memory than its text alone would take, and every row has its own answer."""
    rows = 360_000  # of half a kilobyte: 190 MB of text
    command = [sys.executable, "-m", "tests.integration.large", tmp_path, str(rows)]
    done = subprocess.run(
        [*command, batch_server.base_url, batch_server.api_key], capture_output=True, text=True, check=True
    )
    most, answered = map(int, done.stdout.split())
    assert answered == rows
    assert most < 180
