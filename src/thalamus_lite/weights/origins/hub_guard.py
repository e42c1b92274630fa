"""The requests that huggingface-hub makes by itself: where they go, with what, and how many.

The library follows redirects, and the pages of a listing, without asking, and with the token. Its
session is shared with the user's own calls, so what is added to it looks on inside `guarded` alone.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

from thalamus_lite.errors import WeightUnreachable
from thalamus_lite.weights.names import public_url
from thalamus_lite.weights.origins.http_client import authority
from thalamus_lite.weights.transfer.giving_up import go_on

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thalamus_lite.weights.origins.addresses import Guard

# The Hub puts 1000 files on a page, and bounds a repository at 100,000.
_MOST_REQUESTS = 1_000


@dataclass
class _Watch:
    guard: Guard | None
    endpoint: str
    requests: int = 0

    def request(self, url: str) -> None:
        go_on()
        self.requests += 1
        if self.requests > _MOST_REQUESTS:
            raise WeightUnreachable(
                f"{public_url(self.endpoint)}: the listing does not come to an end: check"
                " HF_ENDPOINT"
            )
        if self.guard is not None:
            _, host, port = authority(url)
            self.guard.addresses(host, port or 443)

    def is_home(self, url: str) -> bool:
        return authority(url) == authority(self.endpoint)


_watch: ContextVar[_Watch | None] = ContextVar("thalamus_hub_watch", default=None)


@contextmanager
def guarded(guard: Guard | None, library: Any, endpoint: str) -> Iterator[None]:
    """While inside, this thread's requests through the library go to allowed hosts only.

    The token goes to the ``endpoint`` alone. A request to a host that is not allowed raises what
    `Guard.addresses` does; one too many, or one that nobody waits for, raises as well.
    """
    session = library.utils.get_session()
    if hasattr(session, "event_hooks"):
        _add(session.event_hooks.setdefault("request", []), _check_request)
    else:
        # Versions before 1.0 speak through requests, which shows answers but no requests.
        _add(session.hooks.setdefault("response", []), _check_answer)
    token = _watch.set(_Watch(guard, endpoint))
    try:
        yield
    finally:
        _watch.reset(token)


def _add(hooks: list[Any], hook: Any) -> None:
    if hook not in hooks:
        hooks.append(hook)


def _check_request(request: Any) -> None:
    watch = _watch.get()
    if watch is None:
        return
    url = str(request.url)
    watch.request(url)
    if not watch.is_home(url):
        request.headers.pop("authorization", None)


def _check_answer(response: Any, *_: Any, **__: Any) -> None:
    watch = _watch.get()
    if watch is None:
        return
    if response.is_redirect:
        watch.request(urljoin(response.url, response.headers["location"]))
        return
    page = response.links.get("next", {}).get("url")
    if page is not None:
        watch.request(page)
        # Too late to take the token out of a request that the library makes next.
        if "Authorization" in response.request.headers and not watch.is_home(page):
            raise WeightUnreachable(
                f"{public_url(response.url)}: the listing goes on at another host, which must not"
                " have the token: unset HF_TOKEN, or check HF_ENDPOINT"
            )
