"""A model's examples, before it serves: every lane once, and one batch against its singles."""

from __future__ import annotations

import asyncio
import copy
import itertools
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from thalamus_lite.batching.channel import LIMIT
from thalamus_lite.batching.execution import call, run_job, run_on_loop, tame
from thalamus_lite.batching.streaming import postprocessed
from thalamus_lite.errors import ModelError
from thalamus_lite.serving.parity import Sample, difference, sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thalamus_lite.batching.group import LaneGroup
    from thalamus_lite.batching.lane import Hooks
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
    lane, hooks = group.lanes[index], group.hooks[index]
    try:
        if group.on_loop:
            lane.awaiting_since = time.monotonic()
            report = await run_on_loop(lane, hooks, [inputs], False)
            if report.errors[0] is not None:
                raise tame(report.errors[0])
            outputs = report.outputs[0] or []
        else:
            ran = await run_job(lane, lambda lane: hooks.run(lane, inputs))
            outputs = ran.outputs
        return [sample(spec.outputs, output) for output in outputs]
    finally:
        lane.awaiting_since = None


async def _drain_stream(spec: ModelSpec, group: LaneGroup, index: int) -> None:
    """The first outputs only: a stream need not end."""
    lane, hooks = group.lanes[index], group.hooks[index]
    prepared: Any = _examples(spec, 0, 1)
    try:
        if hooks.preprocess is not None:
            prepared = await call(lane, hooks.preprocess, prepared)
        if group.on_loop:
            lane.awaiting_since = time.monotonic()
            outputs = await _first_of(hooks.predict(prepared))
            if hooks.postprocess is not None:
                outputs = await call(lane, _each, hooks, outputs)
        else:
            outputs = await call(lane, _run_stream, hooks, prepared)
        spec.outputs.dump(outputs)
    finally:
        lane.awaiting_since = None


def _run_stream(hooks: Hooks, prepared: Any) -> list[Any]:
    stream = hooks.predict(prepared)
    try:
        outputs = list(itertools.islice(stream, LIMIT))
        return outputs if hooks.postprocess is None else _each(hooks, outputs)
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


async def _first_of(stream: Any) -> list[Any]:
    outputs: list[Any] = []
    try:
        async for output in stream:
            outputs.append(output)
            if len(outputs) == LIMIT:
                break
    except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
        raise tame(error) from error
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()
    return outputs


def _each(hooks: Hooks, outputs: list[Any]) -> list[Any]:
    return [item for output in outputs for item in postprocessed(hooks, [output])]
