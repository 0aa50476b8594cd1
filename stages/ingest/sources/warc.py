"""WARC files: a document is the main text of an archived page, its address the record's target.

    WARC-Type: response, HTTP 200, text/html  ->  page  ->  main text by resiliparse  ->  Record(offset, 0, "...", url "https://...")

Main text is found by rules over elements and their class names, with no word list, so the same in every language (Bevendorff et al.,
"Elastic ChatNoir", ECIR 2018, whose library this is); a line is a block of the page. Text pages (`text/plain`) are taken as they
are. What is no page is dropped and counted: records of other types (`record_type`), answers other than 200 (`http_status`), pictures
and scripts (`media_type`). Elements more than 512 deep, where parsing time becomes quadratic, quarantine the page
(`nested_too_deeply`). Licences and robots tags of pages are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Literal

from stages.ingest.http_response import ResponseError, parse, text_of
from stages.ingest.records import Damaged, Dropped, Item, Pending, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of, few_slices, stated_languages
from stages.ingest.sources.html import MAX_DEPTH, depth
from stages.ingest.streams import has_lone_surrogate
from stages.ingest.warc_records import WarcRecord, warc_records

_HTML = ("text/html", "application/xhtml+xml", "")


class Config(SourceConfig):
    """WARC files."""

    kind: Literal["warc"]
    """Archived web pages."""
    main_content: bool = True
    """Whether menus, footers and the like are left out; else all visible text is taken."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language; empty where nothing states it."""
    return stated_languages(file, config)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """A few byte ranges, or the whole of a compressed file."""
    return few_slices(file, config, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Pending | Dropped | Damaged]:
    """The pages whose record starts in the slice."""
    lang = config.lang or file.lang
    with open_raw() as raw:
        for item in warc_records(chunks_of(raw, file, config), part, config.max_record_bytes):
            if isinstance(item, Damaged):
                yield item
            elif item.headers.get("warc-type", "").lower() != "response":
                yield Dropped(item.offset, 0, "record_type", lang)
            else:
                yield Pending(item.offset, lang, partial(_page, item, lang, config))


def _page(record: WarcRecord, lang: str | None, config: Config) -> Item:
    url = record.headers.get("warc-target-uri", "").strip("<>") or None
    size = len(record.body)
    try:
        response = parse(record.body, config.max_record_bytes)
        if response.status != 200:
            return Dropped(record.offset, 0, "http_status", lang)
        if response.media_type not in (*_HTML, "text/plain"):
            return Dropped(record.offset, 0, "media_type", lang)
        text = text_of(response, "warc-truncated" in record.headers)
        if response.media_type != "text/plain":
            text = _main_text(text, config.main_content)
    except ResponseError as error:
        reason, detail = error.args
        return Damaged(record.offset, size, reason, False, detail)
    lines = (line.rstrip() for line in text.split("\n"))
    return Record(record.offset, 0, "\n".join(filter(None, lines)), lang, None, url, config.licence)


def _main_text(page: str, main_content: bool) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    if depth(page) > MAX_DEPTH:
        raise ResponseError("nested_too_deeply", f"elements more than {MAX_DEPTH} deep")
    try:
        text = extract_plain_text(page, preserve_formatting=True, main_content=main_content, list_bullets=False, alt_texts=False)
    except (ValueError, RuntimeError) as error:
        raise ResponseError("bad_html", str(error)) from None
    if has_lone_surrogate(text):
        raise ResponseError("lone_surrogate", "in the page")
    return str(text)
