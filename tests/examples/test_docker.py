"""No engine builds the image here: its files are read, and what it would run is run in place."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from thalamus_lite.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import Example, Server

yaml = pytest.importorskip("yaml", reason="PyYAML reads compose.yaml")

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example(open_example: Callable[[str], Example]) -> Example:
    example = open_example("docker")
    image = dict(
        pair.split("=", 1) for words in _instructions(example, "ENV") for pair in shlex.split(words)
    )
    # The folder for the cache is the image's; the rest of its environment holds here too.
    image.pop("THALAMUS_CACHE_DIR")
    example.environ.update(image)
    return example


@pytest.fixture(scope="module")
def service(example: Example) -> dict[str, Any]:
    compose = yaml.safe_load((example.folder / "compose.yaml").read_text())
    [service] = compose["services"].values()
    return dict(service)


@pytest.fixture(scope="module")
def server(example: Example) -> Iterator[Server]:
    with example.serve(_without_address(_command(example))) as server:
        yield server


def _instructions(example: Example, name: str) -> list[str]:
    text = (example.folder / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", text, re.MULTILINE)


def _command(example: Example) -> list[str]:
    [command] = _instructions(example, "CMD")
    # JSON and not a shell's line: so the server is process 1, the one that is signalled.
    words: list[str] = json.loads(command)
    return words


def _without_address(command: list[str]) -> list[str]:
    for option in ("--host", "--port"):
        at = command.index(option)
        command = command[:at] + command[at + 2 :]
    return command


def _check_health(service: dict[str, Any], port: int) -> int:
    kind, program, *arguments = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "python")
    there = [argument.replace(":8000", f":{port}") for argument in arguments]
    done = subprocess.run([sys.executable, *there], capture_output=True, check=False)
    return done.returncode


def test_the_readmes_request_gets_the_readmes_answer(
    example: Example, server: Server, assert_answers: Callable[..., None]
) -> None:
    [request] = example.requests
    assert_answers(server.ask(request), example.answers[0], 1e-9)


def test_the_health_check_passes_on_a_ready_server(server: Server, service: dict[str, Any]) -> None:
    assert _check_health(service, server.port) == 0


def test_the_health_check_asks_ready_and_fails_without_a_server(service: dict[str, Any]) -> None:
    assert ":8000/ready" in service["healthcheck"]["test"][-1]
    # Nothing listens on port 1, and nothing unprivileged can.
    assert _check_health(service, 1) != 0


def test_the_port_is_one_port_in_every_file(example: Example, service: dict[str, Any]) -> None:
    command = _command(example)
    port = command[command.index("--port") + 1]
    assert _instructions(example, "EXPOSE") == [port]
    assert service["ports"] == [f"{port}:{port}"]
    assert command[command.index("--host") + 1] == "0.0.0.0"


def test_everything_the_image_copies_is_in_the_repository(
    example: Example, service: dict[str, Any]
) -> None:
    context = (REPOSITORY / "examples" / "docker" / service["build"]["context"]).resolve()
    assert context == REPOSITORY
    assert (context / service["build"]["dockerfile"]).is_file()
    for words in _instructions(example, "COPY"):
        *sources, _ = words.split()
        for source in sources:
            assert (context / source).exists(), source


def test_the_copied_files_are_enough_to_build_a_wheel_with_the_demos_weights(
    example: Example, tmp_path: Path
) -> None:
    pytest.importorskip("hatchling", reason="hatchling builds the wheel")
    build_stage = (example.folder / "Dockerfile").read_text().split("\nFROM ")[1]
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", build_stage, re.MULTILINE)]
    source = tmp_path / "source"
    source.mkdir()
    for name in (name for names in copied for name in names):
        (source / name).symlink_to(REPOSITORY / name)
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "wheels")],
        cwd=source,
        capture_output=True,
        check=True,
    )
    [wheel] = (tmp_path / "wheels").glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "-l", str(wheel)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "thalamus_lite/demo/digits.json" in listed
    assert "thalamus_lite/py.typed" in listed


def test_the_server_does_not_run_as_root(example: Example) -> None:
    assert _instructions(example, "USER") == ["server"]
    text = (example.folder / "Dockerfile").read_text()
    assert text.index("USER server") < text.index("CMD")


def test_the_cache_is_a_volume_where_the_image_keeps_it(
    example: Example, service: dict[str, Any]
) -> None:
    [environ] = _instructions(example, "ENV")
    assert service["volumes"] == [f"weights:{environ.split('THALAMUS_CACHE_DIR=')[1]}"]


def test_a_stop_leaves_time_to_drain(service: dict[str, Any]) -> None:
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings.from_env({}).drain_s


def test_compose_refuses_to_start_without_a_key(service: dict[str, Any]) -> None:
    assert service["environment"]["THALAMUS_API_KEY"].startswith("${THALAMUS_API_KEY:?")


def test_the_readmes_commands_are_of_compose(example: Example) -> None:
    verbs = [command.split()[1:3] for command in example.commands("docker")]
    assert verbs == [["compose", "up"], ["compose", "stop"]]
