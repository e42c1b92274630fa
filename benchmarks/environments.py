"""A virtual environment for each server, made once and kept while its requirements stay the
same.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from typing import TYPE_CHECKING

from benchmarks.processes import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.peers import Peer

_INSTALL_S = 900


class CannotInstall(RuntimeError):
    """pip said no; the text has the end of what it said."""


class Environments:
    """Under one folder. A failure is remembered for the run, so that each peer fails once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._failed: dict[str, CannotInstall] = {}

    def is_made(self, peer: Peer) -> bool:
        stamp = self._stamp(peer)
        return stamp.is_file() and stamp.read_text() == _digest(peer)

    def python(self, peer: Peer) -> Path:
        """The interpreter of the peer's environment, which is made where it is missing.

        Raises:
            CannotInstall: with pip's reason.
        """
        if peer.env in self._failed:
            raise self._failed[peer.env]
        home = self.folder / peer.env
        if not self.is_made(peer):
            try:
                self._make(home, peer.requirements)
            except CannotInstall as error:
                self._failed[peer.env] = error
                raise
            self._stamp(peer).write_text(_digest(peer))
        return home / "bin" / "python"

    def _stamp(self, peer: Peer) -> Path:
        return self.folder / peer.env / "requirements.sha256"

    def version(self, peer: Peer, package: str) -> str | None:
        """The version of a package that is installed for the peer; None where it is not."""
        for found in (self.folder / peer.env).glob("lib/python*/site-packages/*.dist-info"):
            name, _, version = found.name.removesuffix(".dist-info").rpartition("-")
            if name.lower().replace("_", "-") == package.lower():
                return version
        return None

    def _make(self, home: Path, requirements: tuple[str, ...]) -> None:
        shutil.rmtree(home, ignore_errors=True)
        venv.create(home, with_pip=True)
        command = (str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements)
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=_INSTALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotInstall(f"pip took more than {_INSTALL_S} s") from None
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
            raise CannotInstall(" ".join(lines)[-400:] or f"pip ended with {done.returncode}")


def _digest(peer: Peer) -> str:
    return hashlib.sha256("\n".join((sys.version, *peer.requirements)).encode()).hexdigest()
