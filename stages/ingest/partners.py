"""Which two files belong together where a source has its sides in two patterns.

    path  data/*/corpus.{lang}   data/a/corpus.de, data/b/corpus.de     ->  (data/a/corpus.de, data/a/corpus.en),
    other data/*/corpus.en       data/a/corpus.en, data/b/corpus.en         (data/b/corpus.de, data/b/corpus.en)

Files match that agree in the language and in what each wildcard stands for; never by their order, in which one missing file would shift all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from pipeline.errors import ConfigError, MissingSourceError
from pipeline.sources import Source, fixed_root

_TOKENS = re.compile(r"\{lang\}|\*\*/|\*\*|\*|\?|\[[^\]]*\]|[^*?\[{]+|.", re.DOTALL)
_LANG = "{lang}"
_WILD = {"**/": "((?:.*/)?)", "**": "(.*)", "*": "([^/]*)", "?": "([^/])"}


def partners(
    path: str, other: str, firsts: Sequence[Source], seconds: Sequence[Source], spelled: Mapping[str, tuple[str, ...]]
) -> list[tuple[Source, Source]]:
    """Each file of `path` with its partner in `other`; a file that is its own partner (the pivot's) is left out.

    Raises:
        MissingSourceError: a file has none; the message names it.
        ConfigError: two files could be the partner of one.
    """
    every_lang = "{lang}" not in other
    held: dict[tuple[str | None, tuple[str, ...]], Source] = {}
    for file in seconds:
        key = (file.lang, _captured(other, file, spelled))
        if key in held:
            raise ConfigError(f"{file.url} and {held[key].url} match {other} in the same way; give a pattern that tells them apart.")
        held[key] = file
    found: list[tuple[Source, Source]] = []
    used: set[tuple[str | None, tuple[str, ...]]] = set()
    for file in firsts:
        key = (None if every_lang else file.lang, _captured(path, file, spelled))
        partner = held.get(key)
        if partner is None:
            raise MissingSourceError(
                f"source {file.url}: no file of {other} is its other side. Add it, or take the file out of the pattern."
            )
        used.add(key)
        if partner.url != file.url:
            found.append((file, partner))
    for key, file in held.items():
        if key not in used:
            raise MissingSourceError(
                f"source {file.url}: no file of {path} is its other side. Add it, or take the file out of the pattern."
            )
    return found


def _captured(pattern: str, file: Source, spelled: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """What each wildcard of the pattern stands for in the file's name, which begins behind the pattern's fixed folders."""
    own = pattern.partition("::")[0][len(fixed_root(pattern)) :]
    codes = spelled.get(file.lang, ()) if file.lang is not None else ()
    expression = "".join(_expression(_TOKENS.findall(own), codes))
    match = re.fullmatch(expression, file.name.partition("/")[2], re.DOTALL)
    if match is None:
        raise ConfigError(f"{file.url}: cannot be told apart by {pattern}; give a path with plain wildcards (*, ?, [ab]).")
    return match.groups()


def _expression(tokens: Iterable[str], codes: tuple[str, ...]) -> Iterable[str]:
    for token in tokens:
        if token == _LANG:
            # One spelling is taken for all places of a path.
            yield f"(?:{'|'.join(map(re.escape, codes))})"
        elif token in _WILD:
            yield _WILD[token]
        elif token.startswith("[") and len(token) > 2:
            yield f"({token.replace('[!', '[^', 1)})"
        else:
            yield re.escape(token)
