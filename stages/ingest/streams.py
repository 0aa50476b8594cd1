"""Bytes of a source file, decompressed in bounded memory and cut into lines; the end of a stream is verified, never assumed.

    raw file -> open_stream -> chunks of bytes, at last perhaps a Damaged -> lines -> (offset, line) or Damaged -> decode -> str or Damaged

Compressed streams. gz, bz2, xz and zst, of any number of members (bz2 streams, zstd frames). Memory is bounded by a step of at most
32 MiB of output plus the window of the format (128 MiB at most). A stream that stops early is `truncated`, one that contradicts
itself is `corrupt`, and bytes behind the last member that are not padding are a `garbage_tail`. What was decompressed before the
damage is delivered; at a contradiction up to 4 KiB of compressed input before it may be lost, always the same ones. A checksum
stands at the end of a member (gz, zst), a block (bz2, xz): what lies before a failed one has been delivered by then, and the damage
says so. An empty file is an empty text only if it is not compressed.

Bombs. More than `max_expansion` times the compressed size, beyond the first 64 MiB, or more than `max_bytes` in all, stops the
stream. One layer is undone, no more: a nested archive is binary data and fails as text.

Lines. Only LF ends a line: U+2028, U+0085, VT, FF and a lone CR are text. One CR before the LF is dropped. A last line needs no LF.
A UTF-8 byte order mark at the head of the file is dropped; one of UTF-16 or UTF-32 quarantines the file (`utf16`). A line over the
limit is `record_too_long` and is skipped without being held. A line that damage cuts short is part of the damage, whose offset is
the line's start.

Text is strict UTF-8 (`invalid_utf8` otherwise). NUL is a character like another; the clean stage removes control characters. A lone
surrogate, which JSON can spell though UTF-8 cannot, is quarantined (`lone_surrogate`): to replace it would be to guess.
"""

from __future__ import annotations

import bz2
import codecs
import lzma
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, Protocol, get_args

from pipeline.errors import ConfigError
from stages.ingest.records import Damaged

Compression = Literal["none", "gz", "bz2", "xz", "zst"]

_SUFFIXES: dict[str, Compression] = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".xz": "xz", ".zst": "zst", ".zstd": "zst"}
_READ_BYTES = 1 << 20
_OUTPUT_BYTES = 1 << 20
_INPUT_BYTES = 4096  # a step's input, and so what a contradiction may cost
_ZSTD_INPUT_BYTES = 1024  # zstd takes no output limit; 4 bytes of it can stand for 128 KiB, so a step yields at most 32 MiB
_WINDOW_BYTES = 1 << 27
_FREE_BYTES = 64 << 20
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


@dataclass(frozen=True, slots=True)
class Caps:
    """What a stream may grow to: `max_expansion` times its compressed size (the first 64 MiB are free), `max_bytes` in all."""

    max_expansion: int = 200
    max_bytes: int = 1 << 40


def compression_of(name: str, setting: str | None = "auto") -> Compression:
    """The compression of a file: as set, or by the suffix of its name.

    Raises:
        ConfigError: the setting is none that is known.
    """
    if setting is None or setting == "auto":
        lowered = name.lower()
        return next((found for suffix, found in _SUFFIXES.items() if lowered.endswith(suffix)), "none")
    for known in get_args(Compression):
        if setting == known:
            return known
    raise ConfigError(f"compression {setting!r}: unknown; allowed are auto, {', '.join(get_args(Compression))}.")


# ---------------------------------------------------------------- decompression


class _Decoder(Protocol):
    """One member. `step` takes input and gives output of bounded size; while `hungry` is false it wants b"" before more input."""

    hungry: bool
    eof: bool

    def step(self, data: bytes) -> bytes: ...

    @property
    def rest(self) -> bytes: ...


class _Zlib:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)  # the gzip container alone, its checksum verified at the end
        self.hungry, self.eof = True, False

    def step(self, data: bytes) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, _OUTPUT_BYTES)
        self.eof = self._inner.eof
        self.hungry = not self._inner.unconsumed_tail and len(out) < _OUTPUT_BYTES
        return out

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data


