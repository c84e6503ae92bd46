"""The demo: what it prints, what it asks of Dagster, and that it leaves nothing behind."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pandas as pd
import pytest

from example_project.demo import Progress, checks_line, preview, sent_line, summary
from example_project.graphql import Check, Landed
from example_project.services import ROOT, Home
from ractobatch_dagster.store import Store
from ractobatch_dagster.submission.files import TableFiles

LOCAL_TABLE = Path("tables/review_labels")


def run_demo(home: Path, *arguments: str, **environ: str) -> subprocess.Popen[str]:
    """The demo as its own process, all it writes below `home`."""
    given = {
        **os.environ,
        "RACTOBATCH_DEMO_HOME": str(home / "demo"),
        "RACTOBATCH_STORE": str(home / "store"),
        "RACTOBATCH_ROWS": "40",
        "PYTHONUNBUFFERED": "1",
        **environ,
    }
    command = [sys.executable, "-m", "example_project.demo", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left_behind(home: Path) -> list[str]:
    """The processes that still run with this demo's environment, the local batch server among them."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(home / "demo").encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:100])
        except OSError:
            continue
    return found


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What the process prints up to the line with these words."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without {words!r}:\n{said}")


@pytest.fixture
def demo(tmp_path: Path) -> Generator[Callable[..., subprocess.Popen[str]], None, None]:
    """Starts demos on a folder of their own; in the end none of their processes is left."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environ: str) -> subprocess.Popen[str]:
        started.append(run_demo(tmp_path, *arguments, **environ))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)
    assert left_behind(tmp_path) == []


def table(**columns: object) -> pd.DataFrame:
    given = {
        "review_id": ["1", "2"],
        "review": ["Works well.\n\nNo complaints at all so far, and I have taken it for two years.", "Made me dizzy."],
        "sentiment": ["positive", "negative"],
        "rating": ["positive", "positive"],
        "side_effects": [[], ["dizziness", "nausea"]],
        "llm_status": ["ok", "ok"],
        "llm_reused": [False, True],
        "llm_prompt_tokens": [100, 0],
        "llm_completion_tokens": [20, 0],
        "llm_cost_usd": [0.0002, 0.0],
    }
    return pd.DataFrame({**given, **columns})


def sent(rows: int, requests: int, submission: str, partition: str) -> Landed:
    metadata: dict[str, str | int] = {"rows": rows, "requests": requests, "batches": 1}
    return Landed("review_labels_submission", partition, {"ractobatch/submission": submission, **metadata})


def test_a_submission_is_counted_once_however_many_partitions_it_has() -> None:
    """Rows add up over partitions, requests over submissions."""
    line = sent_line([sent(10, 29, "a", "2008"), sent(20, 29, "a", "2009"), sent(5, 5, "b", "2010")])
    assert line == "35 rows: 34 requests in 2 batches"


def test_nothing_sent_is_said() -> None:
    """Where all answers were there, the line says that none was asked for again."""
    assert sent_line([sent(300, 0, "a", "2008")]).startswith("300 rows, 0 asked again")


def test_checks_that_did_not_pass_are_named() -> None:
    """Numbers first, then the names of the others."""
    checks = [Check("a", "passed", "r"), Check("b", "warned", "r"), Check("c", "passed", "r")]
    assert checks_line(checks) == "checks: 2 passed, 1 warned (b)"
    assert checks_line([]) == "checks: none"


def test_preview_takes_the_columns_that_are_there_and_keeps_a_row_on_its_line() -> None:
    """A file of one's own may lack columns; long text is cut, lists are joined."""
    lines = preview(table()).splitlines()
    assert len(lines) == 3
    assert "…" in lines[1]
    assert "dizziness, nausea" in lines[2]
    assert "drug" not in lines[0]


def test_summary_counts_statuses_tokens_and_cost() -> None:
    """It holds what a table's llm columns add up to."""
    text = "\n".join(summary(table(llm_status=["ok", "refused"])))
    assert "2: 1 ok, 1 refused" in text
    assert "100 in, 20 out" in text
    assert "0.0002 USD" in text
    assert "50.0% of 2" in text
    assert "not known" not in text


