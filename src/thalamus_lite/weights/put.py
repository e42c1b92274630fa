"""Entries that the user's own function makes, for `WeightCache.put`."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from thalamus_lite.errors import UnsafeName, WeightNotFound
from thalamus_lite.weights.entries.layout import NO_LINK
from thalamus_lite.weights.local import file_sha256
from thalamus_lite.weights.names import check_names, check_relpath, public_url
from thalamus_lite.weights.origin import Downloaded, RemoteFile, RemoteFiles

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from typing import NoReturn

    from thalamus_lite.weights.origin import Origin, PartFile, Progress


class PutFailed(Exception):
    """The user's function raised; ``cause`` is what it raised, and what `put` raises."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True, slots=True)
class Put:
    """Has ``make`` write a file, named as in ``single``, or a folder of files."""

    make: Callable[[Path], object]
    single: RemoteFiles

    def __call__(self, path: Path) -> RemoteFiles:
        try:
            self.make(path)
        except Exception as error:
            raise PutFailed(error) from error
        if path.is_file():
            return replace(self.single, files=(_made(path, self.single.files[0].relpath),))
        # The order of a walk is the file system's.
        files = tuple(_made(file, name) for name, file in sorted(_walk(path)))
        if not files:
            raise WeightNotFound(
                "the function given to put() wrote no file: it must write a file, or a folder with"
                " files, at the path it is given"
            )
        check_names(file.relpath for file in files)
        return replace(self.single, files=files, directory=True)


def take(
    origin: Origin,
    file: RemoteFile,
    part: PartFile,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> Downloaded:
    """A `Download` of what a `Put` has made. What is also the user's own is copied, and stays."""
    made = Path(file.locator)
    if not (_is_ours_alone(made, part.path.parent) and _named(made, part.path)):
        shutil.copyfile(made, part.path)
    return Downloaded(part.path.stat().st_size, file_sha256(part.path))


def _is_ours_alone(made: Path, folder: Path) -> bool:
    """False: it is a link, has another name, or lies behind a link to a folder of the user's."""
    found = made.lstat()
    inside = made.parent.resolve().is_relative_to(folder.resolve())
    return inside and stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _named(made: Path, path: Path) -> bool:
    """Give the file a second name, since others may be links to its first; False: impossible."""
    try:
        os.link(made, path)
    except OSError as error:
        if error.errno not in NO_LINK:
            raise
        return False
    return True


def _made(path: Path, name: str) -> RemoteFile:
    size = path.stat().st_size
    return RemoteFile(relpath=name, locator=str(path), size=size, validator="", digests={})


def _walk(folder: Path) -> Iterator[tuple[str, Path]]:
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            name = path.relative_to(folder).as_posix()
            if path.is_file():
                yield name, path
            elif path.is_symlink() or not path.is_dir():
                raise UnsafeName(
                    f"the function given to put() made {name!a}, which is neither a file nor a"
                    " folder: the cache keeps nothing else"
                )


class NoOrigin:
    """In the place of an origin, where there is none to ask."""

    def _refuse(self, *_: object) -> NoReturn:
        raise WeightNotFound("what put() made can only be made again by put()")

    list = revalidate = open = identity = _refuse


class NoProgress:
    """`Progress` of a download that cannot be watched."""

    total_bytes: int | None = None
    done_bytes = received_bytes = retries = resumed_bytes = 0

    def __init__(self, name: str, total_bytes: int | None = None) -> None:
        self.name = name

    def received(self, n: int) -> None:
        pass

    resumed = restarted = received

    def retried(self) -> None:
        pass

    close = retried


def put_files(key: str) -> RemoteFiles:
    """One file, named as the last component of the key if that is a name at all."""
    try:
        parts = urlsplit(key)
        # The query of a URL signs it, and has no place in a file's name.
        path = parts.path if parts.scheme and parts.netloc else key
        name = check_relpath(path.rsplit("/", 1)[-1])
    except (UnsafeName, ValueError):
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    file = RemoteFile(relpath=name, locator="", size=None, validator="", digests={})
    return RemoteFiles(files=(file,), directory=False, validator="put", immutable=True)


def put_name(key: str) -> str:
    """The key as it may be shown: it may be a signed URL."""
    try:
        parts = urlsplit(key)
        return public_url(key) if parts.scheme and parts.netloc else ascii(key[:200])[1:-1]
    except ValueError:
        return "put"
