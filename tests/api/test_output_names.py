"""Outputs are named as their schemas say, whichever type around or inside them goes by aliases."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator  # noqa: TC003  # resolved at registration
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field
from pydantic.dataclasses import dataclass as pydantic_dataclass
from typing_extensions import TypedDict

from thalamus_lite import Thalamus
from thalamus_lite.testing import Client


class Plain(BaseModel):
    my_value: int = Field(default=1, alias="myValue")


class Camel(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    my_value: int = Field(default=2, alias="myValue")

    @computed_field(alias="twiceIt")  # type: ignore[prop-decorator]
    @property
    def twice_it(self) -> int:
        return self.my_value * 2


class CamelOnly(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    the_inner: Plain = Field(alias="theInner")
    second: Camel | None = Field(default=None, serialization_alias="theSecond")


class Holder(BaseModel):
    the_inner: Camel = Field(alias="theInner")
    many: list[Camel]
    named: dict[str, Camel]
    maybe: Camel | None
    either: Annotated[Camel | int, "one or the other"]


class Roots(RootModel[list[Camel]]):
    pass


@dataclasses.dataclass
class Bare:
    camel: Camel
    own_name: Annotated[int, Field(alias="ownName")] = 3


@pydantic_dataclass(config=ConfigDict(serialize_by_alias=True))
class Told:
    plain: Plain
    own_name: Annotated[int, Field(alias="ownName")] = 3


class Record(TypedDict):
    camel: Camel
    own_name: Annotated[int, Field(alias="ownName")]


class ToldRecord(TypedDict):
    __pydantic_config__ = ConfigDict(serialize_by_alias=True)  # type: ignore[misc]
    own_name: Annotated[int, Field(alias="ownName")]


class Around(BaseModel):
    """A dictionary's type goes by the type around it."""

    model_config = ConfigDict(serialize_by_alias=True)
    record: Record
    bare: Bare


class Branch(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    the_next: Branch | None = Field(default=None, alias="theNext")
    leaf: Plain = Plain()


class ByKind(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    the_kind: Literal["camel"] = Field(default="camel", alias="theKind")


class ByOtherKind(BaseModel):
    model_config = ConfigDict(serialize_by_alias=True)
    the_kind: Literal["other"] = Field(alias="theKind")


class Tagged(BaseModel):
    one: Annotated[ByKind | ByOtherKind, Field(discriminator="the_kind")]


INNER = {"theInner": {"myValue": 1}}
RECORD = {"camel": {}, "ownName": 5}

ZOO: list[tuple[Any, Any]] = [
    (Plain, {}),
    (Camel, {}),
    (CamelOnly, INNER),
    (CamelOnly, {**INNER, "second": {}}),
    (Holder, {**INNER, "many": [{}], "named": {"a": {}}, "maybe": {}, "either": {}}),
    (Roots, [{}]),
    (Bare, {"camel": {}}),
    (Told, {"plain": {}}),
    (Record, RECORD),
    (ToldRecord, {"ownName": 5}),
    (Around, {"record": RECORD, "bare": {"camel": {}}}),
    (Branch, {"theNext": {"theNext": {}}}),
    (Tagged, {"one": {"theKind": "other"}}),
    (list[Camel], [{}]),
    (dict[str, Plain], {"a": {}}),
    (tuple[Camel, Plain], [{}, {}]),
    (Camel | Told, {"plain": {}}),
]  # fmt: skip


def closed(node: Any) -> Any:
    """A schema that takes no property which it does not name."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(value) for key, value in node.items()}
    if isinstance(made.get("properties"), dict):
        made["additionalProperties"] = False
    return made


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    app = Thalamus()
    for number, (kind, _) in enumerate(ZOO):

        @app.model(model_id=f"m{number}", input_type=Any, output_type=kind)
        class Model:
            def predict(self, inputs: list[Any]) -> list[Any]:
                return inputs

    with Client(app) as client:
        yield client


@pytest.mark.parametrize("number", range(len(ZOO)), ids=lambda number: str(ZOO[number]))
def test_output_is_named_as_its_schema_says(number: int, client: Client) -> None:
    answer = client.post("/predict", json={"model": f"m{number}", "inputs": [ZOO[number][1]]})
    (written,) = answer.json()["outputs"]
    document = client.get("/openapi.json").json()
    component = {
        "$ref": f"#/components/schemas/m{number}-1_0_0-Output",
        "components": document["components"],
    }
    for schema in (client.get(f"/schema/m{number}").json()["output"], component):
        validator = jsonschema.Draft202012Validator(closed(schema))
        assert [error.message for error in validator.iter_errors(written)] == []
