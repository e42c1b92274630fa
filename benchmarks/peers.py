"""The field: what is installed for each server, how it is started, and how it is asked for the same
thing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from benchmarks.processes import Call, Launch
from benchmarks.servers.work import KEY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

TEXT = "The service was quick and friendly, and I would come back for the coffee alone."
JSON = {"Content-Type": "application/json"}


def _body(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def predict(model: str | None = None, inputs: object = None) -> Call:
    """A request to thalamus-lite, or to thalamus-serve, whose form is the same."""
    body = {} if model is None else {"model": model}
    return Call(
        "/predict",
        _body({**body, "inputs": [{"text": TEXT}] if inputs is None else inputs}),
        {**JSON, "X-API-Key": KEY},
    )


@dataclass(frozen=True)
class Peer:
    """``env``: the virtual environment, shared by those with the same requirements."""

    name: str
    env: str
    requirements: tuple[str, ...]
    module: str
    call: Call
    options: Mapping[str, str] = field(default_factory=dict)
    start_s: float = 60.0
    # In milliseconds, the settings its own documentation shows or defaults to.
    windows_ms: tuple[float, ...] = ()

    @property
    def package(self) -> str:
        """The package that gives the server its name, for its version."""
        return self.requirements[0].partition("==")[0].partition("[")[0]

    def launch(self, python: Path, **options: str) -> Launch:
        """``options`` are the ``BENCH_*`` variables of ``servers/work.py``, without the prefix."""
        env = {f"BENCH_{name.upper()}": value for name, value in options.items()}
        return Launch(
            (str(python), "-m", f"benchmarks.servers.{self.module}", "{port}"),
            self.call,
            {**self.options, **env},
            start_s=self.start_s,
        )


_FAST = ("uvloop", "httptools")
_OURS = ("-e", ".", "orjson")

FLOOR = Peer("floor", "thalamus-lite", _OURS, "with_floor", Call("/predict", predict().body, JSON))
ORACLE = Peer(
    "oracle",
    "thalamus-lite",
    _OURS,
    "with_oracle",
    Call("/predict", predict().body, {**JSON, "X-Cost": "sleep 0 0", "X-Clients": "1"}),
)
OURS = Peer("thalamus-lite", "thalamus-lite", _OURS, "with_thalamus_lite", predict())
OURS_ASYNC = Peer(
    "thalamus-lite async", "thalamus-lite", _OURS, "with_thalamus_lite_shapes", predict("async")
)
OURS_SHAPES = replace(OURS_ASYNC, name="thalamus-lite")
OURS_WEIGHTS = replace(
    OURS, module="with_thalamus_lite_weights", call=Call("/health", method="GET")
)
THALAMUS_SERVE = Peer(
    "thalamus-serve",
    "thalamus-serve",
    ("thalamus-serve==0.4.0", *_FAST),
    "with_thalamus_serve",
    predict(),
)
MOSEC = Peer(
    "mosec",
    "mosec",
    ("mosec", "pydantic"),
    "with_mosec",
    Call("/inference", _body({"text": TEXT}), JSON),
    windows_ms=(1, 20),
)
MOSEC_SINGLE = replace(MOSEC, name="mosec unbatched", options={"BENCH_BATCH": "1"}, windows_ms=())
LITSERVE = Peer(
    "LitServe",
    "litserve",
    ("litserve", *_FAST),
    "with_litserve",
    Call("/predict", _body({"text": TEXT}), {**JSON, "X-API-Key": KEY}),
    windows_ms=(1, 20),
)
MLSERVER = Peer(
    "MLServer",
    "mlserver",
    ("mlserver",),
    "with_mlserver",
    Call(
        "/v2/models/text/infer",
        _body({"inputs": [{"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [TEXT]}]}),
        JSON,
    ),
    windows_ms=(1, 20),
)
BENTOML = Peer(
    "BentoML",
    "bentoml",
    ("bentoml", *_FAST),
    "with_bentoml",
    Call("/predict", _body({"text": {"text": TEXT}}), JSON),
)
RAY = Peer(
    "Ray Serve",
    "ray",
    ("ray[serve]",),
    "with_ray",
    Call("/predict", _body({"text": TEXT}), JSON),
    start_s=120.0,
)

QUICK = (THALAMUS_SERVE, MOSEC, LITSERVE)
FIELD = (THALAMUS_SERVE, MOSEC, MOSEC_SINGLE, LITSERVE, MLSERVER, BENTOML, RAY)
ALL = (FLOOR, OURS, OURS_ASYNC, *FIELD)
