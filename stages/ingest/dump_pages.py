"""Pages of a MediaWiki XML dump, as bytes from `<page>` to `</page>`, from a slice of a file and in bounded memory.

    bz2 stream at 0: <mediawiki><siteinfo>...      one at 644: <page>...</page><page>...</page>...     one at 91,204: ...

A dump in bz2 is a row of streams that begin at a byte, with ten bytes that no compressed text holds by chance ("BZh", the block size,
and the 48 bits of a block's head), so a slice finds the streams that start in it. It owns the pages whose `<page>` starts in one of
them and reads the last to its end, wherever streams were cut: behind a page (multistream) or anywhere (parallel compressors). The
place of a page is the stored offset of its stream and its number in it. A stream that cannot be read costs its pages, and reading
goes on at the next. A dump that is not compressed is cut by bytes, one in another compression not at all; there the place is the
offset of `<page>`. In text `<` is written `&lt;`, so that `<page>` is always the tag. A dump without `</mediawiki>` is `truncated`.
"""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from stages.ingest.records import Damaged, Slice
from stages.ingest.streams import Caps, Compression, open_stream

_OPEN, _CLOSE, _END = b"<page>", b"</page>", b"</mediawiki>"
_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17\x72\x45\x38\x50\x90)")
_MAGIC_BYTES = 10
_READ_BYTES = 1 << 16
_SCAN_BYTES = 1 << 20
_OUTPUT_BYTES = 1 << 20
_FREE_BYTES = 64 << 20
_TAIL_BYTES = 64


@dataclass(frozen=True, slots=True)
class RawPage:
    """A page as it stands in the dump; places as in `Record`."""

    offset: int
    ordinal: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Piece:
    """Bytes of a dump; `place` is the stored offset of their stream (bz2), or where their run of bytes began."""

    place: int
    data: bytes


@dataclass(frozen=True, slots=True)
class _Break:
    """Damage between pieces; `owned`: whether it is for this slice to tell."""

    damage: Damaged
    owned: bool = True


def pages_in(raw: BinaryIO, compression: Compression, part: Slice, caps: Caps, max_bytes: int) -> Iterator[RawPage | Damaged]:
    """The pages that start in the slice, and the damage found there; a page of more than `max_bytes` is `record_too_long`."""
    if compression == "bz2":
        yield from _pages(_streams(raw, part, caps), part, max_bytes, by_stream=True)
        return
    begin = max(0, part.start - _TAIL_BYTES)
    raw.seek(begin)
    chunks = open_stream(raw, compression, caps)
    pieces = (_Break(chunk) if isinstance(chunk, Damaged) else _Piece(begin, chunk) for chunk in chunks)
    yield from _pages(pieces, part, max_bytes, by_stream=False)


