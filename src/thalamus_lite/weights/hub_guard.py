"""The requests that huggingface-hub makes by itself, held against the guard.

The library follows redirects, and the pages of a listing, without asking. Its session is shared
with the user's own calls, so what is added to it looks on inside `guarded` alone.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thalamus_lite.weights.addresses import Guard

_guard: ContextVar[Guard | None] = ContextVar("thalamus_hub_guard", default=None)


@contextmanager
def guarded(guard: Guard | None, library: Any) -> Iterator[None]:
    """While inside, this thread's requests through the library go to allowed hosts only.

    A request to another raises what `Guard.addresses` does.
    """
    if guard is None:
        yield
        return
    session = library.utils.get_session()
    if hasattr(session, "event_hooks"):
        _add(session.event_hooks.setdefault("request", []), _check_request)
    else:
        # Versions before 1.0 speak through requests, which shows answers but no requests.
        _add(session.hooks.setdefault("response", []), _check_answer)
    token = _guard.set(guard)
    try:
        yield
    finally:
        _guard.reset(token)


def _add(hooks: list[Any], hook: Any) -> None:
    if hook not in hooks:
        hooks.append(hook)


def _check_request(request: Any) -> None:
    _check(str(request.url))


def _check_answer(response: Any, *_: Any, **__: Any) -> None:
    if response.is_redirect:
        _check(urljoin(response.url, response.headers["location"]))


def _check(url: str) -> None:
    guard = _guard.get()
    if guard is not None:
        parts = urlsplit(url)
        guard.addresses(parts.hostname or "", parts.port or 443)
