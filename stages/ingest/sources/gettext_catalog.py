"""gettext catalogs, .po and .mo: a translated message is a document, its key (context and msgid) the alignment group.

    msgid "Open"           ->   Record(offset, 0, "Fungua", "sw", group "Open")
    msgstr "Fungua"             with source_lang: en also Record(offset, 1, "Open", "en", group "Open")

Plural forms are documents of their own; the n-th, from 0, has the group `key` for 0 and `key[n]` for the others, as has the plural of
the source language (1). Messages that are fuzzy, untranslated or obsolete are dropped and counted. The language is that of the settings
or of `{lang}`, else the one that the catalog's header states. Placeholders, accelerators and markup are left for `clean`.
Each catalog repeats the texts of the source language; `dedup` keeps one of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pipeline.config import NonEmpty
from stages.ingest.catalogs import Header, Message, mo_messages, po_messages
from stages.ingest.records import Damaged, Dropped, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of, stated_languages
from stages.ingest.streams import has_lone_surrogate, whole

_MAGIC = (b"\xde\x12\x04\x95", b"\x95\x04\x12\xde")


class Config(SourceConfig):
    """gettext catalogs."""

    kind: Literal["gettext"]
    """gettext catalogs, .po or .mo."""
    source_lang: NonEmpty | None = None
    """Language of the msgids, where these are text that is to be documents too; most projects write them in English."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language and that of the msgids; None where the header states it."""
    stated = stated_languages(file, config)
    if not stated:
        return None
    return stated if config.source_lang is None else (*stated, config.source_lang)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """The whole file."""
    return [Slice()]


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Record | Dropped | Damaged]:
    """The messages of the catalog."""
    with open_raw() as raw:
        data = whole(chunks_of(raw, file, config), config.max_record_bytes)
    if isinstance(data, Damaged):
        yield data
        return
    if not data:
        return
    lang = config.lang or file.lang
    compiled = data[:4] in _MAGIC or file.name.lower().removesuffix(".gz").endswith((".mo", ".gmo"))
    place, ordinal = -1, 0
    for item in mo_messages(data) if compiled else po_messages(data):
        if isinstance(item, Header):
            lang = lang or item.lang
        elif isinstance(item, Damaged):
            yield item
        else:
            ordinal = ordinal if item.offset == place else 0
            place = item.offset
            for found in _records(item, ordinal, lang, config):
                ordinal += 1
                yield found


def _records(message: Message, ordinal: int, lang: str | None, config: Config) -> Iterator[Record | Dropped | Damaged]:
    offset = message.offset
    if message.state != "translated":
        yield Dropped(offset, ordinal, message.state, lang)
        return
    texts = [(lang, number, text) for number, text in enumerate(message.texts)]
    if config.source_lang is not None:
        texts += [(config.source_lang, number, text) for number, text in enumerate(message.sources)]
    for at, (code, number, text) in enumerate(texts):
        group = message.key if number == 0 else f"{message.key}[{number}]"
        if has_lone_surrogate(text) or has_lone_surrogate(group):
            yield Damaged(offset, max(1, len(text)), "lone_surrogate", False, f"in message {message.key[:60]!a}")
        else:
            yield Record(offset, ordinal + at, text, code, group, None, config.licence)
