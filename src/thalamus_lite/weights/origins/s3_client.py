"""botocore's clients, and its errors as ours."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from thalamus_lite.errors import (
    MissingExtra,
    WeightAccessDenied,
    WeightChanged,
    WeightError,
    WeightNotFound,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.settings import env
from thalamus_lite.weights.forks import Lock, no_fork, watch
from thalamus_lite.weights.transfer.retry import Unanswered, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CONNECT_S = 10.0
_CONNECTIONS = 32

_lock = Lock()

# Where botocore reads an endpoint_url from.
_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)
_AWS = (".amazonaws.com", ".amazonaws.com.cn")

_REGION = (
    "the bucket is in another region: give the region to the source, like"
    ' S3Weight(..., region="eu-west-1"), or set AWS_REGION'
)
_LOGIN = (
    "access is denied: check the AWS credentials and the bucket's policy, or set"
    " AWS_NO_SIGN_REQUEST=1 for a public bucket"
)
_SLOW = "the server asks for fewer requests"
_CODES: dict[str, tuple[type[WeightError], str]] = {
    "NoSuchKey": (WeightNotFound, "there is no such object: check the key"),
    "NoSuchBucket": (WeightNotFound, "there is no such bucket: check its name and the endpoint"),
    "NoSuchVersion": (WeightChanged, "this version of the object was deleted"),
    "PreconditionFailed": (WeightChanged, "the object changed while it was downloaded"),
    "InvalidRange": (WeightChanged, "the object became shorter while it was downloaded"),
    "PermanentRedirect": (WeightSourceInvalid, _REGION),
    "AuthorizationHeaderMalformed": (WeightSourceInvalid, _REGION),
    "IllegalLocationConstraintException": (WeightSourceInvalid, _REGION),
    "InvalidBucketName": (WeightSourceInvalid, "this is not a bucket's name"),
    "RequestTimeTooSkewed": (WeightAccessDenied, "this machine's clock is wrong: set it"),
    "ExpiredToken": (WeightAccessDenied, "the AWS session token has expired: log in again"),
    "InvalidObjectState": (
        WeightAccessDenied,
        "the object is archived (Glacier): restore it, or copy it to another storage class",
    ),
    "EntityTooLarge": (WeightSourceInvalid, "the server refuses an object of this size"),
    "SlowDown": (Unanswered, _SLOW),
    "Throttling": (Unanswered, _SLOW),
    "ThrottlingException": (Unanswered, _SLOW),
    "RequestLimitExceeded": (Unanswered, _SLOW),
    "RequestTimeout": (Unanswered, "the server waited too long for the request"),
    "BadDigest": (Unanswered, "the bytes were damaged on their way to the server"),
}
_STATUSES: dict[int, tuple[type[WeightError], str]] = {
    301: (WeightSourceInvalid, _REGION),
    307: (WeightSourceInvalid, _REGION),
    400: (WeightSourceInvalid, "the server does not understand the request: check the source"),
    401: (WeightAccessDenied, _LOGIN),
    403: (WeightAccessDenied, _LOGIN),
    404: (WeightNotFound, "there is no such bucket or object: check their names"),
    408: (Unanswered, "the server waited too long for the request"),
    412: (WeightChanged, "the object changed while it was downloaded"),
    416: (WeightChanged, "the object became shorter while it was downloaded"),
    429: (Unanswered, _SLOW),
}


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """``timeout_s`` bounds each read; a body that stalls is the engine's to notice, before that."""

    timeout_s: float = 60.0


_USUAL = ClientOptions()


class _Clients:
    """This process's own: two processes on one connection would get each other's answers."""

    def __init__(self) -> None:
        self.clients: dict[tuple[str | ClientOptions | None, ...], Any] = {}
        watch(self)

    def after_fork(self) -> None:
        # Not closed: that takes locks which a thread of the parent may have held.
        self.clients = {}


_shared = _Clients()


