"""TMX 1.4 (translation memories): each `tu` with its variants in several languages becomes pairs with the one in the pivot's language.

    <tu tuid="7"><tuv xml:lang="en-GB"><seg>Open <bpt i="1">&lt;b></bpt>this<ept i="1">&lt;/b></ept></seg></tuv>     pivot: en
                 <tuv xml:lang="de"><seg>Öffne das</seg></tuv></tu>          ->  Pair(offset of <tu, 0, "de", "en", "Öffne das", "Open this")

Units are found in the bytes and parsed one by one, so memory is bounded by one unit, one that is broken costs itself alone (`bad_xml`), and a large file is
cut like one of lines. A unit is parsed without its document: entities that a DTD defines are unknown, which makes expansion bombs impossible and quarantines a
unit that uses one. The head's `srclang` is the pivot where the settings name none (`*all*`: the unit's first variant).

Native code (`bpt`, `ept`, `it`, `ut`) is taken out; `ph`, which stands for something, leaves a space; `hi` and its text stay; `sub`, a text within native code,
goes with it. A variant whose counterpart is missing is delivered as a pair with an empty side, and a second one in the pivot's language as a pair of one language,
both to be counted. Pairs of one unit share an alignment group where it gives more than one. What stands in a comment is skipped; a `tu` within CDATA is taken for one.
A file in UTF-16 or another encoding that its first line names is read as UTF-8; it is one slice.
"""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Iterator
from typing import Any, BinaryIO, Literal

from pipeline.config import NonEmpty
from pipeline.errors import ConfigError
from pipeline.text.languages import lookup
from stages.ingest.records import Damaged, Pair, Slice, SourceFile
from stages.ingest.sources.base import OpenRaw, SourceConfig, chunks_of, line_slices
from stages.ingest.streams import decode

