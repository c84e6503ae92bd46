"""Builds an environment for each peer: `python -m benchmarks.peers.install FOLDER [PEER ...]`.

Each is a virtual environment below the folder, with what the peer's `requirements.txt` names. One that needs another
Python than this takes it from the search path, or is left out where there is none.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = ("ractogateway", "llm_batch_py", "gpt_batch_api", "steadybatch", "curator")
HERE = ("ours", "bare")
"""What runs beside them and needs no environment of its own: the package, and the steps that none can leave out."""
_PYTHONS = {"gpt_batch_api": ("python3.12", "python3.13", "python3.14")}
_HERE = Path(__file__).parent


def python_of(folder: Path, peer: str) -> Path | None:
    """The interpreter of a peer's environment, if it was built."""
    python = folder / peer / "bin" / "python"
    return python if (folder / peer / "_done").exists() else None


def install(folder: Path, peer: str) -> None:
    """Build one environment, unless it is there."""
    if python_of(folder, peer) is not None:
        return
    target, base = folder / peer, _base(peer)
    if base is None:
        print(f"{peer}: left out, there is none of {', '.join(_PYTHONS[peer])}", file=sys.stderr)
        return
    subprocess.run([base, "-m", "venv", "--clear", str(target)], check=True)
    requirements = str(_HERE / peer / "requirements.txt")
    command = [str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, "--requirement", requirements], check=True)
    (target / "_done").touch()


def _base(peer: str) -> str | None:
    if peer not in _PYTHONS:
        return sys.executable
    found = (shutil.which(name) for name in _PYTHONS[peer])
    return next((path for path in found if path and _runs(path)), None)


def _runs(python: str) -> bool:
    """Whether it is an interpreter, and not the stand-in of a version manager that has no such version."""
    return subprocess.run([python, "--version"], capture_output=True, check=False).returncode == 0


def main() -> None:
    """Build what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("peers", nargs="*", default=PEERS, metavar="PEER", help=f"of {', '.join(PEERS)}")
    given = parser.parse_args()
    for peer in given.peers:
        install(given.folder, peer)


if __name__ == "__main__":
    main()
