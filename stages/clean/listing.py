"""Where the block lists lie."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import resolve_path
from pipeline.errors import MissingSourceError
from pipeline.sources import Source, list_sources
from pipeline.stage import ListContext
from pipeline.storage import without_userinfo
from pipeline.text.spellings import spelling_table
from stages.clean import Config


def list_files(config: Config, context: ListContext) -> list[Source]:
    """The files of both kinds of lists; `name` is `urls/<file>` or `words/<file>`.

    Raises:
        MissingSourceError: a pattern matches nothing.
    """
    found: list[Source] = []
    for kind, pattern in (("urls", config.blocked_urls), ("words", config.blocked_words)):
        if pattern is None:
            continue
        path = resolve_path(pattern, context.base_of((f"blocked_{kind}",)))
        matched = list_sources(path, spelling_table(context.languages))
        if not matched:
            raise MissingSourceError(
                f"clean.blocked_{kind}: no file matches {without_userinfo(pattern)}. Correct the path, or leave it out."
            )
        found += [replace(file, name=f"{kind}/{file.name}") for file in matched]
    return found
