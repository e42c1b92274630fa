"""The closed loop: wrk keeps a number of connections busy, each asking again when it is
answered.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.processes import CLIENT_CORE, pinned

if TYPE_CHECKING:
    from benchmarks.processes import Call, Server

_SLOW_TIMES = 5
PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)

_SCRIPT = """
wrk.method = %(method)s
wrk.path = %(path)s
wrk.body = %(body)s
%(headers)s
done = function(summary, latency, requests)
  io.write("\\n@{\\"requests\\":" .. summary.requests .. ",\\"us\\":" .. summary.duration)
  local errors = summary.errors
  io.write(",\\"bad_status\\":" .. errors.status .. ",\\"broken\\":"
    .. (errors.connect + errors.read + errors.write + errors.timeout))
  io.write(",\\"latency_us\\":{")
  for i, p in ipairs({%(percentiles)s}) do
    if i > 1 then io.write(",") end
    io.write("\\"" .. p .. "\\":" .. latency:percentile(p))
  end
  io.write("}}\\n")
end
"""


class Missing(RuntimeError):
    """A tool that a benchmark needs is not on this machine; the text says how to get it."""


class BadRun(RuntimeError):
    """What was measured is not what was meant: errors among the answers, or no answers at all."""


@dataclass(frozen=True)
class Closed:
    """One run. Latencies by percentile, in µs; ``cpu_us`` a request, of all the server's
    processes.
    """

    rps: float
    latency_us: dict[float, float]
    cpu_us: float

    @property
    def p50_us(self) -> float:
        return self.latency_us[50]

    @property
    def p99_us(self) -> float:
        return self.latency_us[99]


def run(
    server: Server, call: Call, connections: int, seconds: float, warm_s: float = 0.0
) -> Closed:
    """
    Raises:
        Missing: there is no wrk.
        BadRun: an answer other than 200, or a broken connection.
    """
    if warm_s:
        wrk(server.url, call, connections, warm_s)
    before = server.cpu_s()
    seen = wrk(server.url, call, connections, seconds)
    if not (seen["requests"] or seen["broken"]):
        # Slow, and not broken: nobody was answered in that time.
        before = server.cpu_s()
        seen = wrk(server.url, call, connections, _SLOW_TIMES * seconds)
    cpu_s = server.cpu_s() - before
    if seen["bad_status"] or seen["broken"] or not seen["requests"]:
        raise BadRun(
            f"{seen['requests']} requests, {seen['bad_status']} not 2xx, {seen['broken']} broken"
        )
    return Closed(
        rps=seen["requests"] / (seen["us"] / 1e6),
        latency_us={float(p): us for p, us in seen["latency_us"].items()},
        cpu_us=cpu_s / seen["requests"] * 1e6,
    )


def wrk(url: str, call: Call, connections: int, seconds: float) -> dict[str, Any]:
    """The counts and percentiles of one run of wrk, as it gives them."""
    tool = shutil.which("wrk")
    if tool is None:
        raise Missing("wrk is not installed: install it with the system's package manager")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "request.lua")
        script.write_bytes(
            _SCRIPT.encode()
            % {
                b"method": _lua(call.method.encode()),
                b"path": _lua(call.path.encode()),
                b"body": _lua(call.body),
                b"headers": b"\n".join(
                    b"wrk.headers[%b] = %b" % (_lua(k.encode()), _lua(v.encode()))
                    for k, v in call.headers.items()
                ),
                b"percentiles": ",".join(map(str, PERCENTILES)).encode(),
            }
        )
        # wrk counts whole seconds.
        command = (tool, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout")
        done = subprocess.run(
            pinned(CLIENT_CORE, (*command, "20s", "-s", str(script), url + call.path)),
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
    for line in done.stdout.splitlines():
        if line.startswith("@"):
            seen: dict[str, Any] = json.loads(line[1:])
            return seen
    raise BadRun(f"wrk said: {(done.stderr or done.stdout).strip()[-300:]}")


def _lua(data: bytes) -> bytes:
    """A Lua string literal."""
    return b'"%b"' % b"".join(
        bytes([byte]) if 32 <= byte < 127 and byte not in b'"\\' else b"\\%03d" % byte
        for byte in data
    )
