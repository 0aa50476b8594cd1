"""Which files the sources hold: patterns, languages, npm packages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline.config import resolve_path
from pipeline.errors import MissingSourceError
from pipeline.stage import ListContext, NotFetchedError
from pipeline.storage import Source, list_sources, without_userinfo
from pipeline.text.spellings import spelling_table
from stages.ingest import Config, npm


def list_files(config: Config, context: ListContext) -> list[Source]:
    """All files of all sources, in the order of (source, name, language); `name` begins with the source's number.

    Raises:
        MissingSourceError: a pattern matches nothing.
        NotFetchedError: a package was not fetched yet, and may not be now.
    """
    spelled = spelling_table(context.languages)
    found: list[Source] = []
    for number, source in enumerate(config.sources):
        path = _local(source.path, context, ("sources", number, "path"))
        matched = list_sources(path, spelled)
        if not matched:
            wanted = f" for any of the {len(context.languages)} languages" if "{lang}" in path else ""
            raise MissingSourceError(
                f"source {without_userinfo(source.path)}: no file matches{wanted} ({without_userinfo(path)}). Correct stages.ingest.sources.{number}.path."
            )
        found.extend(replace(file, name=f"{number}/{file.name}") for file in matched)
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
