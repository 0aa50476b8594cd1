"""Message catalogs of MediaWiki and its kin: i18n/de.json, an object of messages; a message is a document, its key the alignment group.

    i18n/sw.json  {"@metadata": {...}, "cite-desc": "Huongeza..."}   ->   Record(0, 0, "Huongeza...", "sw", group "cite-desc")

The language is that of the settings or of `{lang}`, else the file's name without its suffix; a name that is no language, such as
`qqq` (notes for translators), is counted as such. Keys that begin with `@` are skipped. Placeholders and markup are left for `clean`. The offset
of all messages of a file is 0, the ordinal tells them apart. A message that is no text, or whose key comes twice, is quarantined alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from stages.ingest.records import Damaged, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of
from stages.ingest.streams import decode, has_lone_surrogate, whole


class Config(SourceConfig):
    """MediaWiki message catalogs."""

    kind: Literal["mediawiki-i18n"]
    """JSON message catalogs."""


def _lang(file: SourceFile, config: Config) -> str:
    return config.lang or file.lang or file.name.rpartition("/")[2].partition(".")[0]


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language."""
    return (_lang(file, config),)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """The whole file."""
    return [Slice()]


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Record | Damaged]:
    """The messages of the file."""
    with open_raw() as raw:
        data = whole(chunks_of(raw, file, config), config.max_record_bytes)
    text = data if isinstance(data, Damaged) else decode(data)
    if isinstance(text, Damaged):
        yield text
        return
    size = len(text.encode())
    try:
        found = json.loads(text, object_pairs_hook=list, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        yield Damaged(0, size, "bad_json", True, "nested too deeply" if isinstance(error, RecursionError) else str(error), 0)
        return
    if not _is_object(found, text):
        yield Damaged(0, size, "bad_json", True, f"an object of messages is wanted, found {type(found).__name__}", 0)
        return
    keys: dict[str, int] = {}
    for key, _ in found:
        keys[key] = keys.get(key, 0) + 1
    lang = _lang(file, config)
    for ordinal, (key, value) in enumerate(found):
        if key.startswith("@"):
            continue
        if keys[key] > 1:
            yield Damaged(0, len(key), "duplicate_key", False, f"message {key!r} is given {keys[key]} times")
        elif not isinstance(value, str):
            yield Damaged(0, len(key), "bad_field", False, f"message {key!r} is no text")
        elif has_lone_surrogate(value) or has_lone_surrogate(key):
            yield Damaged(0, len(key), "lone_surrogate", False, f"in message {key!a}")
        else:
            yield Record(0, ordinal, value, lang, key, None, config.licence)


def _is_object(found: Any, text: str) -> bool:
    """Whether the outermost value is an object, which the parser gives as a list of pairs."""
    return isinstance(found, list) and text.lstrip()[:1] == "{"


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
