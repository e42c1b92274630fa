"""How fast do weights arrive, and at what cost? Row 16: beside curl and aria2c, from nginx."""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import file_server, open_loop, peers
from benchmarks.answer import Answer, Table
from benchmarks.closed_loop import BadRun, Missing
from benchmarks.load.outcome import quantile
from benchmarks.load.schedule import even
from benchmarks.processes import Call
from benchmarks.rounds import Rounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.run import Run

MB = 1_000_000
MiB = 1 << 20
DIE_AT = 0.9
STATUS_S = 4.0
STATUS_RATE = 50
# Eight connections, 10 MB/s each.
_STATUS_BYTES_PER_S = 80 * MB
FILE = "weights.bin"


def size(run: Run) -> int:
    return int(run.pick(1024, 128)) * MiB


def estimate_s(run: Run) -> float:
    gib = size(run) / 1024 / MiB
    return gib * (10 + run.pick(2, 1) * (14 + 8)) + 16


@dataclass(frozen=True)
class Place:
    """Where a measurement finds its file, and where it may write."""

    run: Run
    folder: Path
    url: str
    sha256: str

    def limited(self, rate: str) -> str:
        return f"{self.url}/limited-{rate}/{FILE}"

    def fetch(self, url: str, *words: str, keep: str | None = None) -> dict[str, Any]:
        """A cold download by us; ``keep`` names a cache that stays."""
        cache = self.folder / (keep or "cache")
        try:
            return self.run.inside(
                "benchmarks.questions.fetching", str(cache), url, *words, pin=False
            )
        finally:
            if keep is None:
                shutil.rmtree(cache, ignore_errors=True)

    def tool(self, *command: str) -> float:
        """Seconds of another program, which writes to ``out``.

        Raises:
            Missing, BadRun: it is not here, or it failed.
        """
        out = self.folder / "out"
        out.mkdir()
        try:
            begun = time.perf_counter()
            done = subprocess.run(
                command, cwd=out, capture_output=True, text=True, timeout=300, check=False
            )
            took_s = time.perf_counter() - begun
        except FileNotFoundError:
            raise Missing(f"{command[0]} is not installed") from None
        finally:
            shutil.rmtree(out, ignore_errors=True)
        if done.returncode:
            raise BadRun(f"{command[0]} ended with {done.returncode}: {done.stderr[-200:]}")
        return took_s


def measure(run: Run) -> Answer:
    answer = Answer()
    with tempfile.TemporaryDirectory() as folder, run.reporting(answer, "transfers"):
        root = Path(folder, "www")
        root.mkdir()
        file_server.random_file(root / FILE, size(run))
        with (root / FILE).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        run.step("a file of chance", size(run) / 1024 / MiB * 10)
        with file_server.serving(root) as url:
            place = Place(run, Path(folder), url, sha256)
            for part in (_loopback, _many_connections, _resume, _status):
                with run.reporting(answer, part.__name__.strip("_")):
                    part(place, answer)
    return answer


def _loopback(place: Place, answer: Answer) -> None:
    """One connection, as fast as it goes."""
    url = f"{place.url}/{FILE}"
    curl = f"curl --silent --fail --output {FILE} {url}"
    ways: dict[str, Callable[[], float]] = {
        "curl": lambda: place.tool(*curl.split()),
        "unverified": lambda: _seconds(place.fetch(url, "--one")),
        "verified": lambda: _seconds(place.fetch(url, "--one", "--sha256", place.sha256)),
        "curl && sha256sum": lambda: place.tool("sh", "-c", f"{curl} && sha256sum {FILE}"),
    }
    rounds = _rounds(place.run, ways, 3.5 * size(place.run) / 1024 / MiB)
    answer.read("16 curl", rounds.ratio("curl", "unverified", _same))
    answer.read("16 verified", rounds.ratio("verified", "curl && sha256sum", _same))
    rss = place.fetch(url)["rss_growth_bytes"] / MiB
    answer.read("16 rss", rss, f"{size(place.run) // MiB} MiB by 8 connections")
    note = "Ours always computes the sha256, beside the download, and syncs the file to disk."
    title = f"{size(place.run) // MiB} MiB over one connection, loopback"
    answer.tables.append(_table(title, rounds, list(ways), size(place.run), note))


