"""The public names, and what importing them costs."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import thalamus_lite
from thalamus_lite import testing

PUBLIC = {
    "Thalamus",
    "S3Weight", "HFWeight", "HTTPWeight", "FileWeight", "WeightSource",
    "fetch", "upload_s3", "exists_s3", "get_cache",
    "env", "require_env",
    "S3Ref", "S3PresignedUrl", "Url", "Base64Data", "BBox", "Label", "Vector", "Span", "Prob",
    "HealthResponse", "ReadyResponse", "SchemaResponse", "PredictRequest", "PredictResponse",
    "StatusResponse", "CapacityResponse", "ModelCapacity", "CacheInfo", "CacheClearResponse",
    "UnloadRequest", "UnloadResponse",
    "WeightCache", "CacheStats",
    "DeviceType", "DeviceInfo", "GPUStatus", "GPURequirementError",
    "detect_devices", "get_gpu_memory", "clear_gpu_cache", "get_optimal_device", "get_gpu_status",
}  # fmt: skip

NOT_AT_IMPORT = [
    "torch", "botocore", "boto3", "huggingface_hub", "uvicorn", "prometheus_client", "urllib3",
    "sqlite3", "numpy", "tqdm", "uvloop", "httptools",
]  # fmt: skip

_LOOK = """
import sys, threading, json, asyncio
before = set(sys.modules)
import {module}
try:
    asyncio.get_running_loop()
    loop = True
except RuntimeError:
    loop = False
print(json.dumps([sorted(set(sys.modules) - before), threading.active_count(), loop]))
"""


def imported_by(module: str) -> tuple[list[str], int, bool]:
    code = _LOOK.format(module=module)
    # -I would hide an editable install; -S and a bare environment are not what users run.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules, threads, loop = json.loads(done.stdout)
    return modules, threads, loop


def test_public_names_are_the_promised_ones() -> None:
    # A star import must not take the place of a user's own app.
    assert set(thalamus_lite.__all__) == PUBLIC | {"__version__"}
    assert len(thalamus_lite.__all__) == len(set(thalamus_lite.__all__))


def test_every_public_name_can_be_had() -> None:
    for name in thalamus_lite.__all__:
        assert getattr(thalamus_lite, name) is not None, name
        assert name in dir(thalamus_lite)


def test_star_import_brings_them_all() -> None:
    names: dict[str, object] = {}
    exec("from thalamus_lite import *", names)
    assert names.keys() >= PUBLIC
    assert "app" not in names


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        thalamus_lite.nothing  # noqa: B018


def test_app_is_a_thalamus() -> None:
    assert isinstance(thalamus_lite.app, thalamus_lite.Thalamus)
    assert thalamus_lite.app is thalamus_lite.default.app


def test_hypercorn_finds_the_default_app() -> None:
    # It looks among the module's variables only, where no __getattr__ is asked.
    code = "from hypercorn.utils import load_application; load_application('thalamus_lite:app', 1)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_testing_has_the_promised_names() -> None:
    assert testing.TEST_API_KEY == "test-api-key-for-testing"
    assert testing.TEST_API_KEY_HEADER == {"X-API-Key": testing.TEST_API_KEY}
    assert callable(testing.Client)
    assert callable(testing.AsyncClient)


def test_every_module_can_be_imported() -> None:
    names = [
        found.name
        for found in pkgutil.walk_packages(thalamus_lite.__path__, "thalamus_lite.")
        # It runs the command.
        if not found.name.endswith("__main__")
    ]
    assert len(names) > 50
    for name in names:
        importlib.import_module(name)


def test_package_is_typed() -> None:
    assert (Path(thalamus_lite.__file__).parent / "py.typed").exists()


def test_import_brings_nothing_heavy_and_starts_nothing() -> None:
    modules, threads, loop = imported_by("thalamus_lite")
    assert [name for name in NOT_AT_IMPORT if name in modules] == []
    assert threads == 1
    assert not loop


def test_import_does_not_touch_logging() -> None:
    code = (
        "import logging, thalamus_lite; thalamus_lite.app;"
        "l = logging.getLogger('thalamus_lite'); print(l.handlers, l.level, l.propagate,"
        "logging.getLogger().handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[] 0 True []"
    assert done.stderr == ""


def test_default_app_is_made_without_its_models() -> None:
    code = "import thalamus_lite; print(thalamus_lite.app.models)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
