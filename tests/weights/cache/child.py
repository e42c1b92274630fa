"""A process that uses a cache, and may be told to die: ``python child.py '{"root": ..., ...}'``.

Prints one JSON line for each thing acquired; a parent that reads them knows how far this got.
"""

from __future__ import annotations

import json
import random
import sys
import threading
from pathlib import Path
from typing import Any

from fakes import Engine, Folder, Steps, http, make_cache, no_flock, sha256


def main(told: dict[str, Any]) -> None:
    origin = Folder(Path(told["origin"]))
    choice: dict[str, Any] = {"download": Engine(chunk=told.get("chunk", 16 * 1024))}
    if told.get("die_at"):
        choice["reached"] = Steps(at=told["die_at"], skip=told.get("skip", 0), kill=True)
    if told.get("no_flock"):
        choice["flock"] = no_flock
    cache = make_cache(Path(told["root"]), origin, **choice, **told.get("options", {}))
    say = threading.Lock()

    def tell(**line: Any) -> None:
        with say:
            print(json.dumps(line), flush=True)

    def work(seed: int) -> None:
        names: list[list[str]] = [list(each) for each in told["names"]]
        random.Random(seed).shuffle(names)
        for _ in range(told.get("rounds", 1)):
            for group in names:
                with cache.acquire(http(*group)) as lease:
                    paths = [lease.path / n for n in group] if len(group) > 1 else [lease.path]
                    tell(names=group, sha256=[sha256(path.read_bytes()) for path in paths])

    tell(started=True)
    if told.get("wait"):
        sys.stdin.readline()
    threads = [
        threading.Thread(target=work, args=(told.get("seed", 0) * 100 + n,))
        for n in range(told.get("threads", 1))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if told.get("hold"):
        lease = cache.acquire(http(*told["hold"]))
        tell(held=str(lease.path))
        sys.stdin.readline()
    cache.close()
    tell(ended=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
