"""Going down: signals chained, delayed and passed on, with handlers of the test's own."""

import asyncio
import signal
import threading
from collections.abc import Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from lifecycle_kit import until

from thalamus_lite.errors import Draining
from thalamus_lite.serving.drain import Drain


class Service:
    def __init__(self) -> None:
        self.batcher = SimpleNamespace(loop=asyncio.get_running_loop())
        self.draining = self.leaving = False
        self.inflight = 0
        self.given_up: list[Any] = []

    def announce_drain(self) -> None:
        self.leaving = True

    def give_up(self, error: Any) -> None:
        self.given_up.append(error)


@pytest.fixture
def server() -> Iterator[list[int]]:
    """What a server's own handlers were called with."""
    calls: list[int] = []
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}

    def handler(number: int, _frame: FrameType | None) -> None:
        calls.append(number)

    for number in numbers:
        signal.signal(number, handler)
    yield calls
    for number, previous in before.items():
        signal.signal(number, previous)


async def signalled(number: int) -> None:
    signal.raise_signal(number)
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_signal_begins_the_drain_and_reaches_the_server(
    server: list[int], number: int
) -> None:
    service = Service()
    drain = Drain(service, 3600.0)  # type: ignore[arg-type]
    began: list[int] = []
    drain.on_begin = lambda: began.append(1)
    drain.install()
    await signalled(number)
    assert service.draining
    assert server == [number]
    drain.begin()
    assert began == [1]
    drain.uninstall()


async def test_delay_comes_before_the_server_hears_of_sigterm(server: list[int]) -> None:
    service = Service()
    drain = Drain(service, 3600.0)  # type: ignore[arg-type]
    drain.install()
    drain.delay_s = 0.02
    await signalled(signal.SIGTERM)
    assert (service.leaving, service.draining, server) == (True, False, [])
    await until(lambda: server)
    assert service.draining
    # Later ones go straight on.
    await signalled(signal.SIGTERM)
    assert server == [signal.SIGTERM] * 2
    drain.uninstall()


async def test_later_signal_ends_the_delay_and_its_timer(
    server: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("thalamus_lite.serving.drain.ONE_SIGNAL_S", 1800.0)
    service = Service()
    drain = Drain(service, 3600.0)  # type: ignore[arg-type]
    drain.install()
    drain.delay_s = 0.5
    # Both before the loop comes round to the first: from a supervisor, and from who told it.
    signal.raise_signal(signal.SIGTERM)
    await signalled(signal.SIGTERM)
    assert (service.leaving, service.draining, server) == (True, False, [])
    monkeypatch.setattr("thalamus_lite.serving.drain.ONE_SIGNAL_S", -1.0)
    await signalled(signal.SIGTERM)
    assert service.draining
    assert server == [signal.SIGTERM]
    await asyncio.sleep(0.6)
    assert server == [signal.SIGTERM]
    drain.uninstall()


async def test_sigint_waits_for_no_balancer(server: list[int]) -> None:
    service = Service()
    drain = Drain(service, 3600.0)  # type: ignore[arg-type]
    drain.install()
    drain.delay_s = 3600.0
    await signalled(signal.SIGINT)
    assert service.draining
    assert server == [signal.SIGINT]
    drain.uninstall()


@pytest.mark.parametrize("left", [0, 3])
async def test_what_is_left_after_the_drain_time_is_given_up(
    left: int, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    service.inflight = left
    drain = Drain(service, 0.01)  # type: ignore[arg-type]
    drain.begin()
    await until(lambda: service.given_up)
    assert isinstance(service.given_up[0], Draining)
    assert ("the drain time is over" in caplog.text) == bool(left)
    drain.uninstall()


async def test_handlers_of_the_server_are_put_back(server: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    drain = Drain(Service(), 1.0)  # type: ignore[arg-type]
    drain.install()
    assert signal.getsignal(signal.SIGTERM) != before
    drain.begin()
    drain.uninstall()
    assert signal.getsignal(signal.SIGTERM) is before


async def test_two_apps_may_end_in_any_order(server: list[int]) -> None:
    first, second = Service(), Service()
    inner, outer = Drain(first, 1.0), Drain(second, 1.0)  # type: ignore[arg-type]
    inner.install()
    outer.install()
    inner.uninstall()
    await signalled(signal.SIGTERM)
    assert (first.draining, second.draining) == (False, True)
    assert server == [signal.SIGTERM]
    outer.uninstall()


async def test_default_handlers_belong_to_the_program() -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        drain = Drain(Service(), 1.0)  # type: ignore[arg-type]
        drain.install()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        drain.uninstall()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_nothing_is_chained_outside_the_main_thread(server: list[int]) -> None:
    drain = Drain(Service(), 1.0)  # type: ignore[arg-type]
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=drain.install)
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
    drain.uninstall()


async def test_handlers_are_left_to_pass_signals_on_where_another_thread_ends_the_drain(
    server: list[int],
) -> None:
    service = Service()
    drain = Drain(service, 1.0)  # type: ignore[arg-type]
    drain.install()
    failed: list[BaseException] = []

    def end() -> None:
        try:
            drain.uninstall()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert failed == []
    await signalled(signal.SIGTERM)
    assert (server, service.draining) == ([signal.SIGTERM], False)
    drain.uninstall()


async def test_signal_after_the_loop_has_ended_still_reaches_the_server(server: list[int]) -> None:
    loop = asyncio.new_event_loop()
    service = Service()
    service.batcher.loop = loop
    drain = Drain(service, 1.0)  # type: ignore[arg-type]
    drain.install()
    loop.close()
    await signalled(signal.SIGTERM)
    assert server == [signal.SIGTERM]
    drain.rebind(asyncio.get_running_loop())
    await signalled(signal.SIGTERM)
    assert service.draining
    drain.uninstall()
