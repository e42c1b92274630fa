"""The one engine that brings a file's bytes, whichever origin they come from.

A download is a list of pieces and some workers (`job.py`). Small files are one piece and one
worker; large ones 16 MiB ranges over 8 connections. The calling thread only looks on: it saves
extents, hears the cancel event, and stops the workers at the first failure.

The rules:

1. Nothing a server says is believed because a precondition was sent: the validator, the range and
   the total are checked on every answer (`answers.judge`).
2. A range is only asked of a file with a validator. Without one, a broken stream starts over.
3. A server that answers a range with the whole file gets no more ranges: one stream, from 0.
4. An object that is not the one listed ends the download with `WeightChanged`; its bytes never mix.
5. What arrived is verified by the strongest digest there is; one mismatch is fetched again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from thalamus_lite.errors import WeightCorrupt
from thalamus_lite.weights.origin import Downloaded
from thalamus_lite.weights.transfer.answers import RangesRefused
from thalamus_lite.weights.transfer.job import Job, cancelled
from thalamus_lite.weights.transfer.part import PartWriter
from thalamus_lite.weights.transfer.tuning import Clock, TransferOptions

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping

    from thalamus_lite.weights.origin import Origin, PartFile, Progress, RemoteFile

__all__ = ["Clock", "SupportsDigests", "Transfer", "TransferOptions", "download"]


@runtime_checkable
class SupportsDigests(Protocol):
    """An origin whose listing is silent about digests, and which can be asked file by file."""

    def digests(self, file: RemoteFile) -> Mapping[str, str]: ...


def download(
    origin: Origin,
    file: RemoteFile,
    part: PartFile,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> Downloaded:
    """Bring one file, whole and verified, into its part file.

    Memory stays at a few MiB whatever the size: 1 MiB a connection, and 1 MiB for the hasher.

    Raises:
        WeightChanged: the object is not the one listed any more; list again.
        WeightCorrupt: the digest does not match, twice.
        DownloadCancelled: ``cancel`` was set; the extents are saved.
        WeightNotFound, WeightAccessDenied, WeightUnreachable, DiskFull, CacheUnusable.
    """
    return Transfer()(origin, file, part, progress=progress, cancel=cancel)


@dataclass(frozen=True, slots=True)
class Transfer:
    """`download` with other constants or another clock."""

    options: TransferOptions = field(default_factory=TransferOptions)

    def __call__(
        self,
        origin: Origin,
        file: RemoteFile,
        part: PartFile,
        *,
        progress: Progress,
        cancel: threading.Event,
    ) -> Downloaded:
        if cancel.is_set():
            raise cancelled(file)
        if "sha256" not in file.digests and isinstance(origin, SupportsDigests):
            file = replace(file, digests={**origin.digests(file), **file.digests})
        writer = PartWriter(part, file.digests)
        try:
            job = Job(self.options, origin, file, writer, progress)
            self._resume(job, part)
            return self._verified(job, cancel)
        finally:
            writer.close()

    def _resume(self, job: Job, part: PartFile) -> None:
        if not part.extents:
            return
        described = (part.validator, part.size)
        same = bool(job.file.validator) and described == (job.file.validator, job.file.size)
        saved = job.writer.resume(part.extents) if same else 0
        if saved:
            job.progress.resumed(saved)
        else:
            job.writer.save()

    def _verified(self, job: Job, cancel: threading.Event) -> Downloaded:
        for _ in range(2):
            size = self._fetched(job, cancel)
            verifier = job.writer.finish(size)
            if verifier.matches():
                return Downloaded(size, verifier.sha256)
            job.start_over()
        raise WeightCorrupt(
            f"{job.file.relpath}: the bytes do not match their {verifier.check}, twice. Check the"
            " sha256 you gave if you gave one; otherwise the copy on the server is damaged"
        )

    def _fetched(self, job: Job, cancel: threading.Event) -> int:
        try:
            return job.fetch(cancel)
        except RangesRefused:
            job.ranges_allowed = False
            job.start_over()
            return job.fetch(cancel)
