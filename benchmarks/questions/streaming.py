"""How fast do tokens stream? Row 13: 10,000 of them in one answer."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import peers
from benchmarks.answer import Answer, Table
from benchmarks.closed_loop import BadRun
from benchmarks.load.connection import encode
from benchmarks.processes import CLIENT_CORE, ROOT, Call, pinned
from benchmarks.rounds import Rounds

if TYPE_CHECKING:
    from benchmarks.processes import Server
    from benchmarks.run import Run

TOKENS = 10_000
LITSERVE_STREAM = replace(
    peers.LITSERVE,
    call=Call("/predict", b'{"tokens":2}', peers.LITSERVE.call.headers),
    options={"BENCH_STREAM": "1"},
)
OURS_STREAM = peers.predict("tokens", [{"tokens": TOKENS}])
CALLS = {
    "floor": Call("/tokens", b"%d" % TOKENS, peers.JSON),
    "thalamus-lite": replace(
        OURS_STREAM, headers={**OURS_STREAM.headers, "Accept": "text/event-stream"}
    ),
    "LitServe": replace(LITSERVE_STREAM.call, body=b'{"tokens":%d}' % TOKENS),
}


def estimate_s(run: Run) -> float:
    return run.rounds(3) * (4 * 1.2 + 8) + 4


def measure(run: Run) -> Answer:
    answer = Answer()
    rounds: Rounds[float] = Rounds()
    with (
        run.reporting(answer, "streams"),
        run.server(peers.FLOOR) as floor,
        run.server(peers.OURS_SHAPES) as ours,
    ):
        servers = {"floor": floor, "thalamus-lite": ours}
        for _ in range(run.rounds(3)):
            rounds.begin()
            _half(run, rounds, servers, ("floor", "thalamus-lite"))
            if run.wants(peers.LITSERVE):
                with run.reporting(answer, "LitServe"), run.server(LITSERVE_STREAM) as litserve:
                    _half(run, rounds, {"LitServe": litserve}, ("LitServe",))
            _half(run, rounds, servers, ("thalamus-lite", "floor"))
        _report(answer, rounds)
    return answer


def _half(
    run: Run, rounds: Rounds[float], servers: dict[str, Server], names: tuple[str, ...]
) -> None:
    for name in names:
        rounds.add(name, tokens_per_s(servers[name], CALLS[name], 1 if name == "LitServe" else 3))
        run.step(f"{name}: {TOKENS} tokens", 1.5)


def tokens_per_s(server: Server, call: Call, times: int) -> float:
    """Of the best of ``times`` streams, read by a process on the client's core.

    Raises:
        BadRun: a stream broke, or had fewer tokens.
    """
    plan = json.dumps([server.port, encode(call, "127.0.0.1").decode("latin-1")])
    command = (sys.executable, "-m", "benchmarks.questions.streaming", str(times))
    done = subprocess.run(
        pinned(CLIENT_CORE, command),
        input=plan,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise BadRun(f"the stream's reader ended with {done.returncode}: {done.stderr[-300:]}")
    return TOKENS / float(done.stdout)


def read_stream(port: int, request: bytes) -> float:
    """Seconds until the last byte; all is read as it comes, and looked at after."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        begun = time.perf_counter()
        connection.sendall(request)
        parts = []
        tail = b""
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            data = connection.recv(1 << 18)
            if not data:
                raise ConnectionError("the stream ended early")
            parts.append(data)
            tail = (tail + data)[-16:]
        seconds = time.perf_counter() - begun
    found = b"".join(parts).count(b'"token":') or b"".join(parts).count(b'"token": ')
    if found != TOKENS:
        raise ConnectionError(f"{found} tokens, and {TOKENS} were asked for")
    return seconds


def _report(answer: Answer, rounds: Rounds[float]) -> None:
    def same(value: float) -> float:
        return value

    names = [name for name in CALLS if any(name in r for r in rounds.rounds)]
    answer.read("13 floor", rounds.ratio("thalamus-lite", "floor", same))
    if "LitServe" in names:
        answer.read("13 LitServe", rounds.ratio("thalamus-lite", "LitServe", same))
    rows = tuple(
        (name, round(rounds.figure(name, same)), rounds.ratio(name, "floor", same))
        for name in names
    )
    note = "1 connection, server-sent events; the floor sends a chunk a token."
    columns = ("server", "tokens/s", "of the floor")
    answer.tables.append(Table("A stream of 10,000 tokens", columns, rows, note))


if __name__ == "__main__":
    _port, _request = json.load(sys.stdin)
    _times = int(sys.argv[1])
    print(min(read_stream(_port, _request.encode("latin-1")) for _ in range(_times)))
