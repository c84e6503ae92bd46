"""One place for logs, files and tables: a directory, `s3://`, `gs://`, `az://` or memory.

A thin face over obstore. It adds what the submission log rests on: a put that fails when the
object exists, made durable on local disk, and errors that never confuse "cannot read" with "is
not there".
"""

from __future__ import annotations

import datetime as dt
import errno
import io
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from ractobatch_dagster.errors import ConfigurationError, StoreError
from ractobatch_dagster.secrecy import MASK, holds_secret, redacted, secrets_in

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_BUFFER, _CHUNK = 1 << 20, 1 << 22
_CLOCK, _PROBE = "clock", "probe"
_SECRET_OPTION = re.compile("key|secret|token|password|sas|credential", re.IGNORECASE)
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")

_RETRY_TIMEOUT = dt.timedelta(seconds=30)
"""For how long obstore repeats a call; its own 180 s are more than a sensor's tick may take."""

_LOGIN = re.compile(r"(?<=://)[^/\s@:]*:[^/\s@]*(?=@)")
"""A name and a password in a URL; a name alone is a container (`abfss://container@account…`)."""

_CLIENT_OPTIONS = frozenset({"allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout"})

__all__ = ["Store", "StoreClock", "deployed", "partition_name", "table_name"]


def partition_name(key: str | None) -> str:
    """The partition key as one path segment; any key goes (`a/b`, `a|b`, empty). `None` is "no partitions".

    A `%` that starts no hexadecimal pair cannot come out of quoting, so the two special names are free.
    """
    if key is None:
        return "%unpartitioned"
    if not key.strip("."):  # `.` and `..` are names of folders
        return key.replace(".", "%2E") or "%empty"
    return quote(key, safe=" -_.~=,:@+")


def table_name(asset_key: str) -> str:
    """The asset key (its parts joined by `/`) as one path segment."""
    return quote(asset_key, safe="-_.")


