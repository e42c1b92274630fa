"""A model's own word on whether it is ready."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thalamus_lite.model.spec import ModelSpec

_log = logging.getLogger("thalamus_lite")


class Readiness:
    """Asks the instances' ``is_ready``. The first of several failures in a row is logged: probes
    ask all the time.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self._spec = spec
        self._failing = False

    def of(self, instances: Iterable[Any]) -> bool:
        """Whether all of them are; one that raises is not."""
        try:
            ready = all(self._says(instance) for instance in instances)
        except BaseException:
            # It is asked in a plain call: nothing but the model can have raised it.
            if not self._failing:
                self._failing = True
                key = self._spec.key
                _log.warning("is_ready of %s failed", key, exc_info=True, extra={"model": key})
            return False
        self._failing = False
        return ready

    def _says(self, instance: Any) -> bool:
        if self._spec.hooks.ready:
            return bool(instance.is_ready)
        # One that the instance was given when it was made.
        return bool(getattr(instance, "is_ready", True))
