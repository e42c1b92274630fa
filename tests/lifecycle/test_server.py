"""``app.serve()``: what uvicorn is told."""

import gc
import importlib.util
from collections.abc import Iterator
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
import uvicorn.supervisors

from thalamus_lite import Thalamus, server
from thalamus_lite.errors import ConfigurationError


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: found.update(options, app=app))
    monkeypatch.setattr(server, "supervise", uvicorn.run)
    monkeypatch.setattr(
        server, "configure", lambda *given, **options: found.update(configured=given[0])
    )
    thresholds = gc.get_threshold()
    yield found
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_serve_runs_uvicorn_with_a_lifespan_that_must_work(told: dict[str, Any]) -> None:
    app = Thalamus(log_level="WARNING")
    app.serve(host="127.0.0.1", port=0)
    assert told["app"] is app
    assert (told["host"], told["port"], told["lifespan"]) == ("127.0.0.1", 0, "on")
    assert (told["http"], told["loop"]) == ("httptools", "uvloop")
    assert told["access_log"] is told["proxy_headers"] is told["server_header"] is False
    assert told["configured"] == "WARNING"
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == server.COLLECTOR_THRESHOLDS


@pytest.mark.parametrize(
    ("written", "level"),
    [("debug", "DEBUG"), (" Info ", "INFO"), ("warn", "WARNING"), ("FATAL", "CRITICAL")],
)
def test_level_may_be_written_as_logging_s_users_do(
    told: dict[str, Any], written: str, level: str
) -> None:
    Thalamus(log_level=written).serve()
    assert (told["configured"], told["log_level"]) == (level, level.lower())


@pytest.mark.parametrize("written", ["LOUD", "", 10, None])
def test_level_that_there_is_not_is_refused_at_once(written: Any) -> None:
    with pytest.raises(ValueError, match="log_level must be one of DEBUG, INFO, WARNING, ERROR"):
        Thalamus(log_level=written)


def test_environment_says_the_log_level(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_LOG_LEVEL", "debug")
    server.run("module:app", host="127.0.0.1", port=0, workers=2, proxy_headers=True)
    assert (told["app"], told["workers"], told["proxy_headers"]) == ("module:app", 2, True)
    assert told["log_level"] == "debug"
    assert told["loop"] == "thalamus_lite.server:worker_loop"


@pytest.mark.parametrize("quick", [True, False])
def test_worker_sets_its_process_up_before_it_loads_the_app(
    told: dict[str, Any], quick: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_LOG_LEVEL", "debug")
    if not quick:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    loop = server.worker_loop()
    loop.close()
    assert type(loop).__module__.startswith("uvloop" if quick else "asyncio")
    assert told["configured"] == "DEBUG"
    assert gc.get_threshold() == server.COLLECTOR_THRESHOLDS


def test_bad_environment_is_told_before_the_server_starts(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_DRAIN_S", "-1")
    with pytest.raises(ConfigurationError, match="THALAMUS_DRAIN_S"):
        Thalamus().serve()
    assert "app" not in told


def test_plain_loop_and_parser_do_where_the_quick_ones_are_missing(
    told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    Thalamus().serve()
    assert (told["http"], told["loop"]) == ("h11", "asyncio")


async def test_serve_within_a_running_loop_says_where_to_call_it(told: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="an event loop runs in this thread, as in a notebook"):
        Thalamus().serve()
    assert told == {}


@pytest.mark.parametrize("takes_target", [True, False])
@pytest.mark.parametrize(("codes", "ends"), [([-15, -15], None), ([-15, 3], 3), ([], None)])
def test_supervisor_tells_of_workers_that_could_not_start(
    takes_target: bool, codes: list[int], ends: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As uvicorn's is now, and as it was before 0.51."""
    workers = [SimpleNamespace(process=SimpleNamespace(exitcode=code)) for code in codes]

    class Now:
        processes = workers

        def __init__(self, config: Any, sockets: list[Any]) -> None:
            for socket in sockets:
                socket.close()

        def run(self) -> None: ...

    class Before(Now):
        def __init__(self, config: Any, target: Any, sockets: list[Any]) -> None:
            assert callable(target)
            super().__init__(config, sockets)

    monkeypatch.setattr(uvicorn.supervisors, "Multiprocess", Before if takes_target else Now)
    with pytest.raises(SystemExit) if ends else nullcontext() as ended:
        server.supervise("a:b", port=0, workers=2, log_config=None)
    assert ended is None or ended.value.code == ends
