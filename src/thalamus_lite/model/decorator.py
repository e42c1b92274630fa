"""``@app.model(...)``: what its arguments mean, and where the models go."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from thalamus_lite.model.registry import Registry
from thalamus_lite.model.spec import DEFAULT_QUEUE_SIZE, BatchPolicy, Declaration, read_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Never

    from thalamus_lite.weights.sources import WeightSource

C = TypeVar("C", bound=type)


class Decorator:
    """The part of an app that registers models."""

    def __init__(self) -> None:
        self._registry = Registry()

    def model(
        self,
        *positional: Never,
        model_id: str | None = None,
        version: str = "1.0.0",
        description: str | None = None,
        default: bool = False,
        default_version: bool = False,
        critical: bool = True,
        weights: Mapping[str, WeightSource] | None = None,
        device: str = "auto",
        require_gpu: bool = False,
        input_type: Any = None,
        output_type: Any = None,
        max_batch_size: int | None = None,
        ideal_batch_size: int | None = None,
        max_concurrent_requests: int = 1,
        lanes: int | None = None,
        replicas: int | str = 1,
        max_queue_size: int = DEFAULT_QUEUE_SIZE,
        timeout_s: float | None = None,
        examples: Sequence[Any] | None = None,
        idempotent: bool = True,
    ) -> Callable[[C], C]:
        """Register a model class, which is returned unchanged: ``@app.model(...)``.

        Args:
            model_id: The class name, unless given; 1 to 128 of ``A-Z a-z 0-9 . _ -``.
            version: PEP 440; a model may be registered in several versions.
            description: For ``/schema``; the docstring, unless given.
            default: Serves requests that name no model; a lone model does in any case.
            default_version: Serves requests that name no version, else the highest one does.
            critical: ``/ready`` waits for it, and its failure at start-up stops the start.
            weights: Names and their sources; ``load()`` is given a local path for each name.
            device: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``; not there, it is the CPU.
            require_gpu: No GPU, no start.
            input_type: A pydantic type of one input; read from the annotations, unless given.
            output_type: The same of one output.
            max_batch_size: Inputs of one ``predict()``: requests are merged up to it and longer
                ones split. None: nothing is merged or split.
            ideal_batch_size: What ``/capacity`` recommends; ``max_batch_size``, unless given.
            max_concurrent_requests: Requests that ``/capacity`` advertises.
            lanes: Threads inside the hooks at once; 1 with ``max_batch_size``, else
                ``max_concurrent_requests``.
            replicas: Instances, one a device, with one queue; ``"all"``: one on every device.
            max_queue_size: Inputs that may wait; beyond it requests are answered 429.
            timeout_s: Seconds from receipt to answer, else 504; None: no limit.
            examples: Inputs that warm every lane at load and appear in ``/schema``.
            idempotent: Inputs of a failed merged batch may be run again to find the bad one.

        Raises:
            ValueError: an id, version, size, device, weight or example that cannot be, or an id and
                version that are taken.
            TypeError: no usable ``predict``, hooks that cannot be called, or types that can be
                neither inferred nor read.
        """
        if positional:
            raise TypeError("write @app.model(...) above the class, with keywords only")
        declaration = Declaration(
            model_id=model_id,
            version=version,
            description=description,
            default=default,
            default_version=default_version,
            critical=critical,
            weights=_by_name(weights),
            device=device,
            require_gpu=require_gpu,
            input_type=input_type,
            output_type=output_type,
            examples=examples,
        )
        policy = BatchPolicy(
            max_batch_size=max_batch_size,
            ideal_batch_size=ideal_batch_size,
            max_concurrent_requests=max_concurrent_requests,
            lanes=lanes,
            replicas=replicas,
            max_queue_size=max_queue_size,
            timeout_s=timeout_s,
            idempotent=idempotent,
        )

        def register(cls: C) -> C:
            # The caller's names, so that types defined in a function are found too.
            names = sys._getframe(1).f_locals
            self._registry.register(read_spec(cls, declaration, policy, names))
            return cls

        return register


def _by_name(weights: Mapping[str, WeightSource] | None) -> dict[str, WeightSource]:
    if weights is None:
        return {}
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise ValueError('weights must be a dict of names, like {"model": HFWeight(repo="...")}')
    return dict(weights)
