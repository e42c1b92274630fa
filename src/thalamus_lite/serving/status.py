"""What the probes say, from what is in memory.

No probe waits for a lock, a thread, a disk or a driver.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from thalamus_lite.model.inspection import declares
from thalamus_lite.observability.logs import log_of_model
from thalamus_lite.schemas.api import ModelCapacity
from thalamus_lite.serving.states import State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from thalamus_lite.model.registry import Registry
    from thalamus_lite.serving.runtime import ModelRuntime


def model_status(runtime: ModelRuntime, registry: Registry) -> dict[str, Any]:
    """One ``ModelStatus``."""
    spec = runtime.spec
    return {
        "id": spec.id,
        "version": spec.version,
        "ready": runtime.ready,
        "is_default": registry.is_default(spec),
        "is_default_version": registry.is_default_version(spec),
        "critical": spec.critical,
        "state": runtime.state_name,
        "error": runtime.error,
    }


def holds_back(runtime: ModelRuntime, lazy: bool) -> bool:
    """Whether ``/ready`` must wait for this model.

    A lazy one that was never up does not hold it: its first request may be the one that is to come.
    """
    if not runtime.spec.critical or runtime.ready:
        return False
    return not (lazy and not runtime.was_up and not runtime.quarantined)


def model_capacity(runtime: ModelRuntime) -> ModelCapacity:
    """One entry of ``/capacity``: the model's own word, or else the declared numbers."""
    if runtime.state is not State.READY or runtime.instance is None:
        return _static(runtime, "model_not_loaded")
    try:
        instance = runtime.instance
        if declares(type(instance), "capacity") and not runtime.quarantined:
            return _sensible(instance.capacity())
    except BaseException as error:
        # It is asked in a plain call: nothing but the model can have raised it.
        log_of_model(logging.WARNING, runtime.spec.key, "failed in capacity()", error)
        return _static(runtime, "capacity_hook_error")
    if not runtime.ready:
        return _static(runtime, "model_not_ready")
    return _static(runtime, None)


def _sensible(found: Any) -> ModelCapacity:
    """What a hook returned, without what a class of the user's own adds to it.

    Raises:
        ValueError: it is no ModelCapacity, or has numbers that cannot be.
    """
    if isinstance(found, ModelCapacity):
        found = {name: getattr(found, name) for name in ModelCapacity.model_fields}
    capacity = ModelCapacity.model_validate(found)
    if capacity.remaining_requests < 0:
        raise ValueError("remaining_requests is below 0")
    if not 1 <= capacity.ideal_batch_size <= capacity.max_batch_size:
        raise ValueError("not 1 <= ideal_batch_size <= max_batch_size")
    return capacity


def _static(runtime: ModelRuntime, reason: str | None) -> ModelCapacity:
    policy = runtime.spec.policy
    most = policy.most
    if runtime.group is not None and policy.merges:
        most = min(most, runtime.group.queue.effective_max_batch)
    remaining = 0
    if reason is None:
        remaining = max(policy.max_concurrent_requests - runtime.inflight, 0)
        reason = None if remaining else "at_capacity"
    return ModelCapacity(
        accepting=remaining > 0,
        remaining_requests=remaining,
        ideal_batch_size=min(policy.ideal, most),
        max_batch_size=most,
        reason=reason,
    )


def capacity(
    runtimes: Iterable[ModelRuntime], inflight: int, uptime_s: float, open_: bool
) -> dict[str, Any]:
    """The body of ``/capacity``; ``open_`` is False while draining."""
    models = {runtime.spec.key: (runtime, model_capacity(runtime)) for runtime in runtimes}
    accepting = open_ and all(
        found.accepting for runtime, found in models.values() if runtime.spec.critical
    )
    remaining = [found.remaining_requests for _, found in models.values() if found.accepting]
    return {
        "accepting": accepting,
        "remaining_requests": min(remaining, default=0) if accepting else 0,
        "models": {key: found.model_dump() for key, (_, found) in models.items()},
        "inflight_requests": inflight,
        "uptime_seconds": round(uptime_s, 2),
    }
