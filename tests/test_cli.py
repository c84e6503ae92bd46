"""The command `ractobatch`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import openai
import pytest

from ractobatch_dagster import cli
from ractobatch_dagster._version import __version__


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ractobatch_dagster.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_version_and_help_are_shown(capsys):
    """Both end with 0."""
    for arguments, expected in (
        (["--version"], __version__),
        (["--help"], "serve"),
        (["serve", "--help"], "--seconds"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 0
        assert expected in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    """The command line answers before anything large is imported."""
    code = (
        "import sys, contextlib\nfrom ractobatch_dagster import cli\n"
        "with contextlib.suppress(SystemExit): cli.main(['--help'])\n"
        "heavy = {'dagster', 'pandas', 'openai', 'pyarrow', 'uvicorn', 'starlette', 'vaderSentiment'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "heavy: []" in done.stdout


def test_no_command_is_an_error():
    """It says what there is, and ends with 2."""
    done = run()
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


def test_others_cannot_reach_a_server_without_a_key(tmp_path: Path, capsys):
    """Any address but loopback needs a key of the user's own."""
    assert cli.main(["serve", "--folder", str(tmp_path), "--host", "0.0.0.0"]) == 1
    assert "--api-key" in capsys.readouterr().err


def test_a_bad_upstream_is_an_error(tmp_path: Path, capsys):
    """It is said in one line, without a traceback."""
    assert cli.main(["serve", "--folder", str(tmp_path), "--upstream", "nonsense"]) == 1
    assert capsys.readouterr().err.startswith("ractobatch: The upstream must be")


def test_a_taken_port_is_an_error(tmp_path: Path, capsys, batch_server):
    """So is a port that another program has."""
    port = batch_server.base_url.rpartition(":")[2].removesuffix("/v1")
    assert cli.main(["serve", "--folder", str(tmp_path / "other"), "--port", port]) == 1
    assert "cannot listen" in capsys.readouterr().err


def test_serve_says_how_to_reach_it(tmp_path: Path):
    """What it prints is enough for a client, and it ends when it is told to."""
    command = [sys.executable, "-m", "ractobatch_dagster.cli", "serve", "--folder", str(tmp_path), "--api-key", "mine"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = [process.stdout.readline().strip() for _ in range(3)]
        variables = dict(line.removeprefix("export ").split("=", 1) for line in shown[1:])
        client = openai.OpenAI(base_url=variables["OPENAI_BASE_URL"], api_key=variables["OPENAI_API_KEY"])
        assert variables["OPENAI_API_KEY"] == "mine"
        assert list(client.batches.list()) == []
        process.terminate()
        assert process.wait(15) in (0, -15)
