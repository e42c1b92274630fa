"""A model's examples, before it serves: every lane once, and one batch against its singles."""

from __future__ import annotations

import asyncio
import copy
import functools
import itertools
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.channel import LIMIT
from thalamus_lite.batching.execution import call, run_on_loop, tame
from thalamus_lite.batching.streaming import postprocessed
from thalamus_lite.errors import ModelError
from thalamus_lite.serving.parity import Sample, difference, sample
from thalamus_lite.serving.threads import in_lane

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thalamus_lite.batching.group import LaneGroup
    from thalamus_lite.batching.lane import Lane
    from thalamus_lite.model.spec import ModelSpec


async def warm_up(spec: ModelSpec, group: LaneGroup) -> None:
    """Run the examples, if there are any, on every lane's own stream.

    Raises:
        ModelError: an example fails, does not fit the output type, or comes out otherwise in a
            batch than alone. The sentence says which one.
    """
    if spec.examples is None:
        return
    count = len(spec.examples)
    for index in range(len(group.lanes)):
        if spec.streams:
            with _naming(spec, "examples[0]"):
                await _drain_stream(spec, group, index)
            continue
        alone: list[Sample] = []
        for number in range(count):
            with _naming(spec, f"examples[{number}]"):
                alone += await _run(spec, group, index, number, number + 1)
        if count > 1:
            await _check_parity(spec, group, index, alone)


def _examples(spec: ModelSpec, start: int, stop: int) -> list[Any]:
    """Copies: a hook may change what it is given."""
    return copy.deepcopy(list((spec.examples or ())[start:stop]))


async def _check_parity(spec: ModelSpec, group: LaneGroup, index: int, alone: list[Sample]) -> None:
    step = spec.policy.most if spec.policy.merges else len(alone)
    for start in range(0, len(alone), max(step, 1)):
        stop = min(start + step, len(alone))
        with _naming(spec, f"examples[{start}:{stop}]"):
            together = await _run(spec, group, index, start, stop)
            found = [difference(*pair) for pair in zip(alone[start:stop], together, strict=True)]
        for number, differs in enumerate(found, start):
            if differs is not None:
                raise ModelError(
                    f"{spec.key}: examples[{number}] gives another output in a batch than alone"
                    f" ({differs}): predict() must treat its inputs independently"
                )


@contextmanager
def _naming(spec: ModelSpec, label: str) -> Iterator[None]:
    """Say which example it was that failed, whatever the model raised.

    Raises:
        ModelError: it did.
    """
    try:
        yield
    except BaseException as error:
        task = asyncio.current_task()
        stopped = isinstance(error, asyncio.CancelledError) and task and task.cancelling()
        if stopped or isinstance(error, KeyboardInterrupt):
            raise
        raise ModelError(f"{spec.key}: {label} failed at warm-up: {_words(error)}") from error


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        return type(error).__name__


async def _run(
    spec: ModelSpec, group: LaneGroup, index: int, start: int, stop: int
) -> list[Sample]:
    inputs = _examples(spec, start, stop)
    lane = group.lanes[index]
    try:
        if group.on_loop:
            lane.awaiting_since = time.monotonic()
            report = await run_on_loop(lane, group.hooks[index], [inputs], False)
            if report.errors[0] is not None:
                raise tame(report.errors[0])
            outputs = report.outputs[0] or []
        else:
            outputs = await in_lane(lane, functools.partial(_pass, group, index, inputs))
        return [sample(spec.outputs, output) for output in outputs]
    finally:
        lane.awaiting_since = None


async def _drain_stream(spec: ModelSpec, group: LaneGroup, index: int) -> None:
    """The first outputs only: a stream need not end. Each is dumped before the next is made, as it
    is for a request.
    """
    lane = group.lanes[index]
    try:
        prepared = await call(lane, _preprocessed, group, index, _examples(spec, 0, 1))
        if group.on_loop:
            lane.awaiting_since = time.monotonic()
            await _read_on_loop(spec, group, index, group.hooks[index].predict(prepared))
        else:
            await call(lane, _read_in_lane, spec, group, index, prepared)
    finally:
        lane.awaiting_since = None


# The hooks are looked up where they run. An error's frames know what was sent to the lane until the
# error itself is gone, and a bound method would keep the instance for as long.


def _pass(group: LaneGroup, index: int, inputs: list[Any], lane: Lane) -> list[Any]:
    return group.hooks[index].run(lane, inputs).outputs


def _preprocessed(group: LaneGroup, index: int, inputs: list[Any]) -> Any:
    preprocess = group.hooks[index].preprocess
    return inputs if preprocess is None else preprocess(inputs)


def _finished(group: LaneGroup, index: int, output: Any) -> list[Any]:
    hooks = group.hooks[index]
    return [output] if hooks.postprocess is None else postprocessed(hooks, [output])


def _read_in_lane(spec: ModelSpec, group: LaneGroup, index: int, prepared: Any) -> None:
    stream = group.hooks[index].predict(prepared)
    try:
        for output in itertools.islice(stream, LIMIT):
            spec.outputs.dump(_finished(group, index, output))
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


async def _read_on_loop(spec: ModelSpec, group: LaneGroup, index: int, stream: Any) -> None:
    lane = group.lanes[index]
    left = LIMIT
    try:
        async for output in stream:
            spec.outputs.dump(await call(lane, _finished, group, index, output))
            left -= 1
            if not left:
                break
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise tame(error) from error
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
