"""``uvicorn thalamus_lite:app``: what ``THALAMUS_MODELS`` names, or the demo."""

import logging
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from lifecycle_kit import answers, body

from thalamus_lite.default import DefaultApp
from thalamus_lite.errors import ConfigurationError
from thalamus_lite.observability import logs
from thalamus_lite.testing import AsyncClient

LOGGERS = ("thalamus_lite", "thalamus_lite.access")

MODULE = """
from pydantic import BaseModel
from thalamus_lite import Thalamus
{imports}

class In(BaseModel):
    text: str

class Out(BaseModel):
    text: str

{app}

@{name}.model(model_id={id!r})
class Model:
    def predict(self, inputs: list[In]) -> list[Out]:
        return [Out(text={id!r}) for item in inputs]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own, and what is imported from it forgotten again."""
    modules = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in set(sys.modules) - modules:
        if name.startswith("served_"):
            del sys.modules[name]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> DefaultApp:
    """A default app of its own, whose logging touches nothing."""
    monkeypatch.setattr(logs, "configure", lambda _level: None)
    made = DefaultApp()
    monkeypatch.setattr("thalamus_lite.default.app", made)
    return made


def own_app(folder: Path, module: str, model_id: str, name: str = "app") -> None:
    (folder / f"{module}.py").write_text(
        MODULE.format(imports="", app=f"{name} = Thalamus()", name=name, id=model_id)
    )


def on_default(folder: Path, module: str, model_id: str) -> None:
    imports = "from thalamus_lite import default"
    (folder / f"{module}.py").write_text(
        MODULE.format(imports=imports, app="", name="default.app", id=model_id)
    )


def ids(app: DefaultApp) -> list[str]:
    return [spec.id for spec in app.models]


