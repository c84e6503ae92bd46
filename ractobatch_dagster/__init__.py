"""LLM work at scale inside Dagster: a DataFrame of prompts becomes Batch API jobs and a Parquet table of typed answers.

The names below are imported when they are first used: importing the package loads neither pandas nor openai.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ractobatch_dagster._version import __version__

if TYPE_CHECKING:
    from ractobatch_dagster.account import account_asset
    from ractobatch_dagster.assets import batch_asset, build_batch_assets
    from ractobatch_dagster.attachment import RactoFile
    from ractobatch_dagster.chosen_checks import CostCheck, DriftCheck, EstimateCheck, RateCheck
    from ractobatch_dagster.component import OpenAIBatchComponent
    from ractobatch_dagster.errors import (
        BatchFailedError,
        BatchNotReadyError,
        BatchWaitTimeoutError,
        BudgetError,
        ConfigurationError,
        InvalidInputError,
        ProviderAPIError,
        ProviderAuthError,
        ProviderError,
        ProviderNotFoundError,
        ProviderTimeoutError,
        QueueFullError,
        RactobatchError,
        StoreError,
        SubmissionConflictError,
    )
    from ractobatch_dagster.io_manager import ParquetIOManager
    from ractobatch_dagster.models import (
        BatchItem,
        BatchJobInfo,
        BatchResult,
        BatchStatus,
        FinishReason,
        LLMResponse,
        ToolCallResult,
    )
    from ractobatch_dagster.pair import BatchAsset
    from ractobatch_dagster.processor import OpenAIBatchProcessor
    from ractobatch_dagster.prompt import RactoPrompt
    from ractobatch_dagster.resource import Budget, Capabilities, OpenAIBatchResource, TokenPrice
    from ractobatch_dagster.reuse import Reuse
    from ractobatch_dagster.sensor import build_batch_sensor
    from ractobatch_dagster.translator import BatchAssetTranslator

_HOME = {
    "BatchAsset": "pair",
    "BatchAssetTranslator": "translator",
    "BatchFailedError": "errors",
    "BatchItem": "models",
    "BatchJobInfo": "models",
    "BatchNotReadyError": "errors",
    "BatchResult": "models",
    "BatchStatus": "models",
    "BatchWaitTimeoutError": "errors",
    "Budget": "resource",
    "BudgetError": "errors",
    "Capabilities": "resource",
    "ConfigurationError": "errors",
    "CostCheck": "chosen_checks",
    "DriftCheck": "chosen_checks",
    "EstimateCheck": "chosen_checks",
    "FinishReason": "models",
    "InvalidInputError": "errors",
    "LLMResponse": "models",
    "OpenAIBatchComponent": "component",
    "OpenAIBatchProcessor": "processor",
    "OpenAIBatchResource": "resource",
    "ParquetIOManager": "io_manager",
    "ProviderAPIError": "errors",
    "ProviderAuthError": "errors",
    "ProviderError": "errors",
    "ProviderNotFoundError": "errors",
    "ProviderTimeoutError": "errors",
    "QueueFullError": "errors",
    "RactoFile": "attachment",
    "RactoPrompt": "prompt",
    "RactobatchError": "errors",
    "RateCheck": "chosen_checks",
    "Reuse": "reuse",
    "StoreError": "errors",
    "SubmissionConflictError": "errors",
    "TokenPrice": "resource",
    "ToolCallResult": "models",
    "account_asset": "account",
    "batch_asset": "assets",
    "build_batch_assets": "assets",
    "build_batch_sensor": "sensor",
}

__all__ = [
    "BatchAsset",
    "BatchAssetTranslator",
    "BatchFailedError",
    "BatchItem",
    "BatchJobInfo",
    "BatchNotReadyError",
    "BatchResult",
    "BatchStatus",
    "BatchWaitTimeoutError",
    "Budget",
    "BudgetError",
    "Capabilities",
    "ConfigurationError",
    "CostCheck",
    "DriftCheck",
    "EstimateCheck",
    "FinishReason",
    "InvalidInputError",
    "LLMResponse",
    "OpenAIBatchComponent",
    "OpenAIBatchProcessor",
    "OpenAIBatchResource",
    "ParquetIOManager",
    "ProviderAPIError",
    "ProviderAuthError",
    "ProviderError",
    "ProviderNotFoundError",
    "ProviderTimeoutError",
    "QueueFullError",
    "RactoFile",
    "RactoPrompt",
    "RactobatchError",
    "RateCheck",
    "Reuse",
    "StoreError",
    "SubmissionConflictError",
    "TokenPrice",
    "ToolCallResult",
    "__version__",
    "account_asset",
    "batch_asset",
    "build_batch_assets",
    "build_batch_sensor",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
