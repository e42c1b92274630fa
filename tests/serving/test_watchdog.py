"""The watchdog's rounds, by a clock of the test's own."""

import asyncio

import pytest

from thalamus_lite.serving.watchdog import watch


class World:
    """Sleeps take as long as they are told to, and by turns a little or a lot longer."""

    def __init__(self, stalls: dict[int, float]) -> None:
        self.now = 100.0
        self.stalls = stalls
        self.rounds = 0
        self.checked: list[float] = []

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if self.rounds == 20:
            raise asyncio.CancelledError
        self.now += seconds + self.stalls.get(self.rounds, 0.0)
        self.rounds += 1

    async def run(self, limit_s: float) -> list[float]:
        def check(limit: float) -> None:
            assert limit == limit_s
            self.checked.append(self.now - 100.0)

        with pytest.raises(asyncio.CancelledError):
            await watch(limit_s, check, self.clock, self.sleep)
        return self.checked


async def test_each_quarter_of_the_limit_is_looked_at() -> None:
    assert await World({}).run(4.0) == [float(second) for second in range(1, 21)]


async def test_long_limits_are_looked_at_every_five_seconds() -> None:
    assert await World({}).run(3600.0) == [5.0 * number for number in range(1, 21)]


async def test_loop_that_is_late_is_no_reason_to_look_away() -> None:
    assert len(await World({3: 1.9, 7: 1.9}).run(4.0)) == 20


async def test_process_that_stood_still_has_the_limit_from_then_on() -> None:
    # Three rounds, then an hour, and the limit of 4 s before the next look.
    found = await World({3: 3600.0}).run(4.0)
    assert found[:4] == [1.0, 2.0, 3.0, 3608.0]
    assert len(found) == 16