def _pages(pieces: Iterator[_Piece | _Break], part: Slice, max_bytes: int, *, by_stream: bool) -> Iterator[RawPage | Damaged]:
    held = bytearray()  # the page that is open, else what may be the beginning of its tag
    base = 0  # bytes of the pieces before `held`
    marks: list[tuple[int, int]] = []  # where in these bytes a place began
    page: tuple[int, int] | None = None  # the place of the page that is open
    last = (-1, 0)  # the place of the last page
    searched = lost = 0  # bytes of `held` known not to hold the end; bytes of the page that are no longer held
    tail, whole, stop = b"", False, part.stop  # the last bytes; whether the end of the dump, or damage there, was seen
    for piece in pieces:
        if isinstance(piece, _Break):
            if page is not None:
                yield Damaged(page[0], lost + len(held), piece.damage.reason, False, f"a page cut off: {piece.damage.detail}")
            if not piece.owned:
                return
            yield piece.damage
            base, page, searched, lost = base + len(held), None, 0, 0
            held.clear()
            whole = True
            continue
        tail = (tail + piece.data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        whole = False
        if not marks or marks[-1][1] != piece.place:
            marks.append((base + len(held), piece.place))
        held += piece.data
        while True:
            if page is None:
                found = held.find(_OPEN)
                whole = found < 0 and held.find(_END) >= 0
                behind = found if found >= 0 else max(0, len(held) - len(_END) - 1)
                del held[:behind]
                base += behind
                if found < 0:
                    break
                while len(marks) > 1 and marks[1][0] <= base:
                    del marks[0]
                place = marks[0][1] if by_stream else marks[0][1] + base - marks[0][0]
                if stop is not None and place >= stop:
                    return
                if place < part.start:
                    del held[: len(_OPEN)]
                    base += len(_OPEN)
                    continue
                last = page = (place, last[1] + 1 if by_stream and last[0] == place else 0)
                searched = lost = 0
            found = held.find(_CLOSE, searched)
            if found < 0:
                searched = max(0, len(held) - len(_CLOSE) + 1)
                if len(held) > max_bytes:
                    lost, base = lost + searched, base + searched
                    del held[:searched]
                    searched = 0
                break
            end = found + len(_CLOSE)
            if lost + end > max_bytes:
                yield Damaged(page[0], lost + end, "record_too_long", False, f"a page of {lost + end} bytes")
            else:
                yield RawPage(*page, bytes(memoryview(held)[:end]))
            del held[:end]
            base, page = base + end, None
    if page is not None:
        yield Damaged(page[0], lost + len(held), "truncated", False, "the file ends in mid-page")
    elif marks and not whole and (part.start == 0 or _is_between_pages(tail)):
        at = marks[-1][1] if by_stream else marks[-1][1] + base + len(held) - 1
        if stop is None or at < stop:
            yield Damaged(at, 1, "truncated", True, "the dump does not end with </mediawiki>")


def _is_between_pages(tail: bytes) -> bool:
    """Whether the file ends where a page or the end of the dump is due; if it ends in a page, the slice that owns the page says so."""
    before, end, behind = tail.rpartition(b">")
    return (before + end).endswith((_CLOSE, b"</siteinfo>")) and _END.startswith(behind.strip())


def _streams(raw: BinaryIO, part: Slice, caps: Caps) -> Iterator[_Piece | _Break]:
    """The bytes of the bz2 streams from the first that starts in the slice on, to the end of the file."""
    at: int | None = 0 if part.start == 0 else _next_stream(raw, part.start, part.stop)
    while at is not None:
        owned = part.stop is None or at < part.stop
        raw.seek(at)
        decoder = bz2.BZ2Decompressor()
        consumed, produced, problem = at, 0, ("", "")
        while not decoder.eof and not problem[0]:
            block = raw.read(_READ_BYTES) if decoder.needs_input else b""
            if decoder.needs_input and not block:
                yield _Break(Damaged(at, None, "truncated", True, f"bz2: the file ends at byte {consumed} in mid-stream", consumed), owned)
                return
            consumed += len(block)
            try:
                out = decoder.decompress(block, _OUTPUT_BYTES)
            except (OSError, ValueError) as error:
                problem = "corrupt", f"bz2, before stored byte {consumed}: {error}"
                break
            produced += len(out)
            if produced > max(_FREE_BYTES, caps.max_expansion * (consumed - at)):
                problem = "expansion_ratio", f"{produced} bytes out of {consumed - at}"
            elif out:
                yield _Piece(at, out)
        following: int | None = at + 1
        if decoder.eof:
            following = consumed - len(decoder.unused_data)
            raw.seek(following)
            head = raw.read(_MAGIC_BYTES)
            if not head.strip(b"\0"):
                return
            if _STREAM.match(head):
                at = following
                continue
            problem = "garbage_tail", f"{head!r} begins no bz2 stream"
        lost_from = at if following == at + 1 else following or 0
        following = _next_stream(raw, lost_from + 1, None)
        end = following if following is not None else raw.seek(0, 2)
        stored = lost_from if following is None else None
        yield _Break(Damaged(lost_from, end - lost_from, problem[0], following is None, problem[1], stored), owned)
        at = following if following is None or part.stop is None or following < part.stop else None


def _next_stream(raw: BinaryIO, start: int, stop: int | None) -> int | None:
    """Where the next bz2 stream begins in [start, stop), or None."""
    raw.seek(start)
    held, base = b"", start
    while stop is None or base < stop:
        block = raw.read(_SCAN_BYTES)
        if not block:
            return None
        held += block
        found = _STREAM.search(held)
        if found is not None:
            at = base + found.start()
            return at if stop is None or at < stop else None
        kept = held[-(_MAGIC_BYTES - 1) :]
        base += len(held) - len(kept)
        held = kept
    return None
