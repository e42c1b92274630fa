"""The in-process client that users test their apps with."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.settings import Settings
from thalamus_lite.testing import TEST_API_KEY, AsyncClient, Client, Event, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import ModuleType

    from thalamus_lite.http.asgi import Receive, Scope, Send


async def parrot(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that says what it was asked; without a lifespan."""
    if scope["type"] != "http":
        raise NotImplementedError
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    said = [scope["method"], scope["path"], scope["query_string"].decode(), body.decode()]
    said += [f"{name.decode()}={value.decode('latin-1')}" for name, value in scope["headers"]]
    text = "\n".join(said).encode()
    await send({"type": "http.response.start", "status": 203, "headers": [(b"x-a", b"1")]})
    await send({"type": "http.response.body", "body": text[:5], "more_body": True})
    await send({"type": "http.response.body", "body": text[5:]})


def test_client_runs_a_whole_app(zoo: ModuleType) -> None:
    with Client(zoo.make_app()) as client:
        answer = client.post("/predict", json={"inputs": [{"text": "hi"}]})
        assert answer.status == 200
        assert answer.json()["outputs"] == [{"text": "HI", "score": 0.5}]
        assert answer.headers["content-type"] == "application/json"
        assert client.get("/health").json()["status"] == "ok"


def test_client_can_be_used_again(zoo: ModuleType) -> None:
    client = Client(zoo.make_app())
    for _ in range(2):
        with client:
            assert client.get("/ready").status == 200


@pytest.mark.filterwarnings("error")
async def test_client_works_where_a_loop_runs() -> None:
    """As in a notebook, or in an async test that calls it."""
    ended: list[str] = []

    async def generates(scope: Scope, receive: Receive, send: Send) -> None:
        async def left_open() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                ended.append(threading.current_thread().name)

        generators.append(left_open())
        await anext(generators[-1])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    generators: list[AsyncIterator[int]] = []
    with Client(generates, lifespan=False) as client:
        assert client.get("/").status == 200
    assert len(ended) == 1
    assert ended != [threading.current_thread().name]


def test_client_outside_its_with_statement_says_so() -> None:
    with pytest.raises(RuntimeError, match="with Client"):
        Client(parrot).get("/")


def test_client_ends_its_thread_and_loop(zoo: ModuleType) -> None:
    before = set(threading.enumerate())
    with Client(parrot, lifespan=False) as client:
        client.get("/")
        assert len(set(threading.enumerate()) - before) == 1
    # One that has told its result may still be at its last step.
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


def test_key_is_set_and_sent_and_taken_away() -> None:
    assert "THALAMUS_API_KEY" not in os.environ
    with Client(parrot, lifespan=False) as client:
        assert os.environ["THALAMUS_API_KEY"] == TEST_API_KEY
        assert f"x-api-key={TEST_API_KEY}" in client.get("/").text
    assert "THALAMUS_API_KEY" not in os.environ


def test_key_of_the_environment_is_kept_and_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", "mine")
    with Client(parrot, lifespan=False) as client:
        assert "x-api-key=mine" in client.get("/").text
    assert os.environ["THALAMUS_API_KEY"] == "mine"


