"""The folders of a cache, and the few things done to files in them."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shlex
import shutil
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from thalamus_lite.errors import CacheUnusable, DiskFull
from thalamus_lite.weights.index.sqlerrors import IndexDamaged
from thalamus_lite.weights.mounts import NETWORK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT)
# SQLite opens 512, of which the names of the index and of its journal need some.
_PATH_BYTES = 470
# Too many links to one file, links not permitted, links unknown, another file system.
NO_LINK = (errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV, errno.ENOSYS)


@contextmanager
def disk_errors() -> Iterator[None]:
    """What the operating system says, as a sentence of ours.

    A missing file passes: to whoever looks at a folder that others change, it is an answer.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                "the disk of the weight cache is full: free space, or move THALAMUS_CACHE_DIR"
            ) from error
        raise CacheUnusable(
            f"the weight cache cannot be used ({error.strerror}): make THALAMUS_CACHE_DIR a"
            " writable folder of your own on a local disk"
        ) from error


class Layout:
    """``root`` and what is in it; see WEIGHTS for the meaning of each folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = root / "index.db"
        self.blobs = root / "blobs"
        self.entries = root / "entries"
        self.partials = root / "partial"
        self.trash = root / "trash"
        self.folders = (self.blobs, self.entries, self.partials, self.trash)

    def blob(self, sha256: str) -> Path:
        if not sha256.isalnum():
            raise IndexDamaged("the weight cache's index holds a name that is none")
        return self.blobs / sha256[:2] / sha256

    def entry(self, entry_id: str) -> Path:
        if not entry_id.replace("-", "").isalnum():
            # "" would be the folder of all entries, and ".." that of all caches.
            raise IndexDamaged("the weight cache's index holds a name that is none")
        return self.entries / entry_id

    def manifest(self, entry_id: str) -> Path:
        return self.entries / entry_id / "manifest.json"

    def path(self, entry_id: str, relpath: str | None) -> Path:
        """What a lease on the entry hands out."""
        files = self.entries / entry_id / "files"
        return files if relpath is None else files / relpath

    def partial(self, ident: str) -> Path:
        return self.partials / ident

    def create(self, fs_type: Callable[[Path], str]) -> None:
        """`create_root` and `create_folders`. Raises as they do."""
        self.create_root(fs_type)
        self.create_folders()

    def create_root(self, fs_type: Callable[[Path], str]) -> None:
        """Make the folder itself, which may be shared with its group, as mounted volumes are.

        Raises:
            CacheUnusable: the sentence says what to do.
        """
        self._make_root()
        kind = fs_type(self.root)
        if kind in NETWORK:
            raise CacheUnusable(
                f"THALAMUS_CACHE_DIR is on a network file system ({kind}), where locks cannot be"
                " relied on: set it to a folder on a local disk"
            )

    def create_folders(self) -> None:
        """Make those of the four that are missing, and refuse what is not ours alone.

        Raises:
            CacheUnusable: the sentence says which folder, and what to do.
        """
        for folder in self.folders:
            with disk_errors():
                with contextlib.suppress(FileExistsError):
                    folder.mkdir(mode=0o700)
                self._check_owner(folder)

    def _make_root(self) -> None:
        name = ascii(os.fspath(self.root))
        try:
            if b"\0" in os.fspath(self.root).encode():
                raise ValueError
        except ValueError:
            raise CacheUnusable(
                f"THALAMUS_CACHE_DIR is {name}, which is not UTF-8: set it to a folder with another"
                " name"
            ) from None
        with disk_errors(), contextlib.suppress(FileExistsError, FileNotFoundError):
            self.root.mkdir(mode=0o700, parents=True)
        if not self.root.is_dir():
            # A link to nothing, or to itself; a file; a place where nothing can be made, as /proc.
            raise CacheUnusable(
                f"THALAMUS_CACHE_DIR is {name}, which is no folder and cannot be made one: set it"
                " to a folder of your own on a local disk"
            )
        if len(os.fsencode(os.path.realpath(self.root))) > _PATH_BYTES:
            raise CacheUnusable(
                f"THALAMUS_CACHE_DIR has a path of more than {_PATH_BYTES} bytes, which SQLite"
                " cannot open: set it to a shorter one"
            )

    def _check_owner(self, folder: Path) -> None:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise CacheUnusable(
                f"{folder} is not a folder that belongs to this user alone: set THALAMUS_CACHE_DIR"
                " to a folder of your own"
            )
        if found.st_mode & 0o022:
            # Who can write to models decides what is served, and what code a pickle runs.
            raise CacheUnusable(
                f"{folder} can be written by others than this user alone: run `chmod -R go-w"
                f" {shlex.quote(os.fspath(self.root))}/*`; if it is a Kubernetes fsGroup that lets"
                " them, set fsGroupChangePolicy: OnRootMismatch"
            )

    def to_trash(self, path: Path) -> Path | None:
        """Take a file or a folder out of sight in one step; None if it is gone already.

        The folders of a cache that came with a container's image cannot be moved: they are deleted
        where they are, and after a crash half of one may be left.
        """
        target = self.trash / secrets.token_hex(8)
        with disk_errors(), contextlib.suppress(FileNotFoundError):
            if not self.trash.is_dir() and os.path.lexists(path):
                self.restore()
            try:
                path.rename(target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                _delete(path)
            else:
                return target
        return None

    def discard(self, path: Path) -> None:
        """Out of sight first, so that nobody ever sees half of it, then away."""
        target = self.to_trash(path)
        if target is not None:
            remove(target)

    def make(self, folder: Path) -> None:
        """A folder inside one of the four, and that one too if somebody has deleted it.

        Raises:
            IndexDamaged: the whole cache was deleted.
        """
        with disk_errors(), contextlib.suppress(FileExistsError):
            try:
                folder.mkdir(mode=0o700)
            except FileNotFoundError:
                self.restore()
                folder.mkdir(mode=0o700)

    def restore(self) -> None:
        """Make again those of the four folders that somebody has deleted. Raises as `make`."""
        if not self.root.is_dir():
            raise IndexDamaged("the weight cache's folder is missing")
        for folder in self.folders:
            with disk_errors(), contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)

    def unlink_blob(self, sha256: str) -> None:
        with disk_errors(), contextlib.suppress(FileNotFoundError):
            self.blob(sha256).unlink()


def remove(path: Path) -> None:
    """Delete what is in the trash; what cannot be deleted waits for the next opener."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
            if path.exists():
                _make_writable(path)
                shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def _make_writable(folder: Path) -> None:
    """Whoever made it for `put` may have left its folders read-only: nothing goes from such."""
    folder.chmod(0o700)
    for parent, names, _ in os.walk(folder):
        for name in names:
            below = os.path.join(parent, name)
            if not os.path.islink(below):
                os.chmod(below, 0o700)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def link_or_copy(source: Path, target: Path, fsync: Callable[[int], None]) -> None:
    """Give ``source`` a second name; where the file system cannot, copy its bytes.

    Raises:
        FileNotFoundError: ``source`` is gone.
    """
    with disk_errors():
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            shutil.copyfile(source, target)
            seal(target, fsync)


def can_link(folder: Path) -> bool:
    """Whether files here can have a second name; what else is wrong is met by whoever writes."""
    one, two = (folder / f"{secrets.token_hex(8)}.probe" for _ in range(2))
    try:
        one.touch(mode=0o600)
        os.link(one, two)
    except OSError as error:
        return error.errno not in NO_LINK
    finally:
        remove(one)
        remove(two)
    return True


def seal(path: Path, fsync: Callable[[int], None]) -> int:
    """Read-only, and on the disk for good; returns its size."""
    with disk_errors():
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.fchmod(fd, 0o444)
            fsync(fd)
            return os.fstat(fd).st_size
        finally:
            os.close(fd)


def sync_folder(path: Path, fsync: Callable[[int], None]) -> None:
    """Make the names in the folder last."""
    with disk_errors():
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fsync(fd)
        finally:
            os.close(fd)
