"""``require_gpu``: refused at the decorator, or at the start, and never quietly on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite import GPURequirementError, Thalamus
from thalamus_lite.devices import torch_backend
from thalamus_lite.testing import Client

if TYPE_CHECKING:
    from pathlib import Path


def make_app(load: str = "startup", **options: Any) -> Thalamus:
    app = Thalamus(name="gpu", load=load)

    @app.model(model_id="m", **options)
    class OnDevice:
        def load(self, weights: dict[str, Path], device: str) -> None:
            self.device = device

        def predict(self, inputs: list[int]) -> list[str]:
            return [self.device for _ in inputs]

    return app


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend, "list_devices", lambda: ())
    monkeypatch.setattr(torch_backend, "why_none", lambda: "no CUDA or MPS device was detected")


def test_requirement_is_off_by_default_and_kept_when_on() -> None:
    assert make_app().models[0].require_gpu is False
    assert make_app(require_gpu=True).models[0].require_gpu is True


def test_cpu_contradicts_it_at_the_decorator() -> None:
    with pytest.raises(ValueError, match="require_gpu"):
        make_app(require_gpu=True, device="cpu")


@pytest.mark.parametrize("load", ["startup", "lazy", "background"])
@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:3", "mps"])
def test_start_fails_without_one_in_every_mode(load: str, device: str) -> None:
    with (
        pytest.raises(GPURequirementError, match=r"m@1\.0\.0 requires a GPU but"),
        Client(make_app(load, require_gpu=True, device=device)),
    ):
        pass


def test_start_fails_before_any_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from thalamus_lite import FileWeight

    app = make_app(require_gpu=True, weights={"w": FileWeight(tmp_path / "is-not-there")})
    with pytest.raises(GPURequirementError), Client(app):
        pass


@pytest.mark.parametrize("device", ["auto", "cuda", "cuda:9", "mps"])
def test_preference_without_requirement_falls_back_to_the_cpu(device: str) -> None:
    with Client(make_app(device=device)) as client:
        answer = client.post("/predict", json={"inputs": [1]})
        assert answer.json()["outputs"] == ["cpu"]
        assert answer.json()["meta"]["device"] == "cpu"
