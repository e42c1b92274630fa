"""Room that others are just making, or were killed while they made it."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from typing import TYPE_CHECKING, Any

import pytest
from tests_weights_cache_fakes import Folder, Steps, audit, http

from thalamus_lite.errors import CacheFull
from thalamus_lite.weights.entries import eviction
from thalamus_lite.weights.maintenance import verify
from thalamus_lite.weights.origin import DownloadCancelled

if TYPE_CHECKING:
    from pathlib import Path

EVICTING = ["evicting", "trashed", "forgotten", "unlinked", "removed"]
SIZE = 1000


@pytest.fixture
def content(origin: Folder) -> dict[str, bytes]:
    """Two models, of which the caches here hold one."""
    return {name: origin.put(name, os.urandom(SIZE)) for name in ("m", "n")}


def damage(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])


def test_a_model_that_was_condemned_in_use_is_loaded_again_after_it_was_unloaded(
    make: Any, content: dict[str, bytes], root: Path
) -> None:
    cache = make(max_bytes=SIZE + 1)
    lease = cache.acquire(http("m"))
    damage(lease.path)
    assert [verdict.in_use for verdict in verify(make())] == [True]
    with pytest.raises(CacheFull):
        cache.acquire(http("m"))
    assert cache.clear() == (0, 0)
    lease.release()
    with cache.acquire(http("m")) as again:
        assert again.path.read_bytes() == content["m"]
    assert audit(root) == []


def test_clear_removes_what_was_condemned_in_use(
    make: Any, content: dict[str, bytes], root: Path
) -> None:
    cache = make()
    with cache.acquire(http("m")) as lease:
        damage(lease.path)
        assert [verdict.in_use for verdict in verify(make())] == [True]
    assert cache.clear() == (SIZE, 1)
    assert cache.stats().file_count == 0
    assert audit(root) == []


@pytest.mark.parametrize("step", EVICTING)
def test_an_eviction_that_was_killed_is_finished_by_whoever_needs_the_room(
    make: Any, content: dict[str, bytes], child: Any, root: Path, step: str
) -> None:
    cache = make(max_bytes=SIZE + 1)
    cache.acquire(http("m")).release()
    dying = child(names=[["n"]], die_at=step, options={"max_bytes": SIZE + 1})
    dying.lines()
    assert dying.end() == -signal.SIGKILL
    with cache.acquire(http("n")) as lease:
        assert lease.path.read_bytes() == content["n"]
    cache.clear()
    assert cache.stats().total_size_bytes == 0


@pytest.mark.parametrize("step", ["locked", *EVICTING])
def test_whoever_needs_room_waits_for_what_another_removes(
    make: Any,
    content: dict[str, bytes],
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    other = make(max_bytes=SIZE + 1)
    outcome: list[Any] = []

    def load() -> None:
        try:
            with other.acquire(http("n")) as lease:
                outcome.append(lease.path.read_bytes())
        except CacheFull as error:
            outcome.append(error)

    thread = threading.Thread(target=load)

    def meanwhile() -> None:
        thread.start()
        thread.join(0.05)

    cache = make(max_bytes=SIZE + 1, reached=Steps(at=step, action=meanwhile))
    cache.acquire(http("m")).release()
    if step == "locked":
        index = cache.store().index
        evict = type(index).evict
        monkeypatch.setattr(
            type(index),
            "evict",
            lambda self, ids: [self is index and meanwhile(), evict(self, ids)],
        )
    cache.clear()
    thread.join()
    assert outcome == [content["n"]]
    other.clear()
    assert audit(root) == []


@pytest.fixture
def stuck(make: Any, content: dict[str, bytes]) -> Any:
    """A store in which somebody holds the only entry alone and does not come to an end."""
    cache = make(max_bytes=SIZE + 1, busy_s=0.05)
    cache.acquire(http("m")).release()
    store = cache.store()
    (entry,) = store.index.entries()
    fd = store.lock(entry.entry_id, fcntl.LOCK_EX)
    store.index.evict([entry.entry_id])
    yield cache
    os.close(fd)


def test_an_eviction_that_stands_still_is_waited_for_for_a_while_only(stuck: Any) -> None:
    with pytest.raises(CacheFull):
        stuck.acquire(http("n"))


def test_the_wait_for_room_can_be_given_up(stuck: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cancel = threading.Event()
    pause = eviction.pause
    monkeypatch.setattr(eviction, "pause", lambda seconds: [cancel.set(), pause(seconds)])
    with pytest.raises(DownloadCancelled):
        stuck.acquire(http("n"), cancel=cancel)
