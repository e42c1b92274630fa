"""The alarm of the batcher, on both event loops."""

import asyncio
import socket
import time
from typing import Any

import pytest
import uvloop

from thalamus_lite.batching.alarm import Alarm

LOOPS: dict[str, Any] = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.mark.parametrize("loop", LOOPS)
def test_what_has_arrived_unread_comes_before_the_ring(loop: str) -> None:
    """A batch that is held for a client must not start while its request lies in the socket."""
    order: list[str] = []

    async def run() -> None:
        running = asyncio.get_running_loop()
        server, client = socket.socketpair()
        server.setblocking(False)

        async def arrive() -> None:
            order.append("arrived")

        tasks = []

        def readable() -> None:
            server.recv(1)
            tasks.append(running.create_task(arrive()))

        rung = running.create_future()

        def ring() -> None:
            order.append("rang")
            rung.set_result(None)

        alarm = Alarm(running, ring)
        running.add_reader(server, readable)
        await asyncio.sleep(0)
        alarm.set(1.0, 0.99)
        client.send(b"x")
        # The loop is busy until both are due.
        time.sleep(0.05)  # noqa: ASYNC251
        await asyncio.wait_for(rung, 10)
        running.remove_reader(server)
        server.close()
        client.close()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(run())
    assert order == ["arrived", "rang"]


async def test_the_earliest_time_counts_and_an_alarm_rings_once() -> None:
    rings: list[float] = []
    loop = asyncio.get_running_loop()
    rung = asyncio.Event()

    def ring() -> None:
        rings.append(loop.time())
        rung.set()

    alarm = Alarm(loop, ring)
    start = loop.time()
    alarm.set(10.0, 0.0)
    alarm.set(0.02, 0.0)
    alarm.set(0.03, 0.0)
    await asyncio.wait_for(rung.wait(), 10)
    assert rings[0] - start >= 0.015
    await asyncio.sleep(0.05)
    assert len(rings) == 1
