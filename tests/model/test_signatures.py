"""Hooks that could not be called are refused at registration, and nothing else is."""

from __future__ import annotations

import functools
from collections.abc import Callable  # noqa: TC003  # in annotations of models
from dataclasses import dataclass
from typing import Any

import pytest

from thalamus_lite import Thalamus
from thalamus_lite.model.signatures import check_signatures


def predict(self: Any, inputs: list[int]) -> list[int]:
    return inputs


def model(**members: Any) -> type:
    return type("Model", (), {"predict": predict, **members})


@pytest.mark.parametrize(
    ("hook", "function", "says"),
    [
        ("load", lambda self: None,
         "m: load() cannot be called as load(weights, device): write def load(self, weights,"
         " device)"),
        ("load", lambda self, weights: None, "load(self, weights, device)"),
        ("load", lambda self, weights, device, extra: None, "load(self, weights, device)"),
        ("load", lambda self, *, weights, device: None, "load(self, weights, device)"),
        ("preprocess", lambda self: None, "write def preprocess(self, inputs)"),
        ("predict", lambda self: None, "write def predict(self, inputs)"),
        ("predict", lambda inputs: None, "write def predict(self, inputs)"),
        ("predict", lambda self, inputs, scale: None, "write def predict(self, inputs)"),
        ("predict", lambda self, inputs, *, scale: None, "write def predict(self, inputs)"),
        ("postprocess", lambda self: None, "write def postprocess(self, outputs)"),
        ("unload", lambda: None, "write def unload(self)"),
        ("unload", lambda self, weights: None, "write def unload(self)"),
        ("capacity", lambda self, inputs: None, "write def capacity(self)"),
        ("predict", staticmethod(lambda self, inputs: None), "write def predict(self, inputs)"),
        ("predict", classmethod(lambda cls: None), "write def predict(self, inputs)"),
        ("predict", functools.partial(lambda inputs: None, []), "write def predict(self, inputs)"),
        ("predict", functools.partialmethod(lambda self, a, inputs: None, 1, 2),
         "write def predict(self, inputs)"),
    ],
)  # fmt: skip
def test_hook_that_could_not_be_called_is_refused(hook: str, function: Any, says: str) -> None:
    with pytest.raises(TypeError) as caught:
        check_signatures(model(**{hook: function}), "m")
    assert str(caught.value).startswith("m: ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "function"),
    [
        ("load", lambda self, w, d: None),
        ("load", lambda *args: None),
        ("load", lambda self, *args, **kwargs: None),
        ("load", lambda self, weights, device="cpu", dtype=None: None),
        ("predict", lambda self, inputs, /, *, scale=1.0: None),
        ("predict", staticmethod(lambda inputs: None)),
        ("predict", classmethod(lambda cls, inputs: None)),
        ("predict", functools.partial(lambda scale, *inputs: None, 1)),
        ("predict", functools.partialmethod(lambda self, scale, inputs: None, 1)),
        ("predict", len),
        ("predict", dict.update),
        ("unload", None),
        ("unload", 5),
        ("capacity", lambda self: None),
    ],
)
def test_hook_that_can_be_called_passes(hook: str, function: Any) -> None:
    check_signatures(model(**{hook: function}), "m")


def test_decorated_hook_counts_as_it_is_called() -> None:
    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(self: Any, inputs: Any) -> Any:
            return function(self, inputs, 0.0)

        return wrapper

    class Wrapped:
        @timed
        def predict(self, inputs: list[int], now: float) -> list[int]:
            return inputs

    def said(self: Any, *arguments: Any) -> Any: ...

    said.__signature__ = None  # type: ignore[attr-defined]
    check_signatures(Wrapped, "m")
    check_signatures(model(predict=said), "m")


def test_descriptor_of_the_users_own_is_not_asked() -> None:
    class Lazy:
        def __get__(self, instance: Any, owner: Any) -> Any:
            if instance is not None:
                raise AssertionError("there is no instance yet")
            return self

        def __call__(self) -> None: ...

    check_signatures(model(predict=Lazy()), "m")


def test_class_that_needs_arguments_is_refused() -> None:
    class Needs:
        def __init__(self, path: str) -> None: ...

        predict = predict

    @dataclass
    class Data:
        path: str
        predict = predict

    for cls in (Needs, Data):
        with pytest.raises(TypeError, match="m: the class is made without arguments: give those"):
            check_signatures(cls, "m")


def test_class_with_defaults_passes() -> None:
    class Defaults:
        def __init__(self, path: str = "x", *args: Any, **kwargs: Any) -> None: ...

        predict = predict

    class Made:
        def __new__(cls, *args: Any) -> Made:
            return super().__new__(cls)

        predict = predict

    for cls in (Defaults, Made):
        check_signatures(cls, "m")


def test_registration_refuses_it() -> None:
    with pytest.raises(TypeError, match=r"Model: load\(\) cannot be called as load\(weights, dev"):
        Thalamus().model()(model(load=lambda self: None))
