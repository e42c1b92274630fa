"""Finds the requests that make a merged batch fail, by running halves of it again.

A unit is one request's chunk, so a request is never split here. The whole batch has failed once
when this begins; that call counts. When the left half passes, the right half must hold the fault,
so it is split without being run whole. A single unit is never condemned by that inference: two
inputs may fail only because they were merged (arrays of unlike shape), and each deserves a run of
its own.

Calls of ``predict`` for one bad unit among B, the first included: at most 2·ceil(log2 B) + 1 (11 at
32); whatever fails, at most 2·B - 1, the nodes of the tree.
"""

from __future__ import annotations


class Bisection:
    """Drive it with ``while (part := b.next()) is not None: ...; b.report(ok)``.

    ``next()`` gives the half-open range of units to run; after the last one ``failed`` holds the
    indexes of the units at fault, ascending.
    """

    __slots__ = ("_current", "_is_left", "_stack", "calls", "failed")

    def __init__(self, n_units: int) -> None:
        if n_units < 1:
            raise ValueError(f"a batch has at least one unit, got {n_units}")
        self.calls = 1
        self.failed: list[int] = []
        self._current: tuple[int, int] | None = None
        self._is_left = False
        # (start, stop, whether it is a left half, its sibling then being the entry below it).
        self._stack: list[tuple[int, int, bool]] = []
        self._blame(0, n_units)

    def next(self) -> tuple[int, int] | None:
        """The range to run now, the same one until it is reported; None when all is known."""
        if self._current is None and self._stack:
            start, stop, self._is_left = self._stack.pop()
            self._current = (start, stop)
            self.calls += 1
        return self._current

    def report(self, ok: bool) -> None:
        """Say how the range of the last ``next()`` went.

        Raises:
            RuntimeError: no range is out.
        """
        if self._current is None:
            raise RuntimeError("report() answers next(): call that first")
        (start, stop), self._current = self._current, None
        if not ok:
            self._blame(start, stop)
        elif self._is_left and self._stack[-1][1] - self._stack[-1][0] > 1:
            start, stop, _ = self._stack.pop()
            self._blame(start, stop)

    def _blame(self, start: int, stop: int) -> None:
        if stop - start == 1:
            self.failed.append(start)
            return
        middle = (start + stop) // 2
        self._stack.append((middle, stop, False))
        self._stack.append((start, middle, True))
