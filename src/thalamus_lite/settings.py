"""The environment, read in one place, at each start."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from thalamus_lite.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_OTHER_NAMES = {"WARN": "WARNING", "FATAL": "CRITICAL"}


def read_log_level(text: str) -> str:
    """One of ``LOG_LEVELS``, however it is written, and by logging's older names too.

    Raises:
        ValueError: it is none of them.
    """
    level = text.strip().upper() if isinstance(text, str) else ""
    level = _OTHER_NAMES.get(level, level)
    if level not in LOG_LEVELS:
        raise ValueError(f"log_level must be one of {', '.join(LOG_LEVELS)}, got {text!r:.40}")
    return level


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator may set. Units are in the names; sizes are bytes, times are seconds."""

    api_key: str | None = None
    api_key_file: Path | None = None
    admin_key: str | None = None
    log_level: str | None = None
    access_log: bool = False
    models: tuple[str, ...] = ()
    max_body_bytes: int = 64 * 1024 * 1024
    load_concurrency: int = 4
    drain_s: float = 30.0
    drain_delay_s: float = 0.0
    watchdog_s: float = 60.0
    cache_dir: Path = Path()
    cache_max_bytes: int = 50 * 10**9
    cache_min_free_bytes: int = 10**9
    cache_ttl_s: float = 60.0
    offline: bool = False
    deny_private_addresses: bool = False

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read the ``THALAMUS_*`` variables.

        Raises:
            ConfigurationError: a value cannot be read; the sentence names the variable.
        """
        env = _Reader(os.environ if environ is None else environ)
        return cls(
            api_key=env.key("THALAMUS_API_KEY"),
            api_key_file=env.path("THALAMUS_API_KEY_FILE"),
            admin_key=env.key("THALAMUS_ADMIN_KEY"),
            log_level=env.log_level("THALAMUS_LOG_LEVEL"),
            access_log=env.flag("THALAMUS_ACCESS_LOG"),
            models=env.names("THALAMUS_MODELS"),
            max_body_bytes=env.bytes("THALAMUS_MAX_BODY_MB", 64, 1024 * 1024, above=0),
            load_concurrency=env.count("THALAMUS_LOAD_CONCURRENCY", 4),
            drain_s=env.number("THALAMUS_DRAIN_S", 30),
            drain_delay_s=env.number("THALAMUS_DRAIN_DELAY_S", 0),
            watchdog_s=env.number("THALAMUS_WATCHDOG_S", 60, above=0),
            cache_dir=env.path("THALAMUS_CACHE_DIR") or env.user_cache() / "thalamus-lite",
            cache_max_bytes=env.bytes("THALAMUS_CACHE_MAX_GB", 50, 10**9, above=0),
            cache_min_free_bytes=env.bytes("THALAMUS_CACHE_MIN_FREE_GB", 1, 10**9),
            cache_ttl_s=env.number("THALAMUS_CACHE_TTL_S", 60),
            offline=env.flag("THALAMUS_OFFLINE") or env.flag("HF_HUB_OFFLINE"),
            deny_private_addresses=env.flag("THALAMUS_DENY_PRIVATE_ADDRESSES"),
        )


class _Reader:
    """Typed access to a mapping of strings, with sentences for what cannot be read."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, name: str) -> str | None:
        value = self._environ.get(name, "").strip()
        return value or None

    def key(self, name: str) -> str | None:
        # A blank key counts as unset: the service then answers 503, never open.
        return self.text(name)

    def path(self, name: str) -> Path | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            return Path(value).expanduser()
        except RuntimeError:
            raise ConfigurationError(
                f"{name} names a home folder that is not known, got {value[:40]!r}"
            ) from None

    def user_cache(self) -> Path:
        base = self.text("XDG_CACHE_HOME")
        # The XDG rules say that a relative path there is to be ignored.
        if base is not None and Path(base).is_absolute():
            return Path(base)
        home = self.text("HOME")
        try:
            return (Path(home) if home else Path("~").expanduser()) / ".cache"
        except RuntimeError:
            raise ConfigurationError(
                "there is no home folder to keep weights in: set THALAMUS_CACHE_DIR"
            ) from None

    def names(self, name: str) -> tuple[str, ...]:
        value = self.text(name)
        if value is None:
            return ()
        return tuple(part.strip() for part in value.split(",") if part.strip())

    def flag(self, name: str) -> bool:
        value = (self.text(name) or "0").lower()
        if value in ("1", "true", "yes", "on"):
            return True
        if value in ("0", "false", "no", "off"):
            return False
        raise ConfigurationError(f"{name} must be 1 or 0, got {value[:40]!r}")

    def log_level(self, name: str) -> str | None:
        value = self.text(name)
        if value is None:
            return None
        try:
            return read_log_level(value)
        except ValueError:
            raise ConfigurationError(
                f"{name} must be one of {', '.join(LOG_LEVELS)}, got {value[:40]!r}"
            ) from None

    def number(self, name: str, default: float, *, above: float | None = None) -> float:
        raw = self.text(name)
        if raw is None:
            return default
        try:
            value = float(raw)
        except ValueError:
            value = math.nan
        least = "a number of at least 0" if above is None else f"a number above {above:g}"
        if not math.isfinite(value) or value < 0 or (above is not None and value <= above):
            raise ConfigurationError(f"{name} must be {least}, got {raw[:40]!r}")
        return value

    def bytes(self, name: str, default: float, unit: int, *, above: float | None = None) -> int:
        """A number of units."""
        value = self.number(name, default, above=above) * unit
        if math.isinf(value):
            raise ConfigurationError(f"{name} must be less, got {self._environ[name][:40]!r}")
        return int(value)

    def count(self, name: str, default: int) -> int:
        raw = self.text(name)
        if raw is None:
            return default
        if not raw.isdecimal() or len(raw) > 9 or int(raw) < 1:
            raise ConfigurationError(
                f"{name} must be a whole number of at least 1, got {raw[:40]!r}"
            )
        return int(raw)


def env(key: str, default: str | None = None) -> str | None:
    """The environment variable ``key``, or ``default``."""
    return os.environ.get(key, default)


def require_env(key: str) -> str:
    """The environment variable ``key``.

    Raises:
        RuntimeError: it is not set.
    """
    value = os.environ.get(key)
    if value is None:
        raise RuntimeError(f"Missing required env: {key}")
    return value
