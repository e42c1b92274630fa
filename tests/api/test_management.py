"""/schema..., load and unload, /cache/clear."""

from __future__ import annotations

import math
from collections.abc import Callable  # noqa: TC003  # resolved by pydantic
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from thalamus_lite import CacheClearResponse, SchemaResponse, Thalamus, UnloadResponse
from thalamus_lite.schemas.api import LoadResponse
from thalamus_lite.testing import TEST_API_KEY, AsyncClient, Client

if TYPE_CHECKING:
    from types import ModuleType


def test_schema_lists_every_version(client: Client) -> None:
    found = client.get("/schema").json()
    assert [SchemaResponse.model_validate(one).id for one in found].count("echo") == 2


def test_schema_of_a_model_is_its_default_versions(client: Client) -> None:
    found = client.get("/schema/echo").json()
    assert (found["id"], found["version"]) == ("echo", "1.10.0")
    assert found["description"] == "Says it louder."
    assert found["input"]["properties"]["text"] == {"title": "Text", "type": "string"}
    assert list(found["output"]["properties"]) == ["text", "score"]
    assert found["examples"] == [{"text": "hi"}]


def test_schema_of_one_version(client: Client) -> None:
    for asked, version in {
        "1.9.0": "1.9.0",
        "1.9": "1.9.0",
        "latest": "1.10.0",
        "": "1.10.0",
        "1%2e9%2e0": "1.9.0",
    }.items():
        assert client.get(f"/schema/echo?version={asked}").json()["version"] == version
    assert client.get("/schema/echo?version=1.9.0").json()["description"] == "The version before."
    assert "examples" not in client.get("/schema/echo?version=1.9.0").json()


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/schema/nobody", 404, "model_not_found"),
        ("/schema/nobody/versions", 404, "model_not_found"),
        ("/schema/echo?version=7", 404, "version_not_found"),
        ("/schema/echo?version=%ff", 404, "version_not_found"),
        ("/schema/echo?version=" + "9" * 5000, 404, "version_not_found"),
        ("/schema/echo?" + "a=1&" * 100, 400, "bad_request"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_schema_that_is_not_there(target: str, status: int, code: str, client: Client) -> None:
    answer = client.get(target)
    assert (answer.status, answer.json()["code"]) == (status, code)


def test_versions_are_ordered_by_pep_440() -> None:
    app = Thalamus()
    order = ["1!0.1", "10.0", "2.0.post1", "2.0", "2.0rc1", "2.0b2", "2.0.dev3", "1.10", "1.9"]
    for version in [
        "1.9",
        "2.0b2",
        "10.0",
        "1.10",
        "2.0",
        "2.0.post1",
        "1!0.1",
        "2.0.dev3",
        "2.0rc1",
    ]:

        @app.model(model_id="m", version=version)
        class Model:
            def predict(self, inputs: list[int]) -> list[int]:
                return inputs

    with Client(app) as client:
        assert client.get("/schema/m/versions").json() == order
        assert client.get("/schema/m").json()["version"] == "1!0.1"


def test_declared_default_version_is_served_though_it_is_not_the_highest() -> None:
    app = Thalamus()
    for version in ("1.0", "2.0"):

        @app.model(model_id="m", version=version, default_version=version == "1.0")
        class Model:
            def predict(self, inputs: list[int]) -> list[int]:
                return inputs

    with Client(app) as client:
        for asked in (None, "latest"):
            answer = client.post("/predict", json={"inputs": [1], "version": asked})
            assert answer.json()["meta"]["version"] == "1.0"


def test_type_without_a_json_schema_does_not_break_the_others() -> None:
    class Odd(BaseModel):
        function: Callable[[], int]

    app = Thalamus()

    @app.model(model_id="odd", input_type=Odd, output_type=int)
    class Model:
        def predict(self, inputs: list[Any]) -> list[int]:
            return [1 for _ in inputs]

    with Client(app) as client:
        assert "has no JSON Schema" in client.get("/schema/odd").json()["input"]["description"]
        assert client.get("/schema").status == 200
        assert client.get("/openapi.json").status == 200


class Priced(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"price": Decimal("1.5")}]})
    price: Decimal = Decimal("1")


