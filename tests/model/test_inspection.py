"""Reading a user's class: its hooks, its kind of ``predict``, its types."""

from __future__ import annotations

import asyncio
import functools
import typing
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    MutableSequence,
    Sequence,
)
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from thalamus_lite import Thalamus
from thalamus_lite.model.inspection import PredictKind, hook_of, infer_types, read_hooks


class In(BaseModel):
    x: int


class Out(BaseModel):
    y: int


Positive = Annotated[int, Field(ge=0)]
Batch = TypeAliasType("Batch", list[In])


def model(predict: Callable[..., Any], **annotations: Any) -> type:
    """A class with that ``predict``, annotated as if the annotations were written there."""
    predict.__annotations__ = annotations
    return type("Model", (), {"predict": predict})


def inferred(cls: type, names: dict[str, Any] | None = None) -> tuple[Any, Any]:
    hooks = read_hooks(cls, "m")
    first, last = infer_types(cls, hooks, "m", names or {})
    return first(), last()


CONTAINERS = [
    list[In],
    typing.List[In],  # noqa: UP006
    tuple[In, ...],
    Sequence[In],
    typing.Sequence[In],
    Iterable[In],
    Collection[In],
    MutableSequence[In],
    Annotated[list[In], Field(max_length=8)],
    Batch,
    "list[In]",
    "typing.List['In']",
    "Sequence['In']",
]


@pytest.mark.parametrize("annotation", CONTAINERS, ids=str)
def test_type_of_a_record_is_the_element_of_its_container(annotation: Any) -> None:
    def predict(self: Any, inputs: Any) -> Any: ...

    assert inferred(model(predict, inputs=annotation, **{"return": list[Out]})) == (In, Out)

    def answer(self: Any, inputs: Any) -> Any: ...

    assert inferred(model(answer, inputs=list[Out], **{"return": annotation})) == (Out, In)


@pytest.mark.parametrize(
    ("annotation", "element"),
    [
        (list[int], int),
        (list[In | Out], In | Out),
        (list[dict[str, float]], dict[str, float]),
        (list[list[float]], list[float]),
        (list[Positive], Positive),
        (list[Any], Any),
    ],
    ids=str,
)
def test_element_may_be_any_type(annotation: Any, element: Any) -> None:
    def predict(self: Any, inputs: Any) -> Any: ...

    assert inferred(model(predict, inputs=annotation, **{"return": annotation})) == (
        element,
        element,
    )


T = typing.TypeVar("T")

UNUSABLE = [
    None, list, tuple, dict, str, In, Any, int, "list", list[T], tuple[In, Out], tuple[In],
    dict[str, In], set[In], list[In] | None,
]  # fmt: skip


@pytest.mark.parametrize("annotation", UNUSABLE, ids=str)
def test_annotation_that_names_no_element_says_what_to_write(annotation: Any) -> None:
    def predict(self: Any, inputs: Any) -> Any: ...

    with pytest.raises(TypeError) as caught:
        inferred(model(predict, inputs=annotation, **{"return": list[Out]}))
    assert str(caught.value) == (
        "m: the input type cannot be inferred: write predict(self, inputs: list[YourInput]),"
        " or pass input_type="
    )

    def answer(self: Any, inputs: Any) -> Any: ...

    with pytest.raises(TypeError) as caught:
        inferred(model(answer, inputs=list[In], **{"return": annotation}))
    assert str(caught.value) == (
        "m: the output type cannot be inferred: write predict(...) -> list[YourOutput], or pass"
        " output_type="
    )


def test_no_annotation_at_all_says_the_same() -> None:
    class Model:
        def predict(self, inputs):  # type: ignore[no-untyped-def]
            return inputs

    class Nameless:
        def predict(*arguments: Any) -> list[Out]:  # type: ignore[misc]
            return []

    for cls in (Model, Nameless):
        with pytest.raises(TypeError, match="the input type cannot be inferred"):
            inferred(cls)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("list[Missing]", "the annotation of predict() names 'Missing', which cannot be found"),
        ("list[", "the annotation 'list[' of predict() cannot be read"),
        ("typing.Nothing[In]", "the annotation 'typing.Nothing[In]' of predict() cannot be read"),
        ("list[In]()()", "cannot be read"),
        ("1/0", "cannot be read"),
    ],
)
def test_text_that_cannot_be_read_is_named(text: str, says: str) -> None:
    def predict(self: Any, inputs: Any) -> Any: ...

    with pytest.raises(TypeError) as caught:
        inferred(model(predict, inputs=text, **{"return": list[Out]}))
    assert says in str(caught.value)
    assert "input_type= and output_type=" in str(caught.value)


