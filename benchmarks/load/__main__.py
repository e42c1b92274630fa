"""``python -m benchmarks.load http://127.0.0.1:8000/predict --rate 500 --seconds 10 --body
request.json --header 'X-API-Key: secret'``.

Open loop unless ``--closed`` is given, which leaves the work to wrk. A run in which the generator
itself was too busy, or late, is void: it ends with 2.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks.load.connection import address, encode
from benchmarks.load.generator import Generator, Where
from benchmarks.load.schedule import ARRIVALS
from benchmarks.processes import Call


def main(argv: list[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    try:
        host, port, path = address(options.url)
        headers = dict(_header(text) for text in options.header)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    body = options.body.read_bytes() if options.body else b""
    if body:
        headers.setdefault("Content-Type", "application/json")
    call = Call(path, body, headers, options.method or ("POST" if body else "GET"))
    if options.closed:
        return _closed(call, f"http://{host}:{port}", options)
    due = ARRIVALS[options.arrivals](options.rate, options.seconds, options.seed)
    where = Where(host, port, options.connections)
    outcome = Generator(where, [encode(call, f"{host}:{port}")]).run([(at, 0) for at in due])
    print(json.dumps(outcome.summary(), indent=2))
    return 2 if outcome.void else 0


def _closed(call: Call, url: str, options: argparse.Namespace) -> int:
    from benchmarks.closed_loop import BadRun, Missing, wrk

    try:
        print(json.dumps(wrk(url, call, options.connections, options.seconds), indent=2))
    except (BadRun, Missing, subprocess.SubprocessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _header(text: str) -> tuple[str, str]:
    name, found, value = text.partition(":")
    if not found:
        raise ValueError(f"a header is 'Name: value', got {text!r}")
    return name.strip(), value.strip()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, default=100, help="requests a second (default 100)")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--arrivals", choices=sorted(ARRIVALS), default="poisson")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--connections", type=int, default=1024, help="the most that are opened")
    parser.add_argument("--body", type=Path, help="a file to send")
    parser.add_argument("--header", action="append", default=[], metavar="'Name: value'")
    parser.add_argument("--method", help="POST with a body, GET without")
    parser.add_argument("--closed", action="store_true", help="a closed loop, by wrk")
    return parser


if __name__ == "__main__":
    sys.exit(main())
