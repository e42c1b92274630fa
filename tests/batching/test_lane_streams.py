"""Lanes on the simulated device: every stream rule holds, and none can be taken out unseen.

Models are run through real lanes, with their copies and kernels queued and unfinished whenever the
device may leave them so. Then the source of the lane, and of the two other places that open its
stream, is changed, one wait, record, synchronize, ``with`` or kept reference at a time, and each
change has to show under every seed.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import queue
import sys
import threading
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.batching import execution, streaming
from thalamus_lite.batching import lane as lane_module
from thalamus_lite.batching.times import Times

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def _beside(name: str) -> types.ModuleType:
    path = Path(__file__).parents[1] / "devices" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"lane_streams_{name}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


simulated, mutation = _beside("simulated"), _beside("mutants")
SEEDS = range(8)
WEIGHT = 5.0


class Rows:
    """A batch on the device whose rows are queued for the host as they are iterated."""

    def __init__(self, cuda: Any, batch: Any) -> None:
        self.cuda, self.batch = cuda, batch

    def __iter__(self) -> Iterator[Any]:
        for row in range(self.batch.block.size):
            output = self.cuda.pinned([-1.0], "an output")
            yield self.cuda.launch(lambda values, row=row: [values[row]], [self.batch], output)


class Queueing:
    """Three hooks that queue all their work and wait for none of it.

    What passes between them is memory that no stream-ordered pool protects.
    """

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.source = cuda.pinned([WEIGHT], "the weights' file")

    def load(self) -> None:
        self.weights = self.cuda.to_device(self.source, "the weights")

    def preprocess(self, inputs: list[Any]) -> Any:
        copies = [self.cuda.to_device(one) for one in inputs]
        prepared = self.cuda.foreign(len(copies), "what preprocess returned")
        return self.cuda.launch(lambda *rows: [row[0] for row in rows], copies, prepared)

    def predict(self, prepared: Any) -> Any:
        predicted = self.cuda.foreign(prepared.block.size, "what predict returned")
        return self.cuda.launch(scaled, [prepared, self.weights], predicted)

    def postprocess(self, predicted: Any) -> Rows:
        shifted = self.cuda.foreign(predicted.block.size, "what postprocess returned")
        return Rows(self.cuda, self.cuda.launch(raised, [predicted], shifted))


class PredictOnly:
    """One hook, from pinned inputs to pinned outputs."""

    preprocess = postprocess = None

    def __init__(self, cuda: Any) -> None:
        self.cuda = cuda
        self.source = cuda.pinned([WEIGHT], "the weights' file")

    load = Queueing.load

    def predict(self, inputs: list[Any]) -> list[Any]:
        outputs = []
        for one in inputs:
            tensor = self.cuda.to_device(one)
            self.cuda.launch(scaled, [tensor, self.weights], tensor)
            self.cuda.launch(raised, [tensor], tensor)
            outputs.append(self.cuda.to_host(tensor, pinned=True, name="an output"))
        return outputs


class Failing(Queueing):
    """It fails with work under way."""

    def postprocess(self, predicted: Any) -> Rows:
        rows = super().postprocess(predicted)
        outputs = list(rows)
        raise ValueError(f"bad input after {len(outputs)} rows")


class Streaming(Queueing):
    """It yields what is still being computed."""

    def predict(self, prepared: Any) -> Iterator[Any]:
        for _ in range(3):
            yield super().predict(prepared)

    def postprocess(self, predicted: list[Any]) -> list[Any]:
        self.rows = super().postprocess(predicted[0])
        return list(self.rows)


def scaled(values: list[float], weights: list[float]) -> list[float]:
    return [value * weights[0] for value in values]


def raised(values: list[float]) -> list[float]:
    return [value + 1 for value in values]


class Run:
    """One model in lanes made by ``module``, on a simulated device with ``seed``."""

    def __init__(self, module: Any, model: Any, seed: int, lanes: int = 1) -> None:
        self.module = module
        self.cuda = simulated.SimulatedCuda(seed, devices=2)
        self.lanes = [module.Lane(f"lane {n}", "cuda:1", self.cuda) for n in range(lanes)]
        self.instance = model(self.cuda)
        self.problems: list[str] = []

    def __enter__(self) -> Run:
        for lane in self.lanes:
            lane.start()
        ready = self.job(self.lanes[0], lambda lane: lane.load(self.instance.load))
        for lane in self.lanes:
            lane.after(ready)
        return self

    def __exit__(self, *error: object) -> None:
        for lane in self.lanes:
            lane.stop()
            lane._thread.join(10)
            assert not lane._thread.is_alive()

    def job(self, lane: Any, work: Callable[[Any], Any]) -> Any:
        """Run ``work(lane)`` in the lane's thread, and learn what that thread knows after it."""
        box: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def job(lane: Any) -> None:
            result = None
            try:
                result = work(lane)
            except Exception as error:
                self.problems.append(repr(error))
            box.put((result, self.cuda.tell()))

        lane.post(job)
        result, told = box.get(timeout=10)
        self.cuda.learn(told)
        return result

    def batch(self, lane: Any, values: list[float]) -> list[Any]:
        """One pass. The lane alone holds the inputs."""
        hooks = self.hooks()
        ran = self.job(lane, lambda lane: hooks.run(lane, self.inputs(values)))
        return [] if ran is None else self.read(ran.outputs)

    def hooks(self) -> Any:
        return self.module.Hooks(self.instance)

    def inputs(self, values: list[float]) -> list[Any]:
        return [self.cuda.pinned([value], "an input") for value in values]

    def read(self, outputs: list[Any]) -> list[Any]:
        try:
            return [self.cuda.read(output) for output in outputs]
        except simulated.Misuse:
            return []

    def found(self) -> list[str]:
        return [*self.problems, *self.cuda.races]


