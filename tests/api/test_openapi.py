"""/openapi.json: valid, complete, and true of what the routes answer."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator  # noqa: TC003  # resolved at registration
from datetime import date  # noqa: TC003  # resolved by pydantic
from typing import TYPE_CHECKING, Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field
from starlette.applications import Starlette
from starlette.routing import Mount

from thalamus_lite import Thalamus
from thalamus_lite.testing import AsyncClient, Client

if TYPE_CHECKING:
    from types import ModuleType


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Tree(BaseModel):
    born: date
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]] = []
    branches: list[Tree] = []


def forest() -> Thalamus:
    app = Thalamus(name="forest")

    for version in ("1.0+gpu.1", "1!2.0", "1.0"):

        @app.model(model_id="tree", version=version, examples=[{"born": "2020-01-01"}])
        class Trees:
            def predict(self, inputs: list[Tree]) -> list[Tree]:
                return inputs

    @app.model(model_id="plain", input_type=dict[str, float], output_type=list[int])
    class Plain:
        def predict(self, inputs: list[Any]) -> list[Any]:
            return inputs

    return app


@pytest.fixture(scope="module")
def document() -> Iterator[dict[str, Any]]:
    with Client(forest()) as client:
        yield client.get("/openapi.json").json()


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            elif key == "discriminator" and isinstance(value, dict):
                yield from value.get("mapping", {}).values()
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def resolve(document: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/"), reference
    node: Any = document
    for part in reference[2:].split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def test_document_is_openapi_3_1(document: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="not among the test extras")
    validator.validate(document)


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    found = list(references(document))
    assert len(found) > 20
    for reference in found:
        assert isinstance(resolve(document, reference), dict)


def test_operations_are_the_routes(document: dict[str, Any]) -> None:
    operations = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
    assert operations == {
        "GET /health", "GET /ready", "GET /status", "GET /metrics", "GET /capacity", "GET /schema",
        "GET /schema/{id}", "GET /schema/{id}/versions", "POST /predict", "POST /cache/clear",
        "POST /models/{id}/unload", "POST /models/{id}/load", "GET /openapi.json",
    }  # fmt: skip
    ids = [one["operationId"] for item in document["paths"].values() for one in item.values()]
    assert len(ids) == len(set(ids))
    assert all("{" not in one for one in ids)


def test_closed_routes_say_so(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            public = path in ("/health", "/ready", "/status", "/metrics", "/openapi.json")
            assert ("security" not in operation) is public
            assert ("401" not in operation["responses"]) is public
    assert document["components"]["securitySchemes"].keys() == {"ApiKey", "Bearer"}


def test_models_schemas_are_part_of_it(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    inputs = schemas["PredictRequest"]["properties"]["inputs"]["items"]["anyOf"]
    outputs = schemas["PredictResponse"]["properties"]["outputs"]["items"]["anyOf"]
    assert len(inputs) == len(outputs) == 4
    assert len({one["$ref"] for one in inputs + outputs}) == 8


def as_json_schema(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    whole = {**copy.deepcopy(schema), "components": document["components"]}
    return jsonschema.Draft202012Validator(whole)


SENT = [
    ("GET", "/health", None, 200),
    ("GET", "/ready", None, 200),
    ("GET", "/status", None, 200),
    ("GET", "/openapi.json", None, 200),
    ("GET", "/capacity", None, 200),
    ("GET", "/schema", None, 200),
    ("GET", "/schema/tree", None, 200),
    ("GET", "/schema/plain", None, 200),
    ("GET", "/schema/nobody", None, 404),
    ("GET", "/schema/tree/versions", None, 200),
    ("POST", "/predict", {"model": "tree", "inputs": [{"born": "2020-02-29"}]}, 200),
    ("POST", "/predict", {"model": "plain", "inputs": [{}]}, 500),
    ("POST", "/predict", {"model": "tree", "inputs": [{"born": "2021-02-29"}]}, 422),
    ("POST", "/predict", {"inputs": [1]}, 422),
    ("POST", "/predict", {"model": "x", "inputs": [1]}, 404),
    ("POST", "/cache/clear", None, 200),
    ("POST", "/models/plain/unload", {}, 200),
    ("POST", "/models/plain/load", {"version": None}, 200),
    ("POST", "/models/plain/load", {"version": 1}, 422),
]


def test_answers_are_as_described(document: dict[str, Any], zoo: ModuleType) -> None:
    with Client(forest()) as client:
        for method, path, body, status in SENT:
            answer = client.request(method, path, json=body)
            assert answer.status == status, (path, answer.text)
            template = path.replace("/tree", "/{id}").replace("/plain", "/{id}")
            template = template.replace("/nobody", "/{id}")
            operation = document["paths"][template][method.lower()]
            described = operation["responses"][str(status)]["content"]["application/json"]["schema"]
            as_json_schema(document, described).validate(answer.json())
            if body is not None and status == 200:
                taken = operation["requestBody"]["content"]["application/json"]["schema"]
                as_json_schema(document, taken).validate(body)


@pytest.mark.parametrize("what", ["load", "unload"])
def test_key_that_load_and_unload_do_not_know_is_described_as_wrong(
    document: dict[str, Any], what: str
) -> None:
    content = document["paths"][f"/models/{{id}}/{what}"]["post"]["requestBody"]["content"]
    schema = as_json_schema(document, content["application/json"]["schema"])
    assert schema.is_valid({"version": "1.0"})
    assert not schema.is_valid({"versoin": "1.0"})


def test_every_error_status_is_described(document: dict[str, Any]) -> None:
    assert document["paths"]["/predict"]["post"]["responses"].keys() == {
        "200", "400", "401", "404", "406", "413", "415", "422", "429", "500", "503", "504",
    }  # fmt: skip
    for item in document["paths"].values():
        for operation in item.values():
            for status, response in operation["responses"].items():
                assert response["description"], status


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/metrics", "*/*"),
        ("/metrics", "application/openmetrics-text"),
        ("/predict", "*/*"),
        ("/predict", "text/event-stream"),
    ],
)
def test_kind_of_each_answer_is_described(
    document: dict[str, Any], path: str, wanted: str, client: Client
) -> None:
    method = "GET" if path == "/metrics" else "POST"
    body = {"model": "words", "inputs": [{"text": "one"}]} if method == "POST" else None
    answer = client.request(method, path, json=body, headers={"accept": wanted})
    content = document["paths"][path][method.lower()]["responses"]["200"]["content"]
    kind = answer.headers["content-type"].partition(";")[0]
    assert (answer.status, wanted in (kind, "*/*")) == (200, True)
    assert kind in content


def test_document_follows_what_is_registered(zoo: ModuleType) -> None:
    app = forest()
    with Client(app) as client:
        before = client.get("/openapi.json").json()
        assert client.get("/openapi.json").json() == before

        @app.model(model_id="later")
        class Later:
            def predict(self, inputs: list[int]) -> list[int]:
                return inputs

        after = client.get("/openapi.json").json()
        assert "later-1_0_0-Input" in after["components"]["schemas"]
        assert "later-1_0_0-Input" not in before["components"]["schemas"]


def test_app_without_models_has_a_document_too() -> None:
    with Client(Thalamus(name="bare")) as client:
        document = client.get("/openapi.json").json()
        assert document["info"]["title"] == "bare"
        assert list(references(document))


def test_definitions_are_components_of_their_own(document: dict[str, Any]) -> None:
    """Client generators know nothing of definitions inside a component."""
    schemas = document["components"]["schemas"]
    assert {"tree-1_0-Input", "tree-1_0-Input-Cat", "tree-1_0-Output-Dog"} <= schemas.keys()
    assert {"tree-1_0_2b_gpu_1-Input-Cat", "tree-1_21_2_0-Output"} <= schemas.keys()
    for name, schema in schemas.items():
        assert re.fullmatch(r"[A-Za-z0-9_-]+", name)
        assert "$defs" not in schema
    for reference in references(document):
        assert reference.count("/") == 3, reference


def test_type_that_holds_its_own_kind_is_one_component(document: dict[str, Any]) -> None:
    tree = document["components"]["schemas"]["tree-1_0-Input"]["properties"]
    assert tree["branches"]["items"] == {"$ref": "#/components/schemas/tree-1_0-Input"}
    cat = "#/components/schemas/tree-1_0-Input-Cat"
    assert tree["pets"]["items"]["discriminator"]["mapping"]["cat"] == cat


class Box(BaseModel):
    width: float


class ModelStatus(BaseModel):
    """As one of our own is called."""

    boxes: list[Box]


def crowded() -> Thalamus:
    app = Thalamus()
    for version in ("1.10.0", "11.0.0"):

        @app.model(model_id="m", version=version, input_type=Box, output_type=Box)
        class Boxes:
            def predict(self, inputs: list[Any]) -> list[Any]:
                return inputs

    for model_id, kind in (("m-1.10.0-Input", int), ("status", ModelStatus), ("plain", Cat)):

        @app.model(model_id=model_id, version="1", input_type=kind, output_type=Cat)
        class Others:
            def predict(self, inputs: list[Any]) -> list[Any]:
                return inputs

    return app


def test_no_two_components_share_a_name_or_a_title() -> None:
    with Client(crowded()) as client:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
    titles = {name: schema.get("title", name) for name, schema in schemas.items()}
    for names in (titles.keys(), titles.values()):
        words = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in names]
        assert sorted(words) == sorted(set(words))
    # Ours keep theirs, and so does what nobody else has.
    assert titles["ModelStatus"] == "ModelStatus"
    assert titles["status-1-Input"] == "status-1-Input"
    assert titles["m-1_10_0-Input"] == "m-1_10_0-Input"


def test_title_that_nobody_else_has_is_kept() -> None:
    app = Thalamus()

    @app.model(model_id="m", input_type=Box, output_type=Cat)
    class Model:
        def predict(self, inputs: list[Any]) -> list[Any]:
            return inputs

    with Client(app) as client:
        schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["m-1_0_0-Input"]["title"] == "Box"
    assert schemas["m-1_0_0-Output"]["title"] == "Cat"


@pytest.mark.parametrize(
    ("root", "servers"),
    [
        ("", None),
        ("/", None),
        ("/api", [{"url": "/api"}]),
        ("/api/v1/", [{"url": "/api/v1"}]),
        ("/acme inc", [{"url": "/acme%20inc"}]),
        ("/acme%20inc", [{"url": "/acme%20inc"}]),
        ("/caf\u00e9/{x}", [{"url": "/caf%C3%A9/%7Bx%7D"}]),
        # Another host it must never name.
        ("//evil.example", [{"url": "/evil.example"}]),
    ],
)
async def test_document_names_the_root_that_it_was_asked_for_below(
    root: str, servers: Any, driver: ModuleType
) -> None:
    async with AsyncClient(forest()) as client:
        path = root.rstrip("/") + "/openapi.json"
        for _ in range(2):
            answer = await driver.call(client.app, "GET", path, path=path, root_path=root)
            assert answer.json().get("servers") == servers
        assert "servers" not in (await client.get("/openapi.json")).json()


async def test_mount_is_the_documents_server(driver: ModuleType) -> None:
    app = forest()
    parent = Starlette(routes=[Mount("/{tenant}", app=app)], lifespan=app.lifespan)
    async with AsyncClient(parent):
        for target in ("/one", "/caf%C3%A9"):
            answer = await driver.call(parent, "GET", target + "/openapi.json")
            assert answer.json()["servers"] == [{"url": target}]
