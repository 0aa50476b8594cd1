"""Where the identification model lies that the configuration names."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import resolve_path
from pipeline.errors import MissingSourceError
from pipeline.sources import Source, list_sources
from pipeline.stage import ListContext
from pipeline.storage import without_userinfo
from stages.clean import Config

PREFIX = "identify/"
"""How the name of the model's source begins."""


def list_models(config: Config, context: ListContext) -> list[Source]:
    """The file of the model, if there is to be one.

    Raises:
        MissingSourceError: it is not there, or the pattern matches several.
    """
    if config.identify_model is None or not config.identify:
        return []
    found = list_sources(resolve_path(config.identify_model, context.base_of(("identify_model",))), {})
    if len(found) != 1:
        raise MissingSourceError(
            f"clean.identify_model: {len(found)} files match {without_userinfo(config.identify_model)}; it must name one. Correct the path."
        )
    return [replace(found[0], name=PREFIX + found[0].name)]
