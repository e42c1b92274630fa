from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _clean(kit_key: None, no_lane_left: None) -> None:
    """The key of the kit's clients, and no lane that outlives its test."""