_OPENS = re.compile(rb"<tu(?=[\s>/])|<!--|</tmx\s*>")
_CLOSES = re.compile(rb"</tu\s*>")
_ALONE = re.compile(rb"""<tu(?:[^>"']|"[^"]*"|'[^']*')*/>""")
_TOKEN_BYTES = 16  # no token of the patterns above is cut by a chunk's end if so many bytes are kept
_HEAD_BYTES = 1 << 20
_TAIL_BYTES = 1 << 16
_ENCODING = re.compile(r"""<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")
_SOURCE_LANG = re.compile(r"""<header\b[^>]*?\bsrclang\s*=\s*["']([^"']+)["']""", re.DOTALL)
_XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
_CODE, _STANDS_FOR = frozenset({"bpt", "ept", "it", "ut", "sub"}), "ph"
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_SPACE = re.compile("[ \t\r\n]+")


class Config(SourceConfig):
    """Translation memories in TMX."""

    kind: Literal["tmx"]
    """TMX."""
    pivot: NonEmpty | None = None
    """Language that all others are paired with; none takes the `srclang` of the file's head, or of a unit."""
    as_text: bool = False
    """Whether each side also serves as monolingual text."""


def languages_of(file: SourceFile, config: Config) -> tuple[str, ...] | None:
    """None: each variant says its own."""
    return None


def slices(file: SourceFile, config: Config, max_bytes: int) -> list[Slice]:
    """Byte ranges of at most `max_bytes`, or the whole of a compressed file."""
    return line_slices(file, config, max_bytes)


def read(open_raw: OpenRaw, file: SourceFile, part: Slice, config: Config) -> Iterator[Pair | Damaged]:
    """The pairs of the units that start in the slice."""
    with open_raw() as raw:
        head = _head(raw, file, config)
    encoding = _encoding_of(head)
    source = _SOURCE_LANG.search(head.decode(encoding, "replace"))
    pivot = config.pivot or (source.group(1) if source else "*all*")
    plain = encoding == "utf-8"
    if part.start and not plain:
        return  # the first slice reads all of it
    stop = part.stop if plain else None
    with open_raw() as raw:
        is_closed = part.start > 0 and _is_closed(raw)  # the last slice may begin behind the last unit
        if part.start:
            raw.seek(part.start)
        chunks = chunks_of(raw, file, config)
        found = _units(chunks if plain else _as_utf8(chunks, encoding), part.start, stop, config.max_record_bytes, is_closed)
        for item in found:
            if isinstance(item, Damaged):
                yield item
            else:
                yield from _pairs(*item, pivot, file, config)


def _head(raw: BinaryIO, file: SourceFile, config: Config) -> bytes:
    """The first MiB of the text."""
    held = b""
    for chunk in chunks_of(raw, file, config):
        if isinstance(chunk, Damaged):
            break
        held += chunk
        if len(held) >= _HEAD_BYTES:
            break
    return held[:_HEAD_BYTES]


def _encoding_of(head: bytes) -> str:
    """The encoding that the mark or the first line names; UTF-8 where neither does, or it is unknown."""
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    stated = _ENCODING.match(head[:256].decode("ascii", "replace"))
    try:
        return codecs.lookup(stated.group(1)).name if stated else "utf-8"
    except LookupError:
        return "utf-8"


def _as_utf8(chunks: Iterator[bytes | Damaged], encoding: str) -> Iterator[bytes | Damaged]:
    """The same text in UTF-8; offsets count its bytes."""
    decoder = codecs.getincrementaldecoder(encoding)()
    produced = 0
    for chunk in chunks:
        try:
            text = chunk if isinstance(chunk, Damaged) else decoder.decode(chunk).encode("utf-8")
        except UnicodeError as error:
            text = Damaged(produced, None, "invalid_utf8", True, f"not {encoding}: {error}", 0)
        yield text
        if isinstance(text, Damaged):
            return
        produced += len(text)


def _is_closed(raw: BinaryIO) -> bool:
    """Whether the last tag of a file that we look for is the one that closes the document."""
    end = raw.seek(0, io.SEEK_END)
    raw.seek(max(0, end - _TAIL_BYTES))
    found = _OPENS.findall(raw.read(_TAIL_BYTES))
    return bool(found) and found[-1].startswith(b"</")


def _units(
    chunks: Iterator[bytes | Damaged], start: int, stop: int | None, max_bytes: int, is_closed: bool
) -> Iterator[tuple[int, bytes] | Damaged]:
    """The units that start in [start, stop), each with its offset; a document that is not closed is `truncated`."""
    buffer, base, at = b"", start, 0  # base: offset of buffer[0]; at: where the search goes on
    begin, skipped = -1, 0  # of the open unit: its place in the buffer, or -1; bytes of it that are no longer held
    in_comment = False
    for chunk in chunks:
        if isinstance(chunk, Damaged):
            yield Damaged(base + max(begin, 0) - skipped, None, chunk.reason, True, chunk.detail, chunk.stored_offset)
            return
        buffer += chunk
        tail = max(0, len(buffer) - _TOKEN_BYTES)
        while True:
            if in_comment:
                end = buffer.find(b"-->", at)
                if end < 0:
                    at = max(at, tail)
                    break
                in_comment, at = False, end + 3
            elif begin < 0:
                match = _OPENS.search(buffer, at)
                at = match.start() if match else max(at, tail)
                if stop is not None and base + at >= stop:
                    return
                if match is None:
                    break
                is_closed, in_comment = match.group().startswith(b"</"), match.group() == b"<!--"
                begin = -1 if is_closed or in_comment else match.start()
                at = match.end()
            else:
                match = (None if skipped else _ALONE.match(buffer, begin)) or _CLOSES.search(buffer, at)
                if match is None:
                    at = max(at, tail)
                    if skipped + len(buffer) - begin > max_bytes:
                        skipped, begin = skipped + at - begin, at
                    break
                size, at = skipped + match.end() - begin, match.end()
                if size > max_bytes:
                    yield Damaged(base + at - size, size, "record_too_long", False, f"a unit of more than {max_bytes} bytes")
                else:
                    yield base + begin, buffer[begin:at]
                begin, skipped = -1, 0
        cut = at if begin < 0 else begin
        buffer, base, at, begin = buffer[cut:], base + cut, at - cut, begin if begin < 0 else 0
    if begin >= 0 or in_comment or not is_closed:
        yield Damaged(base - skipped, None, "truncated", True, "the document ends before </tmx>", None)


def _pairs(offset: int, data: bytes, pivot: str, file: SourceFile, config: Config) -> Iterator[Pair | Damaged]:
    """The pairs of one unit."""
    from xml.etree import ElementTree

    text = decode(data, offset)
    if isinstance(text, Damaged):
        yield text
        return
    try:
        unit = ElementTree.fromstring(text)  # noqa: S314 - an element alone can declare no entity
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        yield Damaged(offset, len(data), "bad_xml", False, str(error))
        return
    variants = [(_canonical(_lang_of(variant)), _text_of(variant)) for variant in unit.iter("tuv")]
    if not variants:
        yield Damaged(offset, len(data), "bad_xml", False, "a tu without a tuv")
        return
    if config.pivot is None:
        pivot = unit.get("srclang") or pivot
    if pivot == "*all*":
        pivot = variants[0][0]
    pivot = _canonical(pivot)
    middle = next((number for number, (lang, _) in enumerate(variants) if lang == pivot), None)
    others = [variant for number, variant in enumerate(variants) if number != middle]
    text_b = "" if middle is None else variants[middle][1]
    group = f"{file.name}:{offset}" if len(others) > 1 else None
    for ordinal, (lang, side) in enumerate(others or [(pivot, "")]):
        yield Pair(offset, ordinal, lang, pivot, side, text_b, group, config.licence)


def _lang_of(variant: Any) -> str:
    return variant.get(_XML_LANG) or variant.get("lang") or "und"


def _canonical(lang: str) -> str:
    """Our code for a language as translators write it (`EN-us`, `es-419`): without its last parts where only then it is known."""
    parts = re.split("[-_]", lang)
    for end in range(len(parts), 0, -1):
        try:
            return lookup("-".join(parts[:end])).code
        except ConfigError:
            continue
    return lang


def _text_of(variant: Any) -> str:
    """The text of the variant's segment, white space runs as one space."""
    segment = variant.find("seg")
    if segment is None:
        return ""
    pieces: list[str] = []
    _gather(segment, pieces)
    return _SPACE.sub(" ", "".join(pieces)).strip(" ")


def _gather(element: Any, pieces: list[str]) -> None:
    if element.text:
        pieces.append(element.text)
    for child in element:
        if child.tag == _STANDS_FOR:
            pieces.append(" ")
        elif child.tag not in _CODE:
            _gather(child, pieces)
        if child.tail:
            pieces.append(child.tail)
