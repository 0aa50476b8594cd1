"""WET files of Common Crawl: a document is the plain text of a page (`conversion` record), its address the record's target.

    WARC-Type: conversion                          ->  Record(offset, 0, "...", lang "deu", url "https://example.org/")
    WARC-Target-URI: https://example.org/
    WARC-Identified-Content-Language: deu,eng

Of several identified languages the first, which is the page's main one, counts. Records of other types, such as the `warcinfo` at the
head, are dropped (`record_type`). A file that is not compressed is cut into a few slices; a compressed one, of which a crawl has many, is one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from stages.ingest.records import Damaged, Dropped, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of, few_slices, stated_languages
from stages.ingest.streams import decode
from stages.ingest.warc_records import warc_records


class Config(SourceConfig):
    """WET files."""

    kind: Literal["wet"]
    """Text of web pages, as Common Crawl extracts it."""
    identified_language: bool = True
    """Whether the language that the crawl identified counts; `lang` and `{lang}` serve where there is none."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language; None where each record may say its own."""
    return None if config.identified_language else stated_languages(file, config)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """A few byte ranges, or the whole of a compressed file."""
    return few_slices(file, config, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Record | Dropped | Damaged]:
    """The pages whose record starts in the slice."""
    with open_raw() as raw:
        for item in warc_records(chunks_of(raw, file, config), part, config.max_record_bytes):
            if isinstance(item, Damaged):
                yield item
                continue
            identified = item.headers.get("warc-identified-content-language", "").partition(",")[0].strip()
            lang = (identified if config.identified_language else "") or config.lang or file.lang
            if item.headers.get("warc-type", "").lower() != "conversion":
                yield Dropped(item.offset, 0, "record_type")
                continue
            text = decode(item.body, item.offset)
            if isinstance(text, Damaged):
                yield text
                continue
            text = text.replace("\r\n", "\n").strip("\n")
            yield Record(item.offset, 0, text, lang, None, item.headers.get("warc-target-uri") or None, config.licence)