@pytest.mark.parametrize("key", ["", " \t", " mine\n", "ключ", "k\u00e9y", "\udcff"])
def test_key_of_the_environment_is_read_as_the_app_reads_it(
    key: str, zoo: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", key)
    with Client(zoo.make_app()) as client:
        assert client.get("/schema").status == 200
    assert os.environ["THALAMUS_API_KEY"] == key
    with Client(zoo.make_app(), api_key=Settings.from_env().api_key or TEST_API_KEY) as client:
        assert client.get("/schema").status == 200
    with Client(zoo.make_app(), api_key=None) as client:
        assert os.environ["THALAMUS_API_KEY"] == key
        assert client.get("/schema").status == (401 if key.strip() else 503)


def test_other_key_or_none_can_be_sent() -> None:
    with Client(parrot, lifespan=False, api_key="other") as client:
        assert "x-api-key=other" in client.get("/").text
    with Client(parrot, lifespan=False, api_key=None) as client:
        assert "x-api-key" not in client.get("/").text


def test_headers_of_a_request_replace_the_clients() -> None:
    with Client(parrot, lifespan=False, headers={"X-One": "1", "X-Two": "2"}) as client:
        text = client.get("/", headers={"x-one": "3"}).text
    assert "x-one=3" in text
    assert "x-one=1" not in text
    assert "x-two=2" in text


def test_header_pairs_may_repeat() -> None:
    with Client(parrot, lifespan=False) as client:
        text = client.get("/", headers=[("x-a", "1"), ("x-a", "2")]).text
    assert "x-a=1\nx-a=2" in text


def test_target_is_split_and_decoded() -> None:
    with Client(parrot, lifespan=False) as client:
        lines = client.request("PUT", "/a%20b?c=%20").text.splitlines()
    assert lines[:3] == ["PUT", "/a b", "c=%20"]


@pytest.mark.parametrize(
    ("path", "params", "query"),
    [
        ("/a", {"b": 1, "c": "ö &"}, "b=1&c=%C3%B6+%26"),
        ("/a", [("b", "1"), ("b", "2")], "b=1&b=2"),
        ("/a", {"b": [1, 2]}, "b=1&b=2"),
        ("/a?z=0", {"b": 1}, "z=0&b=1"),
        ("/a?z=0", {}, "z=0"),
        ("/a", None, ""),
    ],
)
async def test_params_go_into_the_query(path: str, params: Any, query: str) -> None:
    async with AsyncClient(parrot, lifespan=False) as client:
        assert (await client.get(path, params=params)).text.splitlines()[1:3] == ["/a", query]
        assert query in (await client.begin("GET", path, params=params).answer()).text
        async with client.stream("GET", path, params=params) as answer:
            body = b"".join([chunk async for chunk in answer.chunks()])
            assert body.decode().splitlines()[1:3] == ["/a", query]
            assert answer.status_code == answer.status == 203


def test_plain_client_takes_params_and_has_a_status_code() -> None:
    with Client(parrot, lifespan=False) as client:
        answer = client.post("/a", params={"version": "1.0"}, json={})
        assert answer.text.splitlines()[2] == "version=1.0"
        assert answer.status_code == answer.status == 203


def test_wrong_argument_is_told_by_the_class_that_was_called() -> None:
    with pytest.raises(TypeError, match=r"^Client\.__init__\(\) got an unexpected"):
        Client(parrot, key="k")  # type: ignore[call-arg]
    with Client(parrot, lifespan=False) as client:
        for ask in (client.get, client.post):
            with pytest.raises(TypeError, match=r"^Client\.request\(\) got an unexpected"):
                ask("/", data={})


def test_json_gets_its_type_and_length() -> None:
    with Client(parrot, lifespan=False) as client:
        text = client.post("/", json={"a": 1}).text
        assert "content-type=application/json" in text
        assert "content-length=8" in text
        text = client.post("/", json=[], headers={"Content-Type": "text/x"}).text
        assert "content-type=text/x" in text
        assert "application/json" not in text


def test_chunks_are_sent_without_a_length() -> None:
    with Client(parrot, lifespan=False) as client:
        text = client.post("/", content=[b"a", b"b", b"c"]).text
        assert "abc" in text
        assert "content-length" not in text
        assert "content-length=0" in client.post("/", content=[]).text


def test_app_that_cannot_start_raises_what_it_raised(zoo: ModuleType) -> None:
    app = zoo.make_app()

    @app.model(model_id="broken")
    class Broken:
        def load(self, weights: dict[str, Any], device: str) -> None:
            raise OSError("no such weights")

        def predict(self, inputs: list[zoo.Text]) -> list[zoo.Text]:
            return inputs

    before = set(threading.enumerate())
    with pytest.raises(OSError, match="no such weights"), Client(app):
        pass
    assert "THALAMUS_API_KEY" not in os.environ
    # One that has told its result may still be at its last step.
    left = set(threading.enumerate()) - before
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


def test_app_that_refuses_to_start_without_raising_is_reported() -> None:
    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})

    with pytest.raises(RuntimeError, match="failed to start"), Client(refuses):
        pass


def test_error_of_an_app_reaches_the_test() -> None:
    async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("inside")

    async def breaks_later(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise KeyError("later")

    async def says_nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def stops(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    for app, kind, says in (
        (breaks, KeyError, "inside"),
        (breaks_later, KeyError, "later"),
        (says_nothing, RuntimeError, "without an answer"),
        (stops, RuntimeError, "in the middle"),
    ):
        with Client(app, lifespan=False) as client, pytest.raises(kind, match=says):
            client.get("/")


async def test_stream_comes_as_it_is_made(zoo: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        options = {"json": {"model": "words", "inputs": [{"text": "one two"}]}}
        async with client.stream(
            "POST", "/predict", headers={"accept": "text/event-stream"}, **options
        ) as answer:
            assert answer.status == 200
            assert answer.headers["content-type"] == "text/event-stream"
            events = [event async for event in answer.events()]
        assert [event.name for event in events] == ["message", "message", "done"]
        assert events[0].json()["text"] == "one"
        whole = await client.post("/predict", headers={"accept": "text/event-stream"}, **options)
        assert [event.name for event in whole.events()] == ["message", "message", "done"]


async def test_hangup_is_seen_by_the_app() -> None:
    seen: list[str] = []

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        while not seen or seen[-1] != "http.disconnect":
            seen.append((await receive())["type"])

    client = AsyncClient(waits, lifespan=False)
    async with client:
        line = client.begin("GET", "/")
        await asyncio.sleep(0)
        await line.hang_up()
    assert seen == ["http.request", "http.disconnect"]


async def test_line_that_is_kept_gets_its_answer() -> None:
    async with AsyncClient(parrot, lifespan=False) as client:
        line = client.begin("POST", "/x", content=[b"a", b"b"])
        answer = await line.answer()
        assert answer.status == 203
        assert answer.headers == {"x-a": "1"}
        assert answer.text.startswith("POST\n/x\n\nab")


async def test_line_to_an_app_that_says_nothing_is_an_error() -> None:
    async def says_nothing(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async with AsyncClient(says_nothing, lifespan=False) as client:
        with pytest.raises(RuntimeError, match="without an answer"):
            await client.begin("GET", "/").answer()


def test_events_are_parsed_by_the_rules_of_server_sent_events() -> None:
    body = b": comment\ndata: one\ndata:two\n\nevent: done\ndata: {}\n\n"
    assert Response(200, {}, body).events() == [
        Event("message", "one\ntwo"),
        Event("done", "{}"),
    ]
    # Other ends of lines may stand in the data.
    text = "a\u2028b\x85c\x0bd"
    assert Event.parse(f"event: x\r\ndata: {text}\rdata: e") == Event("x", f"{text}\ne")
