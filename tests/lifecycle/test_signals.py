"""SIGTERM and SIGINT under uvicorn: what is accepted is answered, and the end is bounded."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from lifecycle_kit import KEY, PATIENCE_S, Wire, serving

ROUNDS = 200 if os.environ.get("THALAMUS_SOAK") == "1" else 20

SERVED = """
app = Thalamus()
held = threading.Event()

@app.model(model_id="m", max_batch_size=4)
class Model:
    def load(self, weights, device):
        say("loaded")
    def predict(self, inputs: list[In]) -> list[Out]:
        texts = [item.text for item in inputs]
        if "slow" in texts:
            say("running")
            time.sleep(0.2)
        elif "hang" in texts:
            say("running")
            held.wait()
        return [Out(text=text) for text in texts]
    def unload(self):
        say("unloaded")
"""


def code_of(error: bytes) -> str:
    import json

    found: str = json.loads(error)["code"]
    return found


def test_sigterm_answers_what_runs_and_what_waits_then_unloads(tmp_path: Path) -> None:
    with serving(tmp_path, SERVED) as server:
        server.wait_for("loaded")
        wires = [Wire(server.port) for _ in range(6)]
        idle = Wire(server.port)
        assert idle.ask("GET", "/ready")[0] == 200
        wires[0].predict("slow")
        server.wait_for("running")
        for wire in wires[1:]:
            wire.predict("queued")
        # They are in when the probe on one more connection is answered.
        with Wire(server.port) as probe:
            while b"thalamus_inflight_requests 6.0" not in probe.ask("GET", "/metrics")[2]:
                time.sleep(0.005)
        server.kill()
        assert [wire.read()[0] for wire in wires] == [200] * 6
        server.wait_for("unloaded")
        assert server.ended() == -signal.SIGTERM
        with pytest.raises((EOFError, ConnectionError)):
            # A keep-alive connection that was idle is closed, not left hanging.
            idle.ask("GET", "/ready")
        for wire in (*wires, idle):
            wire.close()


def test_delay_keeps_serving_with_ready_503_until_the_balancer_has_seen_it(tmp_path: Path) -> None:
    with serving(tmp_path, SERVED, THALAMUS_DRAIN_DELAY_S="1.5") as server:
        server.wait_for("loaded")
        with Wire(server.port) as wire:
            assert wire.ask("GET", "/ready")[0] == 200
            server.kill()
            started = time.monotonic()
            while wire.ask("GET", "/ready")[0] == 200:
                assert time.monotonic() - started < PATIENCE_S
            # New connections and new requests are still taken.
            with Wire(server.port) as late:
                late.predict("x")
                assert late.read()[0] == 200
        server.wait_for("unloaded")
        assert server.ended() == -signal.SIGTERM
        assert time.monotonic() - started >= 1.4


def test_second_sigterm_ends_the_delay(tmp_path: Path) -> None:
    with serving(tmp_path, SERVED, THALAMUS_DRAIN_DELAY_S="3600") as server:
        server.wait_for("loaded")
        with Wire(server.port) as wire:
            wire.predict("slow")
            server.wait_for("running")
            server.kill()
            with Wire(server.port) as probe:
                while probe.ask("GET", "/ready")[0] == 200:
                    time.sleep(0.005)
                # A supervisor passes on what the whole process group was told: that is one signal.
                server.kill()
                assert probe.ask("POST", "/predict")[0] == 400
                time.sleep(1.2)
            server.kill()
            assert wire.read()[0] == 200
        server.wait_for("unloaded")
        assert server.ended() == -signal.SIGTERM


def test_sigint_drains_without_the_delay(tmp_path: Path) -> None:
    with serving(tmp_path, SERVED, THALAMUS_DRAIN_DELAY_S="3600") as server:
        server.wait_for("loaded")
        with Wire(server.port) as wire:
            wire.predict("slow")
            server.wait_for("running")
            server.kill(signal.SIGINT)
            assert wire.read()[0] == 200
        server.wait_for("unloaded")
        # uvicorn leaves Python's own handler the last word.
        assert server.ended() in (-signal.SIGINT, 1, 0, 130)


def test_hung_model_does_not_keep_the_process(tmp_path: Path) -> None:
    with serving(tmp_path, SERVED, THALAMUS_DRAIN_S="0.3") as server:
        server.wait_for("loaded")
        with Wire(server.port) as wire, Wire(server.port) as waiting:
            wire.predict("hang")
            server.wait_for("running")
            waiting.predict("queued")
            with Wire(server.port) as probe:
                while b"thalamus_inflight_requests 2.0" not in probe.ask("GET", "/metrics")[2]:
                    time.sleep(0.005)
            server.kill()
            for one in (wire, waiting):
                status, headers, content = one.read()
                assert (status, code_of(content)) == (503, "draining")
                assert "retry-after" in headers
        # A second one must not cut it short, nor make it longer.
        server.kill()
        # 0.3 s for the requests, 5 s for unload(), and then it ends whatever hangs.
        assert server.ended(20) == -signal.SIGTERM


def test_second_sigint_ends_a_hung_server_at_once(tmp_path: Path) -> None:
    with serving(tmp_path, SERVED, THALAMUS_DRAIN_S="3600") as server:
        server.wait_for("loaded")
        with Wire(server.port) as wire, Wire(server.port) as probe:
            wire.predict("hang")
            server.wait_for("running")
            server.kill(signal.SIGINT)
            while probe.ask("GET", "/ready")[0] == 200:
                time.sleep(0.005)
            server.kill(signal.SIGINT)
            assert server.ended(20) != 0


LOADING = """
app = Thalamus(load={mode!r})

