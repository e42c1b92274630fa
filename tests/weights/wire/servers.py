"""Real servers, each on 127.0.0.1 and a port of the system's choice."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import socket
import subprocess
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY, SECRET = "thalamuskey", "thalamussecret"


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def rclone() -> str | None:
    beside = Path(sysconfig.get_path("scripts")) / "rclone"
    return str(beside) if beside.exists() else shutil.which("rclone")


@contextlib.contextmanager
def rclone_s3(root: Path) -> Iterator[str]:
    """``rclone serve s3``: each folder of ``root`` is a bucket."""
    with _rclone("s3", root, "--auth-key", f"{KEY},{SECRET}") as url:
        yield url


@contextlib.contextmanager
def rclone_http(root: Path) -> Iterator[str]:
    with _rclone("http", root, "--dir-cache-time", "0s") as url:
        yield url


@contextlib.contextmanager
def _rclone(kind: str, root: Path, *more: str) -> Iterator[str]:
    command = [rclone() or "rclone", "serve", kind, str(root), "--addr", "127.0.0.1:0"]
    environ = {k: v for k, v in os.environ.items() if not k.upper().startswith("RCLONE_")}
    process = subprocess.Popen(
        [*command, "--config", os.devnull, "-v", *more],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env=environ,
        text=True,
    )
    with _ended(process):
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise AssertionError("rclone ended before it listened")
        # Nobody reads on, and a full pipe would stop it.
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        yield f"http://127.0.0.1:{found[1]}"
    drain.join()
    process.stderr.close()


def nginx() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def nginx_http(root: Path, work: Path) -> Iterator[str]:
    """nginx serving ``root``; ``work`` takes its configuration and its pid."""
    # nginx cannot be asked for a free port: it is handed a socket that listens already.
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = work / "nginx.conf"
    paths = "".join(
        f"{kind}_temp_path {work};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # A worker would give up root's rights, and with them the tests' folders.
    user = "user root;" if os.geteuid() == 0 else ""
    config.write_text(
        f"daemon off; worker_processes 1; {user} pid {work}/pid; error_log {work}/error.log;"
        f"events {{}} http {{ access_log off; {paths} server {{"
        f" listen 127.0.0.1:{port}; root {root};"
        f" location /gzip/ {{ alias {root}/; gzip on; gzip_min_length 1; gzip_types *; }}"
        " } }"
    )
    process = subprocess.Popen(
        [nginx() or "nginx", "-p", str(work), "-c", str(config)],
        pass_fds=[listener.fileno()],
        env={"NGINX": f"{listener.fileno()};", "PATH": os.environ.get("PATH", "")},
        stderr=subprocess.DEVNULL,
    )
    with _ended(process):
        # The socket listens since before nginx began, so a request only waits for its turn.
        listener.close()
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def starlette_files(root: Path) -> Iterator[str]:
    """uvicorn with Starlette's static files: ETag, ranges and If-Range of another make."""
    import uvicorn
    from starlette.staticfiles import StaticFiles

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(StaticFiles(directory=root), log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextlib.contextmanager
def _ended(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
