"""Sends each request when it is due, on as many connections as that takes, and notes when its
answer was complete.

One thread, one epoll, no event loop: asyncio's timers have the resolution of a millisecond, and its
cost a request is that of the servers that are measured. Close to the next arrival the generator
spins, so that it sends in time; its own core is meant for that.
"""

from __future__ import annotations

import select
import time
from array import array
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.load.connection import Broken, Connection
from benchmarks.load.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_SPIN_S = 0.0015
_HEAD_START_S = 0.02
_NONE = -1


@dataclass(frozen=True)
class Where:
    """``most``: connections; a request that is due while all are busy waits, and its waiting
    counts.
    """

    host: str
    port: int
    most: int = 1024
    patience_s: float = 10.0


class Generator:
    """``requests``: the encoded bytes of each kind of request. Used once."""

    def __init__(
        self,
        where: Where,
        requests: Sequence[bytes],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._where = where
        self._requests = requests
        self._clock = clock
        self._epoll = select.epoll()
        self._all: dict[int, Connection] = {}
        self._idle: list[Connection] = []
        self._waiting: deque[int] = deque()
        self._retried: set[int] = set()
        self._open = 0
        self._begun = 0.0

    def run(self, schedule: Sequence[tuple[float, int]]) -> Outcome:
        """``schedule``: (seconds from the start, kind), in order. Ends ``patience_s`` after the
        last.
        """
        self._schedule = schedule
        count = len(schedule)
        self._latency = array("d", [float("nan")]) * count
        self._late = array("d", [0.0]) * count
        self._status = array("i", [_NONE]) * count
        try:
            for _ in range(min(8, self._where.most)):
                self._idle.append(self._connect())
            busy_s, wall_s = self._loop(count)
        finally:
            for connection in self._all.values():
                connection.close()
            self._epoll.close()
        return Outcome(
            [due for due, _ in schedule],
            [kind for _, kind in schedule],
            self._latency,
            self._status,
            self._late,
            busy_s / wall_s if wall_s else 0.0,
            len(self._all),
        )

    def _loop(self, count: int) -> tuple[float, float]:
        clock, poll, schedule = self._clock, self._epoll.poll, self._schedule
        begun = self._begun = clock() + _HEAD_START_S
        busy_s = 0.0
        sent = 0
        ends = (schedule[-1][0] if count else 0.0) + self._where.patience_s
        while True:
            now = clock() - begun
            if (sent == count and not self._open) or now > ends:
                break
            turn = now
            while sent < count and schedule[sent][0] <= now:
                self._open += 1
                # What comes after, the wait for a free connection included, is the server's doing.
                self._late[sent] = now - schedule[sent][0]
                self._offer(sent)
                sent += 1
                now = clock() - begun
            left = (schedule[sent][0] if sent < count else ends) - now
            worked = now - turn
            events = poll(0 if left < _SPIN_S else left - _SPIN_S)
            if events:
                turn = clock() - begun
                for fd, event in events:
                    self._handle(self._all[fd], event)
                worked += clock() - begun - turn
            busy_s += worked
        return busy_s, max(now, 0.0)

    def _offer(self, index: int) -> None:
        if self._idle:
            self._send(self._idle.pop(), index)
        elif len(self._all) < self._where.most:
            self._send(self._connect(), index)
        else:
            self._waiting.append(index)

    def _send(self, connection: Connection, index: int) -> None:
        _, kind = self._schedule[index]
        connection.ticket = index
        try:
            complete = connection.send(self._requests[kind])
        except OSError:
            self._lost(connection)
            return
        if not complete:
            self._epoll.modify(connection.socket, select.EPOLLIN | select.EPOLLOUT)

    def _handle(self, connection: Connection, event: int) -> None:
        try:
            if event & select.EPOLLOUT and connection.flush():
                self._epoll.modify(connection.socket, select.EPOLLIN)
            if event & ~select.EPOLLOUT and connection.receive():
                self._answered(connection)
        except (Broken, OSError):
            self._lost(connection)

    def _answered(self, connection: Connection) -> None:
        index = connection.ticket
        if index is None:
            # Bytes that nobody asked for.
            self._drop(connection)
            return
        self._latency[index] = self._clock() - self._begun - self._schedule[index][0]
        self._status[index] = connection.status
        self._open -= 1
        connection.ticket = None
        if not connection.reusable:
            self._drop(connection)
        else:
            self._idle.append(connection)
        if self._waiting:
            self._offer(self._waiting.popleft())

    def _lost(self, connection: Connection) -> None:
        index = connection.ticket
        self._drop(connection)
        if index is None:
            return
        if connection.untouched and index not in self._retried:
            # An idle connection that the server had just closed: any client would ask again.
            self._retried.add(index)
            self._offer(index)
            return
        self._status[index] = 0
        self._open -= 1

    def _connect(self) -> Connection:
        connection = Connection(self._where.host, self._where.port)
        self._all[connection.socket.fileno()] = connection
        self._epoll.register(connection.socket, select.EPOLLIN)
        return connection

    def _drop(self, connection: Connection) -> None:
        fd = connection.socket.fileno()
        self._all.pop(fd, None)
        if connection in self._idle:
            self._idle.remove(connection)
        self._epoll.unregister(fd)
        connection.close()
