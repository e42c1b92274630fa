"""``python launch.py SERVER MODULE:APP``: one real server on a free port, which it prints."""

from __future__ import annotations

import asyncio
import importlib
import socket
import sys
from pathlib import Path


def listener() -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", 0))
    return made


def load(name: str) -> object:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def run_uvicorn(name: str, http: str) -> None:
    import uvicorn

    sock = listener()
    print(sock.getsockname()[1], flush=True)
    config = uvicorn.Config(load(name), http=http, lifespan="on", log_level="warning")
    uvicorn.Server(config).run(sockets=[sock])


def run_hypercorn(name: str) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config

    sock = listener()
    print(sock.getsockname()[1], flush=True)
    config = Config()
    config.bind = [f"fd://{sock.detach()}"]
    config.loglevel = "WARNING"
    asyncio.run(serve(load(name), config))


def run_granian(name: str) -> None:
    from granian import Granian
    from granian.constants import Interfaces
    from granian.log import LogLevels

    with listener() as sock:
        port = sock.getsockname()[1]
    print(port, flush=True)
    Granian(
        name,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        workers=1,
        log_level=LogLevels.warning,
        workers_kill_timeout=5,
    ).serve()


SERVERS = {
    "uvicorn-httptools": lambda name: run_uvicorn(name, "httptools"),
    "uvicorn-h11": lambda name: run_uvicorn(name, "h11"),
    "hypercorn": run_hypercorn,
    "granian": run_granian,
}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    SERVERS[sys.argv[1]](sys.argv[2])
