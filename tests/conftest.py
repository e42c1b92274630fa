"""What every folder's tests share: a clean environment, ``async def`` tests, the zoo of models."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

HERE = Path(__file__).parent
LANE_PATIENCE_S = 10.0

# A machine that is busy with something else must not fail a test.
settings.register_profile(
    "thalamus-lite", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("thalamus-lite")


def _load(name: str, file: str | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / (file or f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Before its body runs: annotations that are text are looked up there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


zoo_module = _load("zoo")
driver_module = _load("driver")
servers_module = _load("servers")
kit_module = _load("lifecycle_kit", "lifecycle/kit.py")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run ``async def`` tests, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No setting of the developer's shell reaches a test, and no test the developer's cache."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("THALAMUS_") and name != "THALAMUS_SOAK":
                patch.delenv(name)
        patch.setenv("THALAMUS_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def _lanes() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if "@" in thread.name}


@pytest.fixture
def no_lane_left() -> Iterator[None]:
    """For tests that start apps of their own: one that is left running is found by other tests."""
    before = _lanes()
    yield
    for lane in _lanes() - before:
        lane.join(LANE_PATIENCE_S)
        assert not lane.is_alive(), f"the lane {lane.name} was left running"


@pytest.fixture
def kit_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key that the clients of ``tests/lifecycle/kit.py`` send is the server's."""
    monkeypatch.setenv("THALAMUS_API_KEY", kit_module.KEY)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A fake device behind every lane."""
    device = kit_module.FakeDevice()
    kit_module.use_backend(monkeypatch, device)
    return device


@pytest.fixture(scope="session")
def driver() -> ModuleType:
    """``tests/driver.py``: requests of any shape, straight into an app."""
    return driver_module


@pytest.fixture(scope="session")
def servers() -> ModuleType:
    """``tests/servers.py``: real servers, and clients over sockets."""
    return servers_module


@pytest.fixture(scope="session")
def zoo() -> ModuleType:
    """``tests/zoo.py``: models of every kind."""
    return zoo_module


@pytest.fixture(
    scope="session", params=["uvicorn-httptools", "uvicorn-h11", "hypercorn", "granian"]
)
def real_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """The zoo under each server, one after another; bodies may have a quarter of a MiB."""
    log = tmp_path_factory.mktemp(request.param) / "log"
    with servers_module.launched(request.param, log, THALAMUS_MAX_BODY_MB="0.25") as server:
        yield server
    text = log.read_text()
    # uvicorn's own, with h11: garbage behind a request ends the connection before its answer.
    known = text.count("h11._util.LocalProtocolError: can't handle event type Response")
    count = text.count("Traceback (most recent call last)")
    assert count == known, f"what clients did was logged as an error:\n{text[-5000:]}"