def test_annotation_that_is_not_needed_need_not_be_readable() -> None:
    def predict(self: Any, inputs: Any, other: Any = None) -> Any: ...

    cls = model(predict, inputs="list[In]", other="Missing", **{"return": "AlsoMissing"})
    first, _ = infer_types(cls, read_hooks(cls, "m"), "m", {})
    assert first() is In


def test_local_names_are_found() -> None:
    class Local(BaseModel):
        z: int

    def predict(self: Any, inputs: Any) -> Any: ...

    cls = model(predict, inputs="list[Local]", **{"return": "list[In]"})
    assert inferred(cls, locals()) == (Local, In)


def test_outer_hooks_tell_the_types() -> None:
    class Model:
        def preprocess(self, inputs: list[In]) -> list[float]:
            return []

        def predict(self, inputs: Any) -> Any:
            return []

        def postprocess(self, outputs: Any) -> list[Out]:
            return []

    assert inferred(Model) == (In, Out)


def test_input_that_is_a_stream_is_no_list() -> None:
    def predict(self: Any, inputs: Any) -> Any: ...

    with pytest.raises(TypeError, match="the input type cannot be inferred"):
        inferred(model(predict, inputs=Iterator[In], **{"return": list[Out]}))


def test_advice_names_the_hook_that_tells() -> None:
    class Model:
        def preprocess(self, inputs: Any) -> Any: ...
        def predict(self, inputs: list[In]) -> list[Out]: ...  # type: ignore[empty-body]
        def postprocess(self, outputs: Any) -> Any: ...

    first, last = infer_types(Model, read_hooks(Model, "m"), "m", {})
    with pytest.raises(TypeError, match=r"write preprocess\(self, inputs: list\[YourInput\]\)"):
        first()
    with pytest.raises(TypeError, match=r"write postprocess\(...\) -> list\[YourOutput\]"):
        last()


def test_ways_to_write_a_method() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Other:
        def predict(this, batch: list[In]) -> list[Out]:  # noqa: N805, RUF100
            return []

    class Static:
        @staticmethod
        def predict(inputs: list[In]) -> list[Out]:
            return []

    class Cls:
        @classmethod
        def predict(cls, inputs: list[In]) -> list[Out]:
            return []

    class Wrapped:
        @logged
        def predict(self, inputs: list[In]) -> list[Out]:
            return []

    class Inherits(Other):
        pass

    class Extra:
        def predict(self, inputs: list[In], *, scale: float = 1.0) -> list[Out]:
            return []

    for cls in (Other, Static, Cls, Wrapped, Inherits, Extra):
        assert inferred(cls) == (In, Out), cls


def test_callable_that_is_no_function_asks_for_explicit_types() -> None:
    class Predictor:
        def __call__(self, inputs: list[In]) -> list[Out]:
            return []

    class Model:
        predict = Predictor()

    class Builtin:
        predict = len

    class Unsigned:
        predict = dict.update

    for cls in (Model, Builtin, Unsigned):
        with pytest.raises(TypeError, match="cannot be inferred"):
            inferred(cls)


@pytest.mark.parametrize(
    "annotation",
    [Iterator[Out], Iterable[Out], Generator[Out, None, None], "Iterator[Out]",
     typing.Iterator[Out], typing.Generator[Out, None, None]],
    ids=str,
)  # fmt: skip
def test_stream_yields_its_output_type(annotation: Any) -> None:
    def predict(self: Any, inputs: Any) -> Any:
        yield

    cls = model(predict, inputs=list[In], **{"return": annotation})
    assert read_hooks(cls, "m").kind is PredictKind.STREAM
    assert inferred(cls) == (In, Out)


@pytest.mark.parametrize(
    "annotation", [AsyncIterator[Out], AsyncIterable[Out], AsyncGenerator[Out, None]], ids=str
)
def test_async_stream_yields_its_output_type(annotation: Any) -> None:
    async def predict(self: Any, inputs: Any) -> Any:
        yield

    cls = model(predict, inputs=list[In], **{"return": annotation})
    assert read_hooks(cls, "m").kind is PredictKind.ASYNC_STREAM
    assert inferred(cls) == (In, Out)


@pytest.mark.parametrize(
    "annotation", [Iterator[Out], Generator[Out, None, None], Iterator], ids=str
)
def test_predict_that_returns_a_stream_is_told_to_yield(annotation: Any) -> None:
    def predict(self: Any, inputs: Any) -> Any:
        return iter(inputs)

    with pytest.raises(TypeError) as caught:
        inferred(model(predict, inputs=list[In], **{"return": annotation}))
    assert str(caught.value) == (
        "m: predict() is annotated as a stream, but is none: it must `yield` itself, for instance"
        " `yield from self.stream(inputs)`"
    )


