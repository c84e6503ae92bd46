"""`OpenAIBatchComponent`: a batch asset in YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import dagster as dg
from dagster.components.resolved.core_models import ResolvedAssetAttributes
from dagster.components.utils.translation import TranslationFn, TranslationFnResolver
from pydantic import BaseModel

from ractobatch_dagster.assets import build_batch_assets
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.pair import BatchAsset
from ractobatch_dagster.prompt import Prompt, RactoPrompt
from ractobatch_dagster.reuse import Reuse
from ractobatch_dagster.scaffolding import OpenAIBatchScaffolder
from ractobatch_dagster.sensor import build_batch_sensor
from ractobatch_dagster.spec import TableType
from ractobatch_dagster.translator import BatchAssetData, BatchAssetTranslator
from ractobatch_dagster.yaml_checks import Check
from ractobatch_dagster.yaml_output import imported, output_model_of
from ractobatch_dagster.yaml_partitions import Partitions, partitions_definition
from ractobatch_dagster.yaml_source import Source

__all__ = ["OpenAIBatchComponent"]


def _words(description: str, **more: Any) -> dg.Resolver:
    resolver: dg.Resolver = dg.Resolver.default(description=description, **more)
    return resolver


class PromptParts(dg.Model, dg.Resolvable):
    """A `RactoPrompt`, but for its output, which is the component's."""

    role: str
    aim: str
    constraints: list[str] | None = None
    tone: str = ""
    context: str | None = None
    examples: list[dict[str, str]] | None = None
    anti_hallucination: bool = True


class ReuseParts(dg.Model, dg.Resolvable):
    """A `Reuse`: which answers that were paid for are taken over."""

    partitions: Annotated[bool, _words("Those of other partitions as well.")] = True
    tables: Annotated[tuple[str, ...], _words("Further tables of the same root.")] = ()
    max_age_days: Annotated[float | None, _words("How old they may be.")] = None


@dataclass(frozen=True)
class _Text:
    """A prompt that is a text, with an output model."""

    text: str
    output_format: type[BaseModel] | None

    def compile(self) -> str:
        return self.text


def _raw(context: dg.ResolutionContext, value: Any) -> Any:
    return value


def _resolved(context: dg.ResolutionContext, value: Any) -> Any:
    return context.resolve_value(value)


def _partitions(context: dg.ResolutionContext, said: Partitions) -> Partitions:
    return Partitions.model_validate(context.resolve_value(said.model_dump(exclude_none=True)))


@dataclass(frozen=True)
class _Translated(BatchAssetTranslator):
    """What the YAML says of both assets."""

    translation: TranslationFn[BatchAssetData]

    def get_asset_spec(self, data: BatchAssetData) -> dg.AssetSpec:
        made = self.translation(data.default_spec, data)
        lost = next((name for name in _NOT_TRANSLATED if getattr(made, name) != getattr(data.default_spec, name)), None)
        if lost is not None:
            raise ConfigurationError(f"translation: `{lost}` is none of what it says. {_NOT_TRANSLATED[lost]}")
        return made


