"""What is turned away at the door, and with which answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.batching.ticket import DONE, NEW
from thalamus_lite.errors import DeadlineExceeded, ModelUnloading, QueueFull, RequestTooLarge

if TYPE_CHECKING:
    from random import Random

    from thalamus_lite.batching.model_queue import ModelQueue
    from thalamus_lite.batching.ticket import Ticket

_SHORTEST_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
# Clients that were turned away together should not come back together; later only, never too early.
_JITTER = 0.25


class Admission:
    """Raises what the client is to be told; a ticket that was refused is DONE."""

    __slots__ = ("_random",)

    def __init__(self, random: Random) -> None:
        self._random = random

    def check(self, queue: ModelQueue, ticket: Ticket, now: float) -> None:
        """See ``Scheduler.arrive``."""
        if ticket.state is not NEW:
            raise RuntimeError("a ticket arrives once")
        size = ticket.size
        if size < 1:
            raise ValueError("a ticket has at least one input")
        if queue.closed:
            ticket.state = DONE
            raise ModelUnloading(f"{queue.key} is being unloaded")
        if queue.depth + size > queue.policy.max_queue_size:
            self._check_room(queue, ticket, now)
        deadline = ticket.deadline
        if deadline is not None and _is_hopeless(queue, size, deadline, now):
            ticket.state = DONE
            queue.counts.refused_late += size
            raise DeadlineExceeded

    def retry_after_s(self, queue: ModelQueue, now: float) -> float:
        """Backlog over measured drain rate, and up to a quarter longer; in [1, 60] s."""
        rate = queue.drain.per_second_now(queue.busy_since(now), now)
        seconds = queue.depth / rate if rate > 0.0 else 0.0
        seconds = min(max(seconds, _SHORTEST_RETRY_S), _LONGEST_RETRY_S / (1.0 + _JITTER))
        return seconds * (1.0 + _JITTER * self._random.random())

    def _check_room(self, queue: ModelQueue, ticket: Ticket, now: float) -> None:
        most = queue.policy.max_queue_size
        if ticket.size > most:
            ticket.state = DONE
            raise RequestTooLarge(
                f"one request has {ticket.size} inputs, and the queue of {queue.key} holds {most}:"
                " send fewer at a time, or raise max_queue_size"
            )
        startable = sum(share.startable for share in queue.shares)
        if queue.policy.merges:
            has_room = queue.depth + ticket.size <= most + startable * queue.ceiling.now
        else:
            has_room = len(queue.waiting) < startable
        if not has_room:
            ticket.state = DONE
            queue.counts.refused_full += ticket.size
            raise QueueFull(
                f"{queue.depth} inputs wait for {queue.key}, whose max_queue_size is {most}",
                retry_after_s=self.retry_after_s(queue, now),
            )


def _is_hopeless(queue: ModelQueue, size: int, deadline: float, now: float) -> bool:
    if deadline <= now:
        return True
    # What finds the model idle always runs: an estimate that turned everyone away would never be
    # put right.
    if not queue.cost.learned or (queue.depth == 0 and queue.free):
        return False
    return queue.cannot_answer(size, deadline - now)
