"""botocore's errors as ours."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, cast

from thalamus_lite.errors import (
    WeightAccessDenied,
    WeightChanged,
    WeightError,
    WeightNotFound,
    WeightSourceInvalid,
    WeightUnreachable,
)
from thalamus_lite.weights.transfer.retry import Unanswered, parse_retry_after

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
        case botocore.HTTPClientError() if isinstance(error.kwargs.get("error"), WeightError):
            # Of our own connections; botocore wraps all that it does not know.
            return cast("WeightError", error.kwargs["error"])
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
