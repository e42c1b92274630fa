"""nginx on this machine, for downloads as fast as the disk, or as slow as is asked."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.closed_loop import Missing
from benchmarks.processes import CLIENT_CORE, Call, CannotStart, ask, free_port, pinned

if TYPE_CHECKING:
    from collections.abc import Iterator

_CHUNK = 1 << 20
_START_S = 10.0


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """``root`` at ``/``, and at ``/limited-50m/`` with 50 MB/s a connection; likewise 10m.

    Raises:
        Missing: there is no nginx.
        CannotStart: it does not answer.
    """
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        raise Missing("nginx is not installed: install it with the system's package manager")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "nginx.conf")
        config.write_text(_config(root, Path(folder), port))
        # Not on the server's core: it stands for another machine.
        command = pinned(CLIENT_CORE, (nginx, "-p", folder, "-c", str(config)))
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        try:
            until = time.monotonic() + _START_S
            while ask(port, Call("/ready", method="GET")) != 204:
                if process.poll() is not None or time.monotonic() > until:
                    raise CannotStart("nginx does not answer")
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(10)


def _config(root: Path, work: Path, port: int) -> str:
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {work}/{kind};" for kind in kinds)
    limited = "".join(
        f"location /limited-{rate}/ {{ alias {root}/; limit_rate {rate}; }}"
        for rate in ("50m", "10m")
    )
    # A worker gives up root's rights, and with them the temporary folder.
    user = "user root;" if os.geteuid() == 0 else ""
    return (
        f"daemon off; worker_processes 1; {user} pid {work}/pid; error_log {work}/error.log;"
        f"events {{}} http {{ access_log off; sendfile on; {paths} server {{"
        f" listen 127.0.0.1:{port}; root {root}; location = /ready {{ return 204; }} {limited}"
        " } }"
    )


def random_file(path: Path, size: int) -> None:
    """``size`` bytes of chance, which nothing on the way could compress or share."""
    with path.open("wb") as out:
        for _ in range(size // _CHUNK):
            out.write(os.urandom(_CHUNK))
        out.write(os.urandom(size % _CHUNK))
