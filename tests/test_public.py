"""The package's face: its names, its models as ractogateway has them, what importing costs, and who imports whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import ractobatch_dagster
from ractobatch_dagster import errors, models
from ractobatch_dagster.models import (
    ROW_STATUSES,
    BatchItem,
    BatchJobInfo,
    BatchResult,
    BatchStatus,
    FinishReason,
    LLMResponse,
    ToolCallResult,
)

PACKAGE = Path(ractobatch_dagster.__file__).parent

REQUIRED = object()
ORIGINAL: dict[type[BaseModel], dict[str, Any]] = {
    BatchItem: {
        "custom_id": REQUIRED,
        "user_message": REQUIRED,
        "temperature": 0.0,
        "max_tokens": 4096,
        "extra": {},
    },
    BatchJobInfo: {
        "job_id": REQUIRED,
        "provider": REQUIRED,
        "status": REQUIRED,
        "created_at": REQUIRED,
        "request_count": 0,
        "raw": None,
    },
    BatchResult: {"custom_id": REQUIRED, "response": None, "error": None, "raw": None},
    LLMResponse: {
        "content": None,
        "thinking": None,
        "parsed": None,
        "tool_calls": [],
        "finish_reason": FinishReason.STOP,
        "usage": {},
        "raw": None,
    },
    ToolCallResult: {"id": "", "name": REQUIRED},
}
"""Every field of ractogateway 0.2.1's models and its default."""


@pytest.mark.parametrize("model", list(ORIGINAL))
def test_every_field_of_the_original_has_its_default(model: type[BaseModel]) -> None:
    """The original's fields are there with the original's defaults, and what was added is not required."""
    fields = model.model_fields
    for name, default in ORIGINAL[model].items():
        field = fields[name]
        assert field.is_required() == (default is REQUIRED), name
        assert default is REQUIRED or getattr(model.model_construct(), name) == default, name
    assert not any(fields[name].is_required() for name in set(fields) - set(ORIGINAL[model]))


def test_enums_have_the_original_values() -> None:
    """Both enums are texts, with the original's names and values."""
    assert {one.name: one.value for one in BatchStatus} == {
        "PENDING": "pending",
        "IN_PROGRESS": "in_progress",
        "FINALIZING": "finalizing",
        "COMPLETED": "completed",
        "FAILED": "failed",
        "EXPIRED": "expired",
        "CANCELLING": "cancelling",
        "CANCELLED": "cancelled",
    }
    assert {one.name: one.value for one in FinishReason} == {
        "STOP": "stop",
        "TOOL_CALL": "tool_call",
        "LENGTH": "length",
        "CONTENT_FILTER": "content_filter",
        "ERROR": "error",
    }
    assert BatchStatus.COMPLETED == "completed"
    assert str(BatchStatus.COMPLETED) == "BatchStatus.COMPLETED"


@pytest.mark.parametrize(
    "change",
    [
        {"custom_id": ""},
        {"user_message": ""},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"max_tokens": 0},
        {"max_tokens": -1},
        {"extra": None},
    ],
)
def test_items_are_validated_as_in_the_original(change: dict[str, Any]) -> None:
    """What ractogateway refuses in an item is refused."""
    with pytest.raises(ValidationError):
        BatchItem(**{"custom_id": "a", "user_message": "b", **change})


def test_unknown_fields_are_ignored() -> None:
    """As in the original, a field that is not known is no error."""
    assert not hasattr(BatchItem(custom_id="a", user_message="b", other=1), "other")  # type: ignore[call-arg]


def test_a_result_is_ok_with_a_response_and_no_error() -> None:
    """`ok` is the original's: no error, and a response."""
    answer = LLMResponse(content="x")
    assert BatchResult(custom_id="a", response=answer).ok
    assert not BatchResult(custom_id="a").ok
    assert not BatchResult(custom_id="a", response=answer, error="no").ok


def test_the_ten_statuses() -> None:
    """Ten words say what became of a row."""
    assert len(ROW_STATUSES) == len(set(ROW_STATUSES)) == 10


def test_the_original_exceptions_are_further_names() -> None:
    """Each of ractogateway's exception names is a class of ours, and ours are the builtins that it raises."""
    assert errors.RactoGatewayError is errors.RactobatchError
    assert issubclass(errors.RactoGatewayTimeoutError, (errors.RactoGatewayError, TimeoutError))
    assert issubclass(errors.RactoGatewayAuthError, errors.RactoGatewayError)
    assert errors.RactoGatewayAPIError("m", status_code=500).status_code == 500
    for ours, builtin in [
        (errors.BatchNotReadyError, RuntimeError),
        (errors.BatchFailedError, RuntimeError),
        (errors.BatchWaitTimeoutError, TimeoutError),
        (errors.ConfigurationError, ValueError),
        (errors.InvalidInputError, ValueError),
    ]:
        assert issubclass(ours, builtin)


