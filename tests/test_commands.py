"""The commands that look at a root and after it, as somebody at a terminal meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pandas as pd
import pytest

from ractobatch_dagster import cli
from ractobatch_dagster.local import LocalServer
from ractobatch_dagster.store import Store, table_name
from ractobatch_dagster.submission.budget import Ledger, budget_log
from ractobatch_dagster.submission.files import TableFiles
from ractobatch_dagster.submission.log import Log
from ractobatch_dagster.submission.plan import KEY
from ractobatch_dagster.submission.quota import Counted
from ractobatch_dagster.tending import gc
from tests.project import Project
from tests.test_assets import ASSETS

DAY = 86_400.0


@pytest.fixture
def project(batch_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project whose root and account the command line knows from the environment."""
    made = Project(batch_server, tmp_path, ASSETS)
    monkeypatch.setenv("RACTOBATCH_ROOT", str(made.resource.root))
    monkeypatch.setenv("OPENAI_BASE_URL", batch_server.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", batch_server.api_key)
    return made


@pytest.fixture
def ractobatch(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command: its exit status and what it shows."""

    def run(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        status = cli.main(list(arguments))
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return run


def findings(shown: str) -> dict[str, list[dict[str, Any]]]:
    """What a command with --json says, by what was looked at."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in shown.splitlines():
        if line.startswith("{"):
            one = json.loads(line)
            found.setdefault(one["what"], []).append(one)
    return found


def test_submissions_are_listed(project: Project, ractobatch: Any) -> None:
    """Those that are open, and with --all those that have landed as well; for people and for machines."""
    assert ractobatch("submissions") == (0, "Nothing is open.\n")
    project.run("texts", "labels_submission")
    (state,) = project.submissions("labels")
    status, shown = ractobatch("submissions")
    assert status == 0
    assert shown.startswith(f"labels  {state.id}  open  3 rows, gpt-4o-mini: 0 of 1 batches ended")
    project.land()
    assert ractobatch("submissions", "--json") == (0, "[]\n")
    project.run("labels_submission")
    (one, two) = json.loads(ractobatch("submissions", "--all", "--json", "--asset", "labels")[1])
    assert [one["standing"], two["standing"]] == ["landed", "open"]
    assert (one["rows"], one["batches"], one["answered"]) == (3, 1, 3)
    project.land()
    standings = [row["standing"] for row in json.loads(ractobatch("submissions", "--all", "--json")[1])]
    assert standings == ["superseded", "landed"]


def test_one_is_shown_whole(project: Project, ractobatch: Any) -> None:
    """By its id or its table's name: batches, files, where it is stored."""
    project.run("texts", "labels_submission")
    (state,) = project.submissions("labels")
    status, shown = ractobatch("show", "labels")
    assert status == 0
    assert f"0  {state.batches[0].batch_id}  running, 0 of 3 answered" in shown
    data = json.loads(ractobatch("show", state.id, "--json")[1])
    assert data["batch_list"][0]["input_file_id"] == state.batches[0].file_id
    assert Path(data["stored_at"]).is_dir()
    status, shown = ractobatch("show", "nothing")
    assert status == 1
    assert "no submission 'nothing'" in shown


def test_what_is_open_is_followed_to_its_end(
    project: Project, ractobatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for each change, until everything has landed."""
    assert ractobatch("watch") == (0, "Nothing is open.\n")
    project.run("texts", "labels_submission")
    monkeypatch.setattr("time.sleep", lambda seconds: project.land())  # what happens between two looks
    status, shown = ractobatch("watch", "--json")
    assert status == 0
    lines = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
    assert [line["answered"] for line in lines] == [0, 3]
    assert lines[-1]["progress"] == "everything is collected"


def test_bars_are_drawn(project: Project, ractobatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal, one for each submission."""
    project.run("texts", "labels_submission")
    monkeypatch.setattr("time.sleep", lambda seconds: project.land())
    status, shown = ractobatch("watch", "--asset", "labels")
    assert status == 0
    assert "3/3" in shown
    assert "collected" in shown


def test_the_doctor_finds_what_is_well(project: Project, ractobatch: Any) -> None:
    """Store, clock, key, queue, sensor, and what is open."""
    project.run("texts", "labels_submission")
    project.tick()
    status, shown = ractobatch("doctor", "--json")
    found = findings(shown)
    assert status == 0, shown
    assert set(found) == {"store", "clock", "key", "quota", "sensor", "late"}
    assert all(one["well"] for ones in found.values() for one in ones)
    assert "looked 0 s ago, after 1 tables" in ractobatch("doctor")[1]


def test_the_doctor_finds_what_is_not(project: Project, ractobatch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that is none, and a table that no sensor looks after; it looks at the rest all the same."""
    project.run("texts", "labels_submission")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong")
    status, shown = ractobatch("doctor", "--json")
    assert status == 1
    wrong = {what: [one["text"] for one in ones if not one["well"]] for what, ones in findings(shown).items()}
    assert wrong["sensor"] == ["labels: no sensor has ever looked after it in this store"]
    assert len(wrong["key"]) == 1
    assert "sk-wrong" not in shown
    assert wrong["store"] == wrong["late"] == []
    monkeypatch.delenv("OPENAI_API_KEY")
    status, shown = ractobatch("doctor")
    assert status == 1
    assert "Set OPENAI_API_KEY" in shown


def test_batches_that_only_one_side_knows_are_found(
    tmp_path: Path, ractobatch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One too many, one that is about to be written down, one that is gone, and those of another root."""
    with LocalServer(tmp_path / "server", seconds=600) as server:
        project = Project(server, tmp_path, ASSETS)
        monkeypatch.setenv("RACTOBATCH_ROOT", str(project.resource.root))
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", server.api_key)
        project.run("texts", "labels_submission")
        (state,) = project.submissions("labels")
        assert ractobatch("reconcile")[0] == 0
        for key in (f"{state.id}/0/9", "20200101T000000000-00000000/0/0"):
            project.resource.get_provider().client.batches.create(
                input_file_id=str(state.batches[0].file_id),
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={KEY: key},
            )
        status, shown = ractobatch("reconcile", "--json")
        found = findings(shown)
        assert status == 1
        assert [one["well"] for one in found["one more"]] == [False]
        assert found["foreign"][0]["text"].startswith("1 batches")
        assert found["known"][0]["text"].startswith("1 batches")
        files = TableFiles(Store(project.resource.root), "labels").submission(state.id)
        files.change(lambda _: {0: msgspec.structs.replace(state.batches[0], batch_id=None)})
        status, shown = ractobatch("reconcile", "--json")
        assert status == 0
        assert [one["well"] for one in findings(shown)["being made"]] == [True, True]
        files.change(lambda _: {0: msgspec.structs.replace(state.batches[0], batch_id="batch_gone")})
        status, shown = ractobatch("reconcile", "--json")
        assert status == 1
        assert "batch_gone" in findings(shown)["gone"][0]["text"]


def test_what_cannot_be_read_is_told_and_stops_no_list(project: Project, ractobatch: Any) -> None:
    """A torn log: the list says so, the doctor too, and nothing is deleted where an open submission may need it."""
    for _ in range(2):
        project.run("texts", "labels_submission")
        project.land()
    project.run("labels_submission")
    old, _, new = project.submissions("labels")
    store, later = Store(project.resource.root), new.created_at + 31 * DAY
    (project_log,) = Path(project.resource.root).glob(f"submissions/labels/{new.id}/log")
    for path in project_log.iterdir():
        path.write_bytes(b"torn")
    status, shown = ractobatch("submissions", "--all")
    assert status == 1
    assert shown.count("labels  ") == 3
    assert not all(one["well"] for one in findings(ractobatch("doctor", "--json")[1])["unreadable"])
    ledger, version = budget_log(store), None
    for _ in range(101):
        version = ledger.commit(version, Ledger())
    (only,) = gc(store, None, days=30, really=True, now=later)
    assert not only.well
    assert Path(project.resource.root, "submissions", "labels", old.id).is_dir()
    assert ledger.outdated() == 1


def test_what_is_no_longer_needed_is_deleted(project: Project, ractobatch: Any) -> None:
    """Superseded submissions in the store, files of landed ones at the provider; nothing that a table stands for."""
    project.run("texts", "labels_submission")
    project.land()
    project.run("labels_submission")
    project.land()
    old, new = project.submissions("labels")
    assert ractobatch("gc") == (0, "There is nothing to do.\n")
    store, provider = Store(project.resource.root), project.resource.get_provider()
    later = new.created_at + 31 * DAY

    def collected(**options: Any) -> list[str]:
        given = {"days": 30, "really": False, "now": later, **options}
        return [one.text for one in gc(store, provider, **given)]

    said = collected()
    assert len(said) == 1
    assert all(text.startswith("would delete") for text in said)
    assert len(project.submissions("labels")) == 2
    assert collected(days=40) == []
    assert [text.split()[0] for text in collected(really=True)] == ["deleted"]
    assert [one.id for one in project.submissions("labels")] == [new.id]
    assert project.load("labels")["llm_status"].tolist() == ["ok"] * 3
    project.run("labels_submission")  # what was paid for is still there to be taken over
    project.land()
    assert project.load("labels")["llm_reused"].tolist() == [True] * 3
    assert old.id != new.id


def test_files_of_a_landed_submission_go(project: Project) -> None:
    """At the provider, input and output; the answers stay in the store."""
    project.run("texts", "labels_submission")
    store, provider = Store(project.resource.root), project.resource.get_provider()
    later = project.submissions("labels")[0].created_at + 31 * DAY
    assert list(gc(store, provider, days=30, really=True, now=later)) == []  # it is open
    project.land()
    assert len(list(provider.client.files.list())) == 2
    assert list(gc(store, None, days=30, really=True, now=later)) == []
    (found,) = gc(store, provider, days=30, really=True, now=later)
    assert "deleted 2 files of labels" in found.text
    assert list(provider.client.files.list()) == []
    assert list(gc(store, provider, days=30, really=True, now=later)) == []
    assert next(store.chunks(store_path(project)))


def store_path(project: Project) -> str:
    """Where the answers of the only batch are, verbatim."""
    (state,) = project.submissions("labels")
    return TableFiles(project.resource.store, "labels").submission(state.id).responses(state.batches[0])


def test_a_fresh_superseded_submission_stays(project: Project) -> None:
    """Whatever age is asked for: another process may be about to open it."""
    for _ in range(2):
        project.run("texts", "labels_submission")
        project.land()
    store = Store(project.resource.root)
    now = project.submissions("labels")[-1].created_at + 60
    assert list(gc(store, None, days=0, really=True, now=now)) == []


def test_a_batch_asset_is_previewed_from_files(project: Project, ractobatch: Any, tmp_path: Path) -> None:
    """By its name in a module, with what its function takes in a file."""
    frame = pd.DataFrame({"id": [1, 2], "text": ["I love it", "It hurts"]})
    frame.to_parquet(tmp_path / "texts.parquet")
    asked = ("preview", "tests.test_assets:labels", "--frame", f"texts={tmp_path / 'texts.parquet'}", "--rows", "1")
    status, shown = ractobatch(*asked)
    assert status == 0, shown
    assert "sentiment  positive" in shown
    assert "2 rows to ask: about" in shown
    data = json.loads(ractobatch(*asked, "--json", "--seed", "1")[1])
    assert len(data["rows"]) == 1
    assert data["rows_to_ask"] == 2
    assert project.server.batches() == []
    for wrong in ("tests.test_assets:nothing", "no_such_module:labels", "tests.test_assets:PROMPT"):
        status, shown = ractobatch("preview", wrong)
        assert (status, shown[:11]) == (1, "ractobatch:")


def test_a_module_of_the_current_folder_is_found(batch_server: LocalServer, tmp_path: Path) -> None:
    """By the installed command, which Python starts without that folder on its path."""
    (tmp_path / "mine.py").write_text(
        "import pandas as pd\n"
        "from ractobatch_dagster import batch_asset\n\n"
        "@batch_asset(model='gpt-4o-mini')\n"
        "def asked() -> pd.DataFrame:\n"
        "    return pd.DataFrame({'user_message': ['a']})\n"
    )
    command = [str(Path(sys.executable).parent / "ractobatch"), "preview", "mine:asked"]
    environ = {**os.environ, **batch_server.environ}
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "1 rows to ask" in done.stdout


def test_ledgers_are_pruned(project: Project, ractobatch: Any) -> None:
    """Of what budgets and queues were written down as, the last hundred versions stay."""
    project.run("texts", "labels_submission")
    project.land()
    store = Store(project.resource.root)
    queue = f"quota/{table_name('openai https://api.openai.com/v1')}/log"
    logs: list[Log[Any]] = [budget_log(store), Log(store, queue, Counted, prunable=True)]
    for log, state in zip(logs, (Ledger(), Counted()), strict=True):
        version = None
        for _ in range(130):
            version = log.commit(version, state)
    now = project.submissions("labels")[-1].created_at
    said = [one.text for one in gc(store, None, days=30, really=False, now=now)]
    assert [text.startswith("would delete 30 old versions in ") for text in said] == [True, True]
    assert ractobatch("gc", "--yes")[1].count("deleted 30 old versions") == 2
    assert [log.outdated() for log in logs] == [0, 0]
    assert list(gc(store, None, days=30, really=True, now=now)) == []
