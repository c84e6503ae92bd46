"""`OpenAIBatchComponent` as its user meets it: a YAML file becomes assets that run."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.resolved.errors import ResolutionException
from dagster.components.testing import create_defs_folder_sandbox
from pydantic import BaseModel, ValidationError

from ractobatch_dagster import OpenAIBatchComponent
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.yaml_output import output_model_of
from ractobatch_dagster.yaml_source import Source
from tests.project import Project, failure

TICKETS = pd.DataFrame(
    {
        "id": [1, 2, 3],
        "subject": ["Wonderful", "It hurts", "Hm"],
        "body": ["I love this, it is great", "It is terrible", "It is a text"],
        "day": ["2026-01-01", "2026-01-01", "2026-01-02"],
    }
)
PROMPTS = [f"{one.subject}\n\n{one.body}" for one in TICKETS.itertuples()]


class Triage(BaseModel):
    """An answer, for those who name it by its path."""

    sentiment: str


@dg.asset
def tickets() -> pd.DataFrame:
    """Three tickets."""
    return TICKETS


def attributes(text: str, **more: Any) -> dict[str, Any]:
    """Attributes as a YAML file has them."""
    return {"name": "triage", "model": "gpt-4o-mini", **yaml.safe_load(textwrap.dedent(text)), **more}


@contextmanager
def loaded(given: Mapping[str, Any], files: Mapping[str, pd.DataFrame] | None = None) -> Iterator[dg.Definitions]:
    """What Dagster makes of a `defs.yaml`, with files beside it."""
    with create_defs_folder_sandbox() as sandbox:
        contents = {"type": "ractobatch_dagster.OpenAIBatchComponent", "attributes": dict(given)}
        path = sandbox.scaffold_component(component_cls=OpenAIBatchComponent)
        (path / "defs.yaml").write_text(yaml.safe_dump(contents, sort_keys=False))
        for name, frame in (files or {}).items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            frame.to_parquet(path / name) if name.endswith(".parquet") else frame.to_csv(path / name, index=False)
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, defs):
            yield defs


def assets(defs: dg.Definitions) -> list[dg.AssetsDefinition]:
    """Submission and table."""
    return [one for one in defs.assets or () if isinstance(one, dg.AssetsDefinition) and one.keys]


def project(server: LocalServer, folder: Path, defs: dg.Definitions, *more: Any) -> Project:
    """A project of these assets."""
    return Project(server, folder, [*more, *(defs.assets or ()), *(defs.asset_checks or ())])


WHOLE = """
    source: {asset: tickets}
    template: "{{ subject }}\\n\\n{{ body }}"
    prompt:
      role: You triage tickets.
      aim: Label one.
      constraints: [Use only the ticket's text.]
    output:
      sentiment: [positive, neutral, negative]
      tags: list[str]
      score: int?
      product: {fields: {name: str}, optional: true, description: What it is about.}
    key: id
    carry: [subject]
    temperature: 0
    max_tokens: 200
    asset_attributes:
      group_name: support
      owners: ["team:support"]
      tags: {tier: 1}
      kinds: [label]
      description: Labels of tickets.
      automation_condition: "{{ dg.AutomationCondition.eager() }}"
"""


def test_yaml_becomes_a_table(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows of an upstream asset, prompts of a template, typed answers; the attributes are on both assets."""
    with loaded(attributes(WHOLE)) as defs:
        made = project(batch_server, tmp_path, defs, tickets)
        assert made.run("tickets", "triage_submission").success
        made.land()
        table = made.load("triage", kind=pa.Table)
    assert table.column_names[:3] == ["id", "subject", "sentiment"]
    assert table["llm_status"].to_pylist() == ["ok"] * 3
    assert table["sentiment"].to_pylist()[:2] == ["positive", "negative"]
    assert table.schema.field("tags").type == pa.list_(pa.string())
    assert table.schema.field("score").type == pa.int64()
    assert pa.types.is_struct(table.schema.field("product").type)
    specs = {spec.key.to_user_string(): spec for one in assets(defs) for spec in one.specs}
    for spec in (specs["triage"], specs["triage_submission"]):
        assert (spec.group_name, spec.owners, spec.tags["tier"]) == ("support", ["team:support"], "1")
        assert "label" in spec.kinds
    assert specs["triage"].description == "Labels of tickets."
    assert specs["triage_submission"].automation_condition == dg.AutomationCondition.eager()
    assert specs["triage"].automation_condition is None
    assert [job.name for job in defs.jobs or ()] == ["triage_submit", "triage_cancel"]
    assert not defs.sensors


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("{file: tickets.parquet}", {"tickets.parquet": TICKETS}),
        ("{file: 'in/*.csv'}", {"in/a.csv": TICKETS[:2], "in/b.csv": TICKETS[2:]}),
        ("{sql: select * from 'tickets.parquet' order by id}", {"tickets.parquet": TICKETS}),
    ],
)
def test_rows_come_from_files_and_queries(
    source: str, files: Mapping[str, pd.DataFrame], batch_server: LocalServer, tmp_path: Path
) -> None:
    """Paths are counted from the folder of the YAML file."""
    text = f'source: {source}\ntemplate: "{{{{ subject }}}}\\n\\n{{{{ body }}}}"\nprompt: Label it.'
    with loaded(attributes(text), files) as defs:
        made = project(batch_server, tmp_path, defs)
        assert made.run("triage_submission").success
        made.land()
        assert made.load("triage", kind=pl.DataFrame)["user_message"].to_list() == PROMPTS


