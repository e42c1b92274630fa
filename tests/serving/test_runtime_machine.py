"""Load, unload, reload and predict at once, against a model of the state machine.

The machine holds the doors of a user's hooks: a load or an unload ends when it says so, and as it
says. Between two steps all that can happen by itself has happened, so the state is known, and so
are those who still wait.
"""

import asyncio
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from lifecycle_kit import In, Out, body, lanes_alive

from thalamus_lite import Thalamus
from thalamus_lite.serving.states import State
from thalamus_lite.testing import AsyncClient

STEPS = 50
EXAMPLES = 1000 if os.environ.get("THALAMUS_SOAK") == "1" else 100
PATIENCE_S = 20.0


class Gate:
    """A hook that waits to be let through, and is told how it ends."""

    def __init__(self) -> None:
        self.inside = threading.Event()
        self._turn = threading.Semaphore(0)
        self._fails = False

    def pass_through(self) -> None:
        self.inside.set()
        if not self._turn.acquire(timeout=PATIENCE_S):
            raise TimeoutError
        if self._fails:
            raise RuntimeError("as told")

    def let_through(self, *, fails: bool = False, times: int = 1) -> None:
        self._fails = fails
        self.inside.clear()
        self._turn.release(times)


class Life(RuleBasedStateMachine):
    """``state`` is what the model should be in; the lists are calls whose answers are due."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.load, self.unload, self.predict = Gate(), Gate(), Gate()
        self.now = 1000.0
        self.state = State.REGISTERED
        self.retry_at = 0.0
        self.failures = 0
        self.was_up = False
        # Predictions with a claim to a lane; those that wait for a load; loads; unloads.
        self.running: list[Any] = []
        self.predicts: list[Any] = []
        self.loads: list[Any] = []
        self.unloads: list[Any] = []

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))

    @initialize()
    def start(self) -> None:
        machine = self
        self.app = app = Thalamus(load="lazy")

        @app.model(model_id="m", max_batch_size=1)
        class Model:
            def load(self, weights: dict[str, Path], device: str) -> None:
                machine.load.pass_through()

            def predict(self, inputs: list[In]) -> list[Out]:
                machine.predict.pass_through()
                return [Out(text=item.text) for item in inputs]

            def unload(self) -> None:
                machine.unload.pass_through()

        async def begin() -> None:
            self.client = AsyncClient(app)
            await self.client.__aenter__()

        self.do(begin())
        engine = app._starts.engine
        assert engine is not None
        self.runtime = engine.service.runtimes["m@1.0.0"]
        self.runtime.clock = lambda: self.now

    def teardown(self) -> None:
        async def end() -> None:
            for gate in (self.load, self.unload, self.predict):
                gate.let_through(times=1000)
            await self.client.__aexit__(None, None, None)

        if hasattr(self, "client"):
            self.do(end())
        self.loop.close()

    def at_rest(self) -> bool:
        """Whether nothing can happen any more before a rule lets it."""
        runtime = self.runtime
        group = runtime.group
        if runtime.state is State.LOADING:
            return self.load.inside.is_set()
        if group is not None and (group.live or group.running):
            return self.predict.inside.is_set()
        if runtime.state is State.DRAINING:
            return self.unload.inside.is_set()
        return runtime._transition.task is None

    def settle(self) -> None:
        async def settled() -> None:
            rests = False
            while True:
                # All who were woken by the last change have their turns, one behind another.
                for _ in range(50):
                    await asyncio.sleep(0)
                if rests and self.at_rest():
                    return
                rests = self.at_rest()
                await asyncio.sleep(0 if rests else 0.0001)

        self.do(settled())

    def ask(self, path: str, content: Any = None) -> Any:
        async def begin() -> Any:
            return self.client.begin("POST", path, json=content)

        return self.do(begin())

    def expect(self, calls: list[Any], *expected: tuple[int, str | None]) -> None:
        """All of ``calls`` are answered in one of these ways."""
        assert self.answered(calls, *expected) == []

    def answered(self, calls: list[Any], *expected: tuple[int, str | None]) -> list[Any]:
        """Those of ``calls`` that still wait; the answers of the others are checked."""
        waiting = []
        for call in calls:
            if not call._task.done():
                waiting.append(call)
                continue
            answer = self.do(call.answer())
            found = answer.json()
            assert (answer.status, found.get("code")) in expected
        return waiting

    def begin_load(self) -> bool:
        """Whether asking for the model makes it load."""
        if self.state in (State.REGISTERED, State.UNLOADED) or (
            self.state is State.FAILED and self.now >= self.retry_at
        ):
            self.state = State.LOADING
            return True
        return False

    @rule()
    def ask_for_a_prediction(self) -> None:
        begins, before = self.begin_load(), self.state
        call = self.ask("/predict", body("x"))
        self.settle()
        if begins or before is State.LOADING:
            self.predicts.append(call)
        elif before is State.READY:
            self.running.append(call)
        elif before is State.FAILED:
            self.expect([call], (503, "model_load_failed"))
        else:
            self.expect([call], (503, "model_unloading"))

    @rule()
    def ask_for_a_load(self) -> None:
        begins, before = self.begin_load(), self.state
        call = self.ask("/models/m/load")
        self.settle()
        if begins or before in (State.LOADING, State.DRAINING):
            self.loads.append(call)
        elif before is State.READY:
            self.expect([call], (200, None))
        else:
            self.expect([call], (503, "model_load_failed"))

    @rule()
    def ask_for_an_unload(self) -> None:
        before = self.state
        call = self.ask("/models/m/unload")
        self.settle()
        if before in (State.READY, State.LOADING, State.DRAINING):
            self.unloads.append(call)
            if before is State.READY:
                self.state = State.DRAINING
        else:
            self.expect([call], (200, None))

    @precondition(lambda self: self.state is State.LOADING)
    @rule()
    def load_succeeds(self) -> None:
        self.load.let_through()
        self.settle()
        self.failures = 0
        self.was_up = True
        # An unload that waited goes on at once. Those who waited for the load with it have it, or
        # come too late: they wait for the next one, and a prediction may also be told so.
        self.state = State.DRAINING if self.unloads else State.READY
        late = [(503, "model_unloading")] if self.unloads else []
        left = self.answered(self.predicts, *late)
        group = self.runtime.group
        assert group is not None
        self.running, self.predicts = left[: len(group.live)], left[len(group.live) :]
        assert self.unloads or not self.predicts
        self.loads = self.answered(self.loads, (200, None))
        assert self.unloads or not self.loads
        self.unloads = self.answered(self.unloads)

    @precondition(lambda self: self.state is State.LOADING)
    @rule()
    def load_fails(self) -> None:
        self.load.let_through(fails=True)
        self.settle()
        self.retry_at = self.now + min(2.0**self.failures, 60.0)
        self.failures += 1
        self.state = State.FAILED
        self.expect(self.predicts, (503, "model_load_failed"))
        self.expect(self.loads, (503, "model_load_failed"))
        self.expect(self.unloads, (200, None))
        self.predicts, self.loads, self.unloads = [], [], []

    @precondition(lambda self: self.running)
    @rule(fails=st.booleans())
    def prediction_ends(self, fails: bool) -> None:
        self.predict.let_through(fails=fails)
        self.settle()
        first = self.running.pop(0)
        self.expect([first], (500, "model_error") if fails else (200, None))

    @precondition(lambda self: self.state is State.DRAINING and not self.running)
    @rule(fails=st.booleans())
    def unload_ends(self, fails: bool) -> None:
        self.unload.let_through(fails=fails)
        self.settle()
        again = bool(self.loads or self.predicts)
        self.state = State.LOADING if again else State.UNLOADED
        # An unload that only waited for the other one may find the model loading again.
        left = self.answered(self.unloads, (200, None))
        assert again or not left
        assert len(left) < len(self.unloads)
        self.unloads = left

    @precondition(lambda self: self.state is State.FAILED)
    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0, 64.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.predicts)
    @rule()
    def client_who_waits_for_the_load_leaves(self) -> None:
        self.do(self.predicts.pop().hang_up())
        self.settle()

    @invariant()
    def what_is_seen_is_what_should_be(self) -> None:
        if not hasattr(self, "client"):
            return
        assert self.runtime.state is self.state
        assert self.runtime.ready == (self.state is State.READY)
        assert (self.runtime.group is not None) == (self.state in (State.READY, State.DRAINING))
        assert self.runtime.inflight == len(self.running) + len(self.predicts)
        for call in (*self.running, *self.predicts, *self.loads, *self.unloads):
            assert not call._task.done()
        ready = self.do(self.client.get("/ready"))
        assert (ready.status == 200) == (self.state is State.READY or not self.was_up)
        capacity = self.do(self.client.get("/capacity")).json()["models"]["m@1.0.0"]
        if self.state is not State.READY:
            assert (capacity["accepting"], capacity["reason"]) == (False, "model_not_loaded")


def test_life_of_a_model_is_that_of_its_state_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("thalamus_lite"), "disabled", True)
    # Nothing is tried again but by the machine's own rules.
    monkeypatch.setattr("thalamus_lite.engine.RETRY_LOOK_S", 3600.0)
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    for lane in lanes_alive("m"):
        lane.join(PATIENCE_S)
    assert not lanes_alive("m")
