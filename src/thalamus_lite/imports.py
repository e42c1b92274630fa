"""Users' modules: how they are imported by name, and what is said where that does not work."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import TYPE_CHECKING

from thalamus_lite.errors import ConfigurationError

if TYPE_CHECKING:
    from types import ModuleType


# Frames between an import and the module; those of a generated __init__ are in "<string>".
_BETWEEN = ("<", importlib.__file__, f"{os.path.dirname(__file__)}{os.sep}")

_STANDARD_LIBRARY = f"{os.path.dirname(os.__file__)}{os.sep}"


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
    """The error on one line, and the last line of the user's own code."""
    text = on_one_line(f"importing {name} raised {type(error).__name__}: {error}")
    trace = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in trace if not frame.filename.startswith(_BETWEEN)]
    # Where all of them are installed, the first is the module that was asked for.
    own = [frame for frame in frames if not _is_of_library(frame.filename)] or frames[:1]
    return f"{text} ({own[-1].filename}, line {own[-1].lineno})" if own else text


def on_one_line(text: str) -> str:
    return " ".join(filter(None, map(str.strip, text.splitlines())))


def _is_of_library(file: str) -> bool:
    folders = file.split(os.sep)
    installed = "site-packages" in folders or "dist-packages" in folders
    return installed or file.startswith(_STANDARD_LIBRARY)