class Limited(BaseModel):
    limit: float = math.inf
    count: int = Field(default=1, le=2**64)


class Pictured(BaseModel):
    picture: list[float] = Field(default=[1.0], json_schema_extra={"example": object()})


class Broken(BaseModel):
    model_config = ConfigDict(json_schema_extra=lambda schema: schema.pop("nothing"))
    x: int = 1


@pytest.mark.parametrize("kind", [Priced, Limited, Pictured, Broken])
def test_schema_that_json_cannot_carry_does_not_break_the_others(kind: Any) -> None:
    app = Thalamus()

    for model_id, own in (("odd", kind), ("even", int)):

        @app.model(model_id=model_id, input_type=own, output_type=own)
        class Model:
            def predict(self, inputs: list[Any]) -> list[Any]:
                return inputs

    with Client(app) as client:
        assert [one["id"] for one in client.get("/schema").json()] == ["odd", "even"]
        found = client.get("/schema/odd").json()["input"]
        assert ("properties" in found) is (kind is not Broken)
        assert client.get("/openapi.json").status == 200


class Lengths(BaseModel):
    most: int = Field(default=5, alias="maxLen")
    raw: bytes = b""


def test_examples_are_inputs_that_the_server_takes() -> None:
    app = Thalamus()

    @app.model(examples=[{"maxLen": 7}, Lengths(maxLen=8), {"raw": b"\xff\xfe"}])
    class Model:
        def predict(self, inputs: list[Lengths]) -> list[int]:
            return [one.most for one in inputs]

    with Client(app) as client:
        (found,) = client.get("/schema").json()
        assert found["examples"] == [{"maxLen": 7}, {"maxLen": 8, "raw": ""}]
        answer = client.post("/predict", json={"inputs": found["examples"]})
        assert answer.json()["outputs"] == [7, 8]


def test_output_schema_names_what_is_sent() -> None:
    class ByName(BaseModel):
        value: int = Field(alias="valueAlias")

    class ByAlias(BaseModel):
        model_config = ConfigDict(serialize_by_alias=True)
        value: int = Field(alias="valueAlias")

    app = Thalamus()
    for kind, sent in ((ByName, "value"), (ByAlias, "valueAlias")):

        @app.model(model_id=kind.__name__, input_type=kind, output_type=kind)
        class Model:
            def predict(self, inputs: list[Any]) -> list[Any]:
                return inputs

        with Client(app) as client:
            schema = client.get(f"/schema/{kind.__name__}").json()
            assert list(schema["input"]["properties"]) == ["valueAlias"]
            assert list(schema["output"]["properties"]) == [sent]
            body = {"model": kind.__name__, "inputs": [{"valueAlias": 1}]}
            assert client.post("/predict", json=body).json()["outputs"] == [{sent: 1}]