def test_only_the_files_own_path_is_a_pattern(tmp_path: Path) -> None:
    """A folder or a partition may have brackets in its name."""
    folder = tmp_path / "a[1]"
    (folder / "x*").mkdir(parents=True)
    TICKETS.to_csv(folder / "x*" / "t.csv")
    assert list(Source(file="{partition}/*.csv").read(folder, "x*")) == [str(folder / "x*" / "t.csv")]


def test_what_is_scaffolded_runs(batch_server: LocalServer, tmp_path: Path) -> None:
    """With its two rows, and the model of the answers in a module of its own."""
    with create_defs_folder_sandbox() as sandbox:
        path = sandbox.scaffold_component(component_cls=OpenAIBatchComponent, defs_path="triage")
        assert {"defs.yaml", "rows.csv", "schema.py"} == {one.name for one in path.iterdir()}
        with sandbox.load_component_and_build_defs(defs_path=path) as (_, defs):
            made = project(batch_server, tmp_path, defs)
            assert made.run("triage_submission").success
            made.land()
            table = made.load("triage", kind=pa.Table)
    assert table["id"].to_pylist() == [1, 2]
    assert table["llm_status"].to_pylist() == ["ok", "ok"]
    assert {"sentiment", "topics"} <= set(table.column_names)


def test_what_a_project_has_once_is_scaffolded_once() -> None:
    """A project of two components as they are scaffolded loads, with one resource, one sensor and one account."""
    with create_defs_folder_sandbox() as sandbox:
        for name in ("one", "two"):
            sandbox.scaffold_component(component_cls=OpenAIBatchComponent, defs_path=name)
        assert (sandbox.defs_folder_path / "openai_batch.py").exists()
        with sandbox.build_all_defs() as defs:
            repository = defs.get_repository_def()
            assert [one.name for one in repository.sensor_defs] == ["openai_batch_sensor"]
            graph = defs.resolve_asset_graph()
            assert {dg.AssetKey("one"), dg.AssetKey("two"), dg.AssetKey("openai_batches")} <= graph.get_all_asset_keys()


def test_the_readme_builds() -> None:
    """Its YAML is what it says."""
    text = (Path(__file__).parent.parent / "README.md").read_text()
    (example,) = re.findall(r"```yaml\n(type: ractobatch_dagster.OpenAIBatchComponent\n.*?)```", text, re.DOTALL)
    with loaded(yaml.safe_load(example)["attributes"]) as defs:
        keys = [key.to_user_string() for one in assets(defs) for key in one.keys]
    assert keys == ["ticket_triage_submission", "ticket_triage"]