def _many_connections(place: Place, answer: Answer) -> None:
    """A server that gives 50 MB/s to each connection."""
    url = place.limited("50m")
    # Its own least split is 20 MiB, which would leave connections idle.
    aria2 = ("aria2c", "-x8", "-s8", "-k1M", "--file-allocation=none", "-q", "-o", FILE, url)
    ways: dict[str, Callable[[], float]] = {
        "aria2c -x8": lambda: place.tool(*aria2),
        "thalamus-lite": lambda: _seconds(place.fetch(url)),
    }
    rounds = _rounds(place.run, ways, 4 * size(place.run) / 1024 / MiB)
    answer.read("16 aria2", rounds.ratio("aria2c -x8", "thalamus-lite", _same))
    title = f"{size(place.run) // MiB} MiB, 50 MB/s a connection"
    answer.tables.append(_table(title, rounds, list(ways), size(place.run), ""))


def _resume(place: Place, answer: Answer) -> None:
    """kill -9 at 90 %, and again."""
    url = place.limited("50m")
    try:
        place.fetch(url, "--die-at", str(DIE_AT), keep="killed")
    except BadRun as error:
        if f"{-signal.SIGKILL}" not in str(error):
            raise
    again = place.fetch(url, keep="killed")
    shutil.rmtree(place.folder / "killed", ignore_errors=True)
    share = (DIE_AT * again["bytes"] + again["received_bytes"]) / again["bytes"] - 1
    note = f"{share:.1%} of the file came twice; the rest was still to come"
    answer.read("16 resume", again["received_bytes"] / again["bytes"] * 100, note)
    place.run.step("resumed", 8)


def _status(place: Place, answer: Answer) -> None:
    """GET /status while a model's weights arrive."""
    ready = Call("/health", method="GET")
    peer = peers.OURS_WEIGHTS
    options = {"weights": place.limited("10m"), "cache": str(place.folder / "status")}
    with place.run.server(peer, **options) as server:
        due = even(STATUS_RATE, min(STATUS_S, size(place.run) / _STATUS_BYTES_PER_S * 0.75))
        calls = [Call("/status", method="GET"), ready]
        outcome = open_loop.run(server, calls, [(at, 0) for at in due])
        loading = server.get("/ready") == 503
    latencies = outcome.latencies(skip_s=0.2)
    p99_ms = quantile(latencies, 0.99) * 1e3
    note = "" if loading else "the download had ended before the last request"
    answer.read("16 status", p99_ms, note, outcome.void or "")
    rows = tuple((f"p{q:g}", quantile(latencies, q / 100) * 1e3) for q in (50, 90, 99, 100))
    answer.tables.append(Table("/status while weights arrive", ("", "ms"), rows))
    place.run.step("/status", STATUS_S + 5)


def _rounds(run: Run, ways: dict[str, Callable[[], float]], seconds: float) -> Rounds[float]:
    rounds: Rounds[float] = Rounds([{}])
    for name in run.order(*ways):
        rounds.add(name, ways[name]())
        run.step(name, seconds)
    return rounds


def _table(title: str, rounds: Rounds[float], names: list[str], size: int, note: str) -> Table:
    rows = tuple(
        (name, rounds.figure(name, _same), size / MB / rounds.figure(name, _same)) for name in names
    )
    return Table(title, ("", "seconds", "MB/s"), rows, note)


def _same(seconds: float) -> float:
    return seconds


def _seconds(fetched: dict[str, Any]) -> float:
    return float(fetched["seconds"])
