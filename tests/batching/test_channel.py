"""The way of a stream's outputs from a lane, or from a coroutine, to its one reader."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from thalamus_lite.batching.channel import LIMIT, Channel, ReaderStalled


def make() -> Channel:
    return Channel(asyncio.get_running_loop())


async def read(channel: Channel, **times: float) -> list[Any]:
    return [item async for items in channel.batches(**times) for item in items]


async def producer(channel: Channel, count: int) -> threading.Thread:
    """A thread that puts ``count`` numbers and then ends the channel."""
    loop = asyncio.get_running_loop()

    def run() -> None:
        for number in range(count):
            if not channel.put(number):
                return
        loop.call_soon_threadsafe(channel.end)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)


async def joined(thread: threading.Thread) -> None:
    await until(lambda: not thread.is_alive())


@pytest.mark.parametrize("count", [0, 1, LIMIT - 1, LIMIT, LIMIT + 1, 20_000])
async def test_all_outputs_of_a_thread_come_in_order(count: int) -> None:
    channel = make()
    thread = await producer(channel, count)
    assert await read(channel) == list(range(count))
    await joined(thread)


async def test_thread_waits_while_64_outputs_wait() -> None:
    channel = make()
    thread = await producer(channel, LIMIT + 1)
    await until(lambda: len(channel._items) == LIMIT)
    assert thread.is_alive()
    assert len(channel._items) == LIMIT
    assert len(await read(channel)) == LIMIT + 1
    await joined(thread)


async def test_coroutine_waits_while_64_outputs_wait() -> None:
    channel = make()
    for number in range(LIMIT):
        assert await channel.aput(number)
    more = asyncio.ensure_future(channel.aput(LIMIT))
    await asyncio.sleep(0)
    assert not more.done()
    reader = channel.batches()
    assert await anext(reader) == list(range(LIMIT))
    assert await more
    assert await anext(reader) == [LIMIT]
    await reader.aclose()  # type: ignore[attr-defined]


async def test_reader_takes_all_that_waits_at_once() -> None:
    channel = make()
    for number in range(5):
        assert channel.put(number)
    channel.end()
    assert [items async for items in channel.batches()] == [[0, 1, 2, 3, 4]]


async def test_closing_ends_a_thread_that_waits_for_room() -> None:
    channel = make()
    thread = await producer(channel, LIMIT + 1)
    await until(lambda: len(channel._items) == LIMIT)
    channel.close()
    await joined(thread)
    assert not channel._items
    assert channel.put(1) is False


async def test_closing_ends_a_coroutine_that_waits_for_room() -> None:
    channel = make()
    for number in range(LIMIT):
        await channel.aput(number)
    more = asyncio.ensure_future(channel.aput(LIMIT))
    await asyncio.sleep(0)
    channel.close()
    assert await more is False


async def test_error_is_raised_after_the_last_output_and_the_first_end_counts() -> None:
    channel = make()
    channel.put(1)
    channel.end(ValueError("first"))
    channel.end(ValueError("second"))
    reader = channel.batches()
    assert await anext(reader) == [1]
    with pytest.raises(ValueError, match="first"):
        await anext(reader)


@pytest.mark.parametrize("times", [{"gap_s": 0.01}, {"first_s": 0.01}, {"gap_s": 9, "first_s": 0}])
async def test_reader_gives_up_on_a_first_output_that_does_not_come(times: Any) -> None:
    with pytest.raises(TimeoutError):
        await read(make(), **times)


async def test_first_output_has_a_time_of_its_own_and_each_gap_another() -> None:
    channel = make()
    reader = channel.batches(gap_s=0.01, first_s=30)
    first = asyncio.ensure_future(anext(reader))
    await asyncio.sleep(0.03)
    channel.put(1)
    assert await first == [1]
    with pytest.raises(TimeoutError):
        await anext(reader)


async def test_output_that_comes_between_two_looks_wakes_the_reader_again() -> None:
    channel = make()
    reader = channel.batches()
    channel.put(1)
    assert await anext(reader) == [1]
    # The wake-up of the first one is still under way; it brings nothing, and nothing is lost.
    waiting = asyncio.ensure_future(anext(reader))
    for _ in range(3):
        await asyncio.sleep(0)
    assert not waiting.done()
    channel.put(2)
    assert await waiting == [2]
    await reader.aclose()  # type: ignore[attr-defined]


def test_thread_of_a_closed_loop_puts_into_nothing() -> None:
    loop = asyncio.new_event_loop()

    async def within() -> Channel:
        return make()

    channel = loop.run_until_complete(within())
    loop.close()
    assert channel.put(1)


@pytest.mark.parametrize("where", ["lane", "loop"])
async def test_reader_that_takes_nothing_for_too_long_stops_the_producer(where: str) -> None:
    channel = Channel(asyncio.get_running_loop(), patience_s=0.02)

    async def on_loop() -> None:
        for number in range(LIMIT + 1):
            await channel.aput(number)

    def in_lane() -> None:
        for number in range(LIMIT + 1):
            channel.put(number)

    with pytest.raises(ReaderStalled):
        await (asyncio.to_thread(in_lane) if where == "lane" else on_loop())
    channel.end(ReaderStalled())
    # What was made for it is still there, and then the reason why no more came.
    outputs = channel.batches()
    assert await anext(outputs) == list(range(LIMIT))
    with pytest.raises(ReaderStalled):
        await anext(outputs)
    assert channel.error is None