def faults(module: Any, seed: int, model: Any = Queueing) -> list[str]:
    """What is wrong with the lanes of ``module``: two of them, three batches each."""
    with Run(module, model, seed, lanes=2) as run:
        for number, lane in itertools.product(range(3), run.lanes):
            values = [float(number), 10.0, 20.0]
            expected = [[value * WEIGHT + 1] for value in values]
            if run.batch(lane, values) != expected:
                run.problems.append("wrong outputs")
        if run.cuda.threads("synchronize") - {lane.name for lane in run.lanes}:
            run.problems.append("another thread than the lane's waited for the device")
        return run.found()


def faults_of_failures(module: Any, seed: int) -> list[str]:
    """What is wrong when a hook raises, beyond that it raises."""
    with Run(module, Failing, seed) as run:
        run.batch(run.lanes[0], [1.0, 2.0])
        return [one for one in run.found() if "ValueError" not in one]


def faults_of_calls(module: Any, seed: int) -> list[str]:
    """What is wrong with ``call`` of ``module``: one hook, asked for by the loop."""
    with Run(lane_module, PredictOnly, seed) as run:
        forward = module.tell

        def tell(*arguments: Any) -> None:
            told.update(run.cuda.tell())
            forward(*arguments)

        told: dict[str, int] = {}
        module.tell = tell
        try:
            hook, inputs = run.instance.predict, run.inputs([1.0, 2.0])
            outputs = asyncio.run(module.call(run.lanes[0], hook, inputs))
        except simulated.Misuse:
            outputs = []
        finally:
            module.tell = forward
        run.cuda.learn(told)
        if run.read(outputs) != [[WEIGHT + 1], [2 * WEIGHT + 1]]:
            run.problems.append("wrong outputs")
        return run.found()


def faults_of_streams(module: Any, seed: int) -> list[str]:
    """What is wrong with ``stream_in_lane`` of ``module``, read as a channel's reader would."""
    with Run(lane_module, Streaming, seed) as run:
        lane, got, ends = run.lanes[0], [], []

        def put(item: Any) -> bool:
            got.append(item)
            return True

        channel = types.SimpleNamespace(
            put=put, dump=lambda output: run.read([output])[0], closed=False
        )
        pending = types.SimpleNamespace(inputs=run.inputs([1.0]), channel=channel, times=Times())
        group = types.SimpleNamespace(hooks=[run.hooks()], lanes=[lane])
        loop = types.SimpleNamespace(call_soon_threadsafe=lambda call, *given: call(*given))
        run.job(
            lane,
            lambda lane: module.stream_in_lane(
                pending, group, loop, lambda *end: ends.append(end), lane
            ),
        )
        if got != [[WEIGHT + 1]] * 3 or ends != [(None, False)]:
            run.problems.append("wrong outputs")
        return run.found()


