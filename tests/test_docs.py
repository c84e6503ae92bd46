"""The pages of the documentation are run as they stand."""

from __future__ import annotations

import re
import sys
import types
from ast import literal_eval
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ractobatch_dagster import OpenAIBatchResource
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.results.answers import Answers

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def blocks(page: str) -> list[str]:
    """The Python of a page, block by block."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, in a folder of its own, without a key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    names: dict[str, Any] = {"__name__": "tickets"}
    for block in blocks("tutorial.md"):
        exec(compile(block, "docs/tutorial.md", "exec", dont_inherit=True), names)
    assert "3 rows to ask" in str(names["preview"])


def test_the_page_of_prompts_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Likewise; its previews ask what the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    names: dict[str, Any] = {"__name__": "prompts"}
    for block in blocks("prompts.md"):
        exec(compile(block, "docs/prompts.md", "exec", dont_inherit=True), names)
    said = capsys.readouterr().out.splitlines()
    assert said[:3] == [
        "gpt-4.1 Answer the ticket.",
        "gpt-4o-mini Answer the ticket.",
        "gpt-4.1 Beantworte die Anfrage.",
    ]
    assert any(line.split() == ["user_message", "Yes."] for line in said)


@pytest.mark.parametrize("page", ["providers.md", "deploying.md"])
def test_resources_of_a_page_can_be_made(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as it stands; Azure's own package is not needed for that."""
    identity = types.SimpleNamespace(
        DefaultAzureCredential=lambda: "somebody", get_bearer_token_provider=lambda who, scope: lambda: f"{who} {scope}"
    )
    monkeypatch.setitem(sys.modules, "azure", types.ModuleType("azure"))
    monkeypatch.setitem(sys.modules, "azure.identity", identity)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        exec(compile(block, f"docs/{page}", "exec", dont_inherit=True), names)
    made = [one for one in names.values() if isinstance(one, OpenAIBatchResource)]
    assert made
    kinds = {name: one.get_provider().profile.kind for name, one in names.items() if name == "azure_by_identity"}
    assert set(kinds.values()) <= {"azure"}
    assert page != "providers.md" or kinds


def test_the_page_of_endpoints_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The vectors have the length that the page says, and responses are answered."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    names: dict[str, Any] = {"__name__": "endpoints"}
    for block in blocks("endpoints.md"):
        exec(compile(block, "docs/endpoints.md", "exec", dont_inherit=True), names)
    vector, *flags, reasons = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"list<\w+: float>", vector)
    assert any("self_harm_intent: bool" in line for line in flags)
    assert any("self_harm_intent: double" in line for line in flags)
    assert reasons == "['stop', 'stop']"
    drawn = names["pictures"].estimate(names["resource"], {"tickets": names["TICKETS"]}, inputs=Path("drawn"))
    assert drawn.requests == 2
    assert b'"prompt":"A drawing of this: I love it."' in Path("drawn/00000.jsonl").read_bytes()
    feelings = names["feelings"].preview(names["resource"], {"tickets": names["TICKETS"]}, rows=2)
    assert feelings.table["llm_status"].to_pylist() == ["ok", "ok"]
    assert feelings.requests[0]["max_output_tokens"] == 2_000


def test_the_page_of_costs_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its estimate has a price and an error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    names: dict[str, Any] = {"__name__": "costs"}
    for block in blocks("cost.md"):
        exec(compile(block, "docs/cost.md", "exec", dont_inherit=True), names)
    said = capsys.readouterr().out
    assert "1,000 rows: 1,000 to ask in 1 batch" in said
    assert "±" in said
    assert "with answers of the most tokens: 50,000 more" in said
    assert names["bounded"].budgets[2].per == "submission"


def test_the_answers_of_the_page_are_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each way of saying it has the types that the table below names; calls and choices come as the page says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    names: dict[str, Any] = {"__name__": __name__}
    for block in blocks("answers.md"):
        exec(compile(block, "docs/answers.md", "exec", dont_inherit=True), names)
    refunds, choices = capsys.readouterr().out.splitlines()
    assert [one and one[0].keys() for one in literal_eval(refunds)] == [{"order", "reason"}, None]
    assert choices == "[3, 3]"
    assert names["done"]["ask_back"].to_pylist()[0] is None
    assert names["voted"]["choices"].to_pylist()[0][2]["output"]["sentiment"]
    assert names["voted"]["logprobs"].null_count == 0
    types = {
        name: [str(field.type) for field in Answers(names[name].spec.template.output_type).fields]
        for name in ("triage", "complaints", "visits")
    }
    assert types == {
        "triage": ["dictionary<values=string, indices=int32, ordered=0>", "int64", "list<item: string>"],
        "complaints": ["list<item: struct<name: string, broken: bool>>", "double"],
        "visits": ["timestamp[us, tz=UTC]", "int64", "struct<city: string>"],
    }


def functions(page: str) -> dict[str, Callable[..., None]]:
    """The test functions of a page, by name."""
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, f"docs/{page}", "exec", dont_inherit=True), names)
    return {name: thing for name, thing in names.items() if name.startswith("test_")}


@pytest.mark.parametrize("name", functions("testing.md"))
def test_a_test_of_the_page_passes(batch_server: LocalServer, tmp_path: Path, name: str) -> None:
    """As somebody would copy it."""
    functions("testing.md")[name](batch_server, tmp_path)


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    """To a file of the repository, or out into the world."""
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", (DOCS / page).read_text(encoding="utf-8")):
        assert target.startswith("http") or (DOCS / target).exists(), target
