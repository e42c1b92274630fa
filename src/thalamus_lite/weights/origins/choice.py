"""Which origin a source is fetched from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalamus_lite.errors import WeightSourceInvalid
from thalamus_lite.weights.forks import no_fork

if TYPE_CHECKING:
    from thalamus_lite.weights.origin import Origin, OriginOptions
    from thalamus_lite.weights.sources import WeightSource


def origin_for(source: WeightSource, options: OriginOptions) -> Origin:
    """The origin of this kind of source; only what that one needs is imported.

    Raises:
        MissingExtra: the optional dependency is not installed.
    """
    # A child that is born in the middle of an import could never import the same again.
    with no_fork():
        if source.type == "http":
            from thalamus_lite.weights.origins.http_origin import HTTPOrigin

            return HTTPOrigin(options)
        if source.type == "s3":
            from thalamus_lite.weights.origins.s3_origin import S3Origin

            return S3Origin(options)
        if source.type == "hf":
            from thalamus_lite.weights.origins.hub_origin import HubOrigin

            return HubOrigin(options)
    raise WeightSourceInvalid(f"a source of type {source.type!r} is not fetched from anywhere")