@pytest.mark.parametrize("model", [Queueing, PredictOnly])
@pytest.mark.parametrize("seed", SEEDS)
def test_lanes_are_free_of_races(model: type, seed: int) -> None:
    assert faults(lane_module, seed, model) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_single_hooks_called_from_the_loop_are_free_of_races(seed: int) -> None:
    assert faults_of_calls(execution, seed) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_streams_of_outputs_are_free_of_races(seed: int) -> None:
    assert faults_of_streams(streaming, seed) == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pass_that_fails_is_waited_for_before_its_memory_goes(seed: int) -> None:
    assert faults_of_failures(lane_module, seed) == []


def test_hooks_run_inside_the_lanes_own_stream_on_its_device() -> None:
    with Run(lane_module, Queueing, seed=0, lanes=2) as run:
        for lane in run.lanes:
            run.batch(lane, [1.0])
        used = {}
        for verb, thread, stream in run.cuda.calls:
            if verb == "launch":
                used.setdefault(thread, set()).add(stream)
    loading, first, second = (f"stream {number} of cuda:1" for number in range(3))
    assert used == {"lane 0": {loading, first}, "lane 1": {second}}


def test_a_lane_waits_for_the_load_on_its_stream_and_only_once() -> None:
    with Run(lane_module, Queueing, seed=0) as run:
        for _ in range(3):
            run.batch(run.lanes[0], [1.0])
        waits = [stream for verb, _, stream in run.cuda.calls if verb == "wait"]
    assert waits == ["stream 1 of cuda:1"]


def test_a_reload_is_waited_for_again() -> None:
    with Run(lane_module, Queueing, seed=0) as run:
        lane = run.lanes[0]
        run.batch(lane, [1.0])
        lane.after(run.job(lane, lambda lane: lane.load(run.instance.load)))
        assert run.batch(lane, [1.0]) == [[WEIGHT + 1]]
        assert run.found() == []


def test_results_are_handed_over_after_the_wait_and_by_the_lanes_thread() -> None:
    with Run(lane_module, Queueing, seed=0) as run:
        lane = run.lanes[0]
        run.batch(lane, [1.0])
        verbs = [verb for verb, _, stream in run.cuda.calls if stream == "stream 1 of cuda:1"]
    assert verbs[-4:] == ["launch", "record", "exit", "synchronize"]
    assert run.cuda.threads("synchronize") == {"lane 0"}


@pytest.mark.parametrize(
    "attempt", ["self.cuda.synchronize()", "in_another_thread(self.cuda.empty, 1)"]
)
def test_a_hook_that_breaks_the_rules_is_caught(attempt: str) -> None:
    def in_another_thread(function: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=swallow, args=(function, arguments))
        thread.start()
        thread.join()

    def swallow(function: Any, arguments: Any) -> None:
        with pytest.raises(simulated.Misuse):
            function(*arguments)

    class Rude(PredictOnly):
        def predict(self, inputs: list[Any]) -> list[Any]:
            eval(attempt, {"self": self, "in_another_thread": in_another_thread})
            return super().predict(inputs)

    assert faults(lane_module, 0, Rude)


BATTERIES = {lane_module: faults, execution: faults_of_calls, streaming: faults_of_streams}
MUTANTS = [
    pytest.param(battery, mutant, id=f"{module.__name__.rpartition('.')[2]}: {mutant.what}")
    for module, battery in BATTERIES.items()
    for mutant in mutation.mutants(module.__file__)
]


def test_there_is_something_to_take_out() -> None:
    kinds = {str(case.id).rpartition(" at ")[0] or str(case.id) for case in MUTANTS}
    assert kinds >= {
        *("lane: wait", "lane: with", "lane: record", "lane: synchronize", "lane: event"),
        *("lane: prepared let go before the wait", "lane: predicted let go before the wait"),
        *("execution: with", "execution: record", "execution: synchronize"),
        *("streaming: with", "streaming: synchronize"),
    }


@pytest.mark.parametrize(("battery", "mutant"), MUTANTS)
def test_nothing_can_be_taken_out_unseen(
    battery: Callable[[Any, int], list[str]], mutant: Any
) -> None:
    module = mutant.module()
    for seed in SEEDS[:3]:
        found = battery(module, seed)
        if battery is faults:
            known = faults_of_failures(lane_module, seed)
            found += [one for one in faults_of_failures(module, seed) if one not in known]
        assert found, f"{mutant.what} shows nothing under seed {seed}"
        # It must show as a race, not as a broken mutant.
        assert not any("NameError" in one or "UnboundLocal" in one for one in found)
