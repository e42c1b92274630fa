"""Log lines: one each, parseable, not forgeable, not endless."""

from __future__ import annotations

import io
import json
import logging
import math
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.errors import ModelError, WeightNotFound
from thalamus_lite.observability.access import access_log
from thalamus_lite.observability.logs import (
    LOGGER,
    MAX_TEXT,
    JsonFormatter,
    PrettyFormatter,
    Throttle,
    configure,
    log_of_model,
    sentence_of,
    traceback_of,
    words_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

INJECTIONS = [
    "plain", "line\nbreak", '\n{"level":"info"}', "\r\nforged", "\x1b[2J\x1b[1;31mred",
    "\x00\x07\x7f", "\u2028\u2029\u0085", '"quotes" and \\ backslash', "caf\u00e9 \U0001f600",
    "\ud800 lone", "\u202etfel", "%s %d %(x)s", "{} {x}", "x" * 1_000_000,
]  # fmt: skip


def record(message: str, *args: Any, **extra: Any) -> logging.LogRecord:
    logger = logging.getLogger("thalamus_lite.test")
    return logger.makeRecord(logger.name, logging.INFO, "f", 1, message, args, None, extra=extra)


def with_exception(error: Exception) -> logging.LogRecord:
    made = record("failed")
    try:
        raise error
    except Exception:
        import sys

        made.exc_info = sys.exc_info()
    return made


@pytest.mark.parametrize("text", INJECTIONS, ids=lambda text: repr(text[:12]))
def test_json_line_is_one_line_whatever_is_in_it(text: str) -> None:
    for made in (record("%s", text), record("m", path=text), with_exception(ValueError(text))):
        line = JsonFormatter().format(made)
        assert line.isascii()
        assert len(line.splitlines()) == 1
        assert len(line) < 20 * MAX_TEXT
        assert json.loads(line).keys() >= {"timestamp", "level", "logger", "event"}


@pytest.mark.parametrize("text", INJECTIONS, ids=lambda text: repr(text[:12]))
def test_pretty_line_cannot_be_forged(text: str) -> None:
    for made in (record("%s", text), record("m", path=text)):
        line = PrettyFormatter().format(made)
        assert len(line.splitlines()) == 1
        assert line.isprintable()
        assert len(line) < 20 * MAX_TEXT


@given(st.text(max_size=100), st.text(max_size=100))
def test_any_text_is_read_back(message: str, value: str) -> None:
    found = json.loads(JsonFormatter().format(record("%s", message, field=value)))
    assert (found["event"], found["field"]) == (message, value)
    assert len(PrettyFormatter().format(record("%s", message, field=value)).splitlines()) == 1


def test_json_line_has_its_fields() -> None:
    made = record("model loaded", model="m@1", seconds=0.5)
    made.created = 1700000000.25
    assert json.loads(JsonFormatter().format(made)) == {
        "timestamp": "2023-11-14T22:13:20.250Z",
        "level": "info",
        "logger": "thalamus_lite.test",
        "event": "model loaded",
        "model": "m@1",
        "seconds": 0.5,
    }


def test_pretty_line_reads_well() -> None:
    line = PrettyFormatter().format(record("model loaded", model="m@1", why="out of memory", no=""))
    assert line[8:] == " INFO     model loaded  model=m@1 why='out of memory' no=''"


def test_value_cannot_pass_for_another_field() -> None:
    line = PrettyFormatter().format(record("m", path="/x code=ok", quoted="it's"))
    assert "path='/x code=ok'" in line
    assert "quoted='it's'" in line


class Broken:
    def __str__(self) -> str:
        raise RuntimeError("no words")


RING: list[Any] = []
RING.append(RING)


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, object(), {1, 2}, b"\xff", Broken(), RING, {(1, 2): 3}, ValueError("x")],
    ids=lambda value: type(value).__name__,
)
def test_value_that_json_cannot_carry_is_written_in_words(value: Any) -> None:
    line = JsonFormatter().format(record("m", value=value))
    found = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert isinstance(found["value"], str)
    assert found["event"] == "m"
    assert PrettyFormatter().format(record("m", value=value))


def test_exception_keeps_its_beginning_and_its_end() -> None:
    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        raise ValueError("x" * 20_000 + "the last words")

    def caught() -> logging.LogRecord:
        try:
            deep(3)
        except ValueError:
            import sys

            made = record("failed")
            made.exc_info = sys.exc_info()
            return made
        raise AssertionError

    text = json.loads(JsonFormatter().format(caught()))["exception"]
    assert text.startswith("Traceback")
    assert text.endswith("the last words")
    assert len(text) < MAX_TEXT + 100
    assert "the last words" in PrettyFormatter().format(caught())


