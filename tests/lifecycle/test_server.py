"""``app.serve()``: what uvicorn is told."""

import gc
import importlib.util
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from thalamus_lite import Thalamus, server
from thalamus_lite.errors import ConfigurationError


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    monkeypatch.setattr(uvicorn, "run", lambda app, **options: found.update(options, app=app))
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
