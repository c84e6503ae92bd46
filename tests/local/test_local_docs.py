"""The examples of the local server's documentation are tests, and they pass."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ractobatch_dagster.local import LocalServer

PAGE = Path(__file__).parents[2] / "docs" / "local-server.md"


def examples() -> dict[str, Callable[[LocalServer], None]]:
    """The test functions of the page, by name."""
    names: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE):
        exec(compile(block, str(PAGE), "exec"), names)
    return {name: thing for name, thing in names.items() if name.startswith("test_")}


@pytest.mark.parametrize("name", examples())
def test_an_example_of_the_documentation_runs(batch_server: LocalServer, name: str):
    """As it stands there."""
    examples()[name](batch_server)