def test_a_query_of_a_database(batch_server: LocalServer, tmp_path: Path) -> None:
    """DuckDB's own file, read only."""
    with duckdb.connect(str(tmp_path / "tickets.db")) as connection:
        connection.sql("create table tickets as select 'It is fine' as user_message")
    source = {"sql": "from tickets", "database": str(tmp_path / "tickets.db")}
    with loaded(attributes("prompt: Label it.", source=source)) as defs:
        made = project(batch_server, tmp_path, defs)
        assert made.run("triage_submission").success
        made.land()
        assert made.load("triage")["llm_status"].tolist() == ["ok"]


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("{file: 'in/{partition}/*.csv'}", {"in/2026-01-01/a.csv": TICKETS[:2], "in/2026-01-02/a.csv": TICKETS[2:]}),
        ("{sql: select * from 'tickets.parquet' where day = $partition}", {"tickets.parquet": TICKETS}),
    ],
)
def test_a_source_reads_the_runs_partition(
    source: str, files: Mapping[str, pd.DataFrame], batch_server: LocalServer, tmp_path: Path
) -> None:
    """Each run its own, so that a backfill is a run for each."""
    text = f'source: {source}\ntemplate: "{{{{ body }}}}"\npartitions: {{type: daily, start: "2026-01-01"}}'
    with loaded(attributes(text), files) as defs:
        made = project(batch_server, tmp_path, defs)
        for day in ("2026-01-01", "2026-01-02"):
            assert made.run("triage_submission", partition=day).success
        made.land()
        assert made.load("triage", partition="2026-01-01")["id"].tolist() == [1, 2]
        assert made.load("triage", partition="2026-01-02")["id"].tolist() == [3]
        assert {one.backfill_policy for one in assets(defs)} == {dg.BackfillPolicy.multi_run()}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{type: static, keys: [a, b]}", dg.StaticPartitionsDefinition(["a", "b"])),
        ("{type: hourly, start: '2026-01-01-00:00'}", dg.HourlyPartitionsDefinition("2026-01-01-00:00")),
        ("{type: daily, start: '2026-01-01', end: '2026-02-01'}",
         dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")),
        ("{type: weekly, start: '2026-01-01'}", dg.WeeklyPartitionsDefinition("2026-01-01")),
        ("{type: monthly, start: '2026-01-01', timezone: Europe/Berlin}",
         dg.MonthlyPartitionsDefinition("2026-01-01", timezone="Europe/Berlin")),
        ("{type: dynamic, name: customers}", dg.DynamicPartitionsDefinition(name="customers")),
        ("{type: multi, dimensions: {day: {type: daily, start: '2026-01-01'}, land: {type: static, keys: [de]}}}",
         dg.MultiPartitionsDefinition(
             {"day": dg.DailyPartitionsDefinition("2026-01-01"), "land": dg.StaticPartitionsDefinition(["de"])})),
    ],
)  # fmt: skip
def test_partitions_of_each_kind(text: str, expected: dg.PartitionsDefinition[Any]) -> None:
    """Both assets have them."""
    with loaded(attributes(f"source: {{asset: tickets}}\npartitions: {text}")) as defs:
        assert [one.partitions_def for one in assets(defs)] == [expected, expected]