@pytest.mark.parametrize("annotation", [AsyncIterator[Out], AsyncGenerator[Out, None]], ids=str)
def test_async_predict_that_returns_a_stream_is_told_to_yield(annotation: Any) -> None:
    async def coroutine(self: Any, inputs: Any) -> Any: ...

    def function(self: Any, inputs: Any) -> Any: ...

    for predict in (coroutine, function):
        with pytest.raises(TypeError, match="it must `yield` itself, for instance `"):
            inferred(model(predict, inputs=list[In], **{"return": annotation}))
    with pytest.raises(TypeError, match=r"`async for x in self.stream\(inputs\): yield x`"):
        inferred(model(coroutine, inputs=list[In], **{"return": annotation}))


def test_iterable_that_is_returned_is_a_batch_of_outputs() -> None:
    def predict(self: Any, inputs: Any) -> Any:
        return inputs

    assert inferred(model(predict, inputs=list[In], **{"return": Iterable[Out]})) == (In, Out)


def test_stream_that_returns_a_list_is_told_to_yield() -> None:
    def predict(self: Any, inputs: Any) -> Any:
        yield

    with pytest.raises(TypeError, match=r"write predict\(...\) -> Iterator\[YourOutput\]"):
        inferred(model(predict, inputs=list[In], **{"return": list[Out]}))


def test_postprocess_of_a_stream_returns_a_list() -> None:
    class Model:
        def predict(self, inputs: list[In]) -> Iterator[int]:
            yield 1

        def postprocess(self, outputs: list[int]) -> list[Out]:
            return []

    assert inferred(Model) == (In, Out)


@pytest.mark.parametrize(
    ("kind", "streams", "on_loop"),
    [
        (PredictKind.SYNC, False, False),
        (PredictKind.ASYNC, False, True),
        (PredictKind.STREAM, True, False),
        (PredictKind.ASYNC_STREAM, True, True),
    ],
)
def test_kind_says_where_it_runs(kind: PredictKind, streams: bool, on_loop: bool) -> None:
    assert (kind.streams, kind.on_loop) == (streams, on_loop)


