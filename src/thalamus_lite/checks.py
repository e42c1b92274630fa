"""``thalamus-lite check``: would this app start? A line a finding, without loading a model or a
byte of weights.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from thalamus_lite.composition import allocator_of
from thalamus_lite.errors import ConfigurationError, ThalamusError
from thalamus_lite.http.gate import Gate
from thalamus_lite.imports import import_by_name, on_one_line, what_raised
from thalamus_lite.model.inspection import hook_of
from thalamus_lite.settings import Settings
from thalamus_lite.thalamus import Thalamus
from thalamus_lite.weights.local import local_lease
from thalamus_lite.weights.maintenance import list_entries
from thalamus_lite.weights.options import CacheOptions
from thalamus_lite.weights.origin import OriginOptions
from thalamus_lite.weights.origins.choice import origin_for
from thalamus_lite.weights.sources import FileWeight
from thalamus_lite.weights.storage import cache_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from thalamus_lite.model.spec import ModelSpec
    from thalamus_lite.weights.sources import WeightSource

    Say = Callable[[str], None]


def check(name: str, say: Say) -> int:
    """0 when the app would start, 1 when something stands in its way; each line begins with ok,
    warn or FAIL.
    """
    try:
        settings = Settings.from_env()
        app = load_app(name)
    except ConfigurationError as error:
        say(f"FAIL  {error}")
        return 1
    except (Exception, SystemExit) as error:
        say(f"FAIL  {what_raised(name, error)}")
        return 1
    say(f"ok    {name}: {len(app.models)} model(s)")
    failures = 0
    try:
        missing = Gate(settings, time.monotonic).missing()
    except ConfigurationError as error:
        say(f"FAIL  {error}")
        failures += 1
    else:
        if missing is not None:
            say(f"warn  {missing}")
    if not app.models:
        say("FAIL  no model is registered: decorate a class with @app.model()")
        failures += 1
    for spec in app.models:
        failures += _check_model(spec, settings, say)
    return 1 if failures else 0


def load_app(name: str) -> Thalamus:
    """The Thalamus that ``module:attribute`` names.

    Raises:
        ConfigurationError: it cannot be imported, or is no Thalamus app.
        ValueError: models that cannot be served together.
    """
    app = find_app(name)
    if not isinstance(app, Thalamus):
        raise ConfigurationError(f"{name} is {_a(app)}, not a Thalamus app")
    return app


def load_servable(name: str) -> object:
    """The ASGI app that ``module:attribute`` names: a Thalamus, or what wraps one.

    Raises:
        ConfigurationError: it cannot be imported, or is none.
        ValueError: models that cannot be served together.
    """
    app = find_app(name)
    if isinstance(app, type) or not callable(app):
        raise ConfigurationError(f"{name} is {_a(app)}, not a Thalamus app")
    return app


def find_app(name: str) -> object:
    """What ``module:attribute`` names; the default app with the models that it serves.

    Raises:
        ConfigurationError: there is nothing of that name. Where a module raised, that is its
            ``__cause__``.
        ValueError: models that cannot be served together.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute or module_name.startswith("."):
        raise ConfigurationError(
            f"name the app as module:attribute, such as my_app:app, not {name!r}"
        )
    app: object = import_by_name(module_name)
    for part in attribute.split("."):
        found = getattr(app, part, None)
        if found is None:
            raise ConfigurationError(f"{module_name} has no attribute {attribute!r}")
        app = found
    find = getattr(app, "find_models", None)
    if isinstance(app, Thalamus) and callable(find):
        find(Settings.from_env())
    return app


def _a(app: object) -> str:
    return f"the class {app.__name__}" if isinstance(app, type) else f"a {type(app).__name__}"


def _check_model(spec: ModelSpec, settings: Settings, say: Say) -> int:
    say(f"ok    {spec.key}: {_type_name(spec.inputs.kind)} -> {_type_name(spec.outputs.kind)}")
    failures = 0
    for records in (spec.inputs, spec.outputs):
        try:
            records.prepare()
        except TypeError as error:
            say(f"FAIL  {on_one_line(str(error))}")
            failures += 1
    reason = allocator_of().check(spec.device)
    if reason is not None and spec.require_gpu:
        say(f"FAIL  {spec.key}: requires a GPU but {reason}")
        failures += 1
    elif reason is not None and str(spec.device) not in ("auto", "cpu"):
        say(f"warn  {spec.key}: asks for {spec.device} but {reason}: it will run on the CPU")
    if spec.weights and hook_of(spec.cls, "load") is None:
        say(f"warn  {spec.key}: has weights, and no load(self, weights, device) that takes them")
    for weight, source in spec.weights.items():
        failures += _check_weight(f"{spec.key}: weights[{weight!r}]", source, settings, say)
    return failures


def _check_weight(label: str, source: WeightSource, settings: Settings, say: Say) -> int:
    try:
        if isinstance(source, FileWeight):
            local_lease(source).release()
            say(f"ok    {label}: {source.name} is there")
            return 0
        cached = _is_cached(source, settings)
        if settings.offline:
            if cached:
                say(f"ok    {label}: {source.name} is cached")
                return 0
            say(f"FAIL  {label}: {source.name} is not cached, and THALAMUS_OFFLINE is set")
            return 1
        options = OriginOptions(deny_private_addresses=settings.deny_private_addresses)
        files = origin_for(source, options).list(source).files
    except (ThalamusError, OSError) as error:
        say(f"FAIL  {label}: {on_one_line(str(error))}")
        return 1
    size = sum(file.size or 0 for file in files)
    state = "cached" if cached else "to be fetched"
    say(f"ok    {label}: {source.name} is reachable, {len(files)} file(s), {size:,} bytes, {state}")
    return 0


def _is_cached(source: WeightSource, settings: Settings) -> bool:
    cache = cache_of(CacheOptions.from_settings(settings))
    if not (Path(cache.cache_dir) / "index.db").exists():
        return False
    entries = list_entries(cache)
    return any(entry.name == source.name and entry.state == "READY" for entry in entries)


def _type_name(kind: object) -> str:
    return getattr(kind, "__name__", None) or str(kind)
