"""Dumps of Wikipedia and other MediaWiki wikis: a document is the current text of a page, without its markup.

    swwiki-latest-pages-articles-multistream.xml.bz2   ->   Record(644, 0, "Moshi ni mji...", "sw", url "https://sw.wikipedia.org/wiki/Moshi")

The language is that of the settings or of `{lang}`, else the one that the dump's head states. Redirects (`redirect`), pages outside the
wanted namespaces (`namespace`) and pages of another content than wiki text (`content_model`) are dropped. See `dump_pages` for how a
dump is cut into slices, `wikitext` for what markup leaves behind.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from pydantic import Field

from stages.ingest.dump_pages import RawPage, pages_in
from stages.ingest.dump_xml import DumpError, Page, Site, read_page, read_site
from stages.ingest.records import Damaged, Dropped, Item, Pending, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, byte_slices, chunks_of, compression_for, stated_languages
from stages.ingest.streams import Caps, has_lone_surrogate

_HEAD_BYTES = 1 << 20


class Config(SourceConfig):
    """MediaWiki dumps."""

    kind: Literal["wikipedia"]
    """XML dumps of MediaWiki."""
    namespaces: tuple[int, ...] = (0,)
    """Numbers of the namespaces whose pages are documents; 0 holds the articles."""
    max_record_bytes: int = Field(32 << 20, ge=1)
    """Longest page, in bytes of XML; a longer one is quarantined."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language; None where the dump's head states it."""
    return stated_languages(file, config) or None


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Byte ranges of a dump that is not compressed or is bz2, else the whole."""
    return byte_slices(file, max_bytes) if compression_for(file, config) in ("none", "bz2") else [Slice()]


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Pending | Dropped | Damaged]:
    """The pages that start in the slice."""
    site = _site(open_raw, file, config)
    lang = config.lang or file.lang or site.lang
    compression = compression_for(file, config)
    with open_raw() as raw:
        for item in pages_in(raw, compression, part, Caps(max_expansion=config.max_expansion), config.max_record_bytes):
            if isinstance(item, Damaged):
                yield item
                continue
            try:
                page = read_page(item.data)
            except DumpError as error:
                yield Damaged(item.offset, len(item.data), "bad_xml", False, str(error))
                continue
            reason = _refused(page, config)
            if reason is not None:
                yield Dropped(item.offset, item.ordinal, reason, lang)
            else:
                yield Pending(item.offset, lang, partial(_document, item, page, site, lang, config))


def _site(open_raw: OpenRaw, file: SourceFile, config: Config) -> Site:
    head = b""
    with open_raw() as raw:
        for chunk in chunks_of(raw, file, config):
            if isinstance(chunk, Damaged):
                break  # reading the pages finds it too
            head += chunk
            if len(head) >= _HEAD_BYTES or b"</siteinfo>" in head:
                break
    try:
        return read_site(head)
    except DumpError:
        return Site()


def _refused(page: Page, config: Config) -> str | None:
    if page.namespace not in config.namespaces:
        return "namespace"
    if page.redirect:
        return "redirect"
    return "content_model" if page.model != "wikitext" else None


def _document(raw: RawPage, page: Page, site: Site, lang: str | None, config: Config) -> Item:
    from stages.ingest.wikitext import text_of

    if page.text is None:
        return Damaged(raw.offset, len(raw.data), "missing_text", False, f"page {page.title!r}: removed or missing")
    try:
        text = text_of(page.text, site.unlinked)
    except (ValueError, RecursionError) as error:
        return Damaged(raw.offset, len(raw.data), "bad_markup", False, f"page {page.title!r}: {type(error).__name__}: {error}")
    if has_lone_surrogate(text):
        return Damaged(raw.offset, len(raw.data), "lone_surrogate", False, f"page {page.title!r}")
    return Record(raw.offset, raw.ordinal, text, lang, None, site.url(page.title), config.licence)
