"""The environment: each variable's default, its readings, the sentence where it cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalamus_lite.errors import ConfigurationError
from thalamus_lite.settings import Settings, env, require_env

MIB = 1024 * 1024
GB = 10**9


def read(**environ: str) -> Settings:
    return Settings.from_env({"HOME": "/home/someone", **environ})


def test_defaults_are_the_documented_ones() -> None:
    assert read() == Settings(
        cache_dir=Path("/home/someone/.cache/thalamus-lite"),
        max_body_bytes=64 * MIB,
        load_concurrency=4,
        drain_s=30.0,
        drain_delay_s=0.0,
        watchdog_s=60.0,
        cache_max_bytes=50 * GB,
        cache_min_free_bytes=GB,
        cache_ttl_s=60.0,
    )


@pytest.mark.parametrize(
    ("name", "text", "field", "value"),
    [
        ("THALAMUS_API_KEY", " k\u00e9y ", "api_key", "k\u00e9y"),
        ("THALAMUS_ADMIN_KEY", "admin", "admin_key", "admin"),
        ("THALAMUS_API_KEY_FILE", "/keys", "api_key_file", Path("/keys")),
        ("THALAMUS_LOG_LEVEL", "debug", "log_level", "DEBUG"),
        ("THALAMUS_LOG_LEVEL", "Warn", "log_level", "WARNING"),
        ("THALAMUS_LOG_LEVEL", "fatal", "log_level", "CRITICAL"),
        ("THALAMUS_ACCESS_LOG", "1", "access_log", True),
        ("THALAMUS_ACCESS_LOG", "off", "access_log", False),
        ("THALAMUS_MODELS", "a.b, c:app,,", "models", ("a.b", "c:app")),
        ("THALAMUS_MODELS", " ", "models", ()),
        ("THALAMUS_MAX_BODY_MB", "0.5", "max_body_bytes", MIB // 2),
        ("THALAMUS_LOAD_CONCURRENCY", "2", "load_concurrency", 2),
        ("THALAMUS_DRAIN_S", "0", "drain_s", 0.0),
        ("THALAMUS_DRAIN_DELAY_S", "2.5", "drain_delay_s", 2.5),
        ("THALAMUS_WATCHDOG_S", "5", "watchdog_s", 5.0),
        ("THALAMUS_CACHE_DIR", "/data", "cache_dir", Path("/data")),
        ("THALAMUS_CACHE_MAX_GB", "1.5", "cache_max_bytes", 1_500_000_000),
        ("THALAMUS_CACHE_MIN_FREE_GB", "0", "cache_min_free_bytes", 0),
        ("THALAMUS_CACHE_TTL_S", "0", "cache_ttl_s", 0.0),
        ("THALAMUS_OFFLINE", "yes", "offline", True),
        ("HF_HUB_OFFLINE", "1", "offline", True),
        ("THALAMUS_DENY_PRIVATE_ADDRESSES", "TRUE", "deny_private_addresses", True),
    ],
)
def test_variable_is_read(name: str, text: str, field: str, value: Any) -> None:
    assert getattr(read(**{name: text}), field) == value


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("THALAMUS_ACCESS_LOG", "maybe", "must be 1 or 0, got 'maybe'"),
        ("THALAMUS_LOG_LEVEL", "LOUD", "must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL"),
        ("THALAMUS_MAX_BODY_MB", "0", "must be a number above 0, got '0'"),
        ("THALAMUS_MAX_BODY_MB", "nan", "must be a number above 0"),
        ("THALAMUS_MAX_BODY_MB", "inf", "must be a number above 0"),
        ("THALAMUS_DRAIN_S", "-1", "must be a number of at least 0"),
        ("THALAMUS_DRAIN_S", "soon", "must be a number of at least 0, got 'soon'"),
        ("THALAMUS_WATCHDOG_S", "0", "must be a number above 0"),
        ("THALAMUS_LOAD_CONCURRENCY", "0", "must be a whole number of at least 1"),
        ("THALAMUS_LOAD_CONCURRENCY", "1.5", "must be a whole number of at least 1"),
        ("THALAMUS_LOAD_CONCURRENCY", "9" * 5000, "must be a whole number of at least 1"),
        ("THALAMUS_CACHE_MAX_GB", "0", "must be a number above 0"),
        ("THALAMUS_CACHE_MAX_GB", "1e308", "must be less, got '1e308'"),
        ("THALAMUS_CACHE_MIN_FREE_GB", "1e300", "must be less, got '1e300'"),
        ("THALAMUS_MAX_BODY_MB", "1e303", "must be less, got '1e303'"),
        ("THALAMUS_API_KEY_FILE", "~nobody-by-this-name/k", "names a home folder that is not"),
    ],
)
def test_unreadable_value_stops_with_a_sentence(name: str, text: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(**{name: text})
    assert str(caught.value).startswith(f"{name} {says}")
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_blank_key_counts_as_unset(blank: str) -> None:
    assert read(THALAMUS_API_KEY=blank).api_key is None
    assert read(THALAMUS_ADMIN_KEY=blank).admin_key is None


def test_cache_follows_xdg_where_it_is_absolute() -> None:
    assert read(XDG_CACHE_HOME="/xdg").cache_dir == Path("/xdg/thalamus-lite")
    assert read(XDG_CACHE_HOME="rel").cache_dir == Path("/home/someone/.cache/thalamus-lite")


def test_cache_has_a_place_without_a_home() -> None:
    assert Settings.from_env({}).cache_dir.name == "thalamus-lite"


def test_cache_without_any_home_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    with pytest.raises(ConfigurationError, match=r"no home folder .*: set THALAMUS_CACHE_DIR"):
        Settings.from_env({})


def test_home_folder_is_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert read(THALAMUS_CACHE_DIR="~/c").cache_dir == Path("/home/me/c")


def test_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THALAMUS_API_KEY", "from-the-process")
    assert Settings.from_env().api_key == "from-the-process"


def test_env_helpers_read_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_NAME", "value")
    monkeypatch.delenv("NO_SUCH_NAME", raising=False)
    assert env("SOME_NAME") == "value"
    assert env("NO_SUCH_NAME") is None
    assert env("NO_SUCH_NAME", "default") == "default"
    assert require_env("SOME_NAME") == "value"
    with pytest.raises(RuntimeError, match="Missing required env: NO_SUCH_NAME"):
        require_env("NO_SUCH_NAME")


_NAMES = st.sampled_from(
    [
        "THALAMUS_ACCESS_LOG",
        "THALAMUS_LOG_LEVEL",
        "THALAMUS_MAX_BODY_MB",
        "THALAMUS_DRAIN_S",
        "THALAMUS_LOAD_CONCURRENCY",
        "THALAMUS_CACHE_DIR",
        "THALAMUS_API_KEY_FILE",
        "THALAMUS_CACHE_MAX_GB",
        "THALAMUS_MODELS",
        "THALAMUS_OFFLINE",
        "XDG_CACHE_HOME",
    ]
)


@given(st.dictionaries(_NAMES, st.text(max_size=60)))
def test_any_text_is_read_or_refused_by_name(environ: dict[str, str]) -> None:
    try:
        settings = read(**environ)
    except ConfigurationError as error:
        said = str(error)
    else:
        assert settings.load_concurrency >= 1
        return
    assert said.startswith(tuple(f"{name} " for name in environ))
