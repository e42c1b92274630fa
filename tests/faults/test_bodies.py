"""Bodies that are too much, too long in coming, or not what they say."""

from __future__ import annotations

import gzip
import itertools
import json
import tracemalloc
from collections.abc import Callable, Iterator  # noqa: TC003  # resolved by pydantic
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from pydantic import BaseModel, ConfigDict

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient

if TYPE_CHECKING:
    from types import ModuleType

MIB = 1024 * 1024


def part(body: bytes, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def peak_of(work: Any) -> tuple[Any, int]:
    """What ``work`` gives, and how much memory it took at its most, in bytes."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        answer = await work
        return answer, tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def single_bytes(count: int) -> Iterator[dict[str, Any]]:
    """A right body whose text comes byte by byte."""
    # One and the same message, so that what is measured is the app's.
    middle = itertools.repeat(part(b"x"), count)
    return itertools.chain([part(b'{"inputs":[{"text":"')], middle, [part(b'"}]}', more=False)])


async def test_a_million_chunks_of_one_byte_are_one_body(
    zoo: ModuleType, driver: ModuleType
) -> None:
    count = 1_000_000
    async with AsyncClient(zoo.make_app()) as client:
        chunks = single_bytes(count)
        answer = await driver.call(client.app, "POST", "/predict", [driver.KEY], chunks)
    assert answer.status == 200
    assert answer.json()["outputs"][0]["text"] == "X" * count


async def test_chunks_cost_no_more_memory_than_their_body(
    zoo: ModuleType, driver: ModuleType
) -> None:
    count = 200_000
    async with AsyncClient(zoo.make_app()) as client:
        for warm in (True, False):
            chunks = single_bytes(10 if warm else count)
            work = driver.call(client.app, "POST", "/predict", [driver.KEY], chunks)
            answer, peak = await peak_of(work)
    assert answer.status == 200
    # The body, its text, the output and the answer, and a few copies on the way.
    assert peak < 16 * count


async def test_chunks_without_an_end_are_cut_at_the_cap(
    zoo: ModuleType, driver: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_MAX_BODY_MB", "1")
    read = 0

    def endless() -> Iterator[dict[str, Any]]:
        nonlocal read
        while True:
            read += 1
            yield part(b"x" * 1000)

    async with AsyncClient(zoo.make_app()) as client:
        work = driver.call(client.app, "POST", "/predict", [driver.KEY], endless())
        answer, peak = await peak_of(work)
    assert (answer.status, answer.json()["code"]) == (413, "body_too_large")
    assert read == MIB // 1000 + 1
    assert peak < 4 * MIB


@pytest.mark.parametrize("over", [-1, 0, 1])
@pytest.mark.parametrize("declared", ["truly", "not", "less", "more"])
async def test_cap_is_exact(
    over: int, declared: str, zoo: ModuleType, driver: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    cap = 2000
    monkeypatch.setenv("THALAMUS_MAX_BODY_MB", str(cap / MIB))
    start, end = b'{"inputs":[{"text":"', b'"}]}'
    body = start + b"x" * (cap + over - len(start) - len(end)) + end
    assert len(body) == cap + over
    length = {"truly": len(body), "less": 5, "more": cap, "not": None}[declared]
    headers = [driver.KEY]
    if length is not None:
        headers.append((b"content-length", b"%d" % length))
    async with AsyncClient(zoo.make_app()) as client:
        for size in (1, 7, 1999, 2000, 2001, 5000):
            answer = await driver.call(
                client.app, "POST", "/predict", headers, driver.body(body, size)
            )
            assert answer.status == (413 if over > 0 else 200), size


async def test_bomb_is_never_inflated(zoo: ModuleType, driver: ModuleType) -> None:
    bomb = gzip.compress(b"0" * (64 * MIB))
    async with AsyncClient(zoo.make_app()) as client:
        for encoding in (b"gzip", b"GZIP", b"deflate", b"br", b"zstd", b"gzip, identity"):
            headers = [driver.KEY, (b"content-encoding", encoding)]
            work = driver.call(client.app, "POST", "/predict", headers, driver.body(bomb))
            answer, peak = await peak_of(work)
            assert (answer.status, answer.json()["code"]) == (415, "unsupported_media_type")
            assert peak < MIB
        # Without the header it is a body that is no JSON.
        answer = await driver.call(client.app, "POST", "/predict", [driver.KEY], driver.body(bomb))
        assert (answer.status, answer.json()["code"]) == (400, "invalid_json")


class Loose(BaseModel):
    number: int
    items: list[int] = []


class Strict(Loose):
    model_config = ConfigDict(strict=True)


def numbers() -> Thalamus:
    app = Thalamus()
    for kind in (Loose, Strict):

        @app.model(model_id=kind.__name__, input_type=kind, output_type=kind)
        class Echo:
            def predict(self, inputs: list[Any]) -> list[Any]:
                return inputs

    return app


@pytest.mark.parametrize("model", ["Loose", "Strict"])
@pytest.mark.parametrize(
    "number", [0, -1, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**25 + 1, 10**308 + 1]
)
async def test_integer_comes_back_exact(model: str, number: int) -> None:
    async with AsyncClient(numbers()) as client:
        body = b'{"model":"%b","inputs":[{"number":%d}]}' % (model.encode(), number)
        answer = await client.post("/predict", content=body)
        assert answer.json()["outputs"] == [{"number": number, "items": []}]


@pytest.mark.parametrize("model", ["Loose", "Strict"])
@pytest.mark.parametrize("digits", [400, 4301, 5001, 1_000_000])
async def test_integer_that_cannot_be_kept_is_refused(model: str, digits: int) -> None:
    async with AsyncClient(numbers()) as client:
        body = b'{"model":"%b","inputs":[{"number":1%b}]}' % (model.encode(), b"0" * digits)
        answer = await client.post("/predict", content=body)
        assert (answer.status, answer.json()["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("model", ["Loose", "Strict"])
async def test_findings_without_number_make_a_small_answer(model: str) -> None:
    async with AsyncClient(numbers()) as client:
        for count in (30, 3000, 30_000):
            record = {"number": 1, "items": ["x"] * count}
            answer = await client.post("/predict", json={"model": model, "inputs": [record]})
            assert (answer.status, answer.json()["code"]) == (422, "validation_error")
            assert 1 <= len(answer.json()["details"]) <= 50
            assert len(answer.body) < 20_000


class Watched(BaseModel):
    x: int
    seen: ClassVar[Callable[[int], None]]

    def model_post_init(self, _: Any) -> None:
        type(self).seen(self.x)


async def test_inputs_that_no_queue_can_hold_are_not_even_validated(zoo: ModuleType) -> None:
    validated: list[int] = []
    app = Thalamus()

    @app.model(model_id="small", max_batch_size=4, max_queue_size=4, output_type=int)
    class Small:
        def predict(self, inputs: list[Watched]) -> list[int]:
            return [1 for _ in inputs]

    async with AsyncClient(app) as client:
        Watched.seen = validated.append
        answer = await client.post("/predict", json={"inputs": [{"x": 1}] * 5})
        assert (answer.status, answer.json()["code"]) == (422, "too_many_inputs")
        assert validated == []
        answer = await client.post("/predict", json={"inputs": [{"x": 1}] * 4})
        assert answer.status == 200
        assert validated == [1] * 4


WRONG = [
    None, True, False, 0, -1, 1.5, "", "x", "\x00", [], [[]], {}, {"": None}, [None],
    {"inputs": []}, {"text": {}}, {"text": []}, {"text": None}, "1e5", {"$ref": "#"},
    {"__class__": "x"}, 10**30,
]  # fmt: skip


async def test_wrong_types_everywhere_are_400s(zoo: ModuleType) -> None:
    """Every field of the request, and every record, replaced by everything."""
    async with AsyncClient(zoo.make_app()) as client:
        for value in WRONG:
            bodies = [
                value,
                {"model": value, "inputs": [{"text": "x"}]},
                {"version": value, "inputs": [{"text": "x"}]},
                {"inputs": value},
                {"inputs": [value]},
                {"inputs": [{"text": value}]},
                {"inputs": [{"text": "x"}, value]},
                {"model": value, "version": value, "inputs": value},
            ]
            for body in bodies:
                answer = await client.post("/predict", content=json.dumps(body).encode())
                assert answer.status in (200, 404, 422), (body, answer.text)
                if answer.status != 200:
                    assert answer.json().keys() >= {"error", "code", "request_id"}
            for path in ("/models/inline/load", "/models/inline/unload"):
                for body in (value, {"version": value}):
                    answer = await client.post(path, content=json.dumps(body).encode())
                    assert answer.status in (200, 404, 422), (path, body, answer.text)
