"""Model ids, their versions, and which of them serve a request that names none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from packaging.version import InvalidVersion, Version

from thalamus_lite.errors import ModelNotFound, NoDefaultModel, VersionNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from thalamus_lite.model.spec import ModelSpec

LATEST = "latest"
MAX_VERSION = 256
"""Characters. What a client asks for is parsed, and an int of 5,000 digits is an error of its
own.
"""


class Registry:
    """Specs by id and version, in the order of their registration."""

    def __init__(self) -> None:
        self._models: dict[str, dict[str, ModelSpec]] = {}
        self._default_id: str | None = None
        self._default_versions: dict[str, ModelSpec] = {}
        self._highest: dict[str, ModelSpec] = {}

    def register(self, spec: ModelSpec) -> None:
        """
        Raises:
            ValueError: the id has this version already, in this or an equal spelling.
        """
        self.check(spec)
        self._models.setdefault(spec.id, {})[spec.version] = spec
        highest = self._highest.get(spec.id)
        if highest is None or spec.parsed_version > highest.parsed_version:
            self._highest[spec.id] = spec
        if spec.declaration.default:
            self._default_id = spec.id
        if spec.declaration.default_version:
            self._default_versions[spec.id] = spec

    def check(self, spec: ModelSpec) -> None:
        """
        Raises:
            ValueError: as :meth:`register` would.
        """
        for other in self._models.get(spec.id, {}).values():
            if other.parsed_version == spec.parsed_version:
                raise ValueError(
                    f"{spec.id}: version {spec.version} is registered already, as {other.version}"
                )

    def resolve(self, model_id: str | None, version: str | None = None) -> ModelSpec:
        """The model that serves a request.

        Raises:
            NoDefaultModel: the request names no model, and none is the default.
            ModelNotFound, VersionNotFound: what it names is not registered.
        """
        if model_id is None:
            model_id = self.default_id
            if model_id is None:
                raise NoDefaultModel
        versions = self._models.get(model_id)
        if versions is None:
            raise ModelNotFound
        if version is None or version == LATEST:
            return self._default_versions.get(model_id) or self._highest[model_id]
        spec = versions.get(version) or _equal(versions, version)
        if spec is None:
            raise VersionNotFound
        return spec

    def versions(self, model_id: str) -> list[ModelSpec]:
        """All versions of one model, highest first.

        Raises:
            ModelNotFound: no such id.
        """
        versions = self._models.get(model_id)
        if versions is None:
            raise ModelNotFound
        return sorted(versions.values(), key=lambda spec: spec.parsed_version, reverse=True)

    @property
    def default_id(self) -> str | None:
        """The declared default, else the only id there is."""
        if self._default_id is None and len(self._models) == 1:
            return next(iter(self._models))
        return self._default_id

    def is_default(self, spec: ModelSpec) -> bool:
        return spec.id == self.default_id

    def is_default_version(self, spec: ModelSpec) -> bool:
        return self.resolve(spec.id) is spec

    def __iter__(self) -> Iterator[ModelSpec]:
        for versions in self._models.values():
            yield from versions.values()

    def __len__(self) -> int:
        return sum(len(versions) for versions in self._models.values())


def _equal(versions: dict[str, ModelSpec], version: str) -> ModelSpec | None:
    """``1.0`` finds ``1.0.0``: PEP 440 holds them equal."""
    if len(version) > MAX_VERSION:
        return None
    try:
        wanted = Version(version)
    except InvalidVersion:
        return None
    for spec in versions.values():
        if spec.parsed_version == wanted:
            return spec
    return None
