"""Schemas and their definitions, each under a name and a title of its own."""

from __future__ import annotations

from typing import Any

from thalamus_lite.api.components import Components

INNER = {"type": "object", "title": "Inner"}


def outer(reference: str = "#/$defs/Inner") -> dict[str, Any]:
    return {"$defs": {"Inner": INNER}, "title": "Outer", "properties": {"a": {"$ref": reference}}}


def test_definition_becomes_a_component_and_references_follow_it() -> None:
    components = Components({})
    assert components.add("m-Input", outer()) == "#/components/schemas/m-Input"
    assert components.schemas == {
        "m-Input": {
            "title": "Outer",
            "properties": {"a": {"$ref": "#/components/schemas/m-Input-Inner"}},
        },
        "m-Input-Inner": INNER,
    }


def test_reference_into_a_definition_leads_to_the_same_place() -> None:
    components = Components({})
    components.add("m-Input", outer("#/$defs/Inner/properties/x"))
    found = components.schemas["m-Input"]["properties"]["a"]["$ref"]
    assert found == "#/components/schemas/m-Input-Inner/properties/x"


def test_name_that_is_taken_gets_a_number() -> None:
    ours = {"title": "Ours"}
    components = Components({"m-Input-Inner": ours})
    components.add("m-Input", outer())
    assert components.add("m-Input", outer()) == "#/components/schemas/m-Input-2"
    assert components.schemas["m-Input-Inner"] is ours
    assert components.schemas.keys() == {
        "m-Input-Inner", "m-Input", "m-Input-Inner-2", "m-Input-2", "m-Input-Inner-3",
    }  # fmt: skip
    reference = components.schemas["m-Input-2"]["properties"]["a"]["$ref"]
    assert reference == "#/components/schemas/m-Input-Inner-3"


def test_characters_that_a_name_may_not_have_are_numbers() -> None:
    components = Components({})
    assert components.add("m-1!2+x-Input", {}) == "#/components/schemas/m-1_21_2_2b_x-Input"


def test_names_have_no_dots() -> None:
    components = Components({})
    reference = components.add("a.m-1.10-Input", outer())
    assert reference == "#/components/schemas/a_m-1_10-Input"
    assert components.schemas.keys() == {"a_m-1_10-Input", "a_m-1_10-Input-Inner"}


def test_names_that_name_one_class_are_told_apart() -> None:
    components = Components({"ModelStatus": {}})
    wanted = ("m-1.10", "m-11.0", "M-1.10", "m-1-10-2", "model-status")
    names = [components.add(name, {}).removeprefix("#/components/schemas/") for name in wanted]
    assert names == ["m-1_10", "m-11_0-2", "M-1_10-3", "m-1-10-2-2", "model-status-2"]


def test_titles_that_name_one_class_are_told_apart() -> None:
    components = Components({"Ours": {"title": "Ours"}})
    for name in ("m-1.10", "m-11.0", "m-2"):
        components.add(name, {"title": "Same"})
    components.add("other", {"title": "ours"})
    components.add("alone", {"title": "Alone"})
    components.add("bare", {})
    components.tell_apart()
    titles = {name: schema.get("title") for name, schema in components.schemas.items()}
    assert titles == {
        "Ours": "Ours",
        "m-1_10": "m-1_10",
        "m-11_0-2": "m-11_0-2",
        "m-2": "m-2",
        "other": "other",
        "alone": "Alone",
        "bare": None,
    }
