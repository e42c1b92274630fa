"""One run of the benchmarks: its options, its progress bar, and the servers that it may start."""

from __future__ import annotations

import json
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks import peers
from benchmarks.answer import Answer
from benchmarks.closed_loop import BadRun, Missing
from benchmarks.environments import CannotInstall, Environments
from benchmarks.processes import ROOT, SERVER_CORE, CannotStart, Server, environment, pinned
from benchmarks.rounds import abba
from benchmarks.servers.work import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.peers import Peer

FAILURES = (CannotInstall, CannotStart, BadRun, Missing)


@dataclass
class Run:
    """``quick`` is for a look, not for a figure: shorter, and with fewer rounds."""

    environments: Environments
    quick: bool = False
    only: frozenset[str] = frozenset()
    overload_s: float | None = None
    bar: Any = None

    def pick(self, full: float, quick: float) -> float:
        return quick if self.quick else full

    def rounds(self, full: int, quick: int = 1) -> int:
        return quick if self.quick else full

    def order(self, *names: str) -> list[str]:
        """Who is measured when in a round: forth and back, or only forth in a quick run."""
        return list(names) if self.quick else abba(names)

    def field(self, answer: Answer) -> list[Peer]:
        """The peers to measure; those that a quick run leaves out are named as missing."""
        if self.only:
            return [peer for peer in peers.FIELD if peer.name in self.only]
        if not self.quick:
            return list(peers.FIELD)
        for peer in peers.FIELD:
            if peer not in peers.QUICK:
                answer.missing[peer.name] = "left out of a quick run; --only names it"
        return list(peers.QUICK)

    def wants(self, peer: Peer) -> bool:
        return peer in self.field(Answer())

    def prepare(self, say: Callable[[str], None], beside_peers: bool = True) -> None:
        """Make the environments first: their time is not the measurements'."""
        for peer in (peers.OURS, *(self.field(Answer()) if beside_peers else ())):
            try:
                if not self.environments.is_made(peer):
                    say(f"installing {peer.name}")
                self.environments.python(peer)
            except CannotInstall as error:
                say(f"{peer.name} cannot be installed: {error}")

    def step(self, label: str, seconds: float) -> None:
        """Say what has been done, and how long it was expected to take."""
        if self.bar is not None:
            self.bar.set_postfix_str(label[:48], refresh=False)
            # An estimate that was too short must not run over the end.
            self.bar.update(min(seconds, max(self.bar.total - self.bar.n, 0)))

    def server(self, peer: Peer, **options: str) -> Server:
        """
        Raises:
            CannotInstall: when its environment cannot be made.
        """
        return Server(peer.launch(self.environments.python(peer), **options))

    def inside(
        self, module: str, *words: str, timeout_s: float = 300, pin: bool = True
    ) -> dict[str, Any]:
        """What ``python -m module words`` prints after an ``@``, run in our servers' environment.

        Args:
            pin: On the server's core; else on all.

        Raises:
            BadRun: it ended in another way.
        """
        python = str(self.environments.python(peers.OURS))
        command = (python, "-m", module, *words)
        done = subprocess.run(
            pinned(SERVER_CORE, command) if pin else command,
            cwd=ROOT,
            env=environment(THALAMUS_API_KEY=KEY),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        for line in done.stdout.splitlines():
            if line.startswith("@"):
                found: dict[str, Any] = json.loads(line[1:])
                return found
        raise BadRun(f"{module} ended with {done.returncode}: {done.stderr[-400:]}")

    @contextmanager
    def reporting(self, answer: Answer, name: str) -> Iterator[None]:
        """A server that is not to be had is a line in the result, and not the end of the run."""
        try:
            yield
        except FAILURES as error:
            answer.missing[name] = " ".join(str(error).split())[-600:]
