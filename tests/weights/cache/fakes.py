"""An origin that is a folder, a download engine of thirty lines, a machine told to fail.

Child processes import this too, so that the counts of several processes come together in one file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from thalamus_lite.errors import WeightCorrupt, WeightNotFound, WeightUnreachable
from thalamus_lite.weights.cache import CacheOptions, WeightCache
from thalamus_lite.weights.options import System
from thalamus_lite.weights.origin import DownloadCancelled, Downloaded, RemoteFile, RemoteFiles
from thalamus_lite.weights.put import NoProgress
from thalamus_lite.weights.sources import HTTPWeight
from thalamus_lite.weights.wiring import Wiring

if TYPE_CHECKING:
    import threading

CHUNK = 64 * 1024


def http(*names: str, **extra: Any) -> HTTPWeight:
    return HTTPWeight(urls=[f"http://fake/{name}" for name in names], **extra)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Folder:
    """The origin: serves the files of ``path``, and notes in ``path.log`` what was asked of it.

    ``digests``: tell a sha256. ``sizes``: tell a size. ``validators``: tell an ETag.
    """

    path: Path
    digests: bool = False
    sizes: bool = True
    validators: bool = True
    immutable: bool = False
    down: bool = False

    def put(self, name: str, data: bytes) -> bytes:
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return data

    def note(self, line: str) -> None:
        fd = os.open(f"{self.path}.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, f"{line}\n".encode())
        os.close(fd)

    def notes(self, kind: str = "") -> list[str]:
        try:
            lines = Path(f"{self.path}.log").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if line.startswith(kind)]

    def list(self, source: Any) -> RemoteFiles:
        self.note("list")
        return self._files(source)

    def revalidate(self, source: Any, validator: str) -> RemoteFiles | None:
        self.note("revalidate")
        files = self._files(source)
        return None if files.validator == validator else files

    def open(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> Any:
        raise NotImplementedError

    def identity(self, source: Any) -> str:
        return "http " + " ".join(source.urls)

    def _files(self, source: Any) -> RemoteFiles:
        if self.down:
            raise WeightUnreachable("the origin is down")
        files = tuple(self._file(urlsplit(url).path[1:]) for url in source.urls)
        # The true content names it, whether or not the files tell.
        validator = (
            sha256("".join(file.locator for file in files).encode()) if self.validators else ""
        )
        files = tuple(replace(file, locator=file.relpath) for file in files)
        return RemoteFiles(files, source.is_directory, validator, self.immutable)

    def _file(self, name: str) -> RemoteFile:
        try:
            data = (self.path / name).read_bytes()
        except FileNotFoundError:
            raise WeightNotFound(f"no {name}") from None
        return RemoteFile(
            relpath=name,
            locator=sha256(data),
            size=len(data) if self.sizes else None,
            validator=hashlib.md5(data).hexdigest() if self.validators else "",
            digests={"sha256": sha256(data)} if self.digests else {},
        )


@dataclass
class Engine:
    """A `Download` that reads the folder in small steps; ``between`` is called after each step."""

    between: Any = None
    chunk: int = CHUNK

    def __call__(
        self, origin: Any, file: RemoteFile, part: Any, *, progress: Any, cancel: threading.Event
    ) -> Downloaded:
        origin.note(f"download {file.locator} {os.getpid()}")
        data = (origin.path / file.locator).read_bytes()
        done = part.extents[0][1] if part.extents and part.extents[0][0] == 0 else 0
        progress.resumed(done)
        fd = os.open(part.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while done < len(data):
                if cancel.is_set():
                    raise DownloadCancelled("cancelled")
                step = data[done : done + self.chunk]
                os.pwrite(fd, step, done)
                origin.note(f"bytes {len(step)} {file.locator}")
                progress.received(len(step))
                done += len(step)
                part.on_extents(((0, done),))
                if self.between is not None:
                    self.between(file, done)
        finally:
            os.close(fd)
        digest = hashlib.sha256(part.path.read_bytes()).hexdigest()
        if file.digests.get("sha256", digest) != digest:
            raise WeightCorrupt("the bytes are not those that were promised")
        return Downloaded(len(data), digest)


@dataclass
class Clock:
    """Seconds that pass when told to, or while somebody sleeps by waiting."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Disk:
    free: int = 10**15

    def __call__(self, path: Path) -> int:
        return self.free