async def test_unload_and_load_one_version_or_all(zoo: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:

        async def post(path: str, **options: Any) -> dict[str, Any]:
            answer = await client.post(path, **options)
            assert answer.status == 200, answer.text
            found: dict[str, Any] = answer.json()
            kind = LoadResponse if path.endswith("/load") else UnloadResponse
            kind.model_validate(found)
            return found

        assert await post("/models/echo/unload", json={"version": "1.9"}) == {
            "model_id": "echo",
            "version": "1.9",
            "unloaded": True,
            "versions_unloaded": ["1.9.0"],
        }
        # Nothing left to do is no error.
        again = await post("/models/echo/unload", json={"version": "1.9.0"})
        assert (again["unloaded"], again["versions_unloaded"]) == (False, [])
        rest = await post("/models/echo/unload", json={"version": None})
        assert (rest["version"], rest["versions_unloaded"]) == (None, ["1.10.0"])
        loaded = await post("/models/echo/load")
        assert loaded == {
            "model_id": "echo",
            "version": None,
            "loaded": True,
            "versions_loaded": ["1.10.0", "1.9.0"],
        }
        assert (await post("/models/echo/load", json={}))["loaded"] is False
        assert (await post("/models/echo/load", content=b"null"))["version"] is None
        latest = await post("/models/echo/unload", json={"version": "latest"})
        assert latest["versions_unloaded"] == ["1.10.0"]


async def test_unloaded_model_is_loaded_again_by_a_request(zoo: ModuleType) -> None:
    async with AsyncClient(zoo.make_app()) as client:
        await client.post("/models/inline/unload")
        answer = await client.post("/predict", json={"model": "inline", "inputs": [{"text": "x"}]})
        assert answer.status == 200


@pytest.mark.parametrize("what", ["load", "unload"])
@pytest.mark.parametrize(
    ("model", "options", "status", "code"),
    [
        ("nobody", {}, 404, "model_not_found"),
        ("nobody", {"json": {"version": "1.0"}}, 404, "model_not_found"),
        ("echo", {"json": {"version": "7"}}, 404, "version_not_found"),
        ("echo", {"json": {"version": 7}}, 422, "validation_error"),
        ("echo", {"json": {"version": ["1.9.0"]}}, 422, "validation_error"),
        ("echo", {"json": []}, 422, "validation_error"),
        ("echo", {"json": {"versoin": "1.9.0"}}, 422, "validation_error"),
        ("echo", {"json": {"version": "1.9.0", "force": True}}, 422, "validation_error"),
        ("echo", {"content": b"{"}, 400, "invalid_json"),
        ("echo", {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415,
         "unsupported_media_type"),
        ("echo", {"content": b" " * 70_000}, 413, "body_too_large"),
        ("echo", {"headers": {"x-api-key": "wrong"}}, 401, "invalid_api_key"),
    ],
)  # fmt: skip
def test_wrong_load_or_unload_is_told_so(
    what: str, model: str, options: dict[str, Any], status: int, code: str, client: Client
) -> None:
    answer = client.post(f"/models/{model}/{what}", **options)
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert client.get("/ready").status == 200


def test_key_that_is_not_known_is_named(client: Client) -> None:
    answer = client.post("/models/echo/unload", json={"versoin": "1.9.0"})
    assert [one["loc"] for one in answer.json()["details"]] == [["versoin"]]


async def test_load_that_fails_is_503(zoo: ModuleType) -> None:
    app = zoo.make_app(lazy_load=True)

    @app.model(model_id="broken")
    class Broken:
        def load(self, weights: dict[str, Any], device: str) -> None:
            raise ValueError(zoo.SECRET)

        def predict(self, inputs: list[int]) -> list[int]:
            return inputs

    async with AsyncClient(app) as client:
        answer = await client.post("/models/broken/load")
        assert (answer.status, answer.json()["code"]) == (503, "model_load_failed")
        assert int(answer.headers["retry-after"]) >= 1
        assert zoo.SECRET not in answer.text
        states = {
            m["id"]: (m["state"], m["error"])
            for m in (await client.get("/health")).json()["models"]
        }
        assert states["broken"] == ("failed", "model_load_failed")


def test_cache_clear_says_what_it_dropped(client: Client) -> None:
    answer = client.post("/cache/clear")
    found = CacheClearResponse.model_validate(answer.json())
    assert (answer.status, found.cleared_bytes, found.cleared_files) == (200, 0, 0)


def test_admin_key_is_its_own(zoo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_ADMIN_KEY", "the-admin")
    admin = {"x-api-key": "the-admin"}
    with Client(zoo.make_app()) as client:
        for path in ("/cache/clear", "/models/inline/unload", "/models/inline/load"):
            assert client.post(path).status == 401
            assert client.post(path, headers=admin).status == 200
        for path in ("/capacity", "/schema"):
            assert client.get(path).status == 200
            assert client.get(path, headers=admin).status == 401
        bearer = {"x-api-key": "", "authorization": "Bearer the-admin"}
        assert client.post("/cache/clear", headers=bearer).status == 401


def test_bearer_token_is_as_good_as_the_header(zoo: ModuleType) -> None:
    with Client(zoo.make_app(), api_key=None) as client:
        assert client.get("/schema").status == 401
        headers = {"authorization": f"Bearer {TEST_API_KEY}"}
        assert client.get("/schema", headers=headers).status == 200
