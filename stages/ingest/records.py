"""What a reader takes and what it yields: a file, a slice of it, and then records, pairs or damage, in the order of the file.

    SourceFile + Slice  ->  reader  ->  Record | Pair | Dropped | Damaged | Pending, ...

Every place is an `offset` into the decompressed bytes of the file (the row number in a columnar file, the stored offset of the stream in
a bz2 file that is cut between its streams) and an `ordinal`, so that a document keeps its identity however the file is cut. Nothing is
left out in silence: what cannot be read is yielded as `Damaged`, what is no text by the source's own rules as `Dropped`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source. `name` is its path below the fixed part of the pattern; `lang` what `{lang}` stood for.

    `compression` overrides the name's suffix where it is known otherwise; `size` is in bytes, as stored. `partner` is the file that is read along with it,
    where a source has its sides in two.
    """

    url: str
    name: str
    size: int
    lang: str | None = None
    compression: str | None = None
    partner: SourceFile | None = None


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a file that one unit reads: the records that start in [start, stop) of its bytes as stored, or the whole file.

    Which bytes a slice's records cover is known only on reading: the last record may end behind `stop`. A unit's key must
    therefore hold the sha256 of the file with `start` and `stop`, not a digest of the slice's own bytes.
    """

    start: int = 0
    stop: int | None = None
    unit: Literal["bytes", "whole"] = "whole"


class Record(NamedTuple):
    """One document as its source gives it, not yet normalised. `text` has no lone surrogates; it may be empty and may hold NUL.

    `offset`: decompressed bytes (columnar: rows) before it; `ordinal`: the how-manieth record at that offset, from 0.
    `group`: what aligns it with its translations. A named tuple, since making one costs a third of what a frozen dataclass does.
    """

    offset: int
    ordinal: int
    text: str
    lang: str | None = None
    group: str | None = None
    url: str | None = None
    licence: str | None = None


class Pair(NamedTuple):
    """One sentence or paragraph in two languages; a side may be empty. Places as in `Record`."""

    offset: int
    ordinal: int
    lang_a: str
    lang_b: str
    text_a: str
    text_b: str
    group: str | None = None
    licence: str | None = None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A record that was read and is not taken, for a named reason: a redirect, an untranslated message, a picture in a web archive."""

    offset: int
    ordinal: int
    reason: str
    lang: str | None = None


@dataclass(frozen=True, slots=True)
class Damaged:
    """Something that could not be read and is quarantined.

    `offset` as in `Record`; `length` in the same unit, None where the end is not known; `reason` one word to count by;
    `rest_of_stream`: nothing behind `offset` was delivered. `detail` is for the eye alone: it may quote a library's message and
    enters no key and no digest.

    `stored_offset`: for damage to a stream, the bytes of the file as stored that were read by then, so that
    what is lost can be told as a share of the file (`offset` counts decompressed bytes); 0 where all of the file is lost.

    Reasons of streams: truncated, corrupt, garbage_tail, expansion_ratio, expansion_total, utf16. Of records: record_too_long,
    invalid_utf8, lone_surrogate, bad_json, open_quote, duplicate_key, missing_text, bad_field, too_few_columns, nested_too_deeply, bad_csv, bad_frame,
    bad_http, bad_charset, bad_html, bad_xml, bad_markup, bad_catalog.
    """

    offset: int
    length: int | None
    reason: str
    rest_of_stream: bool = False
    detail: str = ""
    stored_offset: int | None = None


Item = Record | Pair | Dropped | Damaged


@dataclass(frozen=True, slots=True)
class Pending:
    """A record that a native library is yet to make. It has its number by then, so one that kills its worker can be set apart."""

    offset: int
    lang: str | None
    make: Callable[[], Item]
