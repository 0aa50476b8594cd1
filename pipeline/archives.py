"""Files inside zip and tar archives: `zip://<member pattern>::<archive>`, where the archive may be any source, a compressed tar too.

    zip://{lang}/*.txt::s3://bucket/corpus.zip  ->  members that match  ->  zip://sw/a.txt::s3://bucket/corpus.zip, size, evidence of its bytes

Nothing is unpacked into a folder. An archive is opened once a process and its table of members is read whole; a compressed tar (gz, bz2,
xz, zst, told by its first bytes) is first unpacked into an unnamed temporary file, under the same limits as any compressed source. A
member's name is text that reaches manifests and logs, so an archive that names `..`, an absolute path or NUL is refused as a whole,
before any member is read; so is a match that is a link, a device, encrypted or there twice. An archive whose end is missing is refused.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast
from urllib.parse import unquote

from pipeline.errors import MissingSourceError

MAX_EXPANSION = 200
FREE_BYTES = 64 << 20
_CHUNK = 1 << 20
_BLOCK = 512
_MAX_OPEN = 4
Kind = Literal["zip", "tar"]
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError, ValueError)
"""What the libraries raise for an archive that contradicts itself or that they cannot read."""


class _RefusedError(Exception):
    """Why an archive or a member is refused; `Archives` makes a MissingSourceError of it."""


@dataclass(frozen=True)
class Chain:
    """`zip://a/*.txt::rest`: the kind, the name or pattern of members, and the archive's own URL."""

    kind: Kind
    members: str
    outer: str


@dataclass(frozen=True)
class Member:
    """A file in an archive: size in bytes unpacked; `evidence` changes with its bytes or place."""

    name: str
    size: int
    evidence: tuple[int, ...]


def split(url: str) -> Chain | None:
    """The parts of a chain that begins with an archive, or None where the URL is none."""
    head, chained, rest = url.partition("::")
    kinds: tuple[Kind, ...] = ("zip", "tar")
    for kind in kinds:
        if chained and head.startswith(f"{kind}://"):
            return Chain(kind, head.removeprefix(f"{kind}://").lstrip("/"), rest)
    return None


class Archives:
    """The archives that a process has open, a few at a time: a table of members is read once for many members."""

    def __init__(self, open_outer: Callable[[str], BinaryIO]) -> None:
        self._open_outer = open_outer
        self._opened: dict[tuple[Any, ...], Archive] = {}

    def clear(self) -> None:
        """Forget all, as they may have changed since."""
        self._opened.clear()

    def members(self, chain: Chain, matches: Callable[[str], bool]) -> list[Member]:
        """The members of an archive whose name matches, in the order of their names.

        Raises:
            MissingSourceError: the archive or a match is refused; the message says why.
        """
        try:
            return self._archive(chain).members(matches)
        except _RefusedError as error:
            raise _told(chain, error) from None

    def open(self, chain: Chain) -> BinaryIO:
        """The bytes of the member of that name, seekable.

        Raises:
            MissingSourceError: as above; reading may raise it too.
        """
        try:
            opened = self._archive(chain).open(chain.members)
        except _RefusedError as error:
            raise _told(chain, error) from None
        return io.BufferedReader(_Reading(opened, chain), _CHUNK)

    def _archive(self, chain: Chain) -> Archive:
        key: tuple[Any, ...] = (chain.kind, chain.outer)
        if "://" not in chain.outer and "::" not in chain.outer and Path(chain.outer).exists():
            status = Path(chain.outer).stat()
            key = (*key, status.st_size, status.st_mtime_ns, status.st_ino)
        if key not in self._opened:
            archive = Archive(chain.kind, self._open_outer(chain.outer))
            while len(self._opened) >= _MAX_OPEN:
                del self._opened[next(iter(self._opened))]  # not closed: a member of it may be open still
            self._opened[key] = archive
        return self._opened[key]


def _told(chain: Chain, error: Exception) -> MissingSourceError:
    url = re.sub(r"(?<=://)[^/\s]*@", "", chain.outer)
    return MissingSourceError(f"source {url}: {error}. Mend or repack the archive, or leave it out.")


