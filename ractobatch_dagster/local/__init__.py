"""A batch server on your own machine: OpenAI's Files and Batches API over real HTTP, with its state on disk.

It serves the example without a key, is the double that tests talk to, and gives any OpenAI-compatible chat
server a batch API. `ractobatch serve` starts it from the command line. The names below load on first use,
and they need the extra: `pip install 'ractobatch-dagster[local]'`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ractobatch_dagster.errors import ConfigurationError

if TYPE_CHECKING:
    from ractobatch_dagster.local.answers import Answer, Model, RuleModel
    from ractobatch_dagster.local.background import ServerAddress, ensure_server, stop_server
    from ractobatch_dagster.local.faults import AZURE, CallFault, Fate, Faults
    from ractobatch_dagster.local.server import LocalServer
    from ractobatch_dagster.local.upstream import UpstreamModel

__all__ = [
    "AZURE",
    "Answer",
    "CallFault",
    "Fate",
    "Faults",
    "LocalServer",
    "Model",
    "RuleModel",
    "ServerAddress",
    "UpstreamModel",
    "ensure_server",
    "stop_server",
]

_MODULES = {
    "AZURE": "faults",
    "Answer": "answers",
    "CallFault": "faults",
    "Fate": "faults",
    "Faults": "faults",
    "LocalServer": "server",
    "Model": "answers",
    "RuleModel": "answers",
    "ServerAddress": "background",
    "UpstreamModel": "upstream",
    "ensure_server": "background",
    "stop_server": "background",
}
_EXTRA = {"starlette", "uvicorn", "python_multipart", "vaderSentiment", "filelock"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise ConfigurationError(
            f"The local batch server needs {error.name!r}, which is not installed: "
            "pip install 'ractobatch-dagster[local]'"
        ) from error


def __dir__() -> list[str]:
    return sorted(__all__)
