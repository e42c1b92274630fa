from __future__ import annotations

import threading
from typing import Any

import pytest

from thalamus_lite.weights.flight import Flight
from thalamus_lite.weights.origin import DownloadCancelled


class Asked(threading.Event):
    """A cancel event that says when somebody has begun to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = threading.Event()

    def is_set(self) -> bool:
        self.looked.set()
        return super().is_set()


def together(flight: Flight, work: Any, cancel: Asked) -> tuple[list[Any], threading.Thread]:
    """A leader at ``work``, and one follower that has begun to wait for it."""
    outcomes: list[Any] = []
    leading, leave = threading.Event(), threading.Event()

    def lead() -> Any:
        leading.set()
        assert leave.wait(30)
        return work()

    def run(what: Any, until: threading.Event) -> None:
        try:
            outcomes.append(flight.run("key", what, until))
        except BaseException as error:
            outcomes.append(error)

    leader = threading.Thread(target=run, args=(lead, threading.Event()))
    follower = threading.Thread(target=run, args=(lambda: "led itself", cancel))
    leader.start()
    assert leading.wait(30)
    follower.start()
    assert cancel.looked.wait(30)
    follower.leave = leave  # type: ignore[attr-defined]
    follower.leader = leader  # type: ignore[attr-defined]
    return outcomes, follower


def end(follower: Any) -> None:
    follower.leave.set()
    follower.leader.join()
    follower.join()


def test_a_waiter_gets_nothing_but_the_end_of_the_work() -> None:
    outcomes, follower = together(Flight(), lambda: "result", Asked())
    end(follower)
    assert sorted(outcomes, key=str) == [None, "result"]


def test_a_waiter_gets_the_leaders_error() -> None:
    error = ValueError("no")

    def fail() -> None:
        raise error

    outcomes, follower = together(Flight(), fail, Asked())
    end(follower)
    assert outcomes == [error, error]


@pytest.mark.parametrize("error", [DownloadCancelled("c"), KeyboardInterrupt()])
def test_what_ends_only_the_leader_does_not_end_a_waiter(error: BaseException) -> None:
    def fail() -> None:
        raise error

    outcomes, follower = together(Flight(), fail, Asked())
    end(follower)
    assert error in outcomes
    assert None in outcomes


def test_a_cancelled_waiter_leaves_and_the_leader_goes_on() -> None:
    cancel = Asked()
    outcomes, follower = together(Flight(), lambda: "result", cancel)
    cancel.set()
    follower.join()
    assert isinstance(outcomes[0], DownloadCancelled)
    end(follower)
    assert outcomes[1] == "result"


def test_the_next_after_the_end_leads_again() -> None:
    flight, never = Flight(), threading.Event()
    assert flight.run("key", lambda: 1, never) == 1
    with pytest.raises(ValueError, match="no"):
        flight.run("key", lambda: int("no"), never)
    assert flight.run("key", lambda: 2, never) == 2


def test_who_waits_for_itself_is_told_so() -> None:
    flight, never = Flight(), threading.Event()
    with pytest.raises(RuntimeError, match="for itself"):
        flight.run("key", lambda: flight.run("key", lambda: 1, never), never)
    assert flight.run("key", lambda: flight.run("other", lambda: 3, never), never) == 3
