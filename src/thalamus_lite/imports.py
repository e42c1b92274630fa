"""Users' modules: how they are imported by name, and what is said where that does not work."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from thalamus_lite.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType


def add_working_directory() -> None:
    """As uvicorn does for its own argument: modules in the working directory are found."""
    if "" not in sys.path:
        sys.path.insert(0, "")


def import_by_name(name: str) -> ModuleType:
    """The module of that name, also from the working directory.

    Raises:
        ConfigurationError: there is none, or it raised: that is then the ``__cause__``.
    """
    add_working_directory()
    try:
        return importlib.import_module(name)
    # A module that calls sys.exit() is no reason to end without a word.
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        itself = missing is not None and f"{name}.".startswith(f"{missing}.")
        raise ConfigurationError(what_raised(name, error)) from (None if itself else error)


def what_raised(name: str, error: BaseException) -> str:
    """The error, and the last line of code that is not this package's."""
    text = f"importing {name} raised {type(error).__name__}: {error}"
    not_theirs = ("<frozen ", importlib.__file__, str(Path(__file__).parent))
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(not_theirs):
            return f"{text} ({frame.filename}, line {frame.lineno})"
    return text
