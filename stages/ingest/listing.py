"""Which files the sources hold: patterns, languages, npm packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.config import resolve_path
from pipeline.errors import MissingSourceError
from pipeline.sources import Source, list_sources
from pipeline.stage import ListContext, NotFetchedError
from pipeline.storage import without_userinfo
from pipeline.text.spellings import spelling_table
from stages.ingest import Config, npm
from stages.ingest.partners import partners


def list_files(config: Config, context: ListContext) -> list[Source]:
    """All files of all sources, in the order of (source, name, language); `name` begins with the source's number, with `~` where they are the partners of others.

    Raises:
        MissingSourceError: a pattern matches nothing, or a file lacks its partner.
        NotFetchedError: a package was not fetched yet, and may not be now.
    """
    spelled = spelling_table(context.languages)
    found: list[Source] = []
    for number, source in enumerate(config.sources):
        sides: list[list[Source]] = []
        for field, mark in (("path", ""), ("other", "~")):
            stated: str | None = getattr(source, field, None)
            if stated is None:
                continue
            path = _local(stated, context, ("sources", number, field))
            matched = list_sources(path, spelled)
            if not matched:
                wanted = f" for any of the {len(context.languages)} languages" if "{lang}" in path else ""
                raise MissingSourceError(
                    f"source {without_userinfo(stated)}: no file matches{wanted} ({without_userinfo(path)}). Correct stages.ingest.sources.{number}.{field}."
                )
            sides.append([replace(file, name=f"{number}{mark}/{file.name}") for file in matched])
        if len(sides) == 2:
            partners(source.path, getattr(source, "other", ""), sides[0], sides[1], spelled)
        found.extend(file for side in sides for file in side)
    return found


def missing_languages(config: Config, files: list[Source], languages: tuple[str, ...]) -> list[str]:
    """Languages of the file for which a source with `{lang}` in its path holds nothing, if no other source names its own languages."""
    if any("{lang}" not in source.path for source in config.sources):
        return []
    held = {file.lang for file in files}
    return [lang for lang in languages if lang not in held]


def _local(path: str, context: ListContext, location: tuple[str | int, ...]) -> str:
    if not path.startswith("npm:"):
        return resolve_path(path, context.base_of(location))
    wanted = npm.parse(path)
    cache = Path(context.storage.root if context.storage.is_local else context.storage.cache) / "sources"
    folder = npm.cached(wanted.package, wanted.version, cache)
    if folder is None:
        if not context.fetch:
            raise NotFetchedError(f"npm package {wanted.package}@{wanted.version} is fetched when the run starts")
        folder = npm.fetch(wanted.package, wanted.version, cache)
    return f"{folder}/{wanted.pattern}"