@pytest.mark.parametrize("name", [":", ":app", ".models", "served_one,:"])
async def test_name_without_a_module_is_refused(
    name: str, app: DefaultApp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_app(folder, "served_one", "one")
    monkeypatch.setenv("THALAMUS_MODELS", name)
    with pytest.raises(ConfigurationError, match="which begins with no module"):
        async with AsyncClient(app):
            pass


async def test_digits_demo_is_served_without_the_variable(app: DefaultApp) -> None:
    from thalamus_lite.demo.model import SAMPLES

    async with AsyncClient(app) as client:
        answer = await client.post(
            "/predict", json={"inputs": [sample.model_dump() for sample in SAMPLES]}
        )
        assert [output["label"] for output in answer.json()["outputs"]] == [7, 0]
    assert ids(app) == ["digits"]
    # A second start finds it registered.
    async with AsyncClient(app):
        assert ids(app) == ["digits"]


async def test_modules_register_on_the_default_app_or_bring_their_own(
    app: DefaultApp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_default(folder, "served_one", "one")
    own_app(folder, "served_two", "two")
    own_app(folder, "served_three", "three", "service")
    monkeypatch.setenv("THALAMUS_MODELS", " served_one, served_two ,served_three:service,")
    async with AsyncClient(app) as client:
        assert ids(app) == ["one", "two", "three"]
        for model in ids(app):
            assert answers(await client.post("/predict", json=body("x", model=model))) == [model]
    async with AsyncClient(app):
        assert ids(app) == ["one", "two", "three"]


async def test_module_that_names_the_default_app_itself_is_no_second_app(
    app: DefaultApp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_default(folder, "served_self", "self")
    with (folder / "served_self.py").open("a") as file:
        file.write("\napp = default.app\n")
    monkeypatch.setenv("THALAMUS_MODELS", "served_self:app")
    async with AsyncClient(app):
        assert ids(app) == ["self"]


@pytest.mark.parametrize(
    ("names", "source", "sentence"),
    [
        ("served_nowhere", None, "'served_nowhere': importing served_nowhere raised ModuleNot"),
        ("served_it.deeper", "x = 1", "No module named 'served_it.deeper'"),
        ("served_it:x", "x = 1", "'x' there is not a Thalamus app"),
        ("served_it:y", "x = 1", "'y' there is not a Thalamus app"),
        ("served_it", "x = 1", "registers no model"),
    ],
)
async def test_name_that_leads_nowhere_is_a_sentence_about_the_variable(
    app: DefaultApp,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    names: str,
    source: str | None,
    sentence: str,
) -> None:
    if source is not None:
        (folder / "served_it.py").write_text(source)
    monkeypatch.setenv("THALAMUS_MODELS", names)
    with pytest.raises(ConfigurationError, match="THALAMUS_MODELS") as error:
        async with AsyncClient(app):
            pass
    assert sentence in str(error.value)
    # There is no more to be shown.
    assert error.value.__cause__ is None


@pytest.mark.parametrize(
    ("source", "kind", "says"),
    [
        ("import served_missing_library", ModuleNotFoundError, "ModuleNotFoundError: No module"),
        ("{}['MODEL_DIR']", KeyError, "KeyError: 'MODEL_DIR'"),
        ("import sys\nsys.exit('no licence')", SystemExit, "SystemExit: no licence"),
    ],
)
async def test_module_that_raises_is_told_with_its_line_and_its_traceback_once(
    source: str,
    kind: type[BaseException],
    says: str,
    app: DefaultApp,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder / "served_broken.py").write_text(source)
    monkeypatch.setenv("THALAMUS_MODELS", "served_broken")
    with pytest.raises(ConfigurationError) as error:
        async with AsyncClient(app):
            pass
    said = str(error.value)
    assert said.startswith(
        f"THALAMUS_MODELS names 'served_broken': importing served_broken raised {says}"
    )
    assert said.endswith(f"served_broken.py, line {len(source.splitlines())})")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], kind)


async def test_start_that_failed_at_one_name_can_be_made_again(
    app: DefaultApp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_app(folder, "served_good", "good")
    monkeypatch.setenv("THALAMUS_MODELS", "served_good,served_late")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="served_late"):
            async with AsyncClient(app):
                pass
    own_app(folder, "served_late", "late")
    import importlib

    importlib.invalidate_caches()
    async with AsyncClient(app):
        assert ids(app) == ["good", "late"]


async def test_same_model_twice_is_refused(
    app: DefaultApp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_app(folder, "served_one", "one")
    own_app(folder, "served_other", "one")
    monkeypatch.setenv("THALAMUS_MODELS", "served_one,served_other")
    with pytest.raises(ValueError, match="one"):
        async with AsyncClient(app):
            pass


@pytest.mark.parametrize("ending", ["", "1 / 0"])
async def test_module_that_configures_logging_does_not_silence_the_app(
    ending: str, app: DefaultApp, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_app(folder, "served_logging", "one")
    with (folder / "served_logging.py").open("a") as file:
        # As logging.config.dictConfig() does to all that are there, where it is not told otherwise.
        for name in LOGGERS:
            file.write(f"\nimport logging\nlogging.getLogger({name!r}).disabled = True\n")
        file.write(ending)
    monkeypatch.setenv("THALAMUS_MODELS", "served_logging")
    try:
        with suppress(ConfigurationError):
            async with AsyncClient(app):
                pass
        assert [logging.getLogger(name).disabled for name in LOGGERS] == [False, False]
    finally:
        for name in LOGGERS:
            logging.getLogger(name).disabled = False


async def test_default_app_configures_logging_by_the_environment(
    app: DefaultApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[str] = []
    monkeypatch.setattr(logs, "configure", levels.append)
    async with AsyncClient(app):
        pass
    monkeypatch.setenv("THALAMUS_LOG_LEVEL", "error")
    async with AsyncClient(app):
        pass
    assert levels == ["INFO", "ERROR"]
    assert logging.getLogger("thalamus_lite").handlers == []