class Archive:
    """An open archive. Takes over `stream`, which must be seekable.

    Raises:
        _RefusedError: it cannot be read, or names what is refused.
    """

    def __init__(self, kind: Kind, stream: BinaryIO) -> None:
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        self._stream = stream if stream.seekable() else _spooled(_chunks(stream))
        self._entries: dict[str, list[Any]] = {}
        try:
            if kind == "zip":
                self._zip = zipfile.ZipFile(self._stream)
                entries: list[tuple[str, Any]] = [(entry.filename, entry) for entry in self._zip.infolist() if not entry.is_dir()]
            else:
                self._stream = _unpacked(self._stream)
                self._tar = tarfile.open(fileobj=self._stream, mode="r:")  # noqa: SIM115 - it lives as long as the archive
                found = self._tar.getmembers()
                entries = [(entry.name, entry) for entry in found if not entry.isdir()]
                self._check_end(found)
        except (*DAMAGE, OSError) as error:
            self.close()
            raise _RefusedError(f"no sound {kind} archive: {type(error).__name__}: {error}") from None
        for name, entry in entries:
            plain = name.removeprefix("./")
            _refuse_unsafe(plain)
            self._entries.setdefault(plain, []).append(entry)

    def _check_end(self, members: list[tarfile.TarInfo]) -> None:
        """A tar ends in blocks of zeros; one cut off between two members shows by nothing else."""
        behind = max((member.offset_data + -(-(member.size if member.isreg() else 0) // _BLOCK) * _BLOCK for member in members), default=0)
        self._stream.seek(behind)
        if self._stream.read(_BLOCK) != bytes(_BLOCK):
            raise tarfile.ReadError("its end is missing")

    def members(self, matches: Callable[[str], bool]) -> list[Member]:
        """The files whose name matches, in the order of their names.

        Raises:
            _RefusedError: a match is no plain file, is encrypted, is there twice or unpacks without bound.
        """
        return [self._member(name) for name in sorted(self._entries) if matches(name)]

    def _member(self, name: str) -> Member:
        entries = self._entries.get(name, [])
        if len(entries) != 1:
            raise _RefusedError(f"member {name!r} is there {len(entries)} times")
        entry = entries[0]
        if isinstance(entry, tarfile.TarInfo):
            if not entry.isreg():
                raise _RefusedError(f"member {name!r} is a link or a device; only plain files are read")
            return Member(name, entry.size, (entry.size, entry.offset_data, int(entry.mtime)))
        if (entry.external_attr >> 16) & 0o170000 == 0o120000:
            raise _RefusedError(f"member {name!r} is a link or a device; only plain files are read")
        if entry.flag_bits & 1:
            raise _RefusedError(f"member {name!r} is encrypted")
        if entry.file_size > max(FREE_BYTES, MAX_EXPANSION * entry.compress_size):
            raise _RefusedError(
                f"member {name!r} unpacks {entry.compress_size} bytes to {entry.file_size}; allowed are {MAX_EXPANSION} times as many"
            )
        return Member(name, entry.file_size, (entry.file_size, entry.CRC, entry.compress_size))

    def open(self, name: str) -> BinaryIO:
        """The bytes of a member, seekable.

        Raises:
            _RefusedError: there is no such member, or it is refused.
        """
        self._member(name)
        entry = self._entries[name][0]
        try:
            opened = self._zip.open(entry) if self._zip is not None else cast(tarfile.TarFile, self._tar).extractfile(entry)
        except (*DAMAGE, OSError) as error:
            raise _damaged(name, error) from None
        return cast(BinaryIO, opened)

    def close(self) -> None:
        """Let go of the file."""
        for part in (self._zip, self._tar, self._stream):
            if part is not None:
                part.close()


def _damaged(name: str, error: Exception) -> _RefusedError:
    return _RefusedError(f"member {name!r} is damaged: {type(error).__name__}: {error}")


def _refuse_unsafe(name: str) -> None:
    parts = unquote(name).replace("\\", "/").split("/")
    if (
        name.startswith(("/", "\\"))
        or ".." in parts
        or re.match(r"[A-Za-z]:", name)
        or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]|::", unquote(name))
    ):
        raise _RefusedError(
            f"member name {name!r} is refused: it holds `..`, `::`, a control character, bytes that are no UTF-8, or an absolute path"
        )


class _Reading(io.RawIOBase):
    """A member's bytes; what the libraries raise on the way is told as a damaged source."""

    def __init__(self, inner: Any, chain: Chain) -> None:
        self._inner, self._chain = inner, chain

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._inner.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        try:
            return int(self._inner.seek(offset, whence))
        except DAMAGE as error:
            raise _told(self._chain, _damaged(self._chain.members, error)) from None

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._inner.read(len(buffer))
        except DAMAGE as error:
            raise _told(self._chain, _damaged(self._chain.members, error)) from None
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._inner.close()
        super().close()


def _unpacked(stream: BinaryIO) -> BinaryIO:
    """The tar itself, unpacked into a temporary file where it is compressed."""
    head = stream.read(6)
    stream.seek(0)
    opened: Iterator[bytes]
    if head.startswith(b"\x1f\x8b"):
        opened = _chunks(gzip.GzipFile(fileobj=stream))
    elif head.startswith(b"BZh"):
        opened = _chunks(bz2.BZ2File(stream))
    elif head.startswith(b"\xfd7zXZ\x00"):
        opened = _chunks(lzma.LZMAFile(stream))  # noqa: SIM115 - as above
    elif head.startswith(b"\x28\xb5\x2f\xfd"):
        opened = _zstd(stream)
    else:
        return stream
    target = _spooled(_bounded(opened, stream))
    stream.close()
    return target


def _bounded(chunks: Iterator[bytes], stream: BinaryIO) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > max(FREE_BYTES, MAX_EXPANSION * stream.tell()):
            raise tarfile.ReadError(f"it unpacks {stream.tell()} bytes to {size} and more; allowed are {MAX_EXPANSION} times as many")
        yield chunk


def _spooled(chunks: Iterator[bytes]) -> BinaryIO:
    target = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the archive
    try:
        for chunk in chunks:
            target.write(chunk)
    except BaseException:
        target.close()
        raise
    target.seek(0)
    return cast(BinaryIO, target)


def _chunks(opened: Any) -> Iterator[bytes]:
    while chunk := opened.read(_CHUNK):
        yield chunk


def _zstd(stream: BinaryIO) -> Iterator[bytes]:
    import zstandard

    decoder = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    fresh = True
    try:
        while block := stream.read(1 << 10):  # four bytes can stand for 128 KiB
            while block:
                yield decoder.decompress(block)
                fresh, block = False, decoder.unused_data if decoder.eof else b""
                if decoder.eof:
                    decoder, fresh = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj(), True
    except zstandard.ZstdError as error:
        raise tarfile.ReadError(str(error)) from None
    if not fresh:
        raise EOFError("the zstd stream ends early")
