"""One line a request, when ``THALAMUS_ACCESS_LOG=1`` asks for it."""

from __future__ import annotations

import logging
from typing import Any

_log = logging.getLogger("thalamus_lite.access")


def access_log(fields: dict[str, Any]) -> None:
    _log.info("request", extra=fields)