def test_kind_is_seen_through_a_decorator() -> None:
    def logged(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    class Model:
        @logged
        async def predict(self, inputs: list[In]) -> list[Out]:
            return []

    assert read_hooks(Model, "m").kind is PredictKind.ASYNC


def plain(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(self: Any, inputs: Any) -> Any:
        return function(self, inputs)

    return wrapper


def listing(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(self: Any, inputs: Any) -> Any:
        return list(function(self, inputs))

    return wrapper


def off_loop(function: Any) -> Any:
    @functools.wraps(function)
    async def wrapper(self: Any, inputs: Any) -> Any:
        return await asyncio.to_thread(function, self, inputs)

    return wrapper


def one_by_one(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(self: Any, inputs: Any) -> Any:
        yield from function(self, inputs)

    return wrapper


def returns(self: Any, inputs: Any) -> Any: ...


def yields(self: Any, inputs: Any) -> Any:
    yield


async def awaits(self: Any, inputs: Any) -> Any: ...


async def streams(self: Any, inputs: Any) -> Any:
    yield


@pytest.mark.parametrize(
    ("predict", "kind", "batched"),
    [
        (plain(returns), PredictKind.SYNC, PredictKind.SYNC),
        (plain(awaits), PredictKind.ASYNC, PredictKind.ASYNC),
        (plain(yields), PredictKind.STREAM, PredictKind.SYNC),
        (plain(streams), PredictKind.ASYNC_STREAM, PredictKind.ASYNC_STREAM),
        (off_loop(returns), PredictKind.ASYNC, PredictKind.ASYNC),
        (off_loop(listing(yields)), PredictKind.ASYNC, PredictKind.ASYNC),
        (plain(off_loop(returns)), PredictKind.ASYNC, PredictKind.ASYNC),
        (one_by_one(returns), PredictKind.STREAM, PredictKind.STREAM),
        (one_by_one(listing(yields)), PredictKind.STREAM, PredictKind.STREAM),
        (yields, PredictKind.STREAM, PredictKind.STREAM),
    ],
)
def test_outermost_function_that_says_its_kind_tells_it(
    predict: Any, kind: PredictKind, batched: PredictKind
) -> None:
    cls = type("Model", (), {"predict": predict})
    assert read_hooks(cls, "m").kind is kind
    assert read_hooks(cls, "m", merges=True).kind is batched


@pytest.mark.parametrize("annotation", [list[Out], Iterator[Out], Iterable[Out]], ids=str)
def test_annotation_may_speak_of_the_function_or_of_what_its_decorator_makes_of_it(
    annotation: Any,
) -> None:
    class Listed:
        @listing
        def predict(self, inputs: list[In]) -> annotation:
            yield

    class Streamed:
        @one_by_one
        def predict(self, inputs: list[In]) -> annotation:
            return inputs

    for cls, merges in ((Listed, True), (Streamed, False)):
        hooks = read_hooks(cls, "m", merges)
        names = {"annotation": annotation}
        assert [tell() for tell in infer_types(cls, hooks, "m", names)] == [In, Out]


def test_hooks_are_what_the_class_has() -> None:
    class Bare:
        def predict(self, inputs: list[In]) -> list[Out]:
            return []

    class Full(Bare):
        def load(self, weights: Any, device: str) -> None: ...
        def preprocess(self, inputs: list[In]) -> list[In]:
            return inputs

        def postprocess(self, outputs: list[Out]) -> list[Out]:
            return outputs

        def unload(self) -> None: ...
        @property
        def is_ready(self) -> bool:
            return True

        def capacity(self) -> None: ...

    bare, full = read_hooks(Bare, "m"), read_hooks(Full, "m")
    names = ("preprocess", "postprocess", "ready")
    assert [getattr(bare, name) for name in names] == [False] * 3
    assert [getattr(full, name) for name in names] == [True] * 3


def test_hook_of_an_instance_is_its_own_or_its_class_s() -> None:
    class Model:
        unload = None

        def load(self) -> str:
            return "class"

    model = Model()
    found = hook_of(model, "load")
    assert found is not None
    assert found() == "class"
    model.load = lambda: "instance"  # type: ignore[method-assign]
    found = hook_of(model, "load")
    assert found is not None
    assert found() == "instance"
    assert hook_of(model, "unload") is hook_of(model, "capacity") is None


def test_is_ready_without_property_is_refused() -> None:
    class Method:
        def predict(self, inputs: list[In]) -> list[Out]:
            return []

        def is_ready(self) -> bool:
            return False

    with pytest.raises(TypeError, match="m: is_ready must be a property: write @property above it"):
        read_hooks(Method, "m")


def test_class_without_predict_is_refused() -> None:
    class Empty:
        pass

    class Attribute:
        predict = 5

    for cls in (Empty, Attribute):
        with pytest.raises(TypeError, match=r"m: a model needs a method predict\(self, inputs\)"):
            read_hooks(cls, "m")


@pytest.mark.parametrize("hook", ["load", "preprocess", "postprocess", "unload", "capacity"])
def test_only_predict_may_be_async(hook: str) -> None:
    async def coroutine(self: Any, *args: Any) -> None: ...

    async def generator(self: Any, *args: Any) -> Any:
        yield

    for function in (coroutine, generator):
        cls = type("Model", (), {"predict": lambda self, inputs: inputs, hook: function})
        with pytest.raises(TypeError, match=rf"m: {hook}\(\) must be a plain function"):
            read_hooks(cls, "m")


def test_types_of_a_function_are_found_by_the_decorator() -> None:
    app = Thalamus()

    class Inner(BaseModel):
        a: int

    @app.model()
    class Local:
        def predict(self, inputs: list[Inner]) -> list[Inner]:
            return inputs

    assert app.models[0].inputs.kind is Inner


def test_models_own_nested_types_are_found() -> None:
    app = Thalamus()

    class Outer:
        class Inner(BaseModel):
            a: int

        @app.model()
        class Local:
            def predict(self, inputs: list[Inner]) -> list[Inner]:  # type: ignore[name-defined]  # noqa: F821
                return inputs

    assert app.models[0].inputs.kind is Outer.Inner


def test_texts_that_name_types_within_the_class_are_resolved() -> None:
    class Nested:
        class Given(BaseModel):
            a: int

        Wanted = Annotated[int, Field(ge=0)]

        def list(self) -> None:
            """Not what an annotation means by that name."""

        def predict(self, inputs: list[Given]) -> list[Nested.Given]: ...  # type: ignore[valid-type,name-defined]

        def postprocess(self, outputs: Any) -> list[Wanted]: ...  # type: ignore[valid-type]

    assert inferred(Nested) == (Nested.Given, Nested.Wanted)
    del Nested.postprocess
    assert inferred(Nested) == (Nested.Given, Nested.Given)