class Store:
    """A root that holds everything the package keeps.

    Args:
        root: A local directory, or a URL: `file:///…`, `s3://bucket/prefix`, `gs://…`, `az://…`,
            `memory:///`. Two `Store`s of `memory:///` share nothing.
        options: Credentials and settings as obstore names them (for S3 for example
            `aws_access_key_id`, `aws_endpoint`, and `allow_http` for an endpoint without TLS); what is left out is
            read from the environment.
    """

    def __init__(self, root: str | os.PathLike[str], options: Mapping[str, str] | None = None) -> None:
        from obstore.store import from_url

        text = os.fspath(root)
        if not text:
            raise ConfigurationError(
                "The store's root is empty. Give a directory or a URL such as 's3://bucket/prefix'."
            )
        if not re.match(r"[a-z][a-z0-9+.-]+://", text):
            text = Path(text).expanduser().absolute().as_uri()
        self._given = text, dict(options or {})
        told = [value for name, value in (options or {}).items() if _SECRET_OPTION.search(name)]
        self._secrets = secrets_in([*told, *_LOGIN.findall(text)])
        self.url = _LOGIN.sub(MASK, text.rstrip("/"))
        self._proven = False
        self.local_path: Path | None = None
        try:
            if text.startswith("file://"):
                self.local_path = Path(unquote(text.removeprefix("file://")))
                self._store: ObjectStore = from_url(text, mkdir=True)
            else:
                config, client = _split(options or {})
                retry = {"retry_timeout": _RETRY_TIMEOUT}
                self._store = from_url(text, config=config, client_options=client, retry_config=retry)  # type: ignore[call-overload]
        except Exception as error:  # noqa: BLE001 (obstore raises its own bases, ValueError and OSError here)
            said = redacted(_first_line(error), self._secrets)
            cause = None if holds_secret(error, self._secrets) else error
            raise ConfigurationError(f"The store's root {self.url!r} cannot be used: {said}") from cause

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, self._given  # another process opens its own

    def uri(self, path: str) -> str:
        """Where the object is, for people and for other tools: a plain path on local disk, a URL elsewhere."""
        return str(self.local_path / path) if self.local_path else f"{self.url}/{path}"

    def read(self, path: str) -> bytes | None:
        """The object's bytes, or `None` if it does not exist.

        Raises:
            StoreError: It could not be read; it may well exist.
        """
        import obstore

        try:
            with self._doing("read", path, passing=FileNotFoundError):
                return obstore.get(self._store, path).bytes().to_bytes()
        except FileNotFoundError as error:
            if any(code in str(error) for code in _NO_BUCKET):
                raise StoreError(f"Could not read {self.uri(path)}: there is no such bucket.") from None
            return None

    def open(self, path: str) -> IO[bytes]:
        """A seekable reader of an object that must exist.

        Raises:
            StoreError: It does not exist or could not be opened.
        """
        import obstore

        with self._doing("open", path):
            if self.local_path is not None:
                return (self.local_path / path).open("rb")
            reader = obstore.open_reader(self._store, path)
            return io.BufferedReader(_Reader(reader, lambda: self._doing("read", path)), _BUFFER)

    def chunks(self, path: str) -> Iterator[bytes]:
        """The object's bytes as a stream of chunks."""
        import obstore

        if self.local_path is not None:
            with self.open(path) as source:
                while True:
                    with self._doing("read", path):
                        chunk = source.read(_CHUNK)
                    if not chunk:
                        return
                    yield chunk
        with self._doing("read", path):
            stream = iter(obstore.get(self._store, path))
        while True:
            with self._doing("read", path):
                piece = next(stream, None)
            if piece is None:
                return
            yield bytes(piece)

    def write(self, path: str, data: bytes | Path) -> None:
        """Write or replace the object, whole or not at all. A `Path` is streamed from disk."""
        import obstore

        with self._doing("write", path):
            obstore.put(self._store, path, data)
            self._sync(path)

    def take(self, path: str, file: Path) -> None:
        """Write or replace the object from a file of ours on this disk, which is gone afterwards."""
        if self.local_path is not None:
            with self._doing("write", path):
                target = self.local_path / path
                target.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(file, os.O_RDONLY)
                try:
                    os.fsync(handle)
                finally:
                    os.close(handle)
                try:
                    file.replace(target)
                except OSError as error:
                    if error.errno != errno.EXDEV:  # another disk
                        raise
                else:
                    self._sync(path)
                    return
        self.write(path, file)
        file.unlink()

    def delete(self, prefix: str) -> None:
        """Delete everything in this folder."""
        import obstore

        with self._doing("delete", prefix):
            if self.local_path is not None:
                if (self.local_path / prefix).exists():
                    shutil.rmtree(self.local_path / prefix)
                return
            for some in obstore.list(self._store, prefix):
                obstore.delete(self._store, [item["path"] for item in some])

    def remove(self, paths: Sequence[str]) -> None:
        """Delete these objects, in any order; one that is not there is none the less gone."""
        import obstore

        with self._doing("delete", paths[0] if paths else ""):
            if self.local_path is None:
                obstore.delete(self._store, list(paths))
                return
            for path in paths:
                (self.local_path / path).unlink(missing_ok=True)

    def create(self, path: str, data: bytes) -> bool:
        """Write the object if nothing is there yet, in one atomic step; `False` if something was.

        A lost reply can make our own success look like `False`: put a nonce into `data` and read it back.
        """
        import obstore
        from obstore.exceptions import AlreadyExistsError

        try:
            with self._doing("write", path, passing=AlreadyExistsError):
                obstore.put(self._store, path, data, mode="create", use_multipart=False)
                self._sync(path)
        except AlreadyExistsError:
            return False
        return True

    def exists(self, path: str) -> bool:
        """Whether the object is there.

        Raises:
            StoreError: Nobody knows.
        """
        import obstore

        try:
            with self._doing("look for", path, passing=FileNotFoundError):
                obstore.head(self._store, path)
        except FileNotFoundError:
            return False
        return True

    def clock(self) -> float:
        """Seconds since 1970, by the clock that all machines share which use this store: its own."""
        import obstore

        if self.local_path is not None:
            return time.time()
        self.write(_CLOCK, b"")
        with self._doing("read", _CLOCK):
            return float(obstore.head(self._store, _CLOCK)["last_modified"].timestamp())

    def prove(self) -> None:
        """See once that the store keeps what is there when somebody else creates it: the log rests on nothing else.

        Raises:
            ConfigurationError: It overwrites instead, so that two runs could pay for the same rows.
        """
        if self._proven:
            return
        self.create(_PROBE, b"the first")
        if self.create(_PROBE, b"the second"):
            raise ConfigurationError(
                f"The store at {self.url!r} overwrites an object that should only be created. Submissions are not "
                "safe there; use a store with conditional puts (S3, GCS, Azure, R2, MinIO, a local disk)."
            )
        self._proven = True

    def names(self, prefix: str) -> list[str]:
        """The names of all objects directly in this folder, sorted."""
        return [path.rsplit("/", 1)[-1] for path in self._listing(prefix)[1]]

    def folders(self, prefix: str) -> list[str]:
        """The names of the folders directly in this folder, sorted."""
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in self._listing(prefix)[0]]

    def below(self, prefix: str, after: str) -> Iterator[tuple[str, str | None]]:
        """The paths of all objects in this folder and those below it, from `after` on, each with its version's tag."""
        import obstore

        with self._doing("list", prefix):
            for some in obstore.list(self._store, prefix, offset=after, chunk_size=1_000):
                yield from ((item["path"], item["e_tag"]) for item in some)

    @contextmanager
    def _doing(self, verb: str, path: str, passing: type[BaseException] | tuple[()] = ()) -> Iterator[None]:
        """Raise what goes wrong inside as a StoreError that holds no secret."""
        try:
            yield
        except passing:
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            text = redacted(_first_line(error), self._secrets)
            cause = None if holds_secret(error, self._secrets) else error
            raise StoreError(f"Could not {verb} {self.uri(path)}: {text}") from cause

    def _sync(self, path: str) -> None:
        """Make a new local file and its directory entry survive a power cut; obstore links it without."""
        if self.local_path is None:
            return
        for target in (self.local_path / path, (self.local_path / path).parent):
            handle = os.open(target, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _listing(self, prefix: str) -> tuple[list[str], list[str]]:
        import obstore

        try:
            with self._doing("list", prefix, passing=FileNotFoundError):
                listing: Any = obstore.list_with_delimiter(self._store, prefix)
        except FileNotFoundError:
            return [], []
        return sorted(listing["common_prefixes"]), sorted(item["path"] for item in listing["objects"])


def deployed(root: str, deployment: str, options: Mapping[str, str] | None = None) -> Store:
    """The store of one of several deployments that share a root: each has a folder of its own."""
    return Store(f"{root.rstrip('/')}/deployments/{quote(deployment, safe='-_.')}" if deployment else root, options)


class StoreClock:
    """A store's clock, asked again every few minutes and carried on by this machine's own meanwhile."""

    _AGAIN = 300.0

    def __init__(self, store: Store, local: Callable[[], float] = time.time) -> None:
        self._store = store
        self._local = local
        self._asked_at = float("-inf")
        self._ahead = 0.0

    def __call__(self) -> float:
        """Seconds since 1970."""
        now = self._local()
        if not 0 <= now - self._asked_at < self._AGAIN:
            self._ahead = self._store.clock() - now
            self._asked_at = now
        return now + self._ahead


def _split(options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The store's settings, and those of its HTTP client, which obstore takes apart and never from the environment."""
    environ = {name: os.environ.get(f"AWS_{name.upper()}") for name in _CLIENT_OPTIONS}
    names = {name: name.removeprefix("aws_").removeprefix("google_").removeprefix("azure_") for name in options}
    client = {short: options[name] for name, short in names.items() if short in _CLIENT_OPTIONS}
    config = {name: value for name, value in options.items() if names[name] not in client}
    return config, {**{name: value for name, value in environ.items() if value}, **client}


class _Reader(io.RawIOBase):
    """obstore's reader as a file that Python's own libraries take."""

    def __init__(self, reader: Any, doing: Callable[[], AbstractContextManager[None]]) -> None:
        self._reader = reader
        self._doing = doing

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._doing():
            data = memoryview(self._reader.read(len(buffer)))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        return int(self._reader.tell())


def _first_line(error: Exception) -> str:
    # obstore appends a "Debug source" with request details; the first line says it all
    return str(error).splitlines()[0] if str(error) else type(error).__name__