def test_every_option_reaches_the_asset() -> None:
    """What is set is handed on, what is not has the decorator's default."""
    options = {
        "partition_by": "day", "pack": False, "on_null": "skip", "dedupe": False, "reuse": False, "max_rounds": 2,
        "repairs": 1, "on_change": "replace", "on_terminate": "cancel",
        "max_error_rate": 0.5, "completion_window": "1h",
        "poll_seconds": 1.5, "pieces": 3, "resource_key": "mine", "pool": "llm", "io_manager_key": "theirs",
        "table_type": "pandas", "extra": {"seed": 1}, "overrides": {"model": "tier"}, "blocking": False,
        "max_tokens": 7, "temperature": 0.5, "key": "id", "carry": ["id"],
    }  # fmt: skip
    component = OpenAIBatchComponent.from_attributes_dict(attributes=attributes("source: {asset: tickets}", **options))
    arguments = component.batch_asset_arguments()
    assert {name: arguments[name] for name in options} == options
    told = OpenAIBatchComponent.from_attributes_dict(
        attributes=attributes("source: {asset: tickets}", metrics="tests.test_metrics_and_hive.agreement")
    )
    assert told.batch_asset_arguments()["metrics"].__name__ == "agreement"
    plain = OpenAIBatchComponent.from_attributes_dict(attributes=attributes("source: {asset: tickets}"))
    assert set(plain.batch_asset_arguments()) == {"asset_key", "model", "prompt", "partitions_def"}


@pytest.mark.parametrize("sensor", [True, False])
def test_the_sensor_is_the_projects_where_it_says_so(sensor: bool) -> None:
    """Two sensors of one name would be an error."""
    with loaded(attributes("source: {asset: tickets}", sensor=sensor)) as defs:
        assert [one.name for one in defs.sensors or ()] == (["openai_batch_sensor"] if sensor else [])


@pytest.mark.parametrize("path", ["tests.test_component.Triage", "tests.test_component:Triage"])
def test_a_model_by_its_path(path: str) -> None:
    """Whoever has a Pydantic model names it, with a dot or as entry points do."""
    given = attributes("source: {asset: tickets}", output=path, prompt="Label it.")
    prompt = OpenAIBatchComponent.from_attributes_dict(attributes=given).build_prompt()
    assert prompt.output_format.model_json_schema() == Triage.model_json_schema()


def test_whole_numbers_are_values() -> None:
    """A scale is as common as a label."""
    given = attributes(
        "source: {asset: tickets}", output={"urgency": [1, 2, 3], "other": {"values": [7], "optional": True}}
    )
    output = OpenAIBatchComponent.from_attributes_dict(attributes=given).build_prompt().output_format
    assert output.model_validate({"urgency": 3, "other": None}).urgency == 3
    for wrong in (4, "3"):
        with pytest.raises(ValidationError):
            output.model_validate({"urgency": wrong, "other": 7})


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/Label", "$defs": {"Label": {"type": "object", "properties": {"a": {"type": "string"}}}}},
        {"properties": {"a": {"$ref": "#/$defs/text"}}, "$defs": {"text": {"type": "string"}}},
        {"properties": {"a": {"type": "string"}}, "title": "Label"},
        {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
    ],
)
def test_a_schema_is_known_as_one(schema: dict[str, Any]) -> None:
    """By its reference, its definitions or its properties, whether or not it says that it is an object."""
    assert list(output_model_of("labels", schema).model_fields) == ["a"]


@pytest.mark.parametrize("said", [{"type": "str"}, {"values": ["a"]}, {"fields": {"a": "str"}, "many": True}, "str"])
def test_a_field_may_be_called_properties(said: Any) -> None:
    """Like any other in the short form."""
    assert list(output_model_of("labels", {"properties": said, "type": ["a", "b"]}).model_fields) == [
        "properties",
        "type",
    ]


