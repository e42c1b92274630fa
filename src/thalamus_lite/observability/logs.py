"""Logging for ``thalamus-lite serve``, ``app.serve()`` and the default app: JSON lines, or a
pretty line on a terminal.

Embedded, nothing here is called: records go to ``logging.getLogger("thalamus_lite")`` and the host
decides.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from thalamus_lite.errors import ThalamusError

if TYPE_CHECKING:
    from collections.abc import Callable

LOGGER = "thalamus_lite"
MAX_TEXT = 8192

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON object a line; whatever a value holds, it cannot begin a line of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": _utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _cut(record.getMessage()),
        }
        line.update(_extras(record))
        if record.exc_info:
            line["exception"] = _cut_middle(self.formatException(record.exc_info))
        try:
            return json.dumps(line, default=_words, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            # A line with words in the place of what JSON cannot carry is better than none.
            return json.dumps({name: _words(value) for name, value in line.items()})


class PrettyFormatter(logging.Formatter):
    """For people: time, level, sentence, then the fields as ``name=value``."""

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = " ".join(f"{name}={_quoted(value)}" for name, value in _extras(record).items())
        line = f"{clock} {record.levelname:<8} {_escaped(_cut(record.getMessage()))}"
        if fields:
            line = f"{line}  {fields}"
        if record.exc_info:
            text = _cut_middle(self.formatException(record.exc_info))
            line = "\n".join([line, *(f"  {_escaped(row)}" for row in text.splitlines())])
        return line


def configure(level: str, stream: TextIO | None = None) -> None:
    """Send this package's records to ``stream`` (stderr); calling it again replaces what it set
    up.
    """
    stream = sys.stderr if stream is None else stream
    # A process may be started with its standard error closed.
    handler = logging.NullHandler() if stream is None else logging.StreamHandler(stream)
    pretty = stream is not None and stream.isatty()
    handler.setFormatter(PrettyFormatter() if pretty else JsonFormatter())
    logger = logging.getLogger(LOGGER)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    enable()


def enable() -> None:
    """Undo what ``logging.config.dictConfig()`` does to the loggers that are there, unless it is
    told not to.
    """
    for name in (LOGGER, f"{LOGGER}.access"):
        logging.getLogger(name).disabled = False


def log_of_model(
    level: int, key: str, text: str, error: BaseException | None = None, **fields: Any
) -> None:
    """A line about one model. Its key begins the text: a host's own log may show nothing else."""
    fields["model"] = key
    logging.getLogger(LOGGER).log(
        level, "%s %s", key, text, exc_info=error, extra=fields, stacklevel=2
    )


def sentence_of(error: BaseException) -> str:
    """What a line says of an error: our own sentence, or else the name of its class."""
    return str(error) if isinstance(error, ThalamusError) else type(error).__name__


def traceback_of(error: BaseException | None) -> BaseException | None:
    """What a line shows the traceback of: our own errors say it all in their sentence, what they
    come from may not.
    """
    seen: set[int] = set()
    while isinstance(error, ThalamusError) and id(error) not in seen:
        # `raise error from error` is a mistake that is easily made.
        seen.add(id(error))
        error = error.__cause__
    return None if isinstance(error, ThalamusError) else error


class Throttle:
    """Lets ``rate`` lines a second through and counts the rest, so that a storm of errors cannot
    fill a disk.
    """

    def __init__(self, rate: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._window = -1.0
        self._passed = 0
        self._held = 0

    def take(self) -> int | None:
        """The number of lines held back since the last one that passed, or None to hold this one
        too.
        """
        window = self._clock() // 1.0
        if window != self._window:
            self._window = window
            self._passed = 0
        if self._passed >= self._rate:
            self._held += 1
            return None
        self._passed += 1
        held, self._held = self._held, 0
        return held


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {
        name: _cut(value) if isinstance(value, str) else value
        for name, value in vars(record).items()
        if name not in _STANDARD and not name.startswith("_")
    }


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}… ({len(text)} characters)"


def _cut_middle(text: str) -> str:
    """A traceback says where it begins and, last of all, what happened: both ends are kept."""
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n… ({len(text)} characters)\n{text[-half:]}"


def words_of(error: BaseException) -> str:
    """What a caller is told of an error: our own sentence, or its class and what it says."""
    text = " ".join(_words(error).splitlines()[:1])
    if isinstance(error, ThalamusError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _words(value: object) -> str:
    try:
        return _cut(str(value))
    except Exception:
        return f"<{type(value).__name__}>"


def _quoted(value: object) -> str:
    """In quotes where a blank or a quote could pass for the end of the value."""
    text = _escaped(_words(value))
    return f"'{text}'" if not text or " " in text or "'" in text else text


def _escaped(text: str) -> str:
    """Control characters as escapes, so that no value can forge a line or move a terminal's
    cursor.
    """
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