@dg.scaffold_with(OpenAIBatchScaffolder)
class OpenAIBatchComponent(dg.Component, dg.Model, dg.Resolvable):
    """A batch asset in YAML: rows from an asset, files or a query become prompts, batches and a table of typed answers.

    What is not said has the default of `batch_asset`, which explains the options. Subclasses may override
    `build_prompt`, `read_rows` and `batch_asset_arguments`.

    Example:
        ```yaml
        type: ractobatch_dagster.OpenAIBatchComponent
        attributes:
          name: ticket_triage
          model: gpt-4o-mini
          source: {asset: tickets}
          template: "{{ subject }}\\n\\n{{ body }}"
          prompt: {role: You triage support tickets., aim: Label one ticket.}
          output:
            sentiment: [positive, neutral, negative]
            products: list[str]
          key: ticket_id
        ```
    """

    name: Annotated[str, _words("The key of the table.", examples=["ticket_triage", "support/ticket_triage"])]
    model_name: Annotated[
        str,
        dg.Resolver(
            _resolved,
            model_field_name="model",  # as an attribute it would hide `Resolvable.model`
            model_field_type=str,
            description="The model, or on Azure the deployment.",
        ),
    ]
    source: Annotated[Source, _words("Where the rows come from.")]
    template: Annotated[
        str | None,
        dg.Resolver(
            _raw,
            model_field_type=str,
            inject_before_resolve=False,  # its variables are columns, not Dagster's
            description="Makes the prompt of a row: a Jinja template over its columns. Left out, the rows have a "
            "column `user_message`.",
            examples=["{{ subject }}\n\n{{ body }}"],
        ),
    ] = None
    prompt: Annotated[str | PromptParts | None, _words("The system prompt: a text, or its parts.")] = None
    output: Annotated[
        str | dict[str, Any] | None,
        _words(
            "What an answer is: the dotted path of a Pydantic model, a JSON Schema, or fields and their types.",
            examples=[
                "my_project.schemas.Triage",
                {"sentiment": ["good", "bad"], "products": "list[str]", "age": "int?"},
            ],
        ),
    ] = None
    tools: Annotated[
        list[str] | None,
        _words("What the model may call: dotted paths of Pydantic models.", examples=[["my_project.tools.Refund"]]),
    ] = None
    endpoint: Annotated[
        str | None,
        _words(
            "What is asked: chat (where not given), responses, embeddings, completions, moderations, or a path under "
            "/v1/ to which rows bring whole bodies.",
            examples=["responses", "moderations"],
        ),
    ] = None
    key: Annotated[str | None, _words("The column that identifies a row.")] = None
    temperature: float | None = None
    max_tokens: int | None = None
    extra: Annotated[dict[str, Any] | None, _words("Merged last into every request body.")] = None
    overrides: Annotated[
        dict[str, str] | None,
        _words(
            "What a row says of its own request (model, temperature, max_tokens, system, extra, files, body), each "
            "with the column that says it.",
            examples=[{"model": "model_column"}],
        ),
    ] = None
    partition_by: Annotated[str | None, _words("The column that holds each row's partition.")] = None
    pack: bool | None = None
    carry: Annotated[list[str] | None, _words("The columns that stand in the table beside the answers.")] = None
    on_null: Literal["error", "skip"] | None = None
    dedupe: bool | None = None
    reuse: Annotated[
        bool | ReuseParts | None,
        _words(
            "Whether answers that were paid for are taken over, and which.",
            examples=[{"tables": ["other_table"], "max_age_days": 30}],
        ),
    ] = None
    max_rounds: int | None = None
    repairs: int | None = None
    on_change: Literal["fail", "attach", "replace"] | None = None
    on_terminate: Literal["keep", "cancel"] | None = None
    max_error_rate: float | None = None
    checks: Annotated[
        list[Check] | None,
        _words("Further checks of the table.", examples=[[{"rate": "refusal", "at_most": 0.01}]]),
    ] = None
    metrics: Annotated[
        str | None,
        _words(
            "The dotted path of a function of the table that returns metadata by name.",
            examples=["my.metrics.agreement"],
        ),
    ] = None
    completion_window: str | None = None
    blocking: bool | None = None
    poll_seconds: float | None = None
    pieces: int | None = None
    resource_key: Annotated[str | None, _words("The key of the `OpenAIBatchResource`.")] = None
    sensor: Annotated[
        bool, _words("Whether the sensor of the resource comes along: of one component at most, as it is one for all.")
    ] = False
    pool: str | None = None
    io_manager_key: str | None = None
    table_type: TableType | None = None
    partitions: Annotated[
        Partitions | None,
        dg.Resolver(_partitions, model_field_type=Partitions, description="How both assets are partitioned."),
    ] = None
    translation: Annotated[
        TranslationFn[BatchAssetData] | None,
        TranslationFnResolver[BatchAssetData](lambda data: {"role": data.role, "model": data.model, "data": data}),
        # what it may say of both assets: it goes last, and has their `spec`, `role` and `model` as variables
    ] = None
    asset_attributes: Annotated[
        ResolvedAssetAttributes | None,
        _words("Group, owners, tags, kinds, description, metadata, dependencies, code version, automation condition."),
    ] = None

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The assets, their jobs and checks, and the sensor of their resource if wanted."""
        made = self.build_batch_asset(Path(context.path))
        # Dagster notes on every asset of a component where it is from, so that the account's, which is one for all,
        # would be another in each: a project says it once, beside the resource
        assets = [asset for asset in made.assets if not isinstance(asset, dg.AssetSpec)]
        sensors = [build_batch_sensor(made.spec.resource_key)] if self.sensor else []
        return dg.Definitions(assets=assets, jobs=made.jobs, sensors=sensors)

    def build_batch_asset(self, folder: Path) -> BatchAsset:
        """What `batch_asset` makes of it.

        Args:
            folder: What the paths of files are counted from.

        Raises:
            ConfigurationError: Something cannot work as given.
        """
        self.source.check()
        if self.source.by_partition and self.partitions is None:
            raise ConfigurationError("source: it names the partition, and there are no `partitions`.")
        if self.source.asset:
            return build_batch_assets(dg.AssetKey.from_user_string(self.source.asset), **self.batch_asset_arguments())

        def read(context: dg.AssetExecutionContext) -> Any:
            return self.read_rows(folder, context.partition_key if context.has_partition_key else None)

        return build_batch_assets(read, **self.batch_asset_arguments())

    def build_prompt(self) -> Prompt | str | None:
        """The system prompt, with the output model."""
        output = output_model_of(self.name, self.output) if self.output is not None else None
        if isinstance(self.prompt, PromptParts):
            parts = {name: getattr(self.prompt, name) for name in type(self.prompt).model_fields}
            return RactoPrompt(
                **{**parts, "constraints": parts["constraints"] or "", "output_format": output or "text"}
            )
        return _Text(self.prompt or "", output) if output is not None else self.prompt

    def read_rows(self, folder: Path, partition: str | None) -> Any:
        """The rows, where the source is no asset: anything that `batch_asset` takes as a frame."""
        return self.source.read(folder, partition)

    def batch_asset_arguments(self) -> dict[str, Any]:
        """The arguments for `batch_asset`."""
        attributes = dict(self.asset_attributes or {})
        refused = sorted(attributes.keys() - _ATTRIBUTES)
        if refused:
            raise ConfigurationError(
                f"asset_attributes: `{refused[0]}` is none that a batch asset has; partitions are said in `partitions`."
            )
        arguments = {name: value for name in _OPTIONS if (value := getattr(self, name)) is not None}
        if self.checks:
            arguments["checks"] = [check.made() for check in self.checks]
        if isinstance(self.reuse, ReuseParts):
            arguments["reuse"] = Reuse(**self.reuse.model_dump())
        if self.tools:
            arguments["tools"] = [imported(path, "tools") for path in self.tools]
        if self.metrics:
            arguments["metrics"] = imported(self.metrics, "metrics")
        if self.source.by_partition:
            arguments["backfill_policy"] = dg.BackfillPolicy.multi_run()
        if "kinds" in attributes:
            attributes["kinds"] = set(attributes["kinds"])
        return {
            **arguments,
            **attributes,
            "asset_key": dg.AssetKey.from_user_string(self.name),
            "model": self.model_name,
            "prompt": self.build_prompt(),
            **({"translator": _Translated(self.translation)} if self.translation is not None else {}),
            "partitions_def": partitions_definition(self.partitions) if self.partitions is not None else None,
        }


_OPTIONS = (
    "endpoint", "template", "key", "temperature", "max_tokens", "extra", "overrides", "partition_by", "pack", "carry",
    "on_null", "dedupe", "reuse", "max_rounds", "repairs", "on_change", "on_terminate", "max_error_rate",
    "completion_window", "blocking", "poll_seconds", "pieces", "resource_key", "pool", "io_manager_key", "table_type",
)  # fmt: skip
_NOT_TRANSLATED = {
    "deps": "Say it in `asset_attributes`.",
    "code_version": "Say it in `asset_attributes`.",
    "automation_condition": "Say it in `asset_attributes`.",
    "partitions_def": "Say it in `partitions`.",
    "skippable": "A table whose answers are not there yet is skipped by itself.",
}
_ATTRIBUTES = {
    "deps", "description", "metadata", "group_name", "code_version", "owners", "tags", "kinds", "automation_condition",
}  # fmt: skip