@dataclass
class Steps:
    """Dies, or raises, at the named step; or calls back."""

    at: str = ""
    skip: int = 0
    kill: bool = False
    error: BaseException | None = None
    seen: list[str] = field(default_factory=list)
    action: Any = None

    def __call__(self, step: str) -> None:
        self.seen.append(step)
        if step != self.at:
            return
        if self.skip:
            self.skip -= 1
            return
        if self.kill:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.action is not None:
            self.action()
        if self.error is not None:
            raise self.error


class Crash(BaseException):
    """As if the process had ended here."""


def no_flock(fd: int, kind: int) -> None:
    """A file system that grants every lock."""


def disk_full() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make_cache(root: Path, origin: Folder, **choice: Any) -> WeightCache:
    """A cache of ``origin``; ``choice`` is for `CacheOptions`, `System`, `Wiring` by name."""
    options: dict[str, Any] = {"cache_dir": root, "min_free_bytes": 0}
    system: dict[str, Any] = {"free_bytes": Disk(), "fs_type": lambda path: "ext4"}
    wiring: dict[str, Any] = {
        "origin_for": lambda source, _options: origin,
        "download": Engine(),
        "progress": Progress,
    }
    for name, value in choice.items():
        for owner, fields in ((CacheOptions, options), (System, system), (Wiring, wiring)):
            if name in owner.__dataclass_fields__:
                fields[name] = value
                break
        else:
            raise TypeError(name)
    return WeightCache.of(CacheOptions(**options), Wiring(system=System(**system), **wiring))


class Progress(NoProgress):
    def __init__(self, name: str, total_bytes: int | None = None) -> None:
        super().__init__(name)
        self.total_bytes = total_bytes
        self.done_bytes = self.received_bytes = self.retries = self.resumed_bytes = 0

    def received(self, n: int) -> None:
        self.received_bytes += n
        self.done_bytes += n

    def resumed(self, n: int) -> None:
        self.resumed_bytes += n
        self.done_bytes += n


def audit(root: Path) -> list[str]:
    """What is wrong with a cache that nobody uses at the moment; [] when all is as it says."""
    wrong = []
    with closing(sqlite3.connect(root / "index.db")) as db:
        counters = dict(db.execute("SELECT name, value FROM counter"))
        for name, sql in _COUNTED.items():
            (value,) = db.execute(sql).fetchone()
            if counters[name] != value:
                wrong.append(f"counter {name} is {counters[name]}, rows say {value}")
        blobs = dict(db.execute("SELECT sha256, size FROM blob"))
        # Staged, and not renamed yet: the file is a part.
        staged = {row[0] for row in db.execute("SELECT sha256 FROM blob WHERE state != 'READY'")}
        wrong += [f"blob {sha} is {state}" for sha, state in db.execute(_UNDONE)]
        entries = {row[0] for row in db.execute("SELECT id FROM entry WHERE state = 'READY'")}
        files = db.execute(_FILES).fetchall()
        fetching = {row[0] for row in db.execute("SELECT ident FROM entry WHERE state != 'READY'")}
    for path in root.glob("blobs/*/*"):
        if (
            blobs.pop(path.name, None) != path.stat().st_size
            or sha256(path.read_bytes()) != path.name
        ):
            wrong.append(f"blob {path.name} is not what it is called, or nobody knows it")
    wrong += [f"blob {sha} has no file" for sha in blobs.keys() - staged]
    for entry_id, relpath, digest in files:
        path = root / "entries" / entry_id / "files" / relpath
        if not path.is_file() or sha256(path.read_bytes()) != digest:
            wrong.append(f"{entry_id}/{relpath} is not what it was published as")
    for folder, known in (("entries", entries), ("partial", fetching), ("trash", set())):
        there = {path.name for path in (root / folder).iterdir()}
        wrong += [f"{folder}/{name} belongs to nobody" for name in there - known]
    return wrong


_COUNTED = {
    "blob_bytes": "SELECT coalesce(sum(size), 0) FROM blob",
    "blobs": "SELECT count(*) FROM blob",
    "entries": "SELECT count(*) FROM entry WHERE state = 'READY'",
    "reserved_bytes": "SELECT coalesce(sum(bytes), 0) FROM entry WHERE state = 'FETCHING'",
    "part_bytes": "SELECT coalesce(sum(done), 0) FROM part",
}
_UNDONE = (
    "SELECT sha256, state FROM blob WHERE state = 'EVICTING' OR refs != (SELECT count(*)"
    " FROM entry_file f WHERE f.blob_id = blob.id) OR (refs = 0)"
)
_FILES = (
    "SELECT f.entry_id, f.relpath, b.sha256 FROM entry_file f JOIN blob b ON b.id = f.blob_id"
    " JOIN entry e ON e.id = f.entry_id WHERE e.state = 'READY'"
)
