"""JSON lines: one object a line, a document each, its fields named in the configuration.

    {"text": "Good day.", "lang": "en", "meta": {...}}   ->   Record(offset, 0, "Good day.", "en")

The JSON is that of RFC 8259: NaN and Infinity are refused, and a key given twice at the top of the object, whose meaning no reader
agrees on, quarantines the line (`duplicate_key`) where it is one that is read. A bad line is quarantined alone and reading goes on.
White-space lines are skipped. `text` must be there and be a string (it may be empty); the others may be absent or null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NoReturn

from pipeline.config import NonEmpty
from stages.ingest.records import Damaged, Record, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, line_slices, lines_in, stated_languages
from stages.ingest.streams import decode, has_lone_surrogate


class Config(SourceConfig):
    """Files of JSON lines."""

    kind: Literal["jsonl"]
    """JSON lines."""
    text_field: NonEmpty = "text"
    """Key of the text."""
    lang_field: NonEmpty | None = None
    """Key of the language; `lang` and `{lang}` serve where it is absent."""
    group_field: NonEmpty | None = None
    """Key of what aligns a document with its translations; text or a whole number."""
    url_field: NonEmpty | None = None
    """Key of the document's address."""
    licence_field: NonEmpty | None = None
    """Key of the document's own licence."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """The file's own language; None where `lang_field` lets each record say its own."""
    return None if config.lang_field is not None else stated_languages(file, config)


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Byte ranges of at most `max_bytes`, or the whole of a compressed file."""
    return line_slices(file, config, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Record | Damaged]:
    """The records whose line starts in the slice."""
    parser = _Parser(config)
    with open_raw() as raw:
        for item in lines_in(raw, file, part, config):
            if isinstance(item, Damaged):
                yield item
            elif item[1].strip():
                yield _record(parser, item[0], item[1], file)


class _LineError(Exception):
    """Why a line cannot be read: (reason, detail)."""


class _Parser:
    """A strict JSON parser, made once a slice: `json.loads` with options would make one for each line."""

    def __init__(self, config: Config) -> None:
        self.keys: list[str] = []  # of the object read last, which is the outermost, repeated ones included
        self.decode = json.JSONDecoder(object_pairs_hook=self._keep, parse_constant=_refuse_constant).decode
        self.names = (config.text_field, config.lang_field, config.group_field, config.url_field, config.licence_field)
        self.group_field, self.lang, self.licence = config.group_field, config.lang, config.licence

    def _keep(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        self.keys = [key for key, _ in pairs]
        return dict(pairs)


def _record(parser: _Parser, offset: int, line: bytes, file: SourceFile) -> Record | Damaged:
    text = decode(line, offset)
    if isinstance(text, Damaged):
        return text
    try:
        return _parsed(parser, offset, text, file)
    except _LineError as error:
        reason, detail = error.args
        return Damaged(offset, len(line), reason, False, detail)


def _parsed(parser: _Parser, offset: int, line: str, file: SourceFile) -> Record:
    try:
        fields = parser.decode(line)
    except (ValueError, RecursionError) as error:  # ValueError: bad JSON, or a number of more digits than Python reads
        raise _LineError("bad_json", "nested too deeply" if isinstance(error, RecursionError) else str(error)) from None
    if not isinstance(fields, dict):
        raise _LineError("bad_json", f"an object is wanted, found {type(fields).__name__}")
    if len(parser.keys) != len(fields):
        for name in parser.names:
            if name is not None and parser.keys.count(name) > 1:
                raise _LineError("duplicate_key", f"{name} is given {parser.keys.count(name)} times")
    escaped = "\\u" in line  # a lone surrogate can only be spelled so: the line was read as strict UTF-8
    text, lang, group, url, licence = [
        None if name is None else _field(fields, name, escaped, whole_number=name == parser.group_field) for name in parser.names
    ]
    if text is None:
        raise _LineError("missing_text", f"no {parser.names[0]!r}; the line has {', '.join(sorted(map(repr, fields))[:10]) or 'no keys'}")
    return Record(offset, 0, text, lang or parser.lang or file.lang, group, url, licence or parser.licence)


def _field(fields: dict[str, Any], name: str, escaped: bool, *, whole_number: bool) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if whole_number and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise _LineError("bad_field", f"{name!r} is {type(value).__name__}, text is wanted")
    if escaped and has_lone_surrogate(value):
        raise _LineError("lone_surrogate", f"in {name!r}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
