"""Plain text: a document is a line, a run of lines between blank ones (as in CC-100), or a file.

    ...in the wood.\n\nOnce upon a time\nthere was a king.\n\n...   with `documents: blank-line`
                     ^ offset of the second document, whose text is its two lines joined by LF

A blank line holds nothing but ASCII white space; it parts documents and belongs to none. A document in which one line cannot be read
is quarantined as a whole. A slice owns the documents that start in it, so any cut of a file gives the same records; with `line_group` a file is one slice.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO, Literal

from pydantic import model_validator

from pipeline.config import NonEmpty
from stages.ingest.records import Damaged, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of, line_slices, lines_from, lines_in, stated_languages
from stages.ingest.streams import decode, whole

_BLANK = b" \t\r\x0b\x0c"
_LOOK_BACK_BYTES = 1 << 16


class Config(SourceConfig):
    """Plain text files."""

    kind: Literal["text"]
    """Plain text."""
    documents: Literal["line", "blank-line", "file"] = "line"
    """What a document is: a line, the lines between blank lines, or the whole file."""
    line_group: NonEmpty | None = None
    """A name for files that are aligned line by line in many languages: the alignment group of a line is then `name:number`."""

    @model_validator(mode="after")
    def _lines_are_documents(self) -> Config:
        if self.line_group is not None and self.documents != "line":
            raise ValueError("line_group numbers lines; it needs documents: line")
        return self


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language."""
    return stated_languages(file, config)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Byte ranges of at most `max_bytes`, or the whole file where it cannot be cut."""
    is_whole = config.documents == "file" or config.line_group is not None  # lines are counted from the head
    return [Slice()] if is_whole else line_slices(file, config, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Record | Damaged]:
    """The documents that start in the slice."""
    lang = config.lang or file.lang
    with open_raw() as raw:
        if config.line_group is not None:
            yield from _numbered(lines_in(raw, file, part, config), lang, config)
            return
        if config.documents == "file":
            found = iter([_whole_file(raw, file, config)])
        elif config.documents == "line":
            found = _single_lines(raw, file, part, config)
        else:
            found = _blocks(raw, file, part, config)
        for item in found:
            if isinstance(item, Damaged):
                yield item
                continue
            offset, data = item
            text = decode(data, offset)
            yield text if isinstance(text, Damaged) else Record(offset, 0, text, lang, licence=config.licence)


def _numbered(lines: Iterator[tuple[int, bytes] | Damaged], lang: str | None, config: Config) -> Iterator[Record | Damaged]:
    """Each line with its number, from 1, as its group; blank and damaged ones are counted too."""
    for number, item in enumerate(lines, 1):
        if isinstance(item, Damaged):
            yield item
        elif item[1].strip():
            text = decode(item[1], item[0])
            yield (
                text if isinstance(text, Damaged) else Record(item[0], 0, text, lang, f"{config.line_group}:{number}", None, config.licence)
            )


def _whole_file(raw: BinaryIO, file: SourceFile, config: Config) -> tuple[int, bytes] | Damaged:
    data = whole(chunks_of(raw, file, config), config.max_record_bytes)
    return data if isinstance(data, Damaged) else (0, data.replace(b"\r\n", b"\n").removesuffix(b"\n"))


def _single_lines(raw: BinaryIO, file: SourceFile, part: Slice, config: Config) -> Iterator[tuple[int, bytes] | Damaged]:
    for item in lines_in(raw, file, part, config):
        if isinstance(item, Damaged) or item[1].strip():
            yield item


@dataclass
class _Open:
    """The document being gathered: its first byte, its lines so far, and why it cannot be delivered, if so."""

    start: int
    lines: list[bytes]
    size: int = 0
    damage: Damaged | None = None

    def add(self, line: bytes, max_bytes: int) -> None:
        self.size += len(line) + 1
        if self.size > max_bytes + 1 and self.damage is None:
            self.damage = Damaged(self.start, None, "record_too_long", False, f"a document of more than {max_bytes} bytes")
        if self.damage is None:
            self.lines.append(line)
        else:
            self.lines.clear()

    def close(self, end: int) -> tuple[int, bytes] | Damaged:
        if self.damage is not None:
            return replace(self.damage, offset=self.start, length=end - self.start)
        return self.start, b"\n".join(self.lines)


def _blocks(raw: BinaryIO, file: SourceFile, part: Slice, config: Config) -> Iterator[tuple[int, bytes] | Damaged]:
    """Documents between blank lines that start in the slice, as (offset, lines joined by LF)."""
    foreign = part.start > 0 and not _is_on_blank_line(raw, part.start - 1, config.max_record_bytes)  # an earlier slice's document goes on
    found = lines_from(raw, file, config, part.start)
    if part.start:
        next(found, None)
    document: _Open | None = None
    end = part.start  # of the last line read
    for item in found:
        if isinstance(item, Damaged):
            offset, line, end = item.offset, None, item.offset + (item.length or 0)
            if item.rest_of_stream:
                yield replace(item, offset=document.start) if document else item
                return
        else:
            (offset, line), end = item, item[0] + len(item[1]) + 1
        if line is not None and not line.strip():
            if document is not None:
                yield document.close(offset)
            document, foreign = None, False
        elif not foreign:
            if document is None:
                if part.stop is not None and offset >= part.stop:
                    return
                document = _Open(offset, [])
            if line is None:
                document.damage = document.damage or (item if isinstance(item, Damaged) else None)
                document.lines.clear()
            else:
                document.add(line, config.max_record_bytes)
        if document is None and part.stop is not None and end >= part.stop:
            return
    if document is not None:
        yield document.close(end)


def _is_on_blank_line(raw: BinaryIO, at: int, max_bytes: int) -> bool:
    """Whether the line that holds byte `at` (a line holds its LF) is blank as a whole, before that byte and behind it.

    Looks no further than the first byte that is not blank, in either direction.
    """
    raw.seek(0)
    head = len(codecs.BOM_UTF8) if raw.read(3) == codecs.BOM_UTF8 else 0
    first = at = max(at, head)  # of the line; a cut within the mark is one before the line
    while first > head:
        raw.seek(low := max(head, first - _LOOK_BACK_BYTES))
        block = raw.read(first - low)
        kept = block.rstrip(_BLANK)
        first = low + len(kept)
        if kept:
            if not kept.endswith(b"\n"):
                return False
            break
    last = at  # one behind the line's content
    raw.seek(at)
    while block := raw.read(_LOOK_BACK_BYTES):
        kept = block.lstrip(_BLANK)
        last += len(block) - len(kept)
        if kept:
            if not kept.startswith(b"\n"):
                return False
            break
    return last - (first if first > head else 0) <= max_bytes
