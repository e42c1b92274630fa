"""A registered model: everything its decorator and its class say, read once and checked."""

from __future__ import annotations

import inspect
import operator
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from thalamus_lite.devices.device import DeviceRequest
from thalamus_lite.model.inspection import Hooks, PredictKind, infer_types, read_hooks
from thalamus_lite.model.records import RecordType
from thalamus_lite.model.samples import read_examples
from thalamus_lite.weights.sources import FileWeight, HFWeight, HTTPWeight, S3Weight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from thalamus_lite.model.protocol import Model
    from thalamus_lite.weights.sources import WeightSource

_MODEL_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

DEFAULT_QUEUE_SIZE = 1024


def _whole(value: Any) -> int | None:
    """An integer of any library, numpy's for one, as a plain one; None: it is none."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How requests of a model are queued, merged and run.

    ``max_batch_size`` None means undeclared: one request is one batch, whatever its length.
    """

    max_batch_size: int | None = None
    ideal_batch_size: int | None = None
    max_concurrent_requests: int = 1
    lanes: int | None = None
    replicas: int | str = 1
    max_queue_size: int = DEFAULT_QUEUE_SIZE
    timeout_s: float | None = None
    idempotent: bool = True

    def __post_init__(self) -> None:
        counts: dict[str, object] = {
            "max_concurrent_requests": self.max_concurrent_requests,
            "max_queue_size": self.max_queue_size,
        }
        if self.max_batch_size is not None:
            counts["max_batch_size"] = self.max_batch_size
        if self.lanes is not None:
            counts["lanes"] = self.lanes
        if self.replicas != "all":
            counts["replicas"] = self.replicas
        for name, value in counts.items():
            count = _whole(value)
            if count is None or count < 1:
                alternative = ' or "all"' if name == "replicas" else ""
                raise ValueError(
                    f"{name} must be a whole number of at least 1{alternative}, got {value!r:.60}"
                )
            object.__setattr__(self, name, count)
        if self.ideal_batch_size is not None:
            ideal = _whole(self.ideal_batch_size)
            if ideal is None or not 1 <= ideal <= self.most:
                raise ValueError(
                    f"ideal_batch_size must be between 1 and max_batch_size ({self.most}), got"
                    f" {self.ideal_batch_size!r:.60}"
                )
            object.__setattr__(self, "ideal_batch_size", ideal)
        if self.timeout_s is not None and not (
            isinstance(self.timeout_s, int | float)
            and not isinstance(self.timeout_s, bool)
            and 0 < self.timeout_s < float("inf")
        ):
            raise ValueError(f"timeout_s must be a number above 0, got {self.timeout_s!r:.60}")
        _check_flags(idempotent=self.idempotent)

    @property
    def most(self) -> int:
        """The batch size that ``/capacity`` advertises."""
        return 1 if self.max_batch_size is None else self.max_batch_size

    @property
    def ideal(self) -> int:
        return self.most if self.ideal_batch_size is None else self.ideal_batch_size

    @property
    def merges(self) -> bool:
        return self.max_batch_size is not None

    @property
    def lane_count(self) -> int:
        if self.lanes is not None:
            return self.lanes
        return 1 if self.merges else self.max_concurrent_requests


@dataclass(frozen=True, slots=True)
class Declaration:
    """The arguments of ``@app.model()`` that name and describe a model."""

    model_id: str | None = None
    version: str = "1.0.0"
    description: str | None = None
    default: bool = False
    default_version: bool = False
    critical: bool = True
    weights: Mapping[str, WeightSource] = field(default_factory=dict)
    device: str = "auto"
    require_gpu: bool = False
    input_type: Any = None
    output_type: Any = None
    examples: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        _check_flags(
            default=self.default,
            default_version=self.default_version,
            critical=self.critical,
            require_gpu=self.require_gpu,
        )


def _check_flags(**flags: object) -> None:
    for name, value in flags.items():
        # "false", as it comes from the environment, would count as true.
        if type(value) is not bool:
            raise ValueError(f"{name} must be True or False, got {value!r:.60}")