class _Limited:
    """bz2 and lzma share their interface."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.hungry, self.eof = True, False

    def step(self, data: bytes) -> bytes:
        out: bytes = self._inner.decompress(data, _OUTPUT_BYTES)
        self.eof = self._inner.eof
        self.hungry = self.eof or self._inner.needs_input
        return out

    @property
    def rest(self) -> bytes:
        return bytes(self._inner.unused_data)


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._inner = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).decompressobj()
        self._waiting = b""
        self.hungry, self.eof = True, False

    def step(self, data: bytes) -> bytes:
        self._waiting += data
        piece, self._waiting = self._waiting[:_ZSTD_INPUT_BYTES], self._waiting[_ZSTD_INPUT_BYTES:]
        out: bytes = self._inner.decompress(piece)
        self.eof = self._inner.eof
        self.hungry = self.eof or not self._waiting
        return out

    @property
    def rest(self) -> bytes:
        return self._inner.unused_data + self._waiting


def _decoder(compression: Compression) -> _Decoder:
    if compression == "gz":
        return _Zlib()
    if compression == "bz2":
        return _Limited(bz2.BZ2Decompressor())
    if compression == "xz":
        return _Limited(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * _WINDOW_BYTES))
    return _Zstd()


def _decoder_errors(compression: Compression) -> tuple[type[Exception], ...]:
    if compression == "zst":
        import zstandard

        return (zstandard.ZstdError,)
    return (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError)


def open_stream(raw: BinaryIO, compression: Compression, caps: Caps | None = None) -> Iterator[bytes | Damaged]:
    """Decompressed chunks of `raw` from where it stands, each nonempty; at most one Damaged, as the last item.

    Raises:
        OSError: the file itself cannot be read; that is no damage of the data, and worth another try.
    """
    caps = caps or Caps()
    if compression == "none":
        yield from _plain(raw, caps)
        return
    errors = _decoder_errors(compression)
    decoder, members, produced, consumed, member_start = _decoder(compression), 0, 0, 0, 0
    fresh = True  # the member has been given nothing yet
    for piece in _pieces(raw):
        consumed += len(piece)
        data = piece
        while data or not decoder.hungry:
            if fresh and members and compression in ("gz", "xz"):
                data = data.lstrip(b"\0")  # padding to a block or a multiple of four bytes
                if not data:
                    break
            fresh = False
            try:
                out = decoder.step(data)
            except errors as error:
                at_head = members > 0 and produced == member_start
                reason = "garbage_tail" if at_head else "corrupt"
                yield Damaged(
                    produced, None, reason, True, f"{compression}, before compressed byte {consumed}: {error}", consumed - len(piece)
                )
                return
            data = b""
            if out:
                produced += len(out)
                over = _over(produced, consumed, caps)
                if over is not None:
                    yield Damaged(produced - len(out), None, over[0], True, over[1], consumed)
                    return
                yield out
            if decoder.eof:
                data = decoder.rest
                decoder, members, member_start, fresh = _decoder(compression), members + 1, produced, True
    if not fresh or not members:
        yield Damaged(produced, None, "truncated", True, f"{compression}: the file ends at byte {consumed} in mid-stream", consumed)


def _plain(raw: BinaryIO, caps: Caps) -> Iterator[bytes | Damaged]:
    produced = 0
    while chunk := raw.read(_READ_BYTES):
        if produced + len(chunk) > caps.max_bytes:
            yield Damaged(produced, None, "expansion_total", True, f"more than {caps.max_bytes} bytes", produced)
            return
        produced += len(chunk)
        yield chunk


def _pieces(raw: BinaryIO) -> Iterator[bytes]:
    """Pieces of exactly `_INPUT_BYTES` but the last, however short the reads are: what damage costs must not hang on the network."""
    held = b""
    while block := raw.read(_READ_BYTES):
        block = held + block
        whole = len(block) - len(block) % _INPUT_BYTES
        for at in range(0, whole, _INPUT_BYTES):
            yield block[at : at + _INPUT_BYTES]
        held = block[whole:]
    if held:
        yield held


def _over(produced: int, consumed: int, caps: Caps) -> tuple[str, str] | None:
    if produced > caps.max_bytes:
        return "expansion_total", f"more than {caps.max_bytes} bytes decompressed"
    if produced > _FREE_BYTES and produced > caps.max_expansion * consumed:
        return "expansion_ratio", f"{produced} bytes out of {consumed}: more than max_expansion ({caps.max_expansion}) allows"
    return None


def whole(chunks: Iterator[bytes | Damaged], max_bytes: int) -> bytes | Damaged:
    """All of a stream, or the damage that stops it from being whole: over `max_bytes` it is `record_too_long`."""
    parts: list[bytes] = []
    size = 0
    for chunk in chunks:
        if isinstance(chunk, Damaged):
            return Damaged(0, None, chunk.reason, True, f"at byte {chunk.offset}: {chunk.detail}", 0)
        size += len(chunk)
        if size > max_bytes:
            return Damaged(0, None, "record_too_long", True, f"more than {max_bytes} bytes", 0)
        parts.append(chunk)
    data = b"".join(parts)
    if data.startswith(_UTF16_MARKS):
        return Damaged(0, len(data), "utf16", True, "byte order mark of UTF-16 or UTF-32; convert the file to UTF-8", 0)
    return data.removeprefix(codecs.BOM_UTF8)


# ---------------------------------------------------------------- lines and text


def has_utf16_mark(raw: BinaryIO) -> bool:
    """Whether a seekable file begins as UTF-16 or UTF-32 does. Moves the file."""
    raw.seek(0)
    return raw.read(4).startswith(_UTF16_MARKS)


def lines(chunks: Iterator[bytes | Damaged], max_line_bytes: int = 16 << 20, start: int = 0) -> Iterator[tuple[int, bytes] | Damaged]:
    """Lines with the offset of their first byte; the policy stands at the head of this module.

    `start` is the offset of the first chunk; only at 0 is a byte order mark looked for. `max_line_bytes` counts the line without its LF.
    """
    offset = start  # of the line that is open
    held: list[bytes] = []
    held_bytes = 0
    head = start == 0
    for chunk in _with_whole_head(chunks) if head else chunks:
        if isinstance(chunk, Damaged):
            detail = chunk.detail if chunk.offset == offset else f"at byte {chunk.offset}: {chunk.detail}"
            yield Damaged(offset, None, chunk.reason, True, detail, chunk.stored_offset)
            return
        if head:
            head = False
            if chunk.startswith(_UTF16_MARKS):
                yield Damaged(0, None, "utf16", True, "byte order mark of UTF-16 or UTF-32; convert the file to UTF-8", 0)
                return
        parts = chunk.split(b"\n")
        for part in parts[:-1]:
            size = held_bytes + len(part)
            if size > max_line_bytes:
                yield Damaged(offset, size + 1, "record_too_long", False, f"a line of more than {max_line_bytes} bytes")
            else:
                yield offset, _line(b"".join((*held, part)) if held else part, offset)
            offset += size + 1
            held, held_bytes = [], 0
        held_bytes += len(parts[-1])
        if held_bytes > max_line_bytes:
            held = []  # it will not be delivered: hold none of it
        elif parts[-1]:
            held.append(parts[-1])
    if held_bytes > max_line_bytes:
        yield Damaged(offset, held_bytes, "record_too_long", False, f"a line of more than {max_line_bytes} bytes")
    elif held_bytes:
        yield offset, _line(b"".join(held), offset)


def quoted_lines(
    chunks: Iterator[bytes | Damaged], max_line_bytes: int, start: int = 0, *, in_quotes: bool = False
) -> Iterator[tuple[int, bytes] | Damaged]:
    """Like `lines`, but an LF between an odd quotation mark and an even one is text. `in_quotes`: whether that is so at `start`."""
    offset, held, held_bytes, odd = start, list[bytes](), 0, in_quotes
    head = start == 0
    for chunk in _with_whole_head(chunks) if head else chunks:
        if isinstance(chunk, Damaged):
            yield Damaged(offset, None, chunk.reason, True, f"at byte {chunk.offset}: {chunk.detail}", chunk.stored_offset)
            return
        if head:
            head = False
            if chunk.startswith(_UTF16_MARKS):
                yield Damaged(0, None, "utf16", True, "byte order mark of UTF-16 or UTF-32; convert the file to UTF-8", 0)
                return
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            odd ^= part.count(b'"') & 1 == 1
            held_bytes += len(part) + 1
            if held_bytes <= max_line_bytes + 1:
                held.append(part + b"\n")
            else:
                held.clear()
            if odd:
                continue
            if held_bytes > max_line_bytes + 1:
                yield Damaged(offset, held_bytes, "record_too_long", False, f"a row of more than {max_line_bytes} bytes")
            else:
                yield offset, _line(b"".join(held)[:-1], offset)
            offset += held_bytes
            held, held_bytes = [], 0
        odd ^= rest.count(b'"') & 1 == 1
        held_bytes += len(rest)
        if held_bytes > max_line_bytes:
            held.clear()
        elif rest:
            held.append(rest)
    if held_bytes > max_line_bytes:
        yield Damaged(offset, held_bytes, "record_too_long", False, f"a row of more than {max_line_bytes} bytes")
    elif odd and held_bytes:
        yield Damaged(offset, held_bytes, "truncated", False, "the file ends within quotation marks")
    elif held_bytes:
        yield offset, _line(b"".join(held), offset)


def _line(line: bytes, offset: int) -> bytes:
    if offset == 0:
        line = line.removeprefix(codecs.BOM_UTF8)
    return line[:-1] if line.endswith(b"\r") else line


def _with_whole_head(chunks: Iterator[bytes | Damaged]) -> Iterator[bytes | Damaged]:
    """The same stream, its first chunk long enough to hold a byte order mark."""
    head = b""
    for chunk in chunks:
        if isinstance(chunk, Damaged):
            if head:
                yield head
            yield chunk
            return
        head += chunk
        if len(head) >= 4:
            yield head
            yield from chunks
            return
    if head:
        yield head


def decode(line: bytes, offset: int = 0) -> str | Damaged:
    """Strict UTF-8, else `invalid_utf8` with the place and value of the first bad byte."""
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte 0x{line[error.start]:02x} at +{error.start}: {error.reason}"
        return Damaged(offset, len(line), "invalid_utf8", False, detail)


def has_lone_surrogate(text: str) -> bool:
    """Whether the text cannot be written as UTF-8."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
