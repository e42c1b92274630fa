"""What the tests of the cache and of the wire share: children that are born by a fork."""

from __future__ import annotations

import multiprocessing
from typing import Any

import pytest

fork = multiprocessing.get_context("fork")


@pytest.fixture
def in_child() -> Any:
    """A function that gives what ``work()`` returns in a forked child."""

    def run(work: Any) -> Any:
        here, there = fork.Pipe(duplex=False)

        def child() -> None:
            try:
                there.send(work())
            except BaseException as error:
                there.send(repr(error))

        process = fork.Process(target=child)
        process.start()
        there.close()
        assert here.poll(30)
        result = here.recv()
        process.join()
        here.close()
        assert process.exitcode == 0
        process.close()
        return result

    return run