@dataclass(frozen=True)
class ModelSpec:
    """One version of one model.

    ``key`` (``id@version``) names it in logs, ``/capacity`` and the queue. ``samples`` are the
    examples that JSON can carry.
    """

    id: str
    version: str
    parsed_version: Version
    description: str
    cls: type[Model]
    hooks: Hooks
    inputs: RecordType
    outputs: RecordType
    policy: BatchPolicy
    device: DeviceRequest
    declaration: Declaration
    examples: tuple[Any, ...] | None
    samples: tuple[Any, ...]

    @cached_property
    def key(self) -> str:
        return f"{self.id}@{self.version}"

    @cached_property
    def meta_head(self) -> bytes:
        """The part of each answer's ``meta`` that never changes; ids and versions need no
        escapes.
        """
        return b'{"model":"%b","version":"%b",' % (self.id.encode(), self.version.encode())

    @property
    def critical(self) -> bool:
        return self.declaration.critical

    @property
    def weights(self) -> Mapping[str, WeightSource]:
        return self.declaration.weights

    @property
    def require_gpu(self) -> bool:
        return self.declaration.require_gpu

    @cached_property
    def streams(self) -> bool:
        return self.hooks.kind.streams

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The body of ``/schema/{id}``."""
        body: dict[str, Any] = {
            "id": self.id,
            "version": self.version,
            "description": self.description,
            "input": self.inputs.json_schema("validation"),
            "output": self.outputs.json_schema("serialization"),
        }
        if self.samples:
            body["examples"] = list(self.samples)
        return body


def read_spec(
    cls: type, declaration: Declaration, policy: BatchPolicy, local_names: Mapping[str, Any]
) -> ModelSpec:
    """Check a decorated class and what its decorator says.

    Raises:
        ValueError: an id, version, size, device, weight or example that cannot be.
        TypeError: no usable ``predict``, or types that can be neither inferred nor read.
    """
    if not isinstance(cls, type):
        raise TypeError(f"@app.model() decorates a class, got {type(cls).__name__}")
    model_id = cls.__name__ if declaration.model_id is None else declaration.model_id
    if not isinstance(model_id, str) or not _MODEL_ID.fullmatch(model_id):
        raise ValueError(
            "model_id must be 1 to 128 letters, digits, dots, dashes or underscores, got"
            f" {model_id!r:.200}"
        )
    # PEP 440 lets white space stand around a version; here it would stand in JSON and in URLs.
    version = str(declaration.version).strip()
    try:
        parsed = Version(version)
    except ValueError:
        raise ValueError(
            f"{model_id}: version must be a PEP 440 version such as '1.0.0', got"
            f" {declaration.version!r:.200}"
        ) from None
    if declaration.description is not None and not isinstance(declaration.description, str):
        raise ValueError(f"{model_id}: description must be text")
    hooks = read_hooks(cls, model_id, policy.merges)
    if hooks.kind.streams and policy.merges:
        raise ValueError(
            f"{model_id}: a model that yields is never batched: leave max_batch_size out"
        )
    if declaration.require_gpu and declaration.device == "cpu":
        raise ValueError(f'{model_id}: require_gpu=True is incompatible with device="cpu"')
    try:
        device = DeviceRequest.parse(declaration.device)
    except ValueError as error:
        raise ValueError(f"{model_id}: {error}") from None
    for name, source in declaration.weights.items():
        if not isinstance(source, S3Weight | HFWeight | HTTPWeight | FileWeight):
            raise ValueError(
                f"{model_id}: weights[{name!r}] must be an S3Weight, HFWeight, HTTPWeight or"
                f" FileWeight, got {type(source).__name__}"
            )
    infer_input, infer_output = infer_types(cls, hooks, model_id, local_names)
    given_in, given_out = declaration.input_type, declaration.output_type
    key = f"{model_id}@{version}"
    inputs = RecordType(infer_input() if given_in is None else given_in, key, "input")
    outputs = RecordType(infer_output() if given_out is None else given_out, key, "output")
    examples, samples = read_examples(declaration.examples, inputs, model_id)
    return ModelSpec(
        id=model_id,
        version=version,
        parsed_version=parsed,
        description=(declaration.description or inspect.cleandoc(cls.__doc__ or "")).strip(),
        cls=cls,
        hooks=hooks,
        inputs=inputs,
        outputs=outputs,
        policy=policy,
        device=device,
        declaration=declaration,
        examples=examples,
        samples=samples,
    )


__all__ = ["BatchPolicy", "Declaration", "Hooks", "ModelSpec", "PredictKind", "read_spec"]
