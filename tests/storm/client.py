"""A client for the storm: raw HTTP/1.1 over many connections, which it may break at any moment."""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

MODELS = ("batched", "lanes", "single", "coroutine", "stream", "coming-and-going")
CODES = {
    500: "model_error",
    503: "model_unloading",
    504: "deadline_exceeded",
    429: "queue_full",
}
TIMED_MS = 2


class Link(asyncio.Protocol):
    """One connection. ``answer`` is the future of the one request under way."""

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.answer: asyncio.Future[tuple[int, bytes]] | None = None
        self.buffer = bytearray()
        self.closed = False
        self.left = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        start = self.buffer.find(b"content-length: ") + 16
        size = int(self.buffer[start : self.buffer.find(b"\r", start)])
        end = head + 4 + size
        if len(self.buffer) < end:
            return
        found = int(self.buffer[9:12]), bytes(self.buffer[head + 4 : end])
        del self.buffer[:end]
        if self.left:
            return
        if self.answer is None or self.answer.done() or self.buffer:
            self.storm.wrong.append(f"an answer to nothing: {found} {self.answer} {self.buffer}")
        else:
            self.answer.set_result(found)

    def connection_lost(self, error: Exception | None) -> None:
        self.closed = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(ConnectionError("closed by the server"))

    def hang_up(self) -> None:
        self.left = True
        if random.random() < 0.5:
            # A reset, as of a process that was killed; otherwise an orderly end.
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, linger
            )
        self.transport.abort()


@dataclass
class Storm:
    """``total`` requests, some leave, some are faulty, some are timed; what became of them."""

    port: int
    key: str
    total: int
    links: int = 96
    cancelled: float = 0.3
    faulty: float = 0.05
    timed: float = 0.02
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    toggles: Counter[int] = field(default_factory=Counter)
    left: int = 0

    async def run(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.left = self.total
        toggling = asyncio.ensure_future(self._come_and_go())
        await asyncio.gather(*(self._work(number) for number in range(self.links)))
        await toggling

    async def ask(self, method: str, path: str) -> tuple[int, bytes]:
        """One request on a connection of its own."""
        link = await self._connect(0)
        try:
            return await self._send(link, method, path, b"")
        finally:
            link.transport.abort()

    async def _work(self, number: int) -> None:
        link: Link | None = None
        while self.left > 0:
            self.left -= 1
            if link is None or link.closed:
                link = await self._connect(number)
            if not await self._one(link, f"{number}-{self.left}"):
                link.hang_up()
                link = None
        if link is not None:
            link.transport.abort()

    async def _one(self, link: Link, name: str) -> bool:
        """One request; False where the client leaves."""
        draw = self.random
        count = 1 if draw.random() < 0.8 else draw.randrange(2, 24)
        faulty = draw.random() < self.faulty
        nonces = [f"{name}-{index}-{draw.getrandbits(48):x}" for index in range(count)]
        if faulty:
            at = draw.randrange(count)
            nonces[at] = f"fault-{nonces[at]}"
        model = draw.choice(MODELS)
        content = json.dumps(
            {"model": model, "inputs": [{"nonce": nonce} for nonce in nonces]}
        ).encode()
        timed = draw.random() < self.timed
        if draw.random() < self.cancelled:
            await self._leave(link, content, draw)
            self.outcomes["left"] += 1
            return False
        headers = (f"X-Timeout-Ms: {TIMED_MS}",) if timed else ()
        try:
            async with asyncio.timeout(60):
                status, answer = await self._send(link, "POST", "/predict", content, *headers)
        except TimeoutError:
            self.wrong.append(f"lost: {model} {nonces}")
            return False
        except ConnectionError as error:
            self.wrong.append(f"lost with its connection: {model} {nonces}: {error}")
            return False
        self._check(status, answer, nonces, model, faulty=faulty, timed=timed)
        return True

    def _check(
        self,
        status: int,
        answer: bytes,
        nonces: list[str],
        model: str,
        *,
        faulty: bool,
        timed: bool,
    ) -> None:
        self.outcomes[str(status)] += 1
        found = json.loads(answer)
        if status == 200:
            if [output["nonce"] for output in found["outputs"]] != nonces:
                self.wrong.append(f"crossed: {nonces} got {found['outputs']}")
            if faulty:
                self.wrong.append(f"a faulty request was answered: {nonces}")
            return
        allowed = {500} if faulty else set()
        allowed |= {504} if timed else set()
        allowed |= {503} if model == "coming-and-going" else set()
        if status not in allowed or found["code"] != CODES[status]:
            self.wrong.append(f"{model}: {status} {found['code']} for {nonces}")

    async def _leave(self, link: Link, content: bytes, draw: random.Random) -> None:
        """Go at a random moment: in the head, in the body, in the queue, in the batch."""
        request = self._request("POST", "/predict", content)
        if draw.random() < 0.2:
            link.transport.write(request[: draw.randrange(1, len(request))])
        else:
            link.answer = asyncio.get_running_loop().create_future()
            link.transport.write(request)
        await asyncio.sleep(draw.choice((0.0, 0.0, draw.random() * 0.002, draw.random() * 0.03)))
        if link.answer is not None:
            link.answer.cancel()

    async def _send(
        self, link: Link, method: str, path: str, content: bytes, *headers: str
    ) -> tuple[int, bytes]:
        link.answer = asyncio.get_running_loop().create_future()
        link.transport.write(self._request(method, path, content, *headers))
        try:
            return await link.answer
        finally:
            link.answer = None

    def _request(self, method: str, path: str, content: bytes, *headers: str) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            "Host: storm",
            f"X-API-Key: {self.key}",
            f"Content-Length: {len(content)}",
            *headers,
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + content

    async def _connect(self, number: int) -> Link:
        loop = asyncio.get_running_loop()
        # Some addresses to come from: one alone would run out of ports to leave behind.
        local = (f"127.0.0.{2 + number % 8}", 0) if os.uname().sysname == "Linux" else None
        _, link = await loop.create_connection(
            lambda: Link(self), "127.0.0.1", self.port, local_addr=local
        )
        return link

    async def _come_and_go(self) -> None:
        while self.left > 0:
            # It ends loaded, so that whoever waits for the model has it.
            for verb in ("unload", "load"):
                status, _ = await self.ask("POST", f"/models/coming-and-going/{verb}")
                self.toggles[status] += 1
                await asyncio.sleep(0.02)
