"""Outputs of a streaming model, on their way from a lane to one reader on the event loop.

At most ``LIMIT`` outputs wait: a producer faster than its reader waits in turn, but not for ever,
since it holds a lane. The reader takes all that is there at once, so a fast producer costs one
wake-up for many outputs. Closing the channel is how a reader says that nobody listens any more; the
producer learns of it at its next output.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.execution import tell
from thalamus_lite.errors import DeadlineExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LIMIT = 64


def _as_it_is(output: Any) -> Any:
    return output


class ReaderStalled(DeadlineExceeded):
    """The client does not read what it asked for."""


class Channel:
    """One producer, in a thread or on the loop; one reader on the loop.

    ``patience_s`` is how long the producer waits for a reader that takes nothing. ``dump`` makes of
    an output what is handed over; it is for the producer to call, at once: a model may fill one
    object again for each output that it yields.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        patience_s: float | None = None,
        dump: Callable[[Any], Any] = _as_it_is,
    ) -> None:
        self._loop = loop
        self._patience_s = patience_s
        self.dump = dump
        self._items: deque[Any] = deque()
        self._space = threading.Event()
        self._wake: asyncio.Event = asyncio.Event()
        self._drained: asyncio.Event = asyncio.Event()
        self._woken = False
        self.closed = False
        self.ended = False
        self.error: BaseException | None = None

    def put(self, item: Any) -> bool:
        """Hand over one output from a lane's thread, once there is room; False: nobody listens.

        Raises:
            ReaderStalled: there was no room for too long.
        """
        while len(self._items) >= LIMIT and not self.closed:
            self._space.clear()
            # Looked at again after the clear: the reader may have made room in between.
            if (
                len(self._items) >= LIMIT
                and not self.closed
                and not self._space.wait(self._patience_s)
            ):
                raise ReaderStalled
        if self.closed:
            return False
        self._items.append(item)
        if not self._woken:
            self._woken = True
            tell(self._loop, self._wake.set)
        return True

    async def aput(self, item: Any) -> bool:
        """The same from the loop."""
        while len(self._items) >= LIMIT and not self.closed:
            self._drained.clear()
            try:
                async with asyncio.timeout(self._patience_s):
                    await self._drained.wait()
            except TimeoutError:
                raise ReaderStalled from None
        if self.closed:
            return False
        self._items.append(item)
        self._wake.set()
        return True

    def end(self, error: BaseException | None = None) -> None:
        """No more outputs will come; on the loop.

        ``error`` is raised at the reader after the last one.
        """
        if not self.ended:
            self.ended = True
            self.error = error
            self._wake.set()

    def close(self) -> None:
        """Stop the producer at its next output, and drop what it made; on the loop."""
        self.closed = True
        self._items.clear()
        self._space.set()
        self._drained.set()

    async def batches(
        self, gap_s: float | None = None, first_s: float | None = None
    ) -> AsyncIterator[list[Any]]:
        """All waiting outputs, again and again until the end.

        Raises:
            TimeoutError: nothing came for ``gap_s`` seconds, or ``first_s`` for the first output.
        """
        patience_s = gap_s if first_s is None else first_s
        while True:
            if not self._items:
                if self.ended:
                    break
                if patience_s is None:
                    await self._wake.wait()
                else:
                    async with asyncio.timeout(patience_s):
                        await self._wake.wait()
            # In this order, so that an output put after the drain wakes the reader again.
            self._wake.clear()
            self._woken = False
            items = self._take()
            if items:
                yield items
                patience_s = gap_s
        if self.error is not None:
            raise self._take_error()

    def _take_error(self) -> BaseException:
        """The error, once: its traceback will know the reader, which must not lead back to it."""
        error, self.error = self.error, None
        assert error is not None
        return error

    def _take(self) -> list[Any]:
        items: list[Any] = []
        while self._items:
            items.append(self._items.popleft())
        self._space.set()
        self._drained.set()
        return items
