"""A pytest plugin: the fixture `batch_server` gives a test its own batch server over real HTTP.

    def test_labels(batch_server):
        client = openai.OpenAI(base_url=batch_server.base_url, api_key=batch_server.api_key)

It is registered by installing the package; it needs the extra `local`. Nothing is imported before a test asks
for the fixture, and no environment variable is set: `batch_server.environ` has them for `monkeypatch`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ractobatch_dagster.local import LocalServer

__all__ = ["batch_server"]


@pytest.fixture
def batch_server(tmp_path: Path) -> Iterator[LocalServer]:
    """A batch server whose batches end at once. Set its `faults` to have it misbehave."""
    from ractobatch_dagster.local import LocalServer

    with LocalServer(tmp_path / "batch-server") as server:
        yield server
