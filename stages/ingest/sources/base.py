"""What all kinds of source share: the fields that say where files lie and how they are packed, and reading a slice of them line by line.

A file that is not compressed is cut anywhere, at multiples of the slice size; a slice owns the lines that start in it. Its reader
begins one byte early and drops the line it finds itself in, so that every cut gives the same lines; a compressed file is one slice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal, Self

from pydantic import Field, field_validator, model_validator

from pipeline.config import NonEmpty, Section, outside
from pipeline.errors import ConfigError
from stages.ingest import npm
from stages.ingest.records import Damaged, Slice, SourceFile
from stages.ingest.streams import Caps, Compression, compression_of, has_utf16_mark, lines, open_stream

_FEW = 8
"""Most slices of a file whose every slice goes through all bytes before it, which then costs 3.5 times the file's bytes at most."""

OpenRaw = Callable[..., BinaryIO]
"""Opens the file as stored, anew with each call; given the URL of its partner, that."""


class SourceConfig(Section):
    """The fields of every kind of source."""

    path: NonEmpty = outside(...)
    """Path, glob or fsspec URL, or npm:NAME@VERSION/GLOB; `{lang}` stands for the language."""
    lang: NonEmpty | None = None
    """Language of all files (BCP 47), where the path has no `{lang}` and the records do not say."""
    licence: NonEmpty | None = None
    """Licence of the text, kept with each document that does not state its own."""
    compression: Literal["auto", "none", "gz", "bz2", "xz", "zst"] = "auto"
    """How the files are compressed; auto goes by the suffix."""
    max_record_bytes: int = Field(16 << 20, ge=1)
    """Longest line or document, in decompressed bytes; a longer one is quarantined."""
    max_expansion: int = Field(200, ge=2)
    """Largest ratio of decompressed to compressed bytes, beyond the first 64 MiB; past it the rest of the file is quarantined."""

    @field_validator("path", "other", check_fields=False)
    @classmethod
    def _path_is_sound(cls, path: str) -> str:
        if re.search(r"[\x00-\x1f\x7f]", path):
            raise ValueError("a path must not hold control characters")
        places = re.findall(r"(?<!\$)\{[^}]*\}", path)
        if foreign := [place for place in places if place != "{lang}"]:
            raise ValueError(f"{' '.join(foreign)} in a path; allowed is {{lang}}")
        if path.startswith("npm:"):
            try:
                npm.parse(path)
            except ConfigError as error:
                raise ValueError(str(error)) from None
        return path

    @model_validator(mode="after")
    def _the_language_is_said_once(self) -> Self:
        if self.lang is not None and "{lang}" in self.path and not hasattr(self, "lang_a"):  # pairs have a word of their own on that
            raise ValueError(f"lang: {self.lang} and {{lang}} in the path both say the language; give one")
        return self


def compression_for(file: SourceFile, config: SourceConfig) -> Compression:
    """What the configuration says, else what is known of the file, else what its name says."""
    return compression_of(file.name, config.compression if config.compression != "auto" else file.compression)


def stated_languages(file: SourceFile, config: SourceConfig) -> tuple[str, ...]:
    """The one language of all records of a file, where the settings or the path state it; empty where nothing does."""
    lang = config.lang or file.lang
    return () if lang is None else (lang,)


def byte_slices(file: SourceFile, max_bytes: int) -> list[Slice]:
    """Equal ranges of `max_bytes`; at least one, and the last is open so that a file that grew is not read short in silence.

    A member of a zip archive is one range: to begin in its middle is to unpack what stands before.
    """
    if file.url.startswith("zip://"):
        return [Slice(0, None, "bytes")]
    starts = range(0, max(file.size, 1), max(max_bytes, 1))
    return [Slice(at, at + max_bytes if at + max_bytes < file.size else None, "bytes") for at in starts]


def line_slices(file: SourceFile, config: SourceConfig, max_bytes: int) -> list[Slice]:
    """The slices of a file of lines: byte ranges where it is not compressed, else the whole."""
    if compression_for(file, config) != "none":
        return [Slice()]
    return byte_slices(file, max_bytes)


def few_slices(file: SourceFile, config: SourceConfig, max_bytes: int) -> list[Slice]:
    """The slices of a file in which where a record begins is only known from what stands before: at most eight, or the whole if it is compressed."""
    return line_slices(file, config, max(max_bytes, -(-file.size // _FEW)))


def chunks_of(raw: BinaryIO, file: SourceFile, config: SourceConfig) -> Iterator[bytes | Damaged]:
    """The decompressed stream of a file from where `raw` stands."""
    return open_stream(raw, compression_for(file, config), Caps(max_expansion=config.max_expansion))


def lines_from(raw: BinaryIO, file: SourceFile, config: SourceConfig, start: int) -> Iterator[tuple[int, bytes] | Damaged]:
    """All lines that start at byte `start` or behind it. In mid-file the first item is the rest of the line that holds byte `start - 1`."""
    if start == 0:
        return lines(chunks_of(raw, file, config), config.max_record_bytes)
    if compression_for(file, config) != "none":
        raise ValueError(f"{file.name}: a compressed file has no slices")
    if has_utf16_mark(raw):
        return iter(())  # the first slice has quarantined all of it
    raw.seek(start - 1)
    return lines(chunks_of(raw, file, config), config.max_record_bytes, start - 1)


def lines_in(raw: BinaryIO, file: SourceFile, part: Slice, config: SourceConfig) -> Iterator[tuple[int, bytes] | Damaged]:
    """The lines that start in the slice, and the damage found there."""
    found = lines_from(raw, file, config, part.start)
    if part.start:
        next(found, None)
    for item in found:
        offset = item.offset if isinstance(item, Damaged) else item[0]
        if part.stop is not None and offset >= part.stop:
            return
        yield item
