"""Where a model's weights come from, as users write it down in ``@app.model(weights={...})``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PrivateAttr,
    field_validator,
    model_validator,
)

from thalamus_lite.errors import UnsafeName
from thalamus_lite.weights.names import (
    check_relpath,
    has_control,
    http_url,
    public_url,
    url_file_name,
    with_spaces,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_REPO = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


# Stored as tuples, which can be hashed; for type checkers, what users may write.
if TYPE_CHECKING:
    Patterns: TypeAlias = Sequence[str] | None
    Urls: TypeAlias = list[str] | tuple[str, ...]
else:
    Patterns = Annotated[tuple[str, ...] | None, BeforeValidator(_listed)]
    Urls = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class _Source(BaseModel):
    # Unknown names are refused: a misspelt sha256 that is ignored would be a check that never runs.
    # Inputs stay out of error texts: a URL may be signed.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    sha256: str | None = None

    @property
    def is_directory(self) -> bool:
        """True: the weight's path is a folder; False: it is one file."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What logs and `/status` may show: no userinfo, no query."""
        raise NotImplementedError

    @field_validator("sha256")
    @classmethod
    def _check_sha256(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not _SHA256.fullmatch(value.lower()):
            raise ValueError("sha256 must be the 64 hexadecimal digits that sha256sum prints")
        return value.lower()


class _RemoteSource(_Source):
    allow_patterns: Patterns = None

    @field_validator("allow_patterns")
    @classmethod
    def _check_patterns(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or not all(value)):
            raise ValueError(
                'allow_patterns must hold at least one pattern, like ["*.safetensors"]'
            )
        return value

    @model_validator(mode="after")
    def _check_shape(self) -> _RemoteSource:
        if self.is_directory and self.sha256 is not None:
            raise ValueError("sha256 is for a single file: leave it out, or name one file")
        if not self.is_directory and self.allow_patterns is not None:
            raise ValueError("allow_patterns is for directories: leave it out for a single file")
        return self


class S3Weight(_RemoteSource):
    """An object (``key``) or all objects below a ``prefix``; exactly one of the two.

    A prefix means a folder: ``prefix="bert"`` does not bring ``bert-large/``. ``region`` and
    ``endpoint_url`` default to what botocore finds (``AWS_REGION``, ``AWS_ENDPOINT_URL``).
    """

    type: Literal["s3"] = "s3"
    bucket: str
    key: str | None = None
    prefix: str | None = None
    region: str | None = None
    endpoint_url: str | None = None

    @property
    def is_directory(self) -> bool:
        """True for a prefix, False for a key."""
        return self.prefix is not None

    @property
    def name(self) -> str:
        return f"s3://{self.bucket}/{self.key or self.prefix}"

    @field_validator("bucket")
    @classmethod
    def _check_bucket(cls, value: str) -> str:
        if not value or "/" in value or has_control(value):
            raise ValueError('bucket must be the bucket\'s bare name, like bucket="models"')
        return value

    @field_validator("key", "prefix")
    @classmethod
    def _check_key(cls, value: str | None) -> str | None:
        if value is not None and (not value.strip("/") or has_control(value)):
            raise ValueError(
                'key and prefix must not be empty: write key="bert/model.pt" or prefix="bert/"'
            )
        return value

    @field_validator("endpoint_url")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        return None if value is None else http_url(value, "endpoint_url")

    @model_validator(mode="after")
    def _check_one(self) -> S3Weight:
        if self.key is None and self.prefix is None:
            raise ValueError("Either 'key' or 'prefix' must be specified")
        if self.key is not None and self.prefix is not None:
            raise ValueError("Cannot specify both 'key' and 'prefix'")
        return self

    def __repr_args__(self) -> Any:
        return _shown_args(super().__repr_args__(), "endpoint_url", public_url)


class HFWeight(_RemoteSource):
    """One file of a Hugging Face repository, or without ``filename`` a snapshot of all of it.

    ``revision`` is a branch, a tag or a commit; only a full commit is never asked for again.
    """

    type: Literal["hf"] = "hf"
    repo: str
    filename: str | None = None
    revision: str = "main"

    def __init__(self, repo: str | None = None, **fields: Any) -> None:
        # Without one pydantic says that it is missing, also where it tries a union's kinds.
        super().__init__(**(fields if repo is None else {"repo": repo, **fields}))

    @property
    def is_snapshot(self) -> bool:
        """True: the entire repository, as a folder."""
        return self.filename is None

    @property
    def is_directory(self) -> bool:
        """True for a snapshot."""
        return self.is_snapshot

    @property
    def name(self) -> str:
        file = "" if self.filename is None else f"/{self.filename}"
        return f"hf:{self.repo}@{self.revision}{file}"

    @field_validator("repo")
    @classmethod
    def _check_repo(cls, value: str) -> str:
        if not _REPO.fullmatch(value) or ".." in value or "--" in value:
            raise ValueError(
                'repo must be "name" or "owner/name", like repo="google-bert/bert-base"'
            )
        return value

    @field_validator("filename")
    @classmethod
    def _check_filename(cls, value: str | None) -> str | None:
        try:
            return None if value is None else check_relpath(value)
        except UnsafeName as error:
            raise ValueError(str(error)) from None

    @field_validator("revision")
    @classmethod
    def _check_revision(cls, value: str) -> str:
        if (
            not value
            or ".." in value
            or value.startswith("/")
            or has_control(value)
            or "?" in value
        ):
            raise ValueError('revision must be a branch, a tag or a commit, like revision="main"')
        return value


class HTTPWeight(_RemoteSource):
    """One URL gives a file; several give a folder that holds one file of each."""

    type: Literal["http"] = "http"
    urls: Urls
    _filename: str | None = PrivateAttr(default=None)

    def __init__(self, urls: str | Sequence[str] | None = None, **fields: Any) -> None:
        super().__init__(**(fields if urls is None else {"urls": urls, **fields}))

    def named(self, filename: str | None) -> HTTPWeight:
        """The same, its one file under another name."""
        named = self.model_copy()
        named._filename = filename
        return named

    def file_name(self, url: str) -> str:
        """What the URL's file is called: as `named` said, else as its own last component does."""
        return url_file_name(url) if self._filename is None else self._filename

    @property
    def is_directory(self) -> bool:
        """True for several URLs."""
        return len(self.urls) > 1

    @property
    def name(self) -> str:
        more = f" and {len(self.urls) - 1} more" if self.is_directory else ""
        return public_url(self.urls[0]) + more

    @field_validator("urls")
    @classmethod
    def _check_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("'urls' must not be empty")
        urls = tuple(with_spaces(http_url(url.strip(" "), "urls")) for url in value)
        if len(set(urls)) < len(urls):
            raise ValueError("'urls' must not name one URL twice")
        return urls

    def __repr_args__(self) -> Any:
        return _shown_args(
            super().__repr_args__(), "urls", lambda urls: tuple(public_url(url) for url in urls)
        )


class FileWeight(_Source):
    """A file or a folder that is already on this machine, handed out as it is and never cached.

    ``sha256`` of a file is checked at each load.
    """

    type: Literal["file"] = "file"
    path: str

    def __init__(self, path: str | os.PathLike[str] | None = None, **fields: Any) -> None:
        super().__init__(**(fields if path is None else {"path": path, **fields}))

    @property
    def is_directory(self) -> bool:
        """True if the path is a folder at this moment."""
        return os.path.isdir(self.path)

    @property
    def name(self) -> str:
        return f"file:{self.path}"

    @field_validator("path", mode="before")
    @classmethod
    def _check_path(cls, value: Any) -> Any:
        path = os.fspath(value) if isinstance(value, os.PathLike) else value
        if isinstance(path, str) and (not path or "\0" in path):
            raise ValueError(
                'path must name a file or a folder, like FileWeight("weights/model.pt")'
            )
        if isinstance(path, str) and "://" in path:
            raise ValueError("path must be a local path: write HTTPWeight or S3Weight for a URL")
        return os.path.expanduser(path) if isinstance(path, str) else path


WeightSource: TypeAlias = S3Weight | HFWeight | HTTPWeight | FileWeight
"""Every kind of weight source."""


def _shown_args(args: Any, field: str, shown: Any) -> Any:
    return [(k, shown(v) if k == field and v is not None else v) for k, v in args]
