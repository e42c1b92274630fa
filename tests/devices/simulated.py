"""CUDA without a GPU, with a race detector.

Streams are queues that a seeded scheduler runs lazily, a few steps at a time, on a virtual clock:
what a program reads too early is really not there yet under some seeds. The detector does not
depend on that luck. Every stream and every host thread carries a vector clock,
record/wait/synchronize are the only edges between them, and an access that no chain of edges orders
behind a conflicting one is a race under every seed.

Rules of the machine:

- A stream's work is ordered, and comes after what its host thread knew when it was queued. - Host
threads are strangers to each other: a thread that reads what another one waited for must be told
  so, ``learn(tell())``, as a queue between two threads would. Host against host is not checked.
- Device tensors go back to the pool of the stream they were made on, as in torch's caching
allocator:
  work of that stream may still be under way, work of another may not.
- Pinned and foreign memory has no such pool: it may be let go only when the letting thread knows
that
  the device is done with it. (Torch's own pinned pool is kinder; other libraries' are not.)
- Work outside ``with stream:`` and device-wide waits are errors, always.
"""

from __future__ import annotations

import random
import threading
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Clock = dict[str, int]
BYTES_PER_VALUE = 4


class Misuse(Exception):
    """Kept in ``SimulatedCuda.races`` too, since what a hook raises is caught."""


class OutOfMemory(Exception):
    pass


class DeviceLost(Exception):
    """Sticky: every later call on the device raises it too."""


@dataclass(eq=False)
class Block:
    """A piece of memory, what is in it, and who used it; ``device`` is None for the host's."""

    device: str | None
    size: int
    home: SimStream | None = None
    values: list[float] | None = None
    written: list[tuple[str, int]] = field(default_factory=list)
    reads: Clock = field(default_factory=dict)


class Buffer:
    """A program's name for a block.

    Queued work holds the block alone, so a buffer goes when the program lets go of it, whatever the
    device is still doing.
    """

    def __init__(self, name: str, block: Block, *, pinned: bool = False) -> None:
        self.name = name
        self.block = block
        self.pinned = pinned


@dataclass(eq=False)
class Work:
    run: Callable[[], None]
    cost: int
    after: SimEvent | None = None


class SimEvent:
    def __init__(self, cuda: SimulatedCuda, stream: SimStream, clock: Clock) -> None:
        self.cuda = cuda
        self.stream = stream
        self.clock = clock
        self.done = False
        self.at = 0

    def synchronize(self) -> None:
        with self.cuda.lock:
            self.cuda.note("synchronize", self.stream)
            while not self.done:
                self.cuda.step()
            self.cuda.check_alive(self.stream.device)
            _join(self.cuda.host(), self.clock)


class SimStream:
    def __init__(self, cuda: SimulatedCuda, device: str, number: int) -> None:
        self.cuda = cuda
        self.device = device
        self.name = f"stream {number} of {device}"
        self.queue: deque[Work] = deque()
        self.clock: Clock = {}
        self.time = 0

    def __enter__(self) -> SimStream:
        self.cuda.entered().append(self)
        self.cuda.note("enter", self)
        return self

    def __exit__(self, *error: object) -> None:
        assert self.cuda.entered().pop() is self
        self.cuda.note("exit", self)

    def record(self) -> SimEvent:
        with self.cuda.lock:
            self.cuda.note("record", self)
            event = SimEvent(self.cuda, self, self.tick())

            def reached() -> None:
                event.done, event.at = True, self.time

            self.queue.append(Work(reached, 0))
            return event

    def wait(self, event: SimEvent) -> None:
        with self.cuda.lock:
            self.cuda.note("wait", self)
            _join(self.clock, event.clock)
            self.queue.append(Work(lambda: None, 0, after=event))

    def tick(self) -> Clock:
        _join(self.clock, self.cuda.host())
        self.clock[self.name] = self.clock.get(self.name, 0) + 1
        return dict(self.clock)