def test_every_public_name_can_be_imported() -> None:
    """`__all__` is sorted as ruff does, is what `dir()` shows, and each name loads from its module."""
    names = ractobatch_dagster.__all__
    assert len(names) == len(set(names))
    assert dir(ractobatch_dagster) == sorted(names)
    for name in names:
        assert getattr(ractobatch_dagster, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = ractobatch_dagster.Nothing


HEAVY = ("pandas", "pyarrow", "openai", "polars", "dagster", "duckdb", "obstore", "numpy", "uvicorn", "starlette")


def _loaded_by(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in run.stdout.split()}


def test_importing_the_package_is_light() -> None:
    """Neither a DataFrame library, nor openai, nor Dagster is loaded before it is needed."""
    assert _loaded_by("import ractobatch_dagster").isdisjoint({*HEAVY, "pydantic", "msgspec"})


_LOCATION = """
import dagster, ractobatch_dagster as package
for name in package.__all__:
    getattr(package, name)
def answers(frame): return frame
package.batch_asset(model="gpt-4o-mini", prompt="p", key="id")(answers).definitions
package.OpenAIBatchResource(root="nowhere")
"""


def test_a_code_location_is_light() -> None:
    """All public names, and assets defined with them, load no DataFrame library, no client and no store."""
    assert _loaded_by(_LOCATION).isdisjoint({*HEAVY, "tqdm", "genai_prices"} - {"dagster"})


def test_the_processor_needs_no_dagster() -> None:
    """The processor and its models load neither Dagster nor a DataFrame library, nor openai before the first call."""
    names = "OpenAIBatchProcessor, BatchItem, RactoPrompt, BatchStatus, LLMResponse"
    statement = f"from ractobatch_dagster import {names}\nOpenAIBatchProcessor(default_prompt='x')"
    assert _loaded_by(statement).isdisjoint(HEAVY)


def test_the_pytest_plugin_is_light() -> None:
    """Every pytest run of every user loads the plugin, so it loads nothing else."""
    assert _loaded_by("import ractobatch_dagster.testing").isdisjoint({*HEAVY, "pydantic"})


def _imports(path: Path) -> set[str]:
    """Every module a file imports, anywhere in it; for our own package the full name."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


DAGSTER_LAYER = {
    *("assets", "sensor", "checks", "io_manager", "resource", "landing", "submitting", "terminating", "requesting"),
    *("account", "arguments", "chosen_checks", "confirming", "previewing", "ticking", "pieces", "signature", "spec"),
    *("metadata", "pair"),
    *("computing", "translator", "cancelling", "component", "scaffolding"),
    *("yaml_checks", "yaml_output", "yaml_partitions", "yaml_source"),
}
CORE = (
    "answer_model",
    "attachment",
    "errors",
    "json_schema",
    "output",
    "schema_model",
    "schema_words",
    "embedding",
    "moderation",
    "form",
    "tools",
    "models",
    "inspecting",
    "operating",
    "processor",
    "prompt",
    "records",
    "secrecy",
)
CORE += ("processes", "reuse", "store", "table_file", "tending")
CORE += ("local", "provider", "requests", "results", "submission")


def _files(*homes: str) -> list[Path]:
    return [
        path
        for home in homes
        for path in ([PACKAGE / f"{home}.py"] if home in _MODULES else (PACKAGE / home).rglob("*.py"))
    ]


_MODULES = {path.stem for path in PACKAGE.glob("*.py")}


def _tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in _imports(path)}


def _ours(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports(path) if name.startswith("ractobatch_dagster.")}


@pytest.mark.parametrize("path", _files(*CORE), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_below_knows_of_dagster(path: Path) -> None:
    """The core imports neither Dagster nor any module of the Dagster layer."""
    assert "dagster" not in _tops(path)
    assert not _ours(path) & DAGSTER_LAYER


def test_only_the_provider_and_the_processor_know_openai() -> None:
    """No other module imports `openai`."""
    users = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "openai" in _tops(path)}
    assert users <= {"provider", "processor.py"}


def test_only_the_provider_knows_anthropic() -> None:
    """No other module imports `anthropic`, and the provider does so when it is asked something."""
    users = {path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py") if "anthropic" in _tops(path)}
    assert users == {"provider"}
    assert "anthropic" not in _loaded_by("import ractobatch_dagster.provider.message_batches")


ABOVE = {"processor", "submission", "local", *DAGSTER_LAYER}


@pytest.mark.parametrize(
    ("homes", "never"),
    [
        (("errors",), {"models", "provider", "requests", "results", "prompt", *ABOVE}),
        (
            (
                *(
                    "models",
                    "json_schema",
                    "answer_model",
                    "schema_words",
                    "schema_model",
                    "embedding",
                    "moderation",
                    "form",
                    "tools",
                    "output",
                ),
                *("attachment", "prompt", "records"),
            ),
            {"provider", "requests", "results", *ABOVE},
        ),
        (("provider",), {"requests", "results", *ABOVE}),
        (("requests",), {"results", *ABOVE}),
        (("results",), ABOVE),
        (("table_file", "store", "secrecy", "processes"), {"provider", "requests", "results", *ABOVE}),
        (("submission",), {"processor", "local", *DAGSTER_LAYER}),
        (("local",), {"processor", "submission", "provider", "requests", "results", *DAGSTER_LAYER}),
        (("processor",), {"submission", "local", *DAGSTER_LAYER}),
    ],
)
def test_imports_point_one_way(homes: tuple[str, ...], never: set[str]) -> None:
    """Dagster layer, submission, requests and results, provider, models: nobody imports what is above."""
    for path in _files(*homes):
        assert not _ours(path) & never, path


def test_every_module_is_placed() -> None:
    """A new module has to say where it belongs."""
    edge = {"__init__", "_version", "cli", "commands", "testing"}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert (_MODULES | folders) - edge <= {*CORE, *DAGSTER_LAYER}


def test_the_models_module_lists_its_classes() -> None:
    """Everything of the models that users meet is importable from the package."""
    public = {
        "BatchItem",
        "BatchJobInfo",
        "BatchResult",
        "BatchStatus",
        "FinishReason",
        "LLMResponse",
        "ToolCallResult",
    }
    assert public <= set(models.__all__)
    assert all(getattr(ractobatch_dagster, name) is getattr(models, name) for name in public)
    assert import_module("ractobatch_dagster.prompt").RactoPrompt is ractobatch_dagster.RactoPrompt
