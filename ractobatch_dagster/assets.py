"""`batch_asset`: a function that returns prompts becomes a submission asset and a table asset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg

from ractobatch_dagster.arguments import (
    Key,
    carried,
    column_name,
    endpoint_path,
    said_of,
    submission_key,
    table_key,
)
from ractobatch_dagster.cancelling import cancel_job
from ractobatch_dagster.checks import table_checks
from ractobatch_dagster.chosen_checks import BatchCheck
from ractobatch_dagster.computing import all_in_one, asset_of, storage, submission_step, table_step
from ractobatch_dagster.embedding import embedding_model
from ractobatch_dagster.errors import ConfigurationError
from ractobatch_dagster.pair import BatchAsset
from ractobatch_dagster.prompt import Prompt
from ractobatch_dagster.requests.body import EMBEDDINGS, RequestTemplate, maker
from ractobatch_dagster.requests.overrides import Overrides
from ractobatch_dagster.requests.template import PromptTemplate
from ractobatch_dagster.reuse import Reuse
from ractobatch_dagster.signature import Signature, key_of
from ractobatch_dagster.spec import RESOURCE, BatchSpec, Metrics, OnTerminate, TableType
from ractobatch_dagster.translator import BatchAssetData, BatchAssetTranslator

if TYPE_CHECKING:
    from ractobatch_dagster.submission.opening import OnChange

__all__ = ["batch_asset", "build_batch_assets"]

Endpoint = Literal["chat", "responses", "embeddings", "completions", "moderations"] | str  # or a path


def batch_asset(
    *,
    model: str,
    prompt: Prompt | str | None = None,
    output: Any = None,
    tools: Sequence[Any] | None = None,
    endpoint: Endpoint = "chat",
    template: str | None = None,
    key: str | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    extra: Mapping[str, Any] | None = None,
    overrides: Mapping[str, str] | None = None,
    partition_by: str | None = None,
    pack: bool = True,
    carry: Sequence[str] | None = None,
    on_null: Literal["error", "skip"] = "error",
    dedupe: bool = True,
    reuse: bool | Reuse = True,
    max_rounds: int = 1,
    repairs: int = 0,
    on_change: OnChange = "fail",
    on_terminate: OnTerminate = "keep",
    max_error_rate: float = 0.05,
    checks: Sequence[BatchCheck] = (),
    metrics: Metrics | None = None,
    completion_window: str = "24h",
    blocking: bool = False,
    poll_seconds: float = 30.0,
    pieces: int = 1,
    resource_key: str = "openai_batch",
    asset_key: Key | None = None,
    name: str | None = None,
    key_prefix: str | Sequence[str] | None = None,
    ins: Mapping[str, dg.AssetIn] | None = None,
    deps: Iterable[Any] | None = None,
    partitions_def: dg.PartitionsDefinition[Any] | None = None,
    backfill_policy: dg.BackfillPolicy | None = None,
    group_name: str | None = None,
    owners: Sequence[str] | None = None,
    tags: Mapping[str, str] | None = None,
    kinds: set[str] | None = None,
    description: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    retry_policy: dg.RetryPolicy | None = None,
    automation_condition: dg.AutomationCondition[Any] | None = None,
    code_version: str | None = None,
    pool: str | None = None,
    io_manager_key: str | None = None,
    table_type: TableType = "pyarrow",
    translator: BatchAssetTranslator = BatchAssetTranslator(),  # noqa: B008 (it has no state)
) -> Callable[[Callable[..., Any]], BatchAsset]:
    """Turn a function that returns a DataFrame of prompts into assets that send it through the Batch API.

    The function takes what any asset takes: upstream assets, config, resources, the context. It returns a frame with
    a column `user_message`, or with those that `template` makes it of; any others are kept by the table. A frame is
    one of pandas, Polars (lazy too), PyArrow, DuckDB, anything else with `__arrow_c_stream__`, an iterator of any of
    those, or the path of a Parquet or CSV file. What comes as a stream need not fit into memory. The function's name
    is the table's; `<name>_submission` sends.

    The submission ends as soon as the batches are created. `build_batch_sensor` follows them and materialises the
    table once every row has its outcome: one row per row sent, in the same order, with the fields of the prompt's
    output model as typed columns and a block of `llm_…` columns.

    Args:
        model: The model, or on Azure the deployment.
        prompt: The system prompt: a `RactoPrompt`, anything else with `compile() -> str`, a text, or none.
        output: What an answer is to be, where the prompt does not say it: a Pydantic model, a dataclass, a TypedDict,
            or a JSON Schema whose root is an object. Sent as a strict `response_format`; its fields become columns.
        tools: What the model may call, at `chat` and `responses`: models as for `output`. Each is sent as a strict
            function, and is a column of the table, called as the class is in snake case: the list of its calls, or
            null. Which must be called is said by `tool_choice` in `extra`.
        endpoint: What is asked: `chat`; `responses`; `embeddings`, whose answers are a column `embedding` of vectors:
            lists of 32-bit floats, as long as the model or `extra={"dimensions": …}` says; `completions`, a text after
            a text; `moderations`, whose answers are the columns `flagged`, `categories` and `category_scores`. Or any
            other path under `/v1/`, where rows bring their whole body by `overrides`, and `llm_text` is what came back.
        template: Makes the column `user_message`, which the function's frame then must not have: a Jinja template over
            its columns, such as `"{{ subject }}\\n\\n{{ body }}"`. A null renders as nothing; a row whose columns are
            all null has no prompt.
        key: The column that identifies a row; refused before sending where it is null or repeats.
        temperature: 0 to 2; left to the model's own default where not given.
        max_tokens: The most tokens one answer may take; sent as `max_completion_tokens` to reasoning models.
        extra: Merged last into every request body; a value of `None` removes the key. Several choices (`n`) and
            probabilities (`logprobs`) that are asked for here are columns `choices` and `logprobs`.
        overrides: What a row says of its own request, each with the column that says it: `model`, `temperature`,
            `max_tokens`, `system` (a system prompt instead of `prompt`), `extra` (merged last), `files` (pictures and
            PDFs that go with the prompt: an address, a path, bytes, or a list of those), and `body` (the whole body,
            but for the model where it names none). `extra` and `body` are JSON, or structs, whose nulls do not
            count. A null or an empty text leaves it to what is said here. Rows of several models become batches of one
            each. A `temperature` that is said here does not go to reasoning models that rows name. Where rows give a
            `body`, the column `user_message` may be left out: it gets the last message's text.
        partition_by: The column that holds each row's partition, where the function returns rows of several.
        pack: Whether the partitions of a run share batches. `False` gives each its own, so that the rows of two tenants
            never lie in the same file.
        carry: Which of the frame's columns stand in the table beside the answers; all where not given, and `key`
            always. To write the prompts once more is a good part of the cost of a large table.
        on_null: What to do with a row without a prompt: `error`, or `skip` it (it lands with status `skipped`).
        dedupe: Ask identical requests once. `False` makes each row a sample of its own.
        reuse: Take over answers that were paid for already: those of this partition's last table, and of the table's
            other partitions. A `Reuse` says which; `False` asks everything anew, as `refresh: true` in a run's config
            does for once. With `repairs`, answers that do not fit the output model are asked again.
        max_rounds: How often a request that failed in a way worth retrying is sent again. One that was never run,
            because its batch expired, was cancelled or was refused for another line, goes out again without counting.
        repairs: How often the model is shown an answer that does not fit the output model, with what is wrong.
        on_change: What to do where batches of the partition are still open and rows, prompt, model or parameters have
            changed since: `fail` says what changed and sends nothing; `attach` goes on with the open ones; `replace`
            cancels them, and sends what they did not answer.
        on_terminate: What becomes of the batches when somebody terminates the run in Dagster: `keep`, or `cancel`. A
            run that ends otherwise, such as with its evicted pod, never cancels anything.
        max_error_rate: The share of rows that may be without a usable answer before the check warns.
        checks: Further checks of the table: `RateCheck`, `DriftCheck`, `CostCheck`, each with its own severity.
        metrics: A function of the table, which it gets as its parameter is annotated (pandas where it is not), that
            returns numbers or anything else that Dagster shows as metadata, by name. Called before the table is stored.
        completion_window: How long the provider may take; OpenAI knows `24h` only.
        blocking: One asset that submits, waits and lands in one run. For small jobs: it holds a worker meanwhile.
        poll_seconds: Seconds between looks in a blocking run.
        pieces: In how many pieces the heavy steps (input files and uploads; downloads and reading) are cut at most.
            More than one makes both assets graphs, whose steps the run's executor spreads: multiprocess, Celery, Dask,
            Kubernetes. Their config has no `preview_rows`; the methods of `BatchAsset` work all the same.
        resource_key: The key of the `OpenAIBatchResource`.
        asset_key: The table's key, instead of `name` and `key_prefix`.
        name: The table's name, instead of the function's.
        key_prefix: Put before the name.
        ins: How the upstream assets are loaded, by parameter name.
        deps: Upstream assets that are not loaded.
        partitions_def: How both assets are partitioned.
        backfill_policy: How many runs a backfill takes: one, unless you say otherwise, so that many partitions share
            few batches. (Several where `io_manager_key` is given: only our own storage writes many in a run.)
        group_name: Of both assets.
        owners: Of both assets.
        tags: Of both assets.
        kinds: Of both assets, beside ours.
        description: Of the table; the function's docstring where not given, or else a sentence.
        metadata: Of the table.
        retry_policy: Of both assets. Running either again is safe and sends nothing twice.
        automation_condition: When to submit. The table follows by itself.
        code_version: Of both assets; a hash of prompt, template, parameters, schema and overrides where not given.
        pool: Of the submission.
        io_manager_key: Who stores the table, instead of our Parquet files below the resource's root.
        table_type: What that IO manager is given: a `pyarrow.Table`, or a `pandas` or `polars` frame.
        translator: A rule for what both assets are called and how they are described, after what is said here.

    Raises:
        ConfigurationError: Something cannot work as given.

    Example:
        ```python
        @batch_asset(model="gpt-4o-mini", prompt="Is this review positive? Answer yes or no.", key="review_id")
        def verdicts(reviews: pd.DataFrame) -> pd.DataFrame:
            return reviews.assign(user_message=reviews["text"])
        ```
    """

    def decorate(function: Callable[..., Any]) -> BatchAsset:
        said: dict[str, Any] = {"group_name": group_name, "owners": owners, "tags": tags}
        about = dg.AssetSpec(
            table_key(asset_key, name or function.__name__, key_prefix),
            kinds={maker(model), "parquet", *(kinds or ())},
            description=description or function.__doc__ or f"What {model} answered: a row for each row that was sent.",
            metadata=metadata,
            **said,
        )
        sender = submission_key(about.key)
        about = translator.get_asset_spec(BatchAssetData("table", model, about))
        sending = dg.AssetSpec(
            sender,
            kinds={maker(model), *(kinds or ())},
            description=f"Sends the prompts of `{'/'.join(about.key.path)}` to the Batch API; ends as soon as the "
            "batches exist.",
            **said,
        )
        sending = translator.get_asset_spec(BatchAssetData("submission", model, sending, about.key))
        if sending.key in (sender, about.key):  # of a rule that is about tables alone
            sending = sending.replace_attributes(key=submission_key(about.key))
        if "model" in (extra or {}):
            raise ConfigurationError("extra: the model is given as `model`, or by row as overrides={'model': …}.")
        request = RequestTemplate.of(
            model,
            prompt,
            output=output,
            tools=tools,
            temperature=temperature,
            max_tokens=max_tokens,
            extra=dict(extra or {}),
            endpoint=endpoint_path(endpoint, overrides or ()),
        )
        own = Overrides(overrides, request.endpoint) if overrides else None
        if request.endpoint == EMBEDDINGS and own and {"model", "extra", "body"} & own.columns.keys():
            request = replace(request, output_type=embedding_model(""))  # only the answer tells how long it is
        if request.form.names:
            from ractobatch_dagster.results.table import check_answers

            check_answers(request.form)
        signature = Signature.of(function)
        upstreams = signature.ins(ins or {}, each_partition=partitions_def is not None and partition_by is None)
        spec = BatchSpec(
            asset=about.key,
            submission_asset=None if blocking else sending.key,
            template=request,
            prompts=PromptTemplate(template) if template is not None else None,
            overrides=own,
            resource_key=resource_key,
            key=column_name(key),
            partition_by=partition_by,
            pack=pack,
            carry=carried(carry, key),
            on_null=on_null,
            dedupe=dedupe,
            reuse=(Reuse() if reuse else None) if isinstance(reuse, bool) else reuse,
            max_rounds=max_rounds,
            repairs=repairs,
            on_change=on_change,
            on_terminate=on_terminate,
            completion_window=completion_window,
            ranges=io_manager_key is None and not isinstance(partitions_def, dg.MultiPartitionsDefinition),
            own_storage=io_manager_key is None,
            table_type=table_type,
            poll_seconds=poll_seconds,
            metrics=metrics,
            upstream=key_of(*next(iter(upstreams.items()))) if len(upstreams) == 1 else None,
        )
        one_run = backfill_policy or (dg.BackfillPolicy.single_run() if partitions_def is not None else None)
        common: dict[str, Any] = {
            "partitions_def": partitions_def,
            "retry_policy": retry_policy,
            "backfill_policy": one_run if spec.ranges else backfill_policy,
            "code_version": code_version or spec.code_version,
        }
        entry: dict[str, Any] = {
            "ins": upstreams,
            "deps": deps,
            "automation_condition": automation_condition,
            "pool": pool,
        }
        landing = {**said_of(about), **storage(resource_key, io_manager_key)}
        if not blocking:
            landing["metadata"] = {RESOURCE: resource_key, **about.metadata}  # by which the sensor knows it
        evaluated = [table_checks(spec, max_error_rate, checks)]
        if pieces > 1 and blocking:
            raise ConfigurationError("`blocking=True` does all in one step, which `pieces` cannot cut.")
        if blocking:
            table = asset_of(all_in_one(spec, signature), **common, **entry, **landing)
            return BatchAsset(None, table, evaluated, [cancel_job(spec)], spec, signature)
        entry |= said_of(sending)
        if pieces > 1:
            from ractobatch_dagster.pieces import submission_in_pieces, table_in_pieces

            submission = submission_in_pieces(spec, signature, pieces, **common, **entry)
            table = table_in_pieces(spec, pieces, deps=[sending.key], **common, **landing)
        else:
            submission = asset_of(submission_step(spec, signature), output_required=False, **common, **entry)
            table = asset_of(table_step(spec), deps=[sending.key], output_required=False, **common, **landing)
        submit_only = dg.define_asset_job(f"{spec.op_name}_submit", selection=[sending.key])
        return BatchAsset(submission, table, evaluated, [submit_only, cancel_job(spec)], spec, signature)

    return decorate


def build_batch_assets(rows: Callable[..., Any] | Key, **options: Any) -> BatchAsset:
    """`batch_asset` without a decorator, for those who make assets in a loop.

    Args:
        rows: The function; or the key of the asset whose rows are sent as they are, with a column `user_message` or
            with the columns of a `template`.
        options: What `batch_asset` takes. Without a function, `name` or `asset_key` is needed.

    Raises:
        ConfigurationError: As `batch_asset`; or there is no name.

    Example:
        ```python
        labels = [
            build_batch_assets(f"reviews_{one}", name=f"labels_{one}", model="gpt-4o-mini", template="{{ text }}")
            for one in ("de", "en", "fr")
        ]
        defs = dg.Definitions.merge(*(one.definitions for one in labels))
        ```
    """
    if callable(rows):
        return batch_asset(**options)(rows)
    if not (options.get("name") or options.get("asset_key")):
        raise ConfigurationError(f"The table of the rows of {rows!r} needs a name: give `name` or `asset_key`.")
    if "ins" in options:
        raise ConfigurationError("`ins` is for the parameters of a function; here there is none.")

    def upstream(rows):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202  (the IO manager decides)
        return rows

    return batch_asset(ins={"rows": dg.AssetIn(key=dg.AssetKey.from_coercible(rows))}, **options)(upstream)
