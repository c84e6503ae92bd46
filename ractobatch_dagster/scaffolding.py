"""What `dg scaffold defs ractobatch_dagster.OpenAIBatchComponent` writes: a pair of assets that works as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg

__all__ = ["OpenAIBatchScaffolder"]

_ROWS = """id,text
1,"The parcel came a day early, and everything was in it."
2,"I have been waiting for a refund since March."
"""

_SCHEMA = '''"""What an answer is."""

from typing import Literal

from pydantic import BaseModel, Field


class Answer(BaseModel):
    """One answer; its fields become columns of the table, and the model sees their descriptions."""

    sentiment: Literal["positive", "neutral", "negative"]
    topics: list[str] = Field(description="What the text is about, a word or two each.")
'''


_RESOURCE = '''"""Where batches go, where submissions and tables are kept, and who follows them."""

import dagster as dg

from ractobatch_dagster import OpenAIBatchResource, account_asset, build_batch_sensor


@dg.definitions
def openai_batch() -> dg.Definitions:
    """Rules answer, at no cost. For OpenAI take `provider` away, and give `api_key=dg.EnvVar("OPENAI_API_KEY")`."""
    resource = OpenAIBatchResource(provider="local", root="store")
    return dg.Definitions(
        resources={"openai_batch": resource}, sensors=[build_batch_sensor()], assets=[account_asset()]
    )
'''


class OpenAIBatchScaffolder(dg.Scaffolder[Any]):
    """Writes `defs.yaml`, two rows to begin with, and the answers' model where the project can import it.

    The first of a project gets resource and sensor as well, in `openai_batch.py` in the folder `defs`.
    """

    def scaffold(self, request: dg.ScaffoldRequest[Any]) -> None:
        """Write the files."""
        if request.scaffold_format != "yaml" or request.append:
            dg.scaffold_component(request)
            return
        folder, name = request.target_path, request.target_path.name
        module = _module(folder, request.project_root)
        output: Any = {"sentiment": ["positive", "neutral", "negative"], "topics": "list[str]"}
        if module is not None:
            (folder / "schema.py").write_text(_SCHEMA)
            output = f"{module}.schema.Answer"
        (folder / "rows.csv").write_text(_ROWS)
        attributes = {
            "name": name,
            "model": "gpt-4o-mini",
            "source": {"file": "rows.csv"},
            "template": "{{ text }}",
            "prompt": {"role": "You label what customers write.", "aim": "Label one text."},
            "output": output,
            "key": "id",
        }
        dg.scaffold_component(request, attributes)
        _write_resource(folder, request.project_root)


def _write_resource(folder: Path, root: Path | None) -> None:
    """A resource for a project that names none."""
    defs = next((one for one in folder.parents if one.name == "defs"), None)
    if root is None or defs is None or not defs.resolve().is_relative_to(root.resolve()):
        return
    modules = (path for path in root.rglob("*.py") if not {".venv", "site-packages"} & set(path.parts))
    if not any("OpenAIBatchResource" in path.read_text(errors="replace") for path in modules):
        (defs / "openai_batch.py").write_text(_RESOURCE)


def _module(folder: Path, root: Path | None) -> str | None:
    """The dotted path of a folder as the project imports it, if it has one."""
    if root is None or not folder.resolve().is_relative_to(root.resolve()):
        return None
    parts = folder.resolve().relative_to(root.resolve()).parts
    parts = parts[1:] if parts[:1] == ("src",) else parts
    return ".".join(parts) if parts and all(part.isidentifier() for part in parts) else None
