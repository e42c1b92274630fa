"""The app of ``uvicorn thalamus_lite:app``: the models of ``THALAMUS_MODELS``, or the built-in
digits demo.

Each name in the variable is a module (``my_pkg.models``), whose models register on
``thalamus_lite.app``, or a module with an app of its own (``other:app``), whose models are then
served as well.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from thalamus_lite.errors import ConfigurationError
from thalamus_lite.imports import import_by_name
from thalamus_lite.settings import Settings
from thalamus_lite.thalamus import Thalamus

if TYPE_CHECKING:
    from thalamus_lite.engine import Engine


_log = logging.getLogger("thalamus_lite")


class DefaultApp(Thalamus):
    """Finds its models at its first start: the environment is not read at import."""

    def __init__(self) -> None:
        super().__init__(name="thalamus-lite")
        self._found: set[str] = set()

    async def _start(self) -> Engine:
        # Here: the package's import makes the app, and should not bring what only serving needs.
        from thalamus_lite.observability.logs import configure

        settings = Settings.from_env()
        configure(settings.log_level or self.log_level)
        try:
            self.find_models(settings)
        except ConfigurationError as error:
            if error.__cause__ is not None:
                # Servers tell the sentence at most.
                _log.error("a module of THALAMUS_MODELS raised", exc_info=error.__cause__)
            raise
        return await super()._start()

    def find_models(self, settings: Settings) -> None:
        """Register what the environment names, each name once.

        Raises:
            ConfigurationError: a name that leads nowhere. Where a module raised, that is its
                ``__cause__``.
            ValueError: a model that two of them have.
        """
        for name in settings.models:
            # A start that failed is tried again, and what it found then is here already.
            if name not in self._found:
                self._add(name)
                self._found.add(name)
        if not self.models:
            if settings.models:
                raise ConfigurationError(
                    f"THALAMUS_MODELS={','.join(settings.models)} registers no model: decorate a"
                    " class with @thalamus_lite.app.model(), or name an app as module:app"
                )
            from thalamus_lite.demo.model import register

            register(self)

    def _add(self, name: str) -> None:
        from thalamus_lite.observability.logs import enable

        module_name, _, attribute = name.partition(":")
        if not module_name or module_name.startswith("."):
            raise ConfigurationError(
                f"THALAMUS_MODELS names {name!r}, which begins with no module: write"
                " my_pkg.models or my_pkg.models:app"
            )
        try:
            module = import_by_name(module_name)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"THALAMUS_MODELS names {name!r}: {error}"
            ) from error.__cause__
        finally:
            # The module may have configured the logging of its own.
            enable()
        if not attribute:
            # A module may also bring its app under the usual name.
            attribute = "app" if isinstance(getattr(module, "app", None), Thalamus) else ""
        if attribute:
            other = getattr(module, attribute, None)
            if not isinstance(other, Thalamus):
                raise ConfigurationError(
                    f"THALAMUS_MODELS names {name!r}, and {attribute!r} there is not a Thalamus app"
                )
            if other is not self:
                self.adopt(other)


app = DefaultApp()
