"""Reading a user's class once: which hooks it has, of what kind, with what types."""

from __future__ import annotations

import collections.abc as abc
import inspect
import types
import typing
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from thalamus_lite.model.signatures import check_signatures

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_SEQUENCES = (list, tuple, abc.Sequence, abc.Iterable, abc.Collection, abc.MutableSequence)
_STREAMS: tuple[Any, ...] = (
    abc.Iterator,
    abc.Iterable,
    abc.Generator,
    abc.AsyncIterator,
    abc.AsyncIterable,
    abc.AsyncGenerator,
)


class PredictKind(Enum):
    SYNC = "sync"
    ASYNC = "async"
    STREAM = "stream"
    ASYNC_STREAM = "async_stream"

    @property
    def streams(self) -> bool:
        return self in (PredictKind.STREAM, PredictKind.ASYNC_STREAM)

    @property
    def on_loop(self) -> bool:
        """Whether ``predict`` runs on the event loop and not in a lane."""
        return self in (PredictKind.ASYNC, PredictKind.ASYNC_STREAM)


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a class says of its hooks."""

    kind: PredictKind
    preprocess: bool
    postprocess: bool
    ready: bool


def read_hooks(cls: type, name: str, merges: bool = False) -> Hooks:
    """``merges``: the model is declared to batch.

    Raises:
        TypeError: no ``predict``, an async hook that must be sync, one that cannot be called as it
            will be, or an ``is_ready`` that is a method, and so always true.
    """
    if not callable(getattr(cls, "predict", None)):
        raise TypeError(f"{name}: a model needs a method predict(self, inputs)")
    for hook in ("load", "preprocess", "postprocess", "unload", "capacity"):
        function = getattr(cls, hook, None)
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise _not_plain(hook, name)
    if inspect.isroutine(getattr(cls, "is_ready", None)):
        raise TypeError(f"{name}: is_ready must be a property: write @property above it")
    check_signatures(cls, name)
    return Hooks(
        kind=_kind(cls.predict, merges),  # type: ignore[attr-defined]
        preprocess=declares(cls, "preprocess"),
        postprocess=declares(cls, "postprocess"),
        ready=hasattr(cls, "is_ready"),
    )


def hook_of(instance: Any, name: str) -> Callable[..., Any] | None:
    """``load`` or ``unload``, of its class or given to the instance when it was made; None: not
    there.
    """
    hook = getattr(instance, name, None)
    return hook if callable(hook) else None


def declares(cls: type, hook: str) -> bool:
    """Whether a class has this optional hook.

    What only an instance has is its own affair: many a model keeps the ``preprocess`` of a library
    under that name, and calls it itself.
    """
    return callable(getattr(cls, hook, None))


def check_ran(result: Any, hook: str, name: str) -> None:
    """What a hook returned: a coroutine, of a decorated ``async def``, has not run.

    Raises:
        TypeError: it would have to be awaited.
    """
    if inspect.isawaitable(result):
        if inspect.iscoroutine(result):
            result.close()
        raise _not_plain(hook, name)


def _not_plain(hook: str, name: str) -> TypeError:
    return TypeError(f"{name}: {hook}() must be a plain function; only predict may be async")


def _kind(predict: Callable[..., Any], merges: bool) -> PredictKind:
    """Of the outermost function, below plain decorators, that says itself what calling it gives.

    A plain decorator may hand that on or use it up, a list of what is yielded: a model that is
    declared to batch does not mean to stream.
    """
    kind = _own_kind(inspect.unwrap(predict, stop=_says_its_kind))
    if kind is PredictKind.STREAM and merges and not _says_its_kind(predict):
        return PredictKind.SYNC
    return kind


def _says_its_kind(function: Callable[..., Any]) -> bool:
    return _own_kind(function) is not PredictKind.SYNC


def _own_kind(function: Callable[..., Any]) -> PredictKind:
    if inspect.isasyncgenfunction(function):
        return PredictKind.ASYNC_STREAM
    if inspect.isgeneratorfunction(function):
        return PredictKind.STREAM
    if inspect.iscoroutinefunction(function):
        return PredictKind.ASYNC
    return PredictKind.SYNC


def infer_types(
    cls: type, hooks: Hooks, name: str, local_names: Mapping[str, Any]
) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """How to get the input and the output type of one record from the annotations of the hooks.

    The first hook that sees the inputs tells the input type, the last one that makes the outputs
    the output type. Each is returned as a function, so that a type which was given explicitly is
    never asked for here.
    """
    first = "preprocess" if hooks.preprocess else "predict"
    last = "postprocess" if hooks.postprocess else "predict"

    def input_type() -> Any:
        parameter = _first_parameter(cls, first)
        annotation = _annotation(cls, first, parameter, name, local_names)
        found = _element(annotation, _SEQUENCES)
        if found is None:
            raise TypeError(_advice(name, "input", f"{first}(self, inputs: list[YourInput])"))
        return found

    def output_type() -> Any:
        annotation = _annotation(cls, last, "return", name, local_names)
        streams = hooks.kind.streams and last == "predict"
        # The annotation is that of the decorated function, which may be of another kind.
        yields = last == "predict" and _own_kind(inspect.unwrap(cls.predict)).streams  # type: ignore[attr-defined]
        containers = _STREAMS if streams or yields else ()
        if not (streams and yields):
            containers += _SEQUENCES
        found = _element(annotation, containers)
        if found is None and last == "predict" and not streams and _is_stream(annotation):
            awaited = hooks.kind is PredictKind.ASYNC
            how = "async for x in self.stream(inputs): yield x"
            raise TypeError(
                f"{name}: predict() is annotated as a stream, but is none: it must `yield` itself,"
                f" for instance `{how if awaited else 'yield from self.stream(inputs)'}`"
            )
        if found is None:
            shape = "Iterator[YourOutput]" if streams else "list[YourOutput]"
            raise TypeError(_advice(name, "output", f"{last}(...) -> {shape}"))
        return found

    return input_type, output_type


def _first_parameter(cls: type, hook: str) -> str | None:
    """The name of the parameter that takes the inputs, whatever ``self`` is called."""
    function = getattr(cls, hook)
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    is_method = inspect.isfunction(inspect.getattr_static(cls, hook))
    return next(iter(names[1:] if is_method else names), None)


def _annotation(
    cls: type, hook: str, what: str | None, name: str, local_names: Mapping[str, Any]
) -> Any:
    """One annotation of a hook, resolved; the others need not be resolvable.

    Raises:
        TypeError: it is text that names what is not there, or no type at all.
    """
    function = inspect.unwrap(getattr(cls, hook))
    function = getattr(function, "__func__", function)
    written = getattr(function, "__annotations__", {}).get(what)
    if written is None:
        return None
    alone = types.SimpleNamespace(__annotations__={"it": written})
    scope = getattr(function, "__globals__", {})
    nested = {
        key: value
        for key, value in vars(cls).items()
        if isinstance(value, type) or typing.get_origin(value) is not None
    }
    # As Python would evaluate it there, and by the name of the class, which is not bound yet.
    names = {**local_names, cls.__name__: cls, **nested}
    try:
        return typing.get_type_hints(alone, scope, names, include_extras=True)["it"]
    except NameError as error:
        raise TypeError(
            f"{name}: the annotation of {hook}() names {error.name!r}, which cannot be found:"
            " define it in the module, before the class, or pass input_type= and output_type="
        ) from error
    except Exception as error:
        raise TypeError(
            f"{name}: the annotation {written!r:.100} of {hook}() cannot be read: write it as"
            " Python would evaluate it, or pass input_type= and output_type="
        ) from error


def _element(annotation: Any, containers: tuple[Any, ...]) -> Any:
    """``list[X]`` → ``X``; None for what names no element type."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif type(annotation).__name__ == "TypeAliasType":
            # typing's own from Python 3.12 on, and typing_extensions' before.
            annotation = annotation.__value__
        else:
            break
    if origin not in containers:
        return None
    arguments = typing.get_args(annotation)
    if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
        return None
    element = arguments[0] if arguments else None
    return None if element is None or isinstance(element, typing.TypeVar) else element


def _is_stream(annotation: Any) -> bool:
    origin = typing.get_origin(annotation) or annotation
    return origin in _STREAMS and origin is not abc.Iterable


def _advice(name: str, side: str, shape: str) -> str:
    return f"{name}: the {side} type cannot be inferred: write {shape}, or pass {side}_type="
