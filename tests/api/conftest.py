"""One app of all kinds of models, started once a module, and a client to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from thalamus_lite.testing import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from thalamus_lite import Thalamus


@pytest.fixture(scope="module")
def app(zoo: ModuleType) -> Thalamus:
    made: Thalamus = zoo.make_app()
    return made


@pytest.fixture(scope="module")
def client(app: Thalamus) -> Iterator[Client]:
    with Client(app) as client:
        yield client
