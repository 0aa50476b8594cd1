"""Tables as text: CSV after RFC 4180, or tab-separated with a header; a row is a document, its columns named in the configuration.

    text,lang,id                                  ->  Record(13, 0, "Karibu,\\nrafiki.", "sw", group "7")
    "Karibu,\\nrafiki.",sw,7                          text_column: text, lang_column: lang, group_column: id

In a quoted table a quotation mark always opens or closes a quoted field (`""` in it stands for one), and a row ends at a line end outside
quotes: which that is follows from how many marks stand before it. So each slice of a file that is not compressed first counts the marks before its start (at
gigabytes a second), and a file has eight slices at most. A mark that RFC 4180 does not allow is damage (`bad_csv`), to the rows up to the
next mark too. Tab-separated
tables are not quoted unless `quoted` says so; then a line is a row, and a file is cut like text. Rows of white space are skipped. A row with fewer
columns than are wanted is quarantined (`too_few_columns`); CR LF in a field becomes LF.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import BinaryIO, Literal

from pydantic import Field, model_validator

from pipeline.config import NonEmpty
from pipeline.errors import ConfigError
from stages.ingest.records import Damaged, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of, few_slices, line_slices, lines_in, stated_languages
from stages.ingest.streams import decode, has_utf16_mark, quoted_lines

_COUNT_BYTES = 1 << 22
_Column = NonEmpty | int


class Config(SourceConfig):
    """CSV and other tables as text."""

    kind: Literal["csv"]
    """Comma-separated, or another delimiter."""
    delimiter: str = Field(",", min_length=1, max_length=1)
    """What parts columns: one character, such as a comma, ";" or a tab."""
    quoted: bool | None = None
    """Whether fields may stand in quotation marks; none means yes, but for tabs no."""
    header: bool = True
    """Whether the first row names the columns; without it, columns are numbers from 0."""
    text_column: _Column = "text"
    """Column of the text: its name in the header, or its number from 0."""
    lang_column: _Column | None = None
    """Column of the language; `lang` and `{lang}` serve where it is empty."""
    group_column: _Column | None = None
    """Column of what aligns a document with its translations."""
    url_column: _Column | None = None
    """Column of the document's address."""
    licence_column: _Column | None = None
    """Column of the document's own licence."""

    @model_validator(mode="after")
    def _columns_can_be_found(self) -> Config:
        if self.delimiter in '"\r\n\0':
            raise ValueError(f"delimiter {self.delimiter!r} cannot part columns")
        for name, column in _columns(self).items():
            if isinstance(column, str) and not self.header:
                raise ValueError(f"{name}_column {column!r} is a name, but header is false: give its number, from 0")
            if isinstance(column, int) and column < 0:
                raise ValueError(f"{name}_column {column} is negative; columns are counted from 0")
        return self


def _columns(config: Config) -> dict[str, str | int]:
    named = {
        "text": config.text_column, "lang": config.lang_column, "group": config.group_column, "url": config.url_column,
        "licence": config.licence_column,
    }  # fmt: skip
    return {name: column for name, column in named.items() if column is not None}


def _is_quoted(config: Config) -> bool:
    return config.delimiter != "\t" if config.quoted is None else config.quoted


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language; None where `lang_column` lets each record say its own."""
    return None if config.lang_column is not None else stated_languages(file, config)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Byte ranges, a few where the table is quoted, or the whole of a compressed file."""
    return few_slices(file, config, max_bytes) if _is_quoted(config) else line_slices(file, config, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Record | Damaged]:
    """The records whose row starts in the slice.

    Raises:
        ConfigError: the header lacks a column; the message names those it has.
    """
    csv.field_size_limit(max(csv.field_size_limit(), config.max_record_bytes))
    places: dict[str, int] | None = None if config.header else {name: int(column) for name, column in _columns(config).items()}
    with open_raw() as raw:
        if config.header and part.start:
            first = next((item for item in _rows(raw, file, Slice(), config) if isinstance(item, Damaged) or item[1].strip()), None)
            places = {} if first is None or isinstance(first, Damaged) else _header(first, file, config)
            raw.seek(0)
        for item in _rows(raw, file, part, config):
            if isinstance(item, Damaged):
                yield item
            elif not item[1].strip():
                continue
            elif places is None:
                places = _header(item, file, config)
            else:
                yield _record(item, places, file, config)


def _rows(raw: BinaryIO, file: SourceFile, part: Slice, config: Config) -> Iterator[tuple[int, bytes] | Damaged]:
    """Rows that start in the slice, as (offset, bytes without the line end)."""
    if not _is_quoted(config):
        yield from lines_in(raw, file, part, config)
        return
    marks = 0
    if part.start:
        if has_utf16_mark(raw):
            return  # the first slice has quarantined all of it
        raw.seek(0)
        left = part.start - 1
        while left and (block := raw.read(min(left, _COUNT_BYTES))):
            marks += block.count(b'"')
            left -= len(block)
    begin = max(0, part.start - 1)
    found = quoted_lines(chunks_of(raw, file, config), config.max_record_bytes, begin, in_quotes=marks % 2 == 1)
    if part.start:
        next(found, None)  # the rest of the row that holds the byte before the slice
    for item in found:
        offset = item.offset if isinstance(item, Damaged) else item[0]
        if part.stop is not None and offset >= part.stop:
            return
        yield item


def _cells(offset: int, row: bytes, config: Config) -> list[str] | Damaged:
    text = decode(row, offset)
    if isinstance(text, Damaged):
        return text
    if not _is_quoted(config):
        return text.split(config.delimiter)
    try:
        return next(csv.reader([text.replace("\r\n", "\n")], delimiter=config.delimiter, strict=True))
    except (csv.Error, StopIteration) as error:
        return Damaged(offset, len(row), "bad_csv", False, str(error))


def _header(row: tuple[int, bytes], file: SourceFile, config: Config) -> dict[str, int]:
    cells = _cells(*row, config)
    if isinstance(cells, Damaged):
        raise ConfigError(
            f"source {file.name}: its first row cannot be read as a header: {cells.detail}. Set header: false if it has none."
        )
    names = [cell.strip() for cell in cells]
    places = {}
    for field, column in _columns(config).items():
        if isinstance(column, int):
            places[field] = column
        elif names.count(column) == 1:
            places[field] = names.index(column)
        else:
            problem = "given twice" if column in names else "not there"
            raise ConfigError(
                f"source {file.name}: {field}_column: column {column!r} is {problem}; the file has {', '.join(map(repr, names[:30]))}."
            )
    return places


def _record(row: tuple[int, bytes], places: dict[str, int], file: SourceFile, config: Config) -> Record | Damaged:
    offset, data = row
    cells = _cells(offset, data, config)
    if isinstance(cells, Damaged):
        return cells
    wanted = max(places.values(), default=0) + 1
    if len(cells) < wanted:
        return Damaged(offset, len(data), "too_few_columns", False, f"{len(cells)} columns, {wanted} wanted")
    found = {field: cells[place] for field, place in places.items()}
    lang = found.get("lang", "").strip() or config.lang or file.lang
    return Record(
        offset, 0, found.get("text", ""), lang, found.get("group") or None, found.get("url") or None, found.get("licence") or config.licence
    )
