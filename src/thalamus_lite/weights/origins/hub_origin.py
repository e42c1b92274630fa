"""Weights on the Hugging Face Hub.

The library asks for metadata, finds the token and knows the endpoint; the bytes come through the
engine from the plain ``resolve`` URL. A commit names its content for ever, so the files of a
listing need no other validator: what a content network answers with (ETags of its own) is not
compared, the total and the digest are.
"""

from __future__ import annotations

import json
import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from urllib.parse import urlsplit

from thalamus_lite._version import __version__
from thalamus_lite.errors import (
    MissingExtra,
    WeightAccessDenied,
    WeightError,
    WeightNotFound,
    WeightOffline,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.settings import env
from thalamus_lite.weights.forks import no_fork
from thalamus_lite.weights.names import check_names, public_url
from thalamus_lite.weights.origin import RemoteFile, RemoteFiles
from thalamus_lite.weights.origins.addresses import Guard
from thalamus_lite.weights.origins.http_body import opened
from thalamus_lite.weights.origins.http_client import HTTPClient
from thalamus_lite.weights.origins.hub_guard import guarded
from thalamus_lite.weights.origins.hub_local import LocalBody, Verified
from thalamus_lite.weights.origins.patterns import select
from thalamus_lite.weights.transfer.answers import check_sizes
from thalamus_lite.weights.transfer.ranges import range_header
from thalamus_lite.weights.transfer.retry import Unanswered, call, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.weights.origin import OriginOptions, RangeBody
    from thalamus_lite.weights.sources import HFWeight, WeightSource

T = TypeVar("T")

_ENDPOINT = "https://huggingface.co"
_COMMIT = re.compile("[0-9a-f]{40}")
# An LFS file's ETag is the sha256 of its bytes, any other's the name of its git blob.
_DIGESTS = {64: "sha256", 40: "git_sha1"}
_AGENT = {"library_name": "thalamus-lite", "library_version": __version__}


class HubOrigin:
    """An `Origin` over huggingface-hub. A file's locator is ``[repo, commit, path]``.

    ``endpoint`` None is the library's (``HF_ENDPOINT``, read when it is imported).
    """

    def __init__(
        self, options: OriginOptions, guard: Guard | None = None, endpoint: str | None = None
    ) -> None:
        self._guard = guard or (Guard() if options.deny_private_addresses else None)
        self._client = HTTPClient(options, self._guard)
        self._endpoint = endpoint
        self._verified = Verified()
        self._timeout_s = options.timeout_s

    def identity(self, source: WeightSource) -> str:
        wanted = cast("HFWeight", source)
        endpoint = public_url(self._endpoint or env("HF_ENDPOINT") or _ENDPOINT).rstrip("/")
        return f"hf:{endpoint}/{wanted.repo}@{wanted.revision}/{wanted.filename or ''}"

    def list(self, source: WeightSource) -> RemoteFiles:
        wanted = cast("HFWeight", source)
        return call(partial(self._list, wanted))

    def revalidate(self, source: WeightSource, validator: str) -> RemoteFiles | None:
        """Asked once, without retries: the cache has a copy to serve meanwhile."""
        wanted = cast("HFWeight", source)
        if wanted.filename is None and self._commit(wanted) == validator:
            return None
        found = self._list(wanted)
        return None if found.validator == validator else found

    def open(self, file: RemoteFile, start: int = 0, stop: int | None = None) -> RangeBody:
        local = self._local(file, start, stop)
        if local is not None:
            return local
        hub = _hub()
        repo, commit, path = json.loads(file.locator)
        url = self._url(repo, commit, path)
        with guarded(self._guard, hub, self._home()):
            headers = {**hub.utils.build_hf_headers(**_AGENT), "Accept-Encoding": "identity"}
        wanted = range_header(start, stop)
        if wanted is not None:
            headers["Range"] = wanted
        body = opened(self._client.get(url, headers), file, public_url(url))
        body.validator = file.validator
        return body

    def _list(self, source: HFWeight) -> RemoteFiles:
        return self._snapshot(source) if source.filename is None else self._file(source)

    def _file(self, source: HFWeight) -> RemoteFiles:
        path = source.filename or ""
        check_names([path])
        url = self._url(source.repo, source.revision, path)
        head = partial(_hub().get_hf_file_metadata, url, timeout=self._timeout_s, **_AGENT)
        found = self._ask(head, source.name)
        commit, etag = found.commit_hash, found.etag
        if not commit or not etag:
            raise WeightUnreachable(
                f"{source.name}: the server does not answer as the Hub does: check HF_ENDPOINT"
            )
        kind = _DIGESTS.get(len(etag))
        digests = {kind: etag} if kind else {}
        locator = json.dumps([source.repo, commit, path])
        file = RemoteFile(path, locator, found.size, etag, digests)
        check_sizes([file], source.name)
        return RemoteFiles((file,), False, commit, immutable=_is_commit(source.revision))

    def _snapshot(self, source: HFWeight) -> RemoteFiles:
        commit = self._commit(source)
        tree = partial(self._api().list_repo_tree, source.repo, revision=commit, recursive=True)
        entries = self._ask(lambda: list(tree()), source.name)
        # Folders are listed too, and have no blob.
        found = [entry for entry in entries if getattr(entry, "blob_id", None)]
        if not found:
            raise WeightNotFound(f"{source.name} is an empty repository: check its name")
        found = select(found, source.allow_patterns, lambda entry: str(entry.path), source.name)
        check_names(entry.path for entry in found)
        files = tuple(_remote(entry, source.repo, commit) for entry in found)
        check_sizes(files, source.name)
        return RemoteFiles(files, True, commit, immutable=_is_commit(source.revision))

    def _commit(self, source: HFWeight) -> str:
        info = partial(self._api().repo_info, source.repo, revision=source.revision)
        found = self._ask(partial(info, timeout=self._timeout_s), source.name).sha
        if not found:
            raise WeightUnreachable(
                f"{source.name}: the server does not answer as the Hub does: check HF_ENDPOINT"
            )
        return str(found)

    def _url(self, repo: str, revision: str, path: str) -> str:
        of = partial(_hub().hf_hub_url, repo, path, revision=revision, endpoint=self._endpoint)
        return str(_ask(of, f"hf:{repo}@{revision}/{path}"))

    def _ask(self, question: Callable[[], T], where: str) -> T:
        # The library dials by itself, so what it dials is checked before it does.
        with guarded(self._guard, _hub(), self._home()):
            self._check_endpoint()
            return _ask(question, where)

    def _check_endpoint(self) -> None:
        if self._guard is not None:
            parts = urlsplit(self._home())
            self._guard.addresses(parts.hostname or "", parts.port or 443)

    def _home(self) -> str:
        return self._endpoint or str(_hub().constants.ENDPOINT)

    def _api(self) -> Any:
        return _hub().HfApi(endpoint=self._endpoint, **_AGENT)

    def _local(self, file: RemoteFile, start: int, stop: int | None) -> LocalBody | None:
        repo, commit, path = json.loads(file.locator)
        found = _hub().try_to_load_from_cache(repo, path, revision=commit)
        if not isinstance(found, str) or not self._verified.holds(found, file):
            return None
        try:
            return LocalBody(found, file, start, stop)
        except OSError:
            return None


def _remote(entry: Any, repo: str, commit: str) -> RemoteFile:
    if entry.lfs is not None:
        validator, digests = str(entry.lfs.sha256), {"sha256": str(entry.lfs.sha256)}
    else:
        validator, digests = str(entry.blob_id), {"git_sha1": str(entry.blob_id)}
    locator = json.dumps([repo, commit, entry.path])
    return RemoteFile(entry.path, locator, entry.size, validator, digests)


def _is_commit(revision: str) -> bool:
    return _COMMIT.fullmatch(revision) is not None


def _hub() -> Any:
    try:
        # The library imports its modules when their names are asked for; here it is done at once,
        # since a child that is born in the middle of an import could never import the same again.
        with no_fork():
            import huggingface_hub.constants
            import huggingface_hub.errors
            import huggingface_hub.file_download
            import huggingface_hub.hf_api
            import huggingface_hub.utils
    except ImportError:
        raise MissingExtra(
            'weights on the Hub need huggingface-hub: pip install "thalamus-lite[hf]"'
        ) from None
    return huggingface_hub


def _ask(question: Callable[[], T], where: str) -> T:
    """``question()`` of the library, its errors as ours; their texts may hold a URL."""
    try:
        return question()
    except WeightError:
        raise
    except Exception as error:
        known = _translated(error, where)
        if known is not None:
            raise known from None
        # Whatever the library stumbles over: no JSON, JSON of another shape, or its own feet.
        raise WeightUnreachable(
            f"{where}: the server does not answer as the Hub does ({type(error).__name__}): check"
            " HF_ENDPOINT"
        ) from error


def _translated(error: Exception, where: str) -> WeightError | None:
    from huggingface_hub import errors

    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.OfflineModeIsEnabled():
            return WeightOffline(f"{where} is not in the cache, and HF_HUB_OFFLINE is on")
        case errors.GatedRepoError():
            return WeightAccessDenied(
                f"{where} is gated: accept its terms on its page, and set HF_TOKEN"
            )
        case errors.RepositoryNotFoundError():
            # The Hub answers 401 for what is private as for what is not there.
            return WeightNotFound(
                f"{where}: there is no such repository, or it is private: check its name, and set"
                " HF_TOKEN"
            )
        case errors.RevisionNotFoundError():
            return WeightNotFound(
                f"{where}: there is no such revision: check branch, tag or commit"
            )
        case errors.EntryNotFoundError():
            return WeightNotFound(
                f"{where}: there is no such file in the repository: check its name"
            )
        case errors.HFValidationError():
            return WeightSourceInvalid(f"{where}: the Hub's library refuses this as a name")
    if status is not None:
        return _by_status(int(status), error, where)
    names = {kind.__name__ for kind in type(error).__mro__}
    # The library speaks through requests in its older versions and httpx in its newer ones.
    if names & {"HTTPError", "RequestError", "RequestException", "OSError"}:
        return Unanswered(
            f"{where}: no connection to the Hub: check the network and HF_ENDPOINT"
            f" ({type(error).__name__})"
        )
    return None


def _by_status(status: int, error: Exception, where: str) -> WeightError:
    if status in (401, 403):
        return WeightAccessDenied(f"{where}: access is denied ({status}): check HF_TOKEN")
    if status == 404:
        return WeightNotFound(f"{where}: there is no such repository or file: check the names")
    if status in (408, 425, 429) or status >= 500:
        headers = getattr(getattr(error, "response", None), "headers", {})
        wait = parse_retry_after(headers.get("Retry-After"), time.time())
        return Unanswered(f"{where}: the Hub answered {status}", retry_after_s=wait)
    return WeightUnreachable(f"{where}: the Hub refused the request ({status})")
