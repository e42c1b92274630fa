"""Weights that are on this machine already."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightCorrupt, WeightNotFound, WeightSourceInvalid
from thalamus_lite.weights.lease import LocalLease

if TYPE_CHECKING:
    from thalamus_lite.weights.sources import FileWeight


def local_lease(source: FileWeight) -> LocalLease:
    """The source's own path, absolute.

    Raises:
        WeightNotFound: there is nothing, or it cannot be read.
        WeightCorrupt: the file has another sha256 than the source says.
        WeightSourceInvalid: a sha256 was given for a folder.
    """
    path = Path(source.path).absolute()
    try:
        there = path.exists()
    except OSError as error:
        raise WeightNotFound(f"{path} cannot be a path ({error.strerror})") from error
    if not there:
        raise WeightNotFound(f"there is no file or folder {path}: check the path of FileWeight")
    if source.sha256 is not None:
        if path.is_dir():
            raise WeightSourceInvalid(f"{path} is a folder, and sha256 is for a single file")
        try:
            found = file_sha256(path)
        except OSError as error:
            raise WeightNotFound(f"{path} cannot be read ({error.strerror})") from error
        if found != source.sha256:
            raise WeightCorrupt(f"{path} has the sha256 {found}, not the one that FileWeight says")
    return LocalLease(path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
