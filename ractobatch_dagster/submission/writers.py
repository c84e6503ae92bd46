"""Who sets out to create a batch, and whether that process is still there to report back."""

from __future__ import annotations

import os
import secrets
from functools import cache
from pathlib import Path

__all__ = ["is_dead", "new_writer"]


def new_writer() -> str:
    """The name of a writer: this process, where it can be known again from others on this machine, and a token."""
    here = _machine()
    return f"{here} {os.getpid()} {_started(os.getpid())} {secrets.token_hex(8)}" if here else secrets.token_hex(8)


def is_dead(writer: str) -> bool:
    """Whether a writer's process has surely ended. One on another machine, or of unknown kind, may live."""
    parts = writer.split(" ")
    if len(parts) != 4 or parts[0] != _machine():
        return False
    pid, started = int(parts[1]), parts[2]
    return _started(pid) != started


@cache
def _machine() -> str | None:
    """This boot of this machine, and the namespace of its process ids; `None` where there is no telling."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; `None` if there is none of this id."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else fields[19]
