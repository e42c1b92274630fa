"""botocore's clients."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from thalamus_lite.errors import MissingExtra, WeightSourceInvalid
from thalamus_lite.settings import env
from thalamus_lite.weights.forks import Lock, no_fork, watch
from thalamus_lite.weights.names import has_host
from thalamus_lite.weights.origins.pools import guard_connections

if TYPE_CHECKING:
    from thalamus_lite.weights.origins.addresses import Guard

_CONNECT_S = 10.0
_CONNECTIONS = 32

_lock = Lock()

# Where botocore reads an endpoint_url from.
_FILES = (
    ("AWS_CONFIG_FILE", "~/.aws/config"),
    ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
)
# A block in the place of a value, or the reverse, ends in one of these, in botocore or here.
_MISREAD = (AttributeError, TypeError, ValueError)
_EXTRA = 'weights on S3 need botocore: pip install "thalamus-lite[s3]"'


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """``timeout_s`` bounds each read; a body that stalls is the engine's to notice, before that."""

    timeout_s: float = 60.0
    guard: Guard | None = None


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


def chosen_endpoint(endpoint_url: str | None) -> str:
    """The endpoint that somebody chose for such a client; ``""`` for AWS's own.

    Raises:
        MissingExtra: as `client_for` does, where only botocore could tell.
        WeightSourceInvalid: as `client_for` does.
    """
    chosen: object = endpoint_url or env("AWS_ENDPOINT_URL_S3") or env("AWS_ENDPOINT_URL") or ""
    # What is in the cache is served without botocore, as far as that goes.
    if not chosen and any(_may_choose(env(name) or usual) for name, usual in _FILES):
        with no_fork():
            chosen = _configured_endpoint()
    if not isinstance(chosen, str) or (chosen and not has_host(chosen)):
        raise _unusable("an endpoint_url that is no URL")
    return chosen


def _configured_endpoint() -> object:
    """From the session, since a client may ask the network for credentials."""
    try:
        import botocore.session
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise MissingExtra(_EXTRA) from None
    session = botocore.session.Session()
    try:
        if session.get_config_variable("ignore_configured_endpoint_urls"):
            return ""
        profile = session.get_scoped_config()
        services = session.full_config.get("services", {}).get(profile.get("services"), {})
        return services.get("s3", {}).get("endpoint_url") or profile.get("endpoint_url") or ""
    except (BotoCoreError, *_MISREAD) as error:
        raise _unusable(type(error).__name__) from None


def _unusable(what: str) -> WeightSourceInvalid:
    return WeightSourceInvalid(
        f"botocore cannot make a client for S3 ({what}): check region, endpoint_url, AWS_PROFILE"
        " and the AWS config, ~/.aws/config or AWS_CONFIG_FILE"
    )


def _may_choose(file: str) -> bool:
    try:
        return b"endpoint_url" in Path(os.path.expandvars(file)).expanduser().read_bytes()
    except (OSError, RuntimeError):
        return False


def _new_client(
    region: str | None, endpoint_url: str | None, options: ClientOptions, *, unsigned: bool
) -> Any:
    try:
        import botocore.session
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise MissingExtra(_EXTRA) from None
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
        client = botocore.session.Session().create_client(
            "s3", region_name=region, endpoint_url=endpoint_url, config=config
        )
    except (BotoCoreError, *_MISREAD) as error:
        raise _unusable(type(error).__name__) from None
    if options.guard is not None:
        _guard(client, options.guard)
    return client


def _guard(client: Any, guard: Guard) -> None:
    def check(request: Any, **_: Any) -> None:
        parts = urlsplit(request.url)
        guard.addresses(parts.hostname or "", parts.port or 443)

    # For requests through a proxy, which dials by itself.
    client.meta.events.register("before-send.s3", check)
    # Without a public name: botocore takes no pools of one's own.
    guard_connections(client._endpoint.http_session._manager, guard)
