"""Records of a web archive (WARC 1.0 and 1.1, ISO 28500), one after another, in bounded memory.

    WARC/1.0\\r\\n                          ->  WarcRecord(offset, {"warc-type": "conversion", ...}, b"...")
    WARC-Type: conversion\\r\\n
    Content-Length: 5121\\r\\n\\r\\n
    <5121 bytes>\\r\\n\\r\\n

Where a record begins is only known from the lengths before it, since a page may quote an archive. So a slice of a file that is not
compressed goes through the headers from the start of the file and holds the bodies of its own records alone. Between two records any
number of CR and LF may stand. Where a record is wanted and none begins, or its header cannot be read, what lies before the next
blank line that is followed by `WARC/1.` is lost (`bad_frame`) and reading goes on there. A stated length that is wrong shows as such a loss behind the record.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from stages.ingest.records import Damaged, Slice

_MAX_HEADER_BYTES = 1 << 16
_START = re.compile(rb"WARC/1\.[0-9]\r?\n")
_END_OF_HEADER = re.compile(rb"\r?\n\r?\n")
_NEXT = re.compile(rb"\n\r?\n(?=WARC/1\.)")
_STEP_BYTES = 1 << 16
_OVERLAP_BYTES = 16  # longer than what `_NEXT` looks at


@dataclass(frozen=True, slots=True)
class WarcRecord:
    """A record: names of `headers` in lower case; `body` as it stands, with HTTP headers where there are any."""

    offset: int
    headers: Mapping[str, str]
    body: bytes


class Window:
    """The bytes of a stream behind `offset`, held as far as they were asked for."""

    def __init__(self, chunks: Iterator[bytes | Damaged]) -> None:
        self._chunks = chunks
        self._held = bytearray()
        self.offset = 0
        self.damage: Damaged | None = None

    def peek(self, size: int) -> bytes:
        """The next `size` bytes, fewer where the stream ends."""
        self._hold(size)
        return bytes(memoryview(self._held)[:size])

    def take(self, size: int) -> bytes:
        """The next `size` bytes, which are then behind; fewer where the stream ends."""
        data = self.peek(size)
        del self._held[: len(data)]
        self.offset += len(data)
        return data

    def skip(self, size: int) -> bool:
        """Leave `size` bytes behind; false where the stream ends before."""
        while size > len(self._held):
            size -= len(self._held)
            self.offset += len(self._held)
            self._held.clear()
            if not self._hold(1):
                return size == 0
        del self._held[:size]
        self.offset += size
        return True

    def _hold(self, size: int) -> bool:
        while len(self._held) < size:
            chunk = next(self._chunks, None)
            if chunk is None or isinstance(chunk, Damaged):
                self.damage = chunk or self.damage
                return False
            self._held += chunk
        return True


def warc_records(chunks: Iterator[bytes | Damaged], part: Slice, max_bytes: int) -> Iterator[WarcRecord | Damaged]:
    """The records that start in the slice, and the damage found there; a body of more than `max_bytes` is `record_too_long`."""
    window = Window(chunks)
    while True:
        _skip_line_ends(window)
        offset = window.offset
        if part.stop is not None and offset >= part.stop:
            return
        wanted = offset >= part.start
        head = window.peek(_MAX_HEADER_BYTES)
        if not head:
            if window.damage is not None and wanted:
                yield replace(window.damage, offset=offset)
            return
        header = _header(head)
        if header is None:
            window.skip(1)
            found = _go_to_next(window)
            if wanted:
                lost = Damaged(offset, window.offset - offset, "bad_frame", False, f"{head[:40]!r} begins no WARC record")
                yield lost if found else _end(lost, window)
            if not found:
                return
            continue
        headers, header_bytes = header
        length = int(headers["content-length"])
        window.skip(header_bytes)
        too_long = length > max_bytes
        if wanted and not too_long:
            body = window.take(length)
            if len(body) == length:
                yield WarcRecord(offset, headers, body)
                continue
        elif window.skip(length):
            if wanted:
                yield Damaged(offset, header_bytes + length, "record_too_long", False, f"{length} bytes")
            continue
        if wanted:
            yield _end(Damaged(offset, None, "truncated", True, f"a record of {length} bytes ends at byte {window.offset}", offset), window)
        return


def _end(lost: Damaged, window: Window) -> Damaged:
    """The damage at the end of a stream: that of the stream itself, if it was it that ended early."""
    return lost if window.damage is None else replace(window.damage, offset=lost.offset, length=None)


def _skip_line_ends(window: Window) -> None:
    while data := window.peek(_STEP_BYTES):
        rest = data.lstrip(b"\r\n")
        window.skip(len(data) - len(rest))
        if rest:
            return


def _header(head: bytes) -> tuple[dict[str, str], int] | None:
    """The fields and the length of a header, or None where it is none; a line that begins with white space goes on with the one before."""
    end = _END_OF_HEADER.search(head)
    if end is None or _START.match(head) is None:
        return None
    try:
        lines = head[: end.start()].decode("utf-8").split("\n")[1:]
    except UnicodeDecodeError:
        return None
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        if line[:1] in (" ", "\t") and name:
            fields[name] += " " + line.strip()
            continue
        name, colon, value = line.partition(":")
        name = name.strip().lower()
        if not colon or not name:
            return None
        fields.setdefault(name, value.strip())
    length = fields.get("content-length", "")
    return (fields, end.end()) if length.isascii() and length.isdigit() and len(length) < 16 else None


def _go_to_next(window: Window) -> bool:
    """Leave behind all bytes before the next record; false where none comes."""
    while data := window.peek(_STEP_BYTES):
        found = _NEXT.search(data)
        if found is not None:
            return window.skip(found.end())
        if len(data) < _STEP_BYTES:
            window.skip(len(data))
            return False
        window.skip(len(data) - _OVERLAP_BYTES)
    return False