@app.model(model_id="m")
class Model:
    def load(self, weights, device):
        say("loading")
        {load}
    def predict(self, inputs: list[In]) -> list[Out]:
        return []
"""


@pytest.mark.parametrize(
    ("mode", "load", "delay"),
    [
        ("startup", "time.sleep(1)", 3600),
        ("startup", "threading.Event().wait()", 3600),
        ("background", "time.sleep(1)", 0.1),
    ],
)
def test_sigterm_while_models_load_ends_the_start(
    tmp_path: Path, mode: str, load: str, delay: float
) -> None:
    code = LOADING.format(load=load, mode=mode)
    with serving(tmp_path, code, THALAMUS_DRAIN_DELAY_S=str(delay)) as server:
        server.wait_for("loading")
        # No balancer knows of a server that has not started, so there is no delay then.
        server.kill()
        # uvicorn's code for a failed start, or the signal.
        assert server.ended(20) in (3, -signal.SIGTERM)
        if mode == "startup":
            assert "told to stop while models were loading" in server.log.read_text()


COUNTED = """
served = app
counts = {"accepted": 0, "answered": 0}

async def app(scope, receive, send):
    predicts = scope.get("path") == "/predict"
    counts["accepted"] += predicts

    async def counted_send(message):
        if message["type"] == "lifespan.shutdown.complete":
            say("accepted {accepted} answered {answered}".format(**counts))
        await send(message)
        if predicts and message["type"] == "http.response.body":
            counts["answered"] += not message.get("more_body", False)

    await served(scope, receive, counted_send)
"""


def test_rounds_of_sigterm_with_requests_in_flight_lose_none(tmp_path: Path) -> None:
    """What the app has read it answers, to its client: 200, or 503 after the signal."""
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with serving(folder, SERVED + COUNTED) as server:
            server.wait_for("loaded")
            wires = [Wire(server.port) for _ in range(8)]
            # What was sent before the connections were accepted would be reset with the backlog.
            for wire in wires:
                assert wire.ask("GET", "/health")[0] == 200
            texts = ["slow" if index % 3 == 0 else "x" for index in range(8)]
            signaller = threading.Timer(0.002 * (number % 10), server.kill)
            signaller.start()
            sent = []
            for wire, text in zip(wires, texts, strict=True):
                try:
                    wire.predict(text)
                except OSError:
                    continue
                sent.append(wire)
            statuses = []
            for wire in sent:
                try:
                    status, _, content = wire.read()
                except (EOFError, ConnectionError):
                    # Closed as an idle connection before the request reached it.
                    continue
                statuses.append(status)
                assert status == 200 or code_of(content) == "draining"
            signaller.join()
            server.wait_for(f"accepted {len(statuses)} answered {len(statuses)}")
            assert server.ended(20) == -signal.SIGTERM
            for wire in wires:
                wire.close()
            assert "Traceback" not in server.log.read_text()


EMBEDDED = """
app = Thalamus()

