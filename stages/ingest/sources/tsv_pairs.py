"""Bitext as tab-separated columns: one pair a line, a text in each of two columns.

    en<TAB>de                        ->  Pair(offset, 0, "en", "de", ...)
    path "bitext/{lang}-en.tsv.gz"   ->  lang_a is what {lang} stands for, lang_b "en"

A tab parts columns, or what `delimiter` says; LF ends a line. Quotation marks are text unless `quoted` is set: then a column may stand in double quotes,
in which two stand for one and the delimiter is text; a line in which one is not closed is quarantined (`open_quote`), as a text in quotes cannot hold a
line feed. White-space lines are skipped. A line with too few columns is quarantined (`too_few_columns`); a pair with an empty side is delivered, for the
rules to drop and count.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config import NonEmpty
from pipeline.errors import ConfigError
from stages.ingest.records import Damaged, Pair, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, line_slices, lines_in
from stages.ingest.streams import decode

_CODE = r"([A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*)"


class Config(SourceConfig):
    """Tab-separated bitext."""

    kind: Literal["tsv-pairs"]
    """Tab-separated bitext."""
    lang_a: NonEmpty | None = None
    """Language of the first side; none takes it from the path: `{lang}`, or xx in `xx-{lang}`."""
    lang_b: NonEmpty | None = None
    """Language of the second side; none takes it from the path: xx in `{lang}-xx`, or `{lang}`."""
    column_a: int = Field(0, ge=0)
    """Column of the first side, from 0."""
    column_b: int = Field(1, ge=0)
    """Column of the second side, from 0."""
    group_column: int | None = Field(None, ge=0)
    """Column of what aligns a pair with the same text in more languages."""
    delimiter: str = Field("\t", min_length=1, max_length=1)
    """Character that parts columns."""
    quoted: bool = False
    """Whether a column may stand in double quotes, as in CSV."""
    header: bool = False
    """Whether the first line names the columns and is skipped."""
    as_text: bool = False
    """Whether each side also serves as monolingual text."""

    @model_validator(mode="after")
    def _languages_are_known(self) -> Config:
        if self.lang is not None:
            raise ValueError("lang has no meaning for pairs; set lang_a and lang_b")
        if self.column_a == self.column_b:
            raise ValueError(f"column_a and column_b are both {self.column_a}")
        _sides(self, "xx")
        return self


def _sides(config: Config, lang: str | None) -> tuple[str, str]:
    """The languages of the two sides in a file where `{lang}` stands for `lang`.

    Raises:
        ValueError: neither the settings nor the path say.
    """
    a, b = config.lang_a, config.lang_b
    placeholder = lang if "{lang}" in config.path else None
    if a is None and b is None:
        if behind := re.search(r"\{lang\}[-_]" + _CODE + r"(?![A-Za-z0-9-])", config.path):
            a, b = placeholder, behind.group(1)
        elif before := re.search(r"(?<![A-Za-z0-9-])" + _CODE + r"[-_]\{lang\}", config.path):
            a, b = before.group(1), placeholder
    else:
        a, b = a or placeholder, b or placeholder
    if a is None or b is None:
        raise ValueError(
            "the languages are not known: set lang_a and lang_b, or one of them with {lang} in the path, or a path with {lang}-xx"
        )
    return a, b


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """Those of the two sides."""
    return _languages(file, config)


def _languages(file: SourceFile, config: Config) -> tuple[str, str]:
    try:
        return _sides(config, file.lang)
    except ValueError as error:
        raise ConfigError(f"source {file.name}: {error}") from None


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Byte ranges of at most `max_bytes`, or the whole of a compressed file."""
    return line_slices(file, config, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Pair | Damaged]:
    """The pairs whose line starts in the slice.

    Raises:
        ConfigError: the file's language is not known.
    """
    lang_a, lang_b = _languages(file, config)
    with open_raw() as raw:
        for item in lines_in(raw, file, part, config):
            if isinstance(item, Damaged):
                yield item
                continue
            offset, line = item
            if not line.strip() or (config.header and offset == 0):
                continue
            text = decode(line, offset)
            if isinstance(text, Damaged):
                yield text
                continue
            columns = _columns(text, config)
            if columns is None:
                yield Damaged(offset, len(line), "open_quote", False, "a quotation mark is not closed")
                continue
            wanted = max(config.column_a, config.column_b, config.group_column or 0) + 1
            if len(columns) < wanted:
                yield Damaged(offset, len(line), "too_few_columns", False, f"{len(columns)} columns, {wanted} wanted")
                continue
            group = None if config.group_column is None else columns[config.group_column] or None
            yield Pair(offset, 0, lang_a, lang_b, columns[config.column_a], columns[config.column_b], group, config.licence)


def _columns(line: str, config: Config) -> list[str] | None:
    """The columns of a line; None where a quotation mark is not closed."""
    if not config.quoted:
        return line.split(config.delimiter)
    try:
        return next(csv.reader([line], delimiter=config.delimiter, strict=True), [])
    except csv.Error:
        return None
