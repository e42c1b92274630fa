"""What to run next when a pass through the hooks has failed, and what became of a batch in the end.

A unit is the part of one request that is in this batch. :func:`passes` knows neither threads nor
asyncio: it yields inputs and is sent what became of them.

- A failed batch of several units is bisected when the model is idempotent, so that only the units
  at fault fail.
- A batch that ran out of memory is halved, by inputs, and the halves run again. The model's batches
  shrink when the halves fit, or when nothing does; one input too large for the device by itself
  says nothing of the others.
- A fatal device error ends it all: nothing on that device can be trusted any more.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.bisection import Bisection
from thalamus_lite.batching.lane import Ran
from thalamus_lite.batching.times import Times

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence


@dataclass(frozen=True, slots=True)
class Failed:
    """A pass that raised."""

    error: BaseException
    out_of_memory: bool = False
    fatal: bool = False


@dataclass(slots=True)
class Report:
    """What became of a batch: for each unit its outputs or its error.

    ``times`` are sums over all passes. ``oom_sizes`` are batch sizes that were too large for the
    memory, each by the proof of its halves.
    """

    outputs: list[list[Any] | None]
    errors: list[BaseException | None]
    times: Times = field(default_factory=Times)
    passes: int = 0
    oom_sizes: list[int] = field(default_factory=list)
    largest_oom: int = 0
    fatal: BaseException | None = None

    @property
    def clean(self) -> bool:
        """All went well in one pass."""
        return self.passes == 1 and self.outputs[0] is not None


def passes(
    units: Sequence[list[Any]], idempotent: bool
) -> Generator[list[Any], Ran | Failed, Report]:
    """Yield the inputs of each pass, be sent its outcome, return the report."""
    report = Report([None] * len(units), [None] * len(units))
    if len(units) == 1:
        outcome = yield from _halving(units[0], report, idempotent)
        if isinstance(outcome, BaseException):
            report.errors[0] = outcome
        else:
            # As slices are: a model may use its list again before this one is read.
            report.outputs[0] = outcome.copy()
    else:
        yield from _merged(units, report, idempotent)
    if report.largest_oom and all(outputs is None for outputs in report.outputs):
        # Not even a single input fits. Smaller batches at least fail in fewer passes.
        report.oom_sizes = [report.largest_oom]
    return report


def _merged(
    units: Sequence[list[Any]], report: Report, idempotent: bool
) -> Generator[list[Any], Ran | Failed, None]:
    """All units in one pass, and where it fails, those at fault found."""
    merged = [item for unit in units for item in unit]
    error = yield from _span(units, 0, len(units), merged, report, idempotent)
    if error is None:
        return
    if not idempotent or report.fatal is not None:
        report.errors = [error] * len(units)
        return
    search = Bisection(len(units))
    while (span := search.next()) is not None:
        start, stop = span
        part = [item for unit in units[start:stop] for item in unit]
        error = yield from _span(units, start, stop, part, report, idempotent)
        if report.fatal is not None:
            break
        search.report(error is None)
        if error is not None and stop - start == 1:
            report.errors[start] = error
    for index, outputs in enumerate(report.outputs):
        if outputs is None and report.errors[index] is None:
            report.errors[index] = report.fatal or error


def _span(
    units: Sequence[list[Any]],
    start: int,
    stop: int,
    merged: list[Any],
    report: Report,
    idempotent: bool,
) -> Generator[list[Any], Ran | Failed, BaseException | None]:
    """Run the units ``start:stop``, merged, and hand their outputs out again."""
    outcome = yield from _halving(merged, report, idempotent)
    if isinstance(outcome, BaseException):
        return outcome
    offset = 0
    for index in range(start, stop):
        size = len(units[index])
        report.outputs[index] = outcome[offset : offset + size]
        offset += size
    return None


def _halving(
    inputs: list[Any], report: Report, idempotent: bool
) -> Generator[list[Any], Ran | Failed, list[Any] | BaseException]:
    """One pass, or as many smaller ones as the memory asks for."""
    # A list of its own, so that a hook which changes it cannot change what a later pass gets.
    ran = yield inputs.copy()
    report.passes += 1
    if isinstance(ran, Ran):
        report.times = ran.times if report.passes == 1 else report.times + ran.times
        return ran.outputs
    if ran.fatal:
        report.fatal = ran.error
    if not ran.out_of_memory:
        return ran.error
    report.largest_oom = max(report.largest_oom, len(inputs))
    if not idempotent or len(inputs) == 1:
        return ran.error
    middle = len(inputs) // 2
    outputs: list[Any] = []
    for half in (inputs[:middle], inputs[middle:]):
        outcome = yield from _halving(half, report, idempotent)
        if isinstance(outcome, BaseException):
            return outcome
        outputs += outcome
    report.oom_sizes.append(len(inputs))
    return outputs