def test_summary_says_that_prices_are_not_known() -> None:
    """A row without a price is told, not counted as free."""
    assert "the price of 1 rows is not known" in "\n".join(summary(table(llm_cost_usd=[None, 0.1])))


def test_progress_repeats_no_line_where_there_is_no_terminal() -> None:
    """A log gets a line when something changes, not at each poll."""
    out = io.StringIO()
    progress = Progress(out)
    for text in ("waiting", "waiting", "going on"):
        progress.pause(text, 0)
    progress.done("over")
    assert [line.split(" s ")[1].strip() for line in out.getvalue().splitlines()] == ["waiting", "going on", "✓ over"]


def test_two_demos_do_not_share_a_folder(tmp_path: Path, demo: Callable[..., subprocess.Popen[str]]) -> None:
    """The second one ends at once and says why; it would wipe the first one's Dagster home."""
    with Home(tmp_path / "demo").reserved():
        process = demo()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "at work in" in said


def test_a_missing_input_ends_the_demo_with_the_reason(demo: Callable[..., subprocess.Popen[str]]) -> None:
    """Nothing is started for an input that is not there."""
    process = demo(RACTOBATCH_INPUT="no/such/file.csv")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "`RACTOBATCH_INPUT` names 'no/such/file.csv', which is no file." in said


def test_the_ui_needs_a_demo(demo: Callable[..., subprocess.Popen[str]]) -> None:
    """Before the first demo there is nothing to show, and `make ui` says what to do."""
    process = demo("--ui")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "run `make demo` first" in said


@pytest.mark.integration
def test_the_demo_lands_its_table_twice_and_the_ui_shows_it(
    tmp_path: Path, demo: Callable[..., subprocess.Popen[str]]
) -> None:
    """The whole of it: 40 rows land, a second demo asks nothing again, the UI comes up and stops with exit code 0."""
    process = demo()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "40 rows: 40 requests" in said
    files = list((tmp_path / "store" / LOCAL_TABLE).glob("*.parquet"))
    assert sum(len(pd.read_parquet(file)) for file in files) == 40
    assert left_behind(tmp_path) == []

    process = demo()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "40 rows, 0 asked again" in said
    assert left_behind(tmp_path) == []

    process = demo("--ui")
    read_until(process, "UI is at http://127.0.0.1:")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_is_gone_on_with(
    number: signal.Signals, tmp_path: Path, demo: Callable[..., subprocess.Popen[str]]
) -> None:
    """Stopped right after the submission, it leaves no process, and the next demo lands what was sent."""
    process = demo()
    read_until(process, "40 requests in 1 batch")
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "goes on with it" in said
    assert left_behind(tmp_path) == []

    process = demo()
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    # the sensor may land it before the second run submits, which then has nothing left to ask
    table = TableFiles(Store(tmp_path / "store"), "review_labels")
    names = [name for name in table.store.folders("submissions/review_labels") if name != "log"]
    assert sum(table.submission(name).state().requests for name in names) == 40


@pytest.mark.integration
def test_a_service_that_ends_ends_the_demo(tmp_path: Path, demo: Callable[..., subprocess.Popen[str]]) -> None:
    """Where the daemon is gone nothing would ever land, so the demo fails and says where the log is."""
    process = demo()
    read_until(process, "code are up")
    daemon = next(
        path
        for path in Path("/proc").glob("[0-9]*")
        if _mentions(path / "environ", str(tmp_path / "demo")) and _mentions(path / "cmdline", "dagster-daemon")
    )
    os.kill(int(daemon.name), signal.SIGKILL)
    started = time.monotonic()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "dagster-daemon ended with code -9" in said
    assert time.monotonic() - started < 30


def _mentions(path: Path, words: str) -> bool:
    try:
        return words.encode() in path.read_bytes()
    except OSError:
        return False
