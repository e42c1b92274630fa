"""Users' modules: where they are looked for."""

from __future__ import annotations

import sys


def add_working_directory() -> None:
    """As uvicorn does for its own argument: modules in the working directory are found."""
    if "" not in sys.path:
        sys.path.insert(0, "")
