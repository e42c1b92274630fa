"""Ids, versions and defaults."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.version import Version

from thalamus_lite import Thalamus
from thalamus_lite.errors import ModelNotFound, NoDefaultModel, VersionNotFound
from thalamus_lite.model.registry import MAX_VERSION, Registry


class Model:
    def predict(self, inputs: list[int]) -> list[int]:
        return inputs


def registry(*specs: tuple[str, str] | tuple[str, str, dict[str, Any]]) -> Registry:
    app = Thalamus()
    for model_id, version, *options in specs:
        app.model(model_id=model_id, version=version, **(options[0] if options else {}))(Model)
    return app._registry


def test_empty_registry_has_nothing() -> None:
    empty = registry()
    assert (len(empty), list(empty), empty.default_id) == (0, [], None)
    with pytest.raises(NoDefaultModel):
        empty.resolve(None)
    with pytest.raises(ModelNotFound):
        empty.resolve("a")
    with pytest.raises(ModelNotFound):
        empty.versions("a")


def test_order_of_registration_is_kept() -> None:
    specs = list(registry(("b", "1"), ("a", "2"), ("b", "0.1")))
    assert [spec.key for spec in specs] == ["b@1", "b@0.1", "a@2"]


def test_highest_version_serves_unless_another_is_declared() -> None:
    made = registry(("m", "1.9"), ("m", "1.10"), ("m", "1.2"))
    assert made.resolve("m").version == "1.10"
    assert made.resolve("m", "latest").version == "1.10"
    made = registry(("m", "1.9", {"default_version": True}), ("m", "1.10"))
    assert made.resolve("m").version == "1.9"
    assert [spec for spec in made if made.is_default_version(spec)] == [made.resolve("m", "1.9")]


def test_last_declared_default_wins() -> None:
    made = registry(("a", "1", {"default": True}), ("b", "1", {"default": True}), ("c", "1"))
    assert made.default_id == "b"
    assert [spec.id for spec in made if made.is_default(spec)] == ["b"]


def test_lone_model_is_the_default_until_a_second_one_comes() -> None:
    assert registry(("a", "1"), ("a", "2")).resolve(None).version == "2"
    with pytest.raises(NoDefaultModel):
        registry(("a", "1"), ("b", "1")).resolve(None)


def test_models_of_another_app_are_adopted_all_or_none() -> None:
    own, other = Thalamus(), Thalamus()
    own.model(model_id="a", version="1.0")(Model)
    for model_id, version in (("new", "1"), ("a", "2"), ("a", "1")):
        other.model(model_id=model_id, version=version)(Model)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"a: version 1 is registered already, as 1\.0"):
            own.adopt(other)
        assert [spec.key for spec in own.models] == ["a@1.0"]
    fresh = Thalamus()
    fresh.adopt(other)
    assert fresh.models == other.models


@pytest.mark.parametrize("asked", ["1.0", "1.0.0", "1", "v1.0", "1.0.0.0", "01.0", " 1.0 "])
def test_equal_spellings_find_the_version(asked: str) -> None:
    assert registry(("m", "1.0")).resolve("m", asked).version == "1.0"


@pytest.mark.parametrize(
    "asked", ["", "1.1", "2", "1.0.post1", "1!1.0", "latest ", "Latest", "x", "9" * 5000, "\x00",
              "1." * MAX_VERSION, "1.0+" + "a" * MAX_VERSION],
    ids=lambda value: value[:20],
)  # fmt: skip
def test_other_versions_are_not_found(asked: str) -> None:
    made = registry(("m", "1.0"))
    with pytest.raises(VersionNotFound):
        made.resolve("m", asked)


_VERSIONS = st.lists(
    st.builds(
        "{}{}.{}{}".format,
        st.sampled_from(["", "1!"]),
        st.integers(0, 20),
        st.integers(0, 20),
        st.sampled_from(["", "a1", "b2", "rc1", ".post1", ".dev1"]),
    ),
    min_size=1,
    max_size=8,
    unique_by=Version,
)


@given(_VERSIONS)
def test_versions_are_listed_highest_first(versions: list[str]) -> None:
    made = registry(*(("m", version) for version in versions))
    found = [spec.version for spec in made.versions("m")]
    assert found == sorted(versions, key=Version, reverse=True)
    assert made.resolve("m").version == found[0]
    for version in versions:
        assert made.resolve("m", version).version == version


@given(st.text(max_size=40), st.none() | st.text(max_size=40))
def test_any_text_is_found_or_refused(model_id: str, version: str | None) -> None:
    made = registry(("m", "1.0"), ("n", "2.0"))
    try:
        found = made.resolve(model_id, version)
    except ModelNotFound:
        assert model_id not in ("m", "n")
    except VersionNotFound:
        assert model_id in ("m", "n")
        assert version is not None
    else:
        assert found.id == model_id