def test_subclasses_override(batch_server: LocalServer, tmp_path: Path) -> None:
    """Rows and arguments of one's own."""

    class Mine(OpenAIBatchComponent):
        def read_rows(self, folder: Path, partition: str | None) -> Any:
            return [pd.DataFrame({"user_message": [f"{folder.name} {partition}"]})]

        def batch_asset_arguments(self) -> dict[str, Any]:
            return {**super().batch_asset_arguments(), "group_name": "mine"}

    component = Mine.from_attributes_dict(attributes=attributes("source: {file: nothing.csv}"))
    made = Project(batch_server, tmp_path, component.build_batch_asset(Path("here")).assets)
    assert made.run("triage_submission").success
    made.land()
    assert made.load("triage")["user_message"].tolist() == ["here None"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("source: {}", "give one of `asset`, `file` and `sql`; it has none"),
        ("source: {asset: a, sql: b}", r"it has \['asset', 'sql'\]"),
        ("source: {file: a, database: b}", "`database` is what `sql` reads"),
        ("source: {file: '{partition}.csv'}", "there are no `partitions`"),
        ("source: {asset: a}\noutput: no_dots", "no Pydantic model"),
        ("source: {asset: a}\noutput: nowhere.Model", "cannot be imported"),
        ("source: {asset: a}\noutput: pandas.DataFrame", "no Pydantic model"),
        ("source: {asset: a}\noutput: {}", "at least one field"),
        ("source: {asset: a}\noutput: {a: {fields: {b: text}}}", r"output\.a\.b: 'text' is no type"),
        ("source: {asset: a}\noutput: {a: [yes, no]}", r"output\.a: the values are a list of texts, .* not \[True"),
        ("source: {asset: a}\noutput: {a: [low, 3]}", r"output\.a: the values are a list of texts, .* not \['low', 3"),
        ("source: {asset: a}\noutput: {a: {type: str, kind: b}}", r"output\.a: .*'kind' means nothing here"),
        ("source: {asset: a}\noutput: {a: {description: b}}", r"output\.a: .*it has none of them"),
        ("source: {asset: a}\noutput: {a: 3}", r"output\.a: a field is a type"),
        ("source: {asset: a}\noutput: {_a: str}", "output: '_a' is no name"),
        ("source: {asset: a}\noutput: {Config: str}", r"output\.Config: a column cannot have this name"),
        ("source: {asset: a}\noutput: {a: {fields: {model_dump: str}}}", r"output\.a\.model_dump: a column cannot"),
        ("source: {asset: a}\npartitions: {type: daily}", "'daily' need `start`"),
        ("source: {asset: a}\npartitions: {type: static, keys: [a], start: b}", "'static' have no `start`"),
        ("source: {asset: a}\npartitions: {type: multi, dimensions: {a: {type: static}}}", r"partitions\.a: .*`keys`"),
        ("source: {asset: a}\nasset_attributes: {skippable: true}", "`skippable` is none that a batch asset has"),
        ("source: {asset: a}\ntemplate: hello", "names no column"),
        ("source: {asset: a}\nkye: id", "Extra inputs are not permitted"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_refused(text: str, message: str) -> None:
    """When the code location loads, with the place in the file."""
    with (
        pytest.raises((ComponentTreeException, ResolutionException, ValidationError)) as caught,
        loaded(attributes(text)),
    ):
        pass
    told = "\n".join(map(str, _chain(caught.value)))
    assert re.search(message, told, re.DOTALL)
    assert "defs.yaml" in told


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_rows_that_cannot_be_read_fail_the_run(batch_server: LocalServer, tmp_path: Path) -> None:
    """With the file or the query in the error, and nothing sent."""
    for source, message in (
        ("{file: 'no/*.csv'}", "There is no file"),
        ("{sql: select nothing}", "query of the source fails"),
        ("{sql: \"select cast('a' || range as int) as body from range(9)\"}", "The query of frame 0 of"),
    ):
        with loaded(attributes(f"source: {source}")) as defs:
            run = project(batch_server, tmp_path / source[1:4], defs).run("triage_submission")
            assert message in failure(run)
    assert batch_server.batches() == []


def test_checks_are_chosen(batch_server: LocalServer, tmp_path: Path) -> None:
    """Each with its bound and its severity; what is no check is refused."""
    said = """
        source: {asset: tickets}
        template: "{{ body }}"
        output: {sentiment: [positive, neutral, negative]}
        checks:
          - {rate: refusal, at_most: 0.01, severity: error}
          - {drift: sentiment, at_most: 0.3}
          - {cost: usd, at_most: 5}
    """
    with loaded(attributes(said)) as defs:
        project = Project(batch_server, tmp_path, [tickets, *(defs.assets or ())])
        names = {key.name for key in project.defs.resolve_asset_graph().asset_check_keys}
    assert names >= {"refusal_rate", "sentiment_drift", "cost", "every_row_is_there"}
    for wrong in ({"at_most": 1}, {"rate": "refusal", "cost": "usd", "at_most": 1}):
        with pytest.raises(ComponentTreeException) as error, loaded(attributes(said, checks=[wrong])):
            pass
        assert "one of rate, drift and cost" in str(error.value.__cause__)


def test_both_assets_are_translated() -> None:
    """By templates that know which of the two it is; what `asset_attributes` say stands before."""
    text = """
source: {asset: a}
asset_attributes: {group_name: before, owners: [team:data]}
translation:
  group_name: llm
  key_prefix: answers
  tags: {role: "{{ role }}", model: "{{ model }}"}
"""
    with loaded(attributes(text)) as defs:
        specs = {spec.key.to_user_string(): spec for one in assets(defs) for spec in one.specs}
    table, sending = specs["answers/triage"], specs["answers/triage_submission"]
    assert (table.group_name, table.tags["role"], table.owners) == ("llm", "table", ["team:data"])
    assert (sending.group_name, sending.tags["role"], sending.tags["model"]) == ("llm", "submission", "gpt-4o-mini")


@pytest.mark.parametrize(
    ("said", "where"),
    [
        ("{code_version: '2'}", "`code_version` is none .* in `asset_attributes`"),
        ("{deps: [b]}", "`deps` is none .* in `asset_attributes`"),
        ("{skippable: true}", "`skippable` is none"),
        ("{partitions_def: {type: daily, start_date: '2026-01-01'}}", "`partitions_def` is none .* in `partitions`"),
        (
            "{automation_condition: '{{ dg.AutomationCondition.eager() }}'}",
            "`automation_condition` is none .* in `asset_attributes`",
        ),
    ],
)
def test_a_translation_without_effect_is_refused(said: str, where: str) -> None:
    """With the place where it has one."""
    text = f"source: {{asset: a}}\ntranslation: {said}"
    with pytest.raises(ComponentTreeException) as error, loaded(attributes(text)):
        pass
    assert re.search(where, str(error.value.__cause__))


def test_a_key_that_is_translated_is_the_tables() -> None:
    """Its submission follows it, though the same was said of both."""
    with loaded(attributes("source: {asset: a}\ntranslation: {key: answers/mine}")) as defs:
        keys = {spec.key.to_user_string() for one in assets(defs) for spec in one.specs}
    assert keys == {"answers/mine", "answers/mine_submission"}


def test_an_upstream_may_have_a_prefix() -> None:
    """Its parts are joined by `/`, as Dagster writes a key."""
    with loaded(attributes("source: {asset: raw/tickets}\ntemplate: '{{ body }}'")) as defs:
        (submission, _) = assets(defs)
    assert {dep.asset_key for spec in submission.specs for dep in spec.deps} == {dg.AssetKey(["raw", "tickets"])}


def test_tools_and_endpoints_are_named(batch_server: LocalServer, tmp_path: Path) -> None:
    """Tools by their dotted paths."""
    said = "source: {asset: tickets}\ntemplate: '{{ body }}'\ntools: [tests.test_component.Triage]"
    with loaded(attributes(said, extra={"tool_choice": "required"})) as defs:
        project = Project(batch_server, tmp_path, [tickets, *(defs.assets or ())])
        assert project.run("tickets", "triage_submission").success
        project.land()
    calls = [len(one) for one in project.load("triage", kind=pa.Table)["triage"].to_pylist()]
    assert calls == [1, 1, 1]
    with pytest.raises(ComponentTreeException) as error, loaded(attributes(said.replace("Triage", "Nothing"))):
        pass
    assert "tools: 'tests.test_component.Nothing' cannot be imported" in str(error.value.__cause__)
    with loaded(attributes("source: {asset: tickets}\nendpoint: moderations\ntemplate: '{{ body }}'")) as defs:
        project = Project(batch_server, tmp_path / "flags", [tickets, *(defs.assets or ())])
        assert project.run("tickets", "triage_submission").success
        project.land()
    assert project.load("triage")["flagged"].tolist() == [False] * 3
