"""What the storm is let loose on: several models, and a count of what came in and went out.

Run as a script: ``served.py FD``, where FD is a listening socket.
"""

import asyncio
import json
import random
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from pydantic import BaseModel

from thalamus_lite import Thalamus

FAULT = "fault"
# More than all clients together can have waiting: a full queue is another test's matter.
ROOM = 8192


class In(BaseModel):
    nonce: str


class Out(BaseModel):
    nonce: str


app = Thalamus(name="storm")


def answer(inputs: list[In]) -> list[Out]:
    for item in inputs:
        if item.nonce.startswith(FAULT):
            raise ValueError(item.nonce)
    return [Out(nonce=item.nonce) for item in inputs]


@app.model(model_id="batched", default=True, max_batch_size=16, max_queue_size=ROOM)
class Batched:
    def predict(self, inputs: list[In]) -> list[Out]:
        time.sleep(random.random() * 0.002)
        return answer(inputs)


@app.model(model_id="lanes", max_batch_size=4, lanes=3, max_queue_size=ROOM)
class Lanes:
    def preprocess(self, inputs: list[In]) -> list[In]:
        return list(inputs)

    def predict(self, inputs: list[In]) -> list[Out]:
        return answer(inputs)

    def postprocess(self, outputs: list[Out]) -> list[Out]:
        return outputs


@app.model(model_id="single", max_concurrent_requests=2, max_queue_size=ROOM)
class Single:
    def predict(self, inputs: list[In]) -> list[Out]:
        return answer(inputs)


@app.model(model_id="coroutine", max_batch_size=8, lanes=2, max_queue_size=ROOM)
class Coroutine:
    async def predict(self, inputs: list[In]) -> list[Out]:
        await asyncio.sleep(random.random() * 0.002)
        return answer(inputs)


@app.model(model_id="stream", lanes=2, max_queue_size=ROOM)
class Stream:
    def predict(self, inputs: list[In]) -> Iterator[Out]:
        for item in inputs:
            yield answer([item])[0]


@app.model(model_id="coming-and-going", max_batch_size=8, max_queue_size=ROOM)
class ComingAndGoing:
    def predict(self, inputs: list[In]) -> list[Out]:
        return answer(inputs)

    def unload(self) -> None:
        time.sleep(0.001)


class Counted:
    """Around the app: requests whose body was read to its end, and answers, one a request."""

    def __init__(self) -> None:
        self.accepted = self.answered = self.twice = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        if scope["path"] == "/storm":
            await self.tell(send)
            return
        if scope["path"] != "/predict":
            await app(scope, receive, send)
            return
        starts = 0
        read = False

        async def counted_receive() -> Any:
            nonlocal read
            message = await receive()
            whole = message["type"] == "http.request" and not message.get("more_body")
            # What is read behind an answer is thrown away (ADR 0019), not accepted.
            if whole and not read and starts == 0:
                read = True
                self.accepted += 1
            return message

        async def counted_send(message: Any) -> None:
            nonlocal starts
            if message["type"] == "http.response.start":
                starts += 1
            await send(message)

        await app(scope, counted_receive, counted_send)
        self.answered += starts == 1 and read
        self.twice += starts > 1

    async def tell(self, send: Any) -> None:
        content = json.dumps(
            {
                "accepted": self.accepted,
                "answered": self.answered,
                "twice": self.twice,
                "tasks": len(asyncio.all_tasks()),
            }
        ).encode()
        headers = [(b"content-length", b"%d" % len(content))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})


if __name__ == "__main__":
    uvicorn.Server(
        uvicorn.Config(Counted(), lifespan="on", log_level="critical", loop="uvloop")
    ).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