class SimulatedCuda:
    """A ``StreamBackend`` and the API of its tensors; ``races`` stays empty if all is well."""

    def __init__(self, seed: int = 0, devices: int = 1, memory_bytes: int = 1 << 30) -> None:
        self.lock = threading.RLock()
        self.races: list[str] = []
        self.calls: list[tuple[str, str, str]] = []  # (verb, thread, stream)
        self.now = 0
        self.total = {f"cuda:{index}": memory_bytes for index in range(devices)}
        self.others = dict.fromkeys(self.total, 0)  # bytes that other processes hold
        self._random = random.Random(seed)
        self._streams: list[SimStream] = []
        self._used = dict.fromkeys(self.total, 0)
        self._pools: dict[SimStream, list[Block]] = {}
        self._lost: set[str] = set()
        self._local = threading.local()

    def stream(self, device: str) -> SimStream:
        with self.lock:
            made = SimStream(self, device, len(self._streams))
            self._streams.append(made)
            self._pools[made] = []
            return made

    def is_out_of_memory(self, error: BaseException) -> bool:
        return isinstance(error, OutOfMemory)

    def is_fatal(self, error: BaseException) -> bool:
        return isinstance(error, DeviceLost)

    def empty_cache(self, device: str) -> None:
        with self.lock:
            for stream, pool in self._pools.items():
                if stream.device == device:
                    self._used[device] -= BYTES_PER_VALUE * sum(block.size for block in pool)
                    pool.clear()

    def pinned(self, values: Sequence[float], name: str = "a pinned buffer") -> Buffer:
        return self._buffer(name, Block(None, len(values), values=list(values)), pinned=True)

    def pageable(self, values: Sequence[float], name: str = "a pageable buffer") -> Buffer:
        return self._buffer(name, Block(None, len(values), values=list(values)))

    def foreign(self, size: int, name: str = "foreign memory") -> Buffer:
        """Device memory that another library made, and frees when its last name goes."""
        return self._buffer(name, Block(self.current().device, size))

    def empty(self, size: int, name: str = "a tensor") -> Buffer:
        with self.lock:
            return self._buffer(name, self._allocate(size))

    def to_device(self, host: Buffer, name: str = "a tensor") -> Buffer:
        """From pinned memory it is queued and returns at once; from pageable memory it waits."""
        made = self.launch(list, [host], self.empty(host.block.size, name))
        if not host.pinned:
            self.current().record().synchronize()
        return made

    def to_host(self, tensor: Buffer, *, pinned: bool, name: str = "a result") -> Buffer:
        block = Block(None, tensor.block.size)
        made = self.launch(list, [tensor], self._buffer(name, block, pinned=pinned))
        if not pinned:
            self.current().record().synchronize()
        return made

    def launch(
        self,
        kernel: Callable[..., list[float]],
        reads: Sequence[Buffer],
        write: Buffer,
        *,
        fails: bool = False,
    ) -> Buffer:
        """Queue ``write = kernel(*reads)``, on values; ``fails`` loses the device when it runs."""
        with self.lock:
            stream = self.current()
            self.check_alive(stream.device)
            self.note("launch", stream)
            for buffer in (*reads, write):
                if buffer.block.device not in (None, stream.device):
                    self._misuse(f"{buffer.name} is not on {stream.device}")
            clock = stream.tick()
            for buffer in reads:
                self._check_written(buffer, clock, f"{stream.name} reads {buffer.name}")
                buffer.block.reads[stream.name] = clock[stream.name]
            self._check_all(write, clock, f"{stream.name} writes {write.name}")
            write.block.written = [(stream.name, clock[stream.name])]
            sources, target = [buffer.block for buffer in reads], write.block

            def run() -> None:
                if fails:
                    self._lost.add(stream.device)
                given = [block.values for block in sources]
                target.values = None if None in given else kernel(*given)

            stream.queue.append(Work(run, self._random.randint(1, 9)))
            for _ in range(self._random.randint(0, 3)):
                self.step()
            return write

    def read(self, host: Buffer) -> list[float] | None:
        """The host looks at its memory: None is what was there before the device wrote."""
        with self.lock:
            if host.block.device is not None:
                self._misuse(f"the host reads {host.name}, which is on {host.block.device}")
            self._check_written(host, self.host(), f"the host reads {host.name}")
            return host.block.values

    def overwrite(self, host: Buffer, values: Sequence[float]) -> None:
        with self.lock:
            self._check_all(host, self.host(), f"the host writes {host.name}")
            host.block.values = list(values)

    def synchronize(self) -> None:
        self._misuse("a device-wide synchronize stalls every other lane")

    def tell(self) -> Clock:
        """What this thread knows, to be sent along a queue to another thread."""
        with self.lock:
            return dict(self.host())

    def learn(self, told: Clock) -> None:
        with self.lock:
            _join(self.host(), told)

    def probe(self, device: object) -> tuple[int, int]:
        """(free, total), for a ``DeviceAllocator``."""
        with self.lock:
            total = self.total[str(device)]
            return total - self._used[str(device)] - self.others[str(device)], total

    def run_all(self) -> None:
        """Let the device finish, which no program can see."""
        with self.lock:
            while any(stream.queue for stream in self._streams):
                self.step()

    def threads(self, verb: str) -> set[str]:
        return {thread for called, thread, _ in self.calls if called == verb}

    def step(self) -> None:
        """Run the head of one queue, any of those that can go."""
        ready = [
            stream
            for stream in self._streams
            if stream.queue and (stream.queue[0].after is None or stream.queue[0].after.done)
        ]
        if not ready:
            return
        stream = self._random.choice(ready)
        work = stream.queue.popleft()
        stream.time = max(stream.time, work.after.at if work.after else 0) + work.cost
        self.now = max(self.now, stream.time)
        work.run()

    def host(self) -> Clock:
        clock: Clock = self._local.__dict__.setdefault("clock", {})
        return clock

    def entered(self) -> list[SimStream]:
        stack: list[SimStream] = self._local.__dict__.setdefault("streams", [])
        return stack

    def current(self) -> SimStream:
        if not self.entered():
            self._misuse("work on the default stream")
        return self.entered()[-1]

    def note(self, verb: str, stream: SimStream) -> None:
        self.calls.append((verb, threading.current_thread().name, stream.name))

    def check_alive(self, device: str) -> None:
        if device in self._lost:
            raise DeviceLost(device)

    def _allocate(self, size: int) -> Block:
        stream = self.current()
        self.check_alive(stream.device)
        for block in self._pools[stream]:
            if block.size == size:
                self._pools[stream].remove(block)
                return block
        size_bytes = size * BYTES_PER_VALUE
        if self.probe(stream.device)[0] < size_bytes:
            self.empty_cache(stream.device)
            if self.probe(stream.device)[0] < size_bytes:
                raise OutOfMemory(f"{size_bytes} bytes on {stream.device}")
        self._used[stream.device] += size_bytes
        return Block(stream.device, size, home=stream)

    def _buffer(self, name: str, block: Block, *, pinned: bool = False) -> Buffer:
        buffer = Buffer(name, block, pinned=pinned)
        weakref.finalize(buffer, self._let_go, name, block).atexit = False
        return buffer

    def _let_go(self, name: str, block: Block) -> None:
        with self.lock:
            clock = dict(self.host())
            if block.home is None:
                block.values = None
            else:
                _join(clock, block.home.clock)
                self._pools[block.home].append(block)
            if not _knows(clock, [*block.written, *block.reads.items()]):
                # Not raised: the last name may go in the middle of anything.
                self.races.append(f"{name} is released while the device may be using it")

    def _check_written(self, buffer: Buffer, clock: Clock, what: str) -> None:
        if not _knows(clock, buffer.block.written):
            self._misuse(f"{what} without waiting for the work that wrote it")

    def _check_all(self, buffer: Buffer, clock: Clock, what: str) -> None:
        self._check_written(buffer, clock, what)
        if not _knows(clock, buffer.block.reads.items()):
            self._misuse(f"{what} without waiting for the work that reads it")

    def _misuse(self, sentence: str) -> NoReturn:
        self.races.append(sentence)
        raise Misuse(sentence)


def _join(clock: Clock, other: Clock) -> None:
    for agent, time in other.items():
        if clock.get(agent, 0) < time:
            clock[agent] = time


def _knows(clock: Clock, marks: Iterable[tuple[str, int]]) -> bool:
    return all(clock.get(agent, 0) >= time for agent, time in marks)