@app.model(model_id="m")
class Model:
    def load(self, weights, device):
        say("loaded")
    def predict(self, inputs: list[In]) -> list[Out]:
        say("running")
        time.sleep(0.2)
        return [Out(text=item.text) for item in inputs]
    def unload(self):
        say("unloaded")

import uvicorn

class Threaded(uvicorn.Server):
    def run(self, sockets=None):
        thread = threading.Thread(target=super().run, args=(sockets,))
        thread.start()
        for line in sys.stdin:
            self.should_exit = True
        thread.join()
        say("joined")

uvicorn.Server = Threaded
"""


def test_server_in_a_thread_is_drained_by_its_lifespan(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    stdin = os.dup(0)
    os.dup2(reader, 0)
    try:
        with serving(tmp_path, EMBEDDED) as server:
            server.wait_for("loaded")
            with Wire(server.port) as wire:
                wire.predict("x")
                server.wait_for("running")
                os.write(writer, b"stop\n")
                assert wire.read()[0] == 200
            server.wait_for("unloaded")
            os.close(writer)
            server.wait_for("joined")
            assert server.ended() == 0
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(reader)


STUBBORN = """
from collections.abc import Iterator
from thalamus_lite.serving import drain

drain.CUT_OFF_AFTER_S = drain.FORCE_AFTER_S = 0.2
app = Thalamus()

@app.model(model_id="m")
class Model:
    def load(self, weights, device):
        say("loaded")
    def predict(self, inputs: list[In]) -> Iterator[Out]:
        for number in range(10**6):
            if number == 1000:
                say("running")
            yield Out(text="x" * 1000)
    def unload(self):
        say("unloaded")
"""


def test_client_that_never_ends_its_body_is_answered_and_let_go(tmp_path: Path) -> None:
    with serving(tmp_path, STUBBORN, THALAMUS_DRAIN_S="0.2") as server:
        server.wait_for("loaded")
        with Wire(server.port) as wire:
            head = f"POST /predict HTTP/1.1\r\nHost: t\r\nX-API-Key: {KEY}\r\n"
            wire.socket.sendall(f"{head}Content-Length: 9\r\n\r\n{{".encode())
            with Wire(server.port) as probe:
                assert probe.ask("GET", "/ready")[0] == 200
            server.kill()
            status, _, error = wire.read()
            assert (status, code_of(error)) == (503, "draining")
            server.wait_for("unloaded")
            assert server.ended() == -signal.SIGTERM


@pytest.mark.parametrize("what", ["stream", "answers"])
def test_client_that_does_not_read_does_not_keep_the_process(tmp_path: Path, what: str) -> None:
    with serving(tmp_path, STUBBORN, THALAMUS_DRAIN_S="0.2") as server:
        server.wait_for("loaded")
        with Wire(server.port) as wire:
            if what == "stream":
                event_stream = "Accept: text/event-stream"
                wire.send("POST", "/predict", b'{"inputs":[{"text":"x"}]}', event_stream)
                server.wait_for("running")
            else:
                wire.socket.setblocking(False)
                request = b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n"
                # Until nothing more goes through, in either direction.
                quiet_since, at = time.monotonic(), 0
                while time.monotonic() - quiet_since < 0.3:
                    try:
                        at = (at + wire.socket.send(request[at:])) % len(request)
                        quiet_since = time.monotonic()
                    except BlockingIOError:
                        time.sleep(0.01)
            server.kill()
            server.wait_for("unloaded")
            server.ended()
    assert "Traceback" not in server.log.read_text()
