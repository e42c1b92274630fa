"""What the cache is put together from; a test puts others in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from thalamus_lite.weights.options import System
from thalamus_lite.weights.origins.choice import origin_for

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from thalamus_lite.weights.origin import (
        Download,
        Downloaded,
        Origin,
        OriginOptions,
        PartFile,
        Progress,
        RemoteFile,
    )
    from thalamus_lite.weights.sources import WeightSource


def _download(
    origin: Origin,
    file: RemoteFile,
    part: PartFile,
    *,
    progress: Progress,
    cancel: threading.Event,
) -> Downloaded:
    # At use: what is in the cache is served without the engine.
    from thalamus_lite.weights.transfer.download import download

    return download(origin, file, part, progress=progress, cancel=cancel)


def _progress(name: str, total_bytes: int | None) -> Progress:
    from thalamus_lite.weights.transfer.progress import DownloadProgress

    return DownloadProgress(name, total_bytes)


@dataclass(frozen=True, slots=True)
class Wiring:
    origin_for: Callable[[WeightSource, OriginOptions], Origin] = origin_for
    download: Download = _download
    progress: Callable[[str, int | None], Progress] = _progress
    system: System = field(default_factory=System)