def client_for(
    region: str | None = None,
    endpoint_url: str | None = None,
    options: ClientOptions = _USUAL,
) -> Any:
    """The botocore S3 client for this region and endpoint, made once; None: what botocore finds.

    Its retries are off: they would multiply ours. ``AWS_NO_SIGN_REQUEST=1`` makes it unsigned.

    Raises:
        MissingExtra: botocore is not installed.
        WeightSourceInvalid: botocore cannot use the region, the endpoint or its own configuration.
    """
    unsigned = (env("AWS_NO_SIGN_REQUEST") or "").strip().lower() in ("1", "true", "yes", "on")
    # What botocore reads once, so that a changed environment is not met by an old client.
    key = (
        *(region, endpoint_url, str(unsigned), options),
        *(env(name) for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION")),
        *(env(name) for name in ("AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ACCESS_KEY_ID")),
        *(env(name) for name in ("AWS_DEFAULT_PROFILE", *(name for name, _ in _FILES))),
    )
    with _lock:
        if key not in _shared.clients:
            # A child that is born in the middle of an import could never import again.
            with no_fork():
                _shared.clients[key] = _new_client(region, endpoint_url, options, unsigned=unsigned)
        return _shared.clients[key]


def chosen_endpoint(
    region: str | None, endpoint_url: str | None, options: ClientOptions = _USUAL
) -> str:
    """The endpoint that somebody chose for such a client; ``""`` for AWS's own.

    Raises:
        MissingExtra, WeightSourceInvalid: as `client_for` does, where only botocore could tell.
    """
    chosen = endpoint_url or env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL")
    if chosen:
        return chosen
    # A client takes half a second to make, which is much for a file that is in the cache.
    if not any(_may_choose(env(name) or usual) for name, usual in _FILES):
        return ""
    found = str(client_for(region, None, options).meta.endpoint_url)
    return "" if (urlsplit(found).hostname or "").endswith(_AWS) else found


def _may_choose(file: str) -> bool:
    try:
        return b"endpoint_url" in Path(os.path.expandvars(file)).expanduser().read_bytes()
    except (OSError, RuntimeError):
        return False


def forget_clients() -> None:
    """Close all clients; the next call makes new ones."""
    with _lock:
        for client in _shared.clients.values():
            client.close()
        _shared.clients.clear()


def _new_client(
    region: str | None, endpoint_url: str | None, options: ClientOptions, *, unsigned: bool
) -> Any:
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise MissingExtra('weights on S3 need botocore: pip install "thalamus-lite[s3]"') from None
    config = Config(
        retries={"total_max_attempts": 1},
        connect_timeout=min(options.timeout_s, _CONNECT_S),
        read_timeout=options.timeout_s,
        max_pool_connections=_CONNECTIONS,
        # The engine checks bytes in order and over all ranges; botocore would check each answer,
        # and many servers that are not AWS refuse its trailing checksums.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        signature_version=UNSIGNED if unsigned else None,
        user_agent_extra="thalamus-lite",
    )
    try:
        # A session of its own: botocore's are not thread-safe, and this one ends here.
        return botocore.session.Session().create_client(
            "s3", region_name=region, endpoint_url=endpoint_url, config=config
        )
    except (BotoCoreError, ValueError) as error:
        raise WeightSourceInvalid(
            f"botocore cannot make a client for S3 ({type(error).__name__}): check region,"
            " endpoint_url and AWS_PROFILE"
        ) from None


def ask(operation: Callable[..., Any], where: str, **kwargs: Any) -> Any:
    """``operation(**kwargs)`` of a client, its errors as ours.

    Raises:
        Unanswered: another attempt may succeed.
        WeightError: none will.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return operation(**kwargs)
    except ClientError as error:
        raise _refusal(error, where) from None
    except BotoCoreError as error:
        raise _failure(error, where) from None
    except (ValueError, OverflowError) as error:
        # A number or a date that is none; the error would repeat what the server sent.
        raise WeightUnreachable(
            f"{where}: the server does not answer as S3 does ({type(error).__name__}): check"
            " endpoint_url"
        ) from None


def required(answer: Mapping[str, Any], name: str, where: str) -> Any:
    """A field that S3 always answers with, and a server that only resembles it may not."""
    if answer.get(name) is None:
        raise WeightUnreachable(
            f"{where}: the server does not answer as S3 does (no {name}): check endpoint_url"
        )
    return answer[name]


def _refusal(error: Any, where: str) -> WeightError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    meta = error.response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0))
    known = _CODES.get(code) or _STATUSES.get(status)
    shown = f"{status} {code}" if code and not code.isdigit() else str(status)
    if known is not None and known[0] is not Unanswered:
        kind, text = known
        return kind(f"{where}: {text} ({shown[:60]})")
    if known is not None or status >= 500:
        text = known[1] if known is not None else "the server failed"
        wait = parse_retry_after(meta.get("HTTPHeaders", {}).get("retry-after"), time.time())
        return Unanswered(f"{where}: {text} ({shown[:60]})", retry_after_s=wait)
    return WeightUnreachable(f"{where}: the server refused the request ({shown[:60]})")


def _failure(error: Any, where: str) -> WeightError:
    """No answer at all. Texts of botocore may hold a URL, so only the kind of error is told."""
    from botocore import exceptions as botocore

    match error:
        case botocore.NoCredentialsError() | botocore.PartialCredentialsError():
            return WeightAccessDenied(
                f"{where}: no AWS credentials were found: set AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY or a profile, or AWS_NO_SIGN_REQUEST=1 for a public bucket"
            )
        case botocore.CredentialRetrievalError() | botocore.TokenRetrievalError():
            return WeightAccessDenied(f"{where}: the AWS credentials cannot be had: log in again")
        case botocore.SSLError() if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return WeightUnreachable(
                f"{where}: the server's certificate is not trusted: name its authority's"
                " certificate in AWS_CA_BUNDLE"
            )
        case botocore.ParamValidationError():
            return WeightSourceInvalid(f"{where}: botocore refuses the bucket or the key as a name")
        case botocore.HTTPClientError() | botocore.ConnectionError():
            return Unanswered(
                f"{where}: no connection to the server: check the endpoint and the network"
                f" ({type(error).__name__})"
            )
        case _:
            return WeightUnreachable(f"{where}: botocore failed with {type(error).__name__}")
