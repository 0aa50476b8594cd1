"""The files of labelled sets: where they lie and which split and language each is of."""

from __future__ import annotations

from dataclasses import replace

from pipeline.config import resolve_path
from pipeline.errors import ConfigError, MissingSourceError
from pipeline.sources import Source, list_sources
from pipeline.stage import ListContext
from pipeline.storage import without_userinfo
from pipeline.text import languages
from pipeline.text.spellings import spelling_table
from stages.examples import Config

SPLITS = ("train", "dev", "test")


def list_files(config: Config, context: ListContext) -> list[Source]:
    """All files of all sets.

    Raises:
        MissingSourceError: a pattern matches nothing.
        ConfigError: a file's language is not given.
    """
    found: list[Source] = []
    spellings = spelling_table(context.languages)
    for name, wanted in sorted(config.sets.items()):
        for split in SPLITS:
            pattern = getattr(wanted, split)
            if pattern is None:
                continue
            matched = list_sources(resolve_path(pattern, context.base_of(("sets", name, split))), spellings)
            if not matched:
                raise MissingSourceError(f"examples set {name}: {split} file {without_userinfo(pattern)} is not there. Correct the path.")
            lang = wanted.lang or _from_name(pattern)
            for source in matched:
                if source.lang is None and lang is None:
                    raise ConfigError(
                        f"examples set {name}: the language of {source.name} is not known. Give `lang:` or put {{lang}} into the path."
                    )
                found.append(replace(source, name=f"{name}/{split}/{source.name}", lang=source.lang or lang))
    return found


def _from_name(pattern: str) -> str | None:
    """The language a file is named for (`xnli/en.tsv`), if its stem is a code."""
    stem = pattern.rpartition("/")[2].split(".")[0]
    try:
        return languages.lookup(stem).code
    except ConfigError:
        return None