def test_pretty_exception_is_indented_and_escaped() -> None:
    lines = (
        PrettyFormatter().format(with_exception(ValueError("\x1b[2J\nERROR forged"))).split("\n")
    )
    assert all(line.startswith("  ") for line in lines[1:])
    assert lines[-1] == "  ERROR forged"
    assert "\x1b" not in "".join(lines)


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    found = logging.getLogger(LOGGER)
    before = found.handlers[:], found.level, found.propagate
    yield found
    found.handlers[:], found.level, found.propagate = before[0], before[1], before[2]


def test_error_of_ours_is_a_sentence_and_what_it_came_from_a_traceback() -> None:
    ours, theirs = WeightNotFound("there is no file"), ValueError("a secret")
    assert (sentence_of(ours), traceback_of(ours)) == ("there is no file", None)
    assert (sentence_of(theirs), traceback_of(theirs)) == ("ValueError", theirs)
    outer = ModelError("m@1 failed")
    outer.__cause__ = ours
    assert traceback_of(outer) is None
    ours.__cause__ = theirs
    assert traceback_of(outer) is theirs
    assert traceback_of(None) is None


def test_error_that_is_its_own_cause_has_no_traceback_to_show() -> None:
    error = WeightNotFound("there is no file")
    error.__cause__ = error
    assert traceback_of(error) is None


def test_words_of_an_error_are_one_line_whatever_it_is() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    assert words_of(WeightNotFound("there is no file")) == "there is no file"
    assert words_of(KeyError("model")) == "KeyError: 'model'"
    assert words_of(OSError("one\ntwo")) == "OSError: one"
    assert words_of(ValueError()) == "ValueError"
    assert words_of(Mute()) == "Mute: <Mute>"


def test_line_about_a_model_begins_with_its_key(caplog: pytest.LogCaptureFixture) -> None:
    error = ValueError("no")
    log_of_model(logging.WARNING, "m@1", "failed: 100 %", error, device="cpu")
    (made,) = caplog.records
    assert made.getMessage() == "m@1 failed: 100 %"
    # The line says where it was written, not that it came by this function.
    assert (made.levelno, made.filename) == (logging.WARNING, "test_logs.py")
    assert (vars(made)["model"], vars(made)["device"]) == ("m@1", "cpu")
    assert made.exc_info is not None
    assert made.exc_info[1] is error


def test_configure_replaces_what_it_set_up(logger: logging.Logger) -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("INFO", first)
    configure("WARNING", second)
    logging.getLogger("thalamus_lite.serving").info("quiet")
    logging.getLogger("thalamus_lite.serving").warning("loud")
    assert first.getvalue() == ""
    assert [json.loads(line)["event"] for line in second.getvalue().splitlines()] == ["loud"]
    assert len(logger.handlers) == 1
    assert not logger.propagate


def test_configure_enables_what_a_configuration_of_others_has_disabled(
    logger: logging.Logger,
) -> None:
    access = logging.getLogger("thalamus_lite.access")
    logger.disabled = access.disabled = True
    configure("INFO", io.StringIO())
    assert not logger.disabled
    assert not access.disabled


def test_terminal_gets_the_pretty_lines(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    configure("DEBUG")
    logger.debug("hello")
    assert terminal.getvalue().endswith(" DEBUG    hello\n")


def test_process_without_standard_error_logs_nothing(
    logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Python has it where it was closed before the start.
    monkeypatch.setattr("sys.stderr", None)
    configure("DEBUG")
    logger.debug("hello")


def test_access_log_is_a_line_a_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "thalamus_lite.access")
    access_log({"request_id": "r", "status": 200})
    (made,) = caplog.records
    assert (made.name, made.getMessage()) == ("thalamus_lite.access", "request")
    assert vars(made)["status"] == 200


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_throttle_lets_some_lines_through_each_second() -> None:
    clock = Clock()
    throttle = Throttle(2, clock)
    assert [throttle.take() for _ in range(5)] == [0, 0, None, None, None]
    clock.now = 0.99
    assert throttle.take() is None
    clock.now = 1.0
    assert [throttle.take() for _ in range(3)] == [4, 0, None]
    clock.now = 100.0
    assert throttle.take() == 1


@given(st.lists(st.floats(0, 0.5), max_size=60), st.integers(1, 5))
def test_throttle_counts_every_line_once(gaps: list[float], rate: int) -> None:
    clock = Clock()
    throttle = Throttle(rate, clock)
    passed = told = 0
    for gap in gaps:
        clock.now += gap
        held = throttle.take()
        if held is not None:
            passed += 1
            told += held
    assert passed <= rate * (math.floor(clock.now) + 1)
    clock.now += 2
    last = throttle.take()
    assert last is not None
    assert passed + told + last == len(gaps)
