"""Run the tests with several Pythons, each with the oldest and the newest versions that we say we support.

`make matrix` runs it and writes what came of it into README.md. Each combination has an environment of its own and
takes minutes. A Python that is not on this machine is left out, and its line in the table stays as it was.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import which

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
SHOWN = ("dagster", "openai", "pandas", "pyarrow", "pydantic")


@dataclass(frozen=True)
class Result:
    """What came of one combination."""

    python: str
    versions: str
    packages: dict[str, str]
    outcome: str

    @property
    def line(self) -> str:
        """A line of the table."""
        packages = [self.packages.get(one, "") for one in SHOWN]
        return f"| {' | '.join([self.python, self.versions, *packages, self.outcome])} |"


def combination(python: str, versions: str, uv: str) -> Result:
    """Install and test one combination."""
    with tempfile.TemporaryDirectory(prefix="matrix-") as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        inside = str(Path(folder) / "bin" / "python")
        resolution = ["--resolution", "lowest-direct"] if versions == "oldest" else []
        subprocess.run(
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                inside,
                *resolution,
                "--editable",
                ".[polars,local,ui]",
                "--group",
                "dev",
            ],
            check=True,
            cwd=ROOT,
        )
        said = subprocess.run([inside, "--version"], check=True, capture_output=True, text=True).stdout.split()[-1]
        listed = subprocess.run(
            [uv, "pip", "list", "--python", inside, "--format", "json"], check=True, capture_output=True, text=True
        )
        packages = {one["name"]: one["version"] for one in json.loads(listed.stdout)}
        run = subprocess.run(
            [inside, "-m", "pytest", "-q", "-n", "auto", "--maxprocesses=8", "-m", "not integration and not ui"],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        last = run.stdout.strip().splitlines()[-1] if run.stdout.strip() else run.stderr.strip()[-200:]
        print(run.stdout[-3_000:] if run.returncode else last, flush=True)
        return Result(said, versions, packages, _outcome(last, run.returncode))


def _outcome(last: str, code: int) -> str:
    counts = {word: number for number, word in re.findall(r"(\d+) (passed|failed|error|errors)\b", last)}
    if code == 0 and "passed" in counts:
        return f"{counts['passed']} passed"
    return ", ".join(f"{number} {word}" for word, number in counts.items()) or f"ended with {code}"


def wanted(pythons: list[str], versions: list[str]) -> Iterator[tuple[str, str]]:
    """Every combination of those Pythons that are there."""
    for name in pythons:
        path = which(name) or which(f"python{name}")
        if path is None or subprocess.run([path, "-c", ""], check=False, capture_output=True).returncode:
            print(f"{name} is not on this machine", flush=True)
            continue
        for one in versions:
            yield path, one


def write(results: list[Result], page: Path) -> None:
    """Put the table between its two marks; combinations that were not run this time stay as they were."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    old, _, after = rest.partition(END)
    head = [f"| Python | versions | {' | '.join(SHOWN)} | tests |", "|---|---|" + "---|" * (len(SHOWN) + 1)]
    lines = {_key(line): line for line in old.splitlines() if re.match(r"\| 3\.", line)}
    lines |= {_key(result.line): result.line for result in results}
    table = "\n".join([*head, *(lines[key] for key in sorted(lines))])
    page.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def _key(line: str) -> tuple[int, str]:
    _, python, versions, *_ = (part.strip() for part in line.split("|"))
    return int(python.split(".")[1]), versions


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pythons", nargs="+", default=["3.11", "3.12", "3.13", "3.14"])
    parser.add_argument("--versions", nargs="+", default=["oldest", "newest"], choices=["oldest", "newest"])
    parser.add_argument("--write", type=Path, default=ROOT / "README.md")
    parser.add_argument("--uv", default=str(Path(sys.executable).parent / "uv"))
    given = parser.parse_args()
    results = []
    for python, versions in wanted(given.pythons, given.versions):
        print(f"{python}, {versions} ...", flush=True)
        results.append(combination(python, versions, given.uv))
        write(results, given.write)


if __name__ == "__main__":
    main()
