"""On what it was measured, and with what."""

from __future__ import annotations

import datetime as dt
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import ours


def machine(folder: Path | None) -> dict[str, Any]:
    """The processor, the memory, the disk of the data, the versions, and how busy it was when it began."""
    where = folder or Path(tempfile.gettempdir())
    where.mkdir(parents=True, exist_ok=True)
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "processor": _value(Path("/proc/cpuinfo"), "model name"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_value(Path("/proc/meminfo"), "MemTotal").split()[0]) * 1024 / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": _file_system(where.resolve()),
        "free_gb": round(shutil.disk_usage(where).free / 1e9),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": dict(ours.versions()),
    }


def _value(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _file_system(folder: Path) -> str:
    """The kind of the file system that the folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    fitting = [(len(point), kind) for point, kind in mounts if folder.is_relative_to(point)]
    return max(fitting)[1]
