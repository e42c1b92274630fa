"""Files for a model's own code: the process's cache, and S3."""

from __future__ import annotations

import shutil
import tempfile
import threading
from bisect import bisect_left
from pathlib import Path
from typing import TYPE_CHECKING

from thalamus_lite.errors import (
    ConfigurationError,
    UnsafeName,
    WeightChanged,
    WeightOffline,
    WeightSourceInvalid,
)
from thalamus_lite.schemas.storage import S3Ref
from thalamus_lite.settings import Settings
from thalamus_lite.weights.cache import WeightCache
from thalamus_lite.weights.entries.order import described
from thalamus_lite.weights.forks import Lock, no_fork
from thalamus_lite.weights.names import check_relpath
from thalamus_lite.weights.options import CacheOptions
from thalamus_lite.weights.origin import OriginOptions, PartFile
from thalamus_lite.weights.sources import HTTPWeight, S3Weight
from thalamus_lite.weights.want import Asked
from thalamus_lite.weights.wiring import Wiring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from thalamus_lite.weights.lease import Lease

_RESTARTS = 2

# For each there are connections of its own, and on S3 a client of some MB, for the process's life:
# who passes what is left of a deadline asks with another timeout each time.
_TIMEOUTS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600, 86400, threading.TIMEOUT_MAX)

_lock = Lock()
_caches: dict[CacheOptions, WeightCache] = {}
_kept: dict[Path, Lease] = {}


def get_cache() -> WeightCache:
    """The cache that the environment describes now: one for each ``THALAMUS_CACHE_*`` setting."""
    return cache_of(CacheOptions.from_settings(Settings.from_env()))


def cache_of(options: CacheOptions) -> WeightCache:
    """This process's cache with these options: `fetch` and the models share it."""
    with _lock:
        if options not in _caches:
            _caches[options] = WeightCache.of(options)
        return _caches[options]


def fetch(
    source: str | S3Ref,
    filename: str | None = None,
    cache: bool = True,
    timeout: float = 300.0,
) -> Path:
    """A local copy of ``s3://bucket/key``, of a URL, or of what an `S3Ref` names.

    Args:
        filename: The name of the copy, in place of the last component of the source's.
        cache: True: the file is in the weight cache and stays there for the life of this process.
            False: it is fetched anew, into a folder of its own that is the caller's to delete.
        timeout: Seconds, for a connection and for each single read; rounded up to the next of
            1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 3600 and 86400, and above that to no limit.

    Raises:
        WeightError: it cannot be had; the sentence says what to do.
        WeightSourceInvalid: not a source that could be fetched; a ValueError as well.
        ConfigurationError: the timeout is not a positive number; a ValueError as well.
    """
    if filename is not None and "/" in check_relpath(filename):
        raise UnsafeName(f"filename must be a bare name, without folders: {filename!r}")
    asked = Asked(_source(source, filename), filename, _timeout(timeout))
    if not cache:
        return _fetch_anew(asked)
    lease = get_cache().ask(asked)
    with _lock:
        first = _kept.setdefault(lease.path, lease)
    if first is not lease:
        lease.release()
    return first.path


def upload_s3(local: Path | str, dest: str | S3Ref) -> S3Ref:
    """Upload a file to ``s3://bucket/key``; above 5 GB in several parts.

    Raises:
        WeightError: S3 refuses it or stays unreachable, or the local file cannot be read. If that
            does not exist, the error is a FileNotFoundError as well.
    """
    # A child that is born in the middle of an import could never import the same again.
    with no_fork():
        from thalamus_lite.weights.origins.s3_origin import client_for, upload

    ref = _ref(dest)
    upload(client_for(ref.region, None), Path(local), ref.bucket, ref.key)
    return ref


def exists_s3(ref: str | S3Ref) -> bool:
    """Whether the object exists. Only a 404 means that it does not.

    Raises:
        WeightError: S3 did not say: access denied, unreachable.
    """
    with no_fork():
        from thalamus_lite.weights.origins.s3_origin import client_for, exists

    ref = _ref(ref)
    return exists(client_for(ref.region, None), ref.bucket, ref.key)


def _ref(ref: str | S3Ref) -> S3Ref:
    return S3Ref.from_uri(ref) if isinstance(ref, str) else ref


def _timeout(timeout: object) -> float | None:
    if timeout is None:
        return None
    if isinstance(timeout, int | float) and 0 < timeout <= threading.TIMEOUT_MAX:
        return _TIMEOUTS_S[bisect_left(_TIMEOUTS_S, timeout)]
    raise ConfigurationError("timeout must be a positive number of seconds, like timeout=300")


def _source(source: str | S3Ref, filename: str | None) -> S3Weight | HTTPWeight:
    try:
        if isinstance(source, str) and not source.startswith("s3://"):
            return HTTPWeight(urls=(source,)).named(filename)
        if isinstance(source, str | S3Ref):
            ref = _ref(source)
            return S3Weight(bucket=ref.bucket, key=ref.key, region=ref.region)
    except ValueError:
        # The texts of pydantic speak of the weights that users of `fetch` never wrote.
        pass
    raise WeightSourceInvalid(
        f"fetch takes s3://bucket/key, an http:// or https:// URL or an S3Ref, and {_shown(source)}"
        " is none of these"
    )


def _shown(source: object) -> str:
    if not isinstance(source, str):
        return f"a {type(source).__name__}"
    scheme, mark, _ = source.partition("://")
    # What follows may hold a login.
    return ascii(scheme[:20] + "://...") if mark else ascii(source[:80])


def _fetch_anew(asked: Asked) -> Path:
    settings = Settings.from_env()
    if settings.offline:
        raise WeightOffline(
            f"{asked.source.name} cannot be fetched while THALAMUS_OFFLINE or HF_HUB_OFFLINE is set"
        )
    folder = Path(tempfile.mkdtemp(prefix="thalamus-lite-"))
    try:
        for _ in range(_RESTARTS):
            try:
                return _download(asked, folder, settings.deny_private_addresses)
            except WeightChanged:
                continue
        return _download(asked, folder, settings.deny_private_addresses)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _download(asked: Asked, folder: Path, deny_private: bool) -> Path:
    wiring = Wiring()
    options = OriginOptions(deny_private, asked.timeout_s or 300.0)
    origin = wiring.origin_for(asked.source, options)
    file = described(origin.list(asked.source).files[0])
    path = folder / (asked.filename or check_relpath(file.relpath).rsplit("/", 1)[-1])
    part = PartFile(path, file.size, file.validator, (), _forget)
    progress = wiring.progress(asked.source.name, file.size)
    try:
        wiring.download(origin, file, part, progress=progress, cancel=threading.Event())
    finally:
        progress.close()
    return path


def _forget(extents: Sequence[tuple[int, int]]) -> None:
    """What is fetched for once is not gone on with."""
