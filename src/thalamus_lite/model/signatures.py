"""Whether a class's hooks can be called with what they will be called with."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from typing import Any

CALLED_WITH = {
    "load": ("weights", "device"),
    "preprocess": ("inputs",),
    "predict": ("inputs",),
    "postprocess": ("outputs",),
    "unload": (),
    "capacity": (),
}
"""The positional arguments of each hook, ``self`` aside."""

# Of these it is known what binding does; another descriptor's may run code of the user's.
_BINDING: tuple[Any, ...] = (
    *(types.FunctionType, staticmethod, classmethod, functools.partialmethod),
    *((functools.partial,) if sys.version_info >= (3, 14) else ()),
)


def check_signatures(cls: type, name: str) -> None:
    """What cannot be told, such as a builtin's signature, passes.

    Raises:
        TypeError: a hook or the class itself cannot be called; the sentence says what to write.
    """
    for hook, arguments in CALLED_WITH.items():
        if callable(getattr(cls, hook, None)) and not _takes(_bound(cls, hook), len(arguments)):
            raise TypeError(
                f"{name}: {hook}() cannot be called as {hook}({', '.join(arguments)}): write def"
                f" {hook}({', '.join(('self', *arguments))})"
            )
    if not _takes(cls, 0):
        raise TypeError(
            f"{name}: the class is made without arguments: give those of __init__ defaults, or set"
            " them in load()"
        )


def _bound(cls: type, hook: str) -> Any:
    """The hook as an instance has it; None where that cannot be told without one."""
    found = inspect.getattr_static(cls, hook)
    if isinstance(found, _BINDING):
        # Any object will do for self, which nothing here looks at.
        return found.__get__(object(), cls)
    if isinstance(found, functools.partial):
        return found
    return None if hasattr(type(found), "__get__") else found


def _takes(function: Any, count: int) -> bool:
    # A signature that was set by hand, or the one of what a decorator wraps, is not the one that
    # the call meets.
    if function is None or getattr(function, "__signature__", None) is not None:
        return True
    if isinstance(function, types.MethodType):
        # Of a method without self, inspect only says that it cannot be.
        function, count = function.__func__, count + 1
    try:
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True
