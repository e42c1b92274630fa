"""The oracle of the closed loop: a raw ASGI batcher that is told how many clients there are, and
waits for all of them.

A request says in its headers what a batch costs (``x-cost: sleep 4 0.25``) and how many will come
(``x-clients: 24``). It starts a batch when that many wait, or ``BENCH_BATCH``, and looks at nothing
else: no key, no JSON, no validation, no metrics.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from typing import Any

import uvicorn

from benchmarks.servers.with_floor import ANSWER, HEADERS
from benchmarks.servers.work import MAX_BATCH, Cost, port


class Oracle:
    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.busy = False
        self.jobs: queue.SimpleQueue[tuple[Cost, list[asyncio.Future[None]]]] = queue.SimpleQueue()
        threading.Thread(target=self.work, daemon=True).start()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            self.loop = asyncio.get_running_loop()
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await receive()
        headers = dict(scope["headers"])
        done = self.loop.create_future()
        self.waiting.append(done)
        self.start(Cost.parse(headers[b"x-cost"].decode()), int(headers[b"x-clients"]))
        await done
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        await send({"type": "http.response.body", "body": ANSWER})

    def start(self, cost: Cost, clients: int) -> None:
        if not self.busy and len(self.waiting) >= min(clients, MAX_BATCH):
            self.busy = True
            batch, self.waiting = self.waiting[:MAX_BATCH], self.waiting[MAX_BATCH:]
            self.clients = clients
            self.jobs.put((cost, batch))

    def work(self) -> None:
        while True:
            cost, batch = self.jobs.get()
            cost.spend(len(batch))
            self.loop.call_soon_threadsafe(self.finish, cost, batch)

    def finish(self, cost: Cost, batch: list[asyncio.Future[None]]) -> None:
        self.busy = False
        self.start(cost, self.clients)
        for done in batch:
            if not done.done():
                done.set_result(None)


if __name__ == "__main__":
    uvicorn.run(
        Oracle(),
        host="127.0.0.1",
        port=port(),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        # As thalamus-lite's own server has it.
        proxy_headers=False,
        server_header=False,
    )
