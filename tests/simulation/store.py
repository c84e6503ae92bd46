"""The store in memory: every call an I/O that may fail, fail after its effect, or be the caller's last."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

from ractobatch_dagster.errors import StoreError
from ractobatch_dagster.store import Store
from tests.simulation.scheduler import Scheduler

__all__ = ["SimulatedStore", "StoreChances"]

T = TypeVar("T")


@dataclass(slots=True)
class StoreChances:
    """How likely a call fails: without effect, with its effect, and as a put that its own repetition finds."""

    fail: float = 0.0
    fail_after: float = 0.0
    repeated: float = 0.0


class SimulatedStore(Store):
    """A `Store` with the same verbs. As object stores are, it is atomic per object and reads see the newest."""

    def __init__(self, scheduler: Scheduler, chances: StoreChances, *, on_disk: bool = False) -> None:
        self.url = "sim://root"
        self.local_path = None
        self._proven = False
        self.on_disk = on_disk
        self.objects: dict[str, bytes] = {}
        self._scheduler = scheduler
        self._chances = chances

    def read(self, path: str) -> bytes | None:
        """As `Store.read`."""
        return self._io(f"read {path}", lambda: self._get(path))

    def open(self, path: str) -> IO[bytes]:
        """As `Store.open`."""
        return io.BytesIO(self._io(f"open {path}", lambda: self._must(path)))

    def chunks(self, path: str) -> Iterator[bytes]:
        """As `Store.chunks`, in two chunks."""
        data = self._io(f"read {path}", lambda: self._must(path))
        half = len(data) // 2
        yield data[:half]
        yield data[half:]

    def exists(self, path: str) -> bool:
        """As `Store.exists`."""
        return self._io(f"head {path}", lambda: path in self.objects)

    def clock(self) -> float:
        """As `Store.clock`: the store's own, or on a disk that of the machine."""
        return self._scheduler.clock() if self.on_disk else self._scheduler.now

    def write(self, path: str, data: bytes | Path) -> None:
        """As `Store.write`."""
        body = data.read_bytes() if isinstance(data, Path) else bytes(data)
        self._io(f"write {path}", lambda: self._put(path, body), effective=True)

    def take(self, path: str, file: Path) -> None:
        """As `Store.take`."""
        self.write(path, file)
        file.unlink()

    def delete(self, prefix: str) -> None:
        """As `Store.delete`: a list, then one half and the other, so that a machine that dies may leave some."""
        paths = self._io(f"list {prefix}", lambda: [f"{prefix}/{name}" for name in self._below(prefix)])
        half = len(paths) // 2

        def remove(some: list[str]) -> None:
            for path in some:
                self.objects.pop(path, None)

        for some in (paths[:half], paths[half:]):
            self._io(f"delete {len(some)} in {prefix}", lambda some=some: remove(some), effective=True)

    def create(self, path: str, data: bytes) -> bool:
        """As `Store.create`. A put whose reply was lost is repeated by the client, and finds its own object."""

        def put() -> bool:
            if path in self.objects:
                return False
            self._put(path, data)
            return not self._scheduler.happens(self._chances.repeated, "puts repeated")

        return self._io(f"create {path}", put, effective=True)

    def names(self, prefix: str) -> list[str]:
        """As `Store.names`."""
        return self._io(f"list {prefix}", lambda: sorted(name for name in self._below(prefix) if "/" not in name))

    def folders(self, prefix: str) -> list[str]:
        """As `Store.folders`."""
        below = self._io(f"list {prefix}", lambda: self._below(prefix))
        return sorted({name.partition("/")[0] for name in below if "/" in name})

    def _below(self, prefix: str) -> list[str]:
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        return [path.removeprefix(start) for path in self.objects if path.startswith(start)]

    def _get(self, path: str) -> bytes | None:
        return self.objects.get(path)

    def _must(self, path: str) -> bytes:
        data = self._get(path)
        if data is None:
            raise StoreError(f"Could not open {self.uri(path)}: it does not exist")
        return data

    def _put(self, path: str, data: bytes) -> None:
        self.objects[path] = data

    def _io(self, what: str, effect: Callable[[], T], *, effective: bool = False) -> T:
        def with_faults() -> T:
            if self._scheduler.happens(self._chances.fail, "store errors"):
                self._scheduler.note(f"{what}: FAILS")
                raise StoreError(f"Could not {what}: the store does not answer")
            result = effect()
            if effective:
                self._scheduler.note(f"{what}{'' if result is not False else ': ALREADY THERE'}")
                if self._scheduler.happens(self._chances.fail_after, "store replies lost"):
                    self._scheduler.note("  … and the reply is LOST")
                    raise StoreError(f"Could not {what}: the store's reply was lost")
            return result

        return self._scheduler.io(what, with_faults)
