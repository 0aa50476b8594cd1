"""The only door to fsspec: atomic publish, checksums, listing of sources.

A *storage root* is a folder or an fsspec URL; everything below it is named by relative paths with `/`. Publishing a file: write to
`tmp/<attempt>/`, flush and fsync, sha256, rename, fsync of the folder. On an object store the final key is written once, and only the
manifest that names it makes it visible. Sources (inputs that others own) are listed with a *token* (size and mtime, or etag), under which
their sha256 is cached: a changed token means rehash, never rerun by itself.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import unquote

from pipeline.archives import Archives, Chain, split
from pipeline.errors import ConfigError, IntegrityError, MissingSourceError, PreflightError
from pipeline.failpoint import failpoint

DISTRIBUTION = "xlm-pipeline"
"""What `pip install` knows this program by."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""URL scheme -> the extra that brings its library."""
ADHOC = "adhoc"
"""Attempt of a storage that no run has opened."""
_CHUNK = 1 << 20
_TOKEN_FIELDS = (
    "ETag", "etag", "generation", "mtime", "modified", "created", "LastModified", "Last-Modified", "last_modified", "version_id",
)  # fmt: skip
"""What the listings of object stores and servers call the mark that changes with the bytes."""
_VERIFIED: set[tuple[str, str, int, int, int]] = set()
"""Files that this process has hashed: verified once, at the first read."""


@dataclass(frozen=True)
class Published:
    """A published file: path relative to the storage root, sha256 in hex, size in bytes."""

    path: str
    sha256: str
    bytes: int


def canonical(value: Any) -> bytes:
    """The one JSON form of plain data: sorted keys, no spaces, UTF-8; what every digest is taken over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of plain data."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a local file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def without_userinfo(url: str) -> str:
    """The URL (or chain of URLs) without user and password, fit for a log."""
    return re.sub(r"(?<=://)[^/\s]*@", "", url)


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, each entry on disk before a file in it is."""
    made = [above for above in (folder, *folder.parents) if not above.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for above in reversed(made):
        _fsync_folder(above.parent)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Storage:
    """A storage root. Local roots are absolute paths; others are fsspec URLs, whose files are cached under `cache`."""

    root: str
    cache: str = ""
    attempt: str = ADHOC

    @classmethod
    def at(cls, root: str, attempt: str = ADHOC) -> Storage:
        """The storage at a folder or URL.

        Raises:
            ConfigError: the URL's scheme is not known to fsspec, or the library for it is not installed.
        """
        if root.startswith("file://"):
            root = unquote(root.removeprefix("file://"))
        if "://" not in root:
            return cls(str(Path(root).expanduser().absolute()), "", attempt)
        cache = Path.home() / ".cache" / "xlm-pipeline" / digest(root)[:16]
        storage = cls(root.rstrip("/"), str(cache), attempt)
        try:
            storage._filesystem()
        except ImportError as error:
            raise ConfigError(f"storage {without_userinfo(root)}: {missing_library(root, error)}") from None
        except ValueError as error:
            raise ConfigError(f"storage {without_userinfo(root)}: {error}") from None
        return storage

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine (or of a shared file system)."""
        return "://" not in self.root

    def _filesystem(self) -> Any:
        import fsspec

        # Other processes write here too, so no listing may be remembered.
        return fsspec.core.url_to_fs(self.root, use_listings_cache=False)[0]

    def _remote(self, path: str) -> str:
        import fsspec

        return str(fsspec.core.url_to_fs(self.root)[1]).rstrip("/") + "/" + path

    def url(self, path: str) -> str:
        """The full name of a file below the root, for messages: without user and password."""
        return f"{without_userinfo(self.root)}/{path}"

    def prepare(self) -> None:
        """Make the root and check that it can be written.

        Raises:
            PreflightError: it cannot be made or written; the message says why and what to do.
        """
        if not self.is_local:
            return
        probe = Path(self.root) / f"tmp.probe-{uuid.uuid4().hex[:8]}"
        try:
            Path(self.root).mkdir(parents=True, exist_ok=True)
            try:
                probe.write_bytes(b"x" * 4096)
            finally:
                probe.unlink(missing_ok=True)
        except OSError as error:
            raise PreflightError(
                f"storage {self.root} cannot be written: {error.strerror}. Give another folder (storage=/data/xlm) or mend its permissions."
            ) from None
        free = shutil.disk_usage(self.root).free
        if free < 64 << 20:
            raise PreflightError(f"storage {self.root} has {free >> 20} MiB free; at least 64 MiB are needed to start. Free some space.")

    def exists(self, path: str) -> bool:
        """Whether the file or folder is there."""
        if self.is_local:
            return (Path(self.root) / path).exists()
        return bool(self._filesystem().exists(self._remote(path)))

    def size(self, path: str) -> int | None:
        """Size in bytes, or None where there is no such file."""
        if self.is_local:
            try:
                return (Path(self.root) / path).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            return int(self._filesystem().size(self._remote(path)))
        except FileNotFoundError:
            return None

    def read(self, path: str) -> bytes:
        """All bytes of a file.

        Raises:
            FileNotFoundError: there is none.
        """
        if self.is_local:
            return (Path(self.root) / path).read_bytes()
        return bytes(self._filesystem().cat_file(self._remote(path)))

    def read_json(self, path: str) -> Any:
        """A JSON file as plain data, or None where there is none.

        Raises:
            IntegrityError: the file is not JSON.
        """
        try:
            raw = self.read(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return json.loads(raw)
        except ValueError:
            raise IntegrityError(
                f"{self.url(path)}: damaged: not JSON. Remove it and run again; what depends on it is made anew.", path=path
            ) from None

    def list(self, path: str) -> list[str]:
        """Paths of all files below a folder, sorted; temporary ones included."""
        if self.is_local:
            base = Path(self.root) / path
            return sorted(str(found.relative_to(self.root)) for found in base.rglob("*") if found.is_file())
        prefix = self._remote("")
        try:
            found = self._filesystem().find(self._remote(path))
        except FileNotFoundError:
            return []
        return sorted(str(name)[len(prefix) :] for name in found)

    def remove(self, path: str) -> None:
        """Remove a file or a folder with all in it; nothing happens where there is none."""
        if self.is_local:
            target = Path(self.root) / path
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target, ignore_errors=False)
            else:
                target.unlink(missing_ok=True)
            return
        filesystem = self._filesystem()
        if filesystem.exists(self._remote(path)):
            filesystem.rm(self._remote(path), recursive=True)

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """A local temporary file that is published at `path` when the block ends without an error; see `publish`."""
        temporary = self.temporary()
        try:
            yield temporary
            self.publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def temporary(self) -> Path:
        """The name of a new local file in this attempt's folder, on the same file system as the root (remote: in the cache)."""
        folder = Path(self.root if self.is_local else self.cache) / "tmp" / self.attempt
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"tmp.{uuid.uuid4().hex}"

    def publish(self, temporary: Path, path: str) -> Published:
        """Publish a written local file at `path`: fsync, sha256, rename, fsync of the folder.

        Raises:
            OSError: the disk is full or cannot be written.
        """
        failpoint("publish.before_sync")
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        sha256, size = file_sha256(temporary), temporary.stat().st_size
        failpoint("publish.before_rename")
        if self.is_local:
            target = Path(self.root) / path
            _make_folder(target.parent)
            temporary.replace(target)
            _fsync_folder(target.parent)
        else:
            filesystem = self._filesystem()
            filesystem.makedirs(self._remote(path).rsplit("/", 1)[0], exist_ok=True)
            filesystem.put_file(str(temporary), self._remote(path))
            temporary.unlink(missing_ok=True)
        failpoint("publish.after_rename")
        return Published(path, sha256, size)

    def write(self, path: str, data: bytes) -> Published:
        """Publish bytes at `path`."""
        temporary = self.temporary()
        try:
            temporary.write_bytes(data)
            return self.publish(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def write_json(self, path: str, value: Any) -> Published:
        """Publish plain data at `path` as canonical JSON with a final newline."""
        return self.write(path, canonical(value) + b"\n")

    def local(self, path: str, sha256: str | None = None) -> Path:
        """A local path holding the file: itself, or a verified copy in the cache.

        Raises:
            IntegrityError: the bytes are not those of `sha256`, or a file with a `sha256` (or on a remote root) is missing.
        """
        if self.is_local:
            target = Path(self.root) / path
        else:
            target = Path(self.cache) / path
            if not target.exists() or sha256 is None or file_sha256(target) != sha256:
                target.parent.mkdir(parents=True, exist_ok=True)
                temporary = target.parent / f"tmp.{uuid.uuid4().hex}"
                try:
                    self._filesystem().get_file(self._remote(path), str(temporary))
                    temporary.replace(target)
                except FileNotFoundError:
                    raise IntegrityError(f"{self.url(path)}: is gone", path=path) from None
                finally:
                    temporary.unlink(missing_ok=True)
        if sha256 is not None:
            verify(target, sha256)
        return target


def verify(path: Path, sha256: str) -> None:
    """Check a local file against its recorded digest.

    Raises:
        IntegrityError: it is missing or differs; the message names it.
    """
    try:
        status = path.stat()
        seen = (str(path), sha256, status.st_size, status.st_mtime_ns, status.st_ino)
        if seen in _VERIFIED:
            return
        found = file_sha256(path)
    except OSError as error:
        reason = os.strerror(error.errno or errno.EIO)
        raise IntegrityError(f"{path}: {reason}; it is recorded with sha256 {sha256[:12]}…", path=str(path)) from None
    if found != sha256:
        raise IntegrityError(f"{path}: damaged: sha256 {found[:12]}…, recorded {sha256[:12]}…", path=str(path))
    _VERIFIED.add(seen)


# ---------------------------------------------------------------- sources


@dataclass(frozen=True)
class Source:
    """A file that others own.

    `name` is stable under a move of the root: the part of the path that the pattern matched. `token` changes with the bytes; it is empty
    where the store tells nothing but the size.
    """

    url: str
    name: str
    lang: str | None
    size: int
    token: str


def pattern_for(path: str, spelling: str | None) -> str:
    """`path` with `{lang}` replaced by one spelling of a language code."""
    return path if spelling is None else path.replace("{lang}", spelling)


def list_sources(path: str, spellings: dict[str, tuple[str, ...]]) -> list[Source]:
    """Files matched by a path, glob or fsspec URL, in the order of (name, lang).

    Where `path` holds `{lang}`, `spellings` gives for each language the codes it may be written as; the first spelling with a match is
    taken. Nothing matched is an empty list; a path without wildcards is taken as it is.

    Raises:
        MissingSourceError: the place cannot be reached, or a file that matches cannot be read.
    """
    _ARCHIVES.clear()  # they may have changed since
    found: list[Source] = []
    if "{lang}" in path:
        for lang, codes in spellings.items():
            for code in codes:
                matched = _glob(pattern_for(path, code), lang, path)
                if matched:
                    found.extend(matched)
                    break
    else:
        found = _glob(path, None, path)
    return sorted(found, key=lambda source: (source.name, source.lang or ""))


def fixed_root(path: str) -> str:
    """The leading folders of a pattern that hold no wildcard."""
    plain = re.split(r"[*?\[{]", path, maxsplit=1)[0]
    return plain.rpartition("/")[0] + "/" if "/" in plain else ""


def missing_library(url: str, error: ImportError) -> str:
    """What to install where fsspec finds no library for a URL's scheme: the extra that brings it, or what fsspec advises."""
    schemes = re.findall(r"([a-z0-9]+)://", url)
    extra = next((_EXTRAS[scheme] for scheme in reversed(schemes) if scheme in _EXTRAS), None)
    return f"its library is missing. Run: pip install '{DISTRIBUTION}[{extra}]'" if extra else str(error)


def _glob(pattern: str, lang: str | None, path: str) -> list[Source]:
    """What `pattern` matches; `path` is the pattern as the user wrote it, whose fixed folders are no part of a name."""
    if "\0" in unquote(pattern):
        raise MissingSourceError(f"source {pattern!r}: a NUL byte in a path is refused.")
    if split(pattern) is not None:
        return _glob_archives(pattern, lang, path)
    fixed = len(fixed_root(path))
    if "://" not in pattern and "::" not in pattern:
        return _glob_local(pattern, lang, fixed)
    import fsspec

    shown = without_userinfo(pattern)
    try:
        filesystem, inner = fsspec.core.url_to_fs(pattern)
        filesystem.invalidate_cache()
        names = filesystem.glob(inner, detail=True) if any(c in inner for c in "*?[") else {inner: filesystem.info(inner)}
    except FileNotFoundError:
        return []
    except ImportError as error:
        raise MissingSourceError(f"source {shown}: {missing_library(pattern, error)}") from None
    except Exception as error:  # noqa: BLE001 - each store's library raises errors of its own
        raise MissingSourceError(f"source {shown}: cannot be listed: {type(error).__name__}: {without_userinfo(str(error))}") from None
    # Names come back bare; `zip://*.txt::s3://bucket/a.zip` needs what stands before and after them.
    head, chain, rest = pattern.partition("::")
    if "://" not in head:
        head, chain, rest = pattern, "", ""
    prefix = head[: len(head) - len(inner)] if head.endswith(inner) else ""
    found = []
    for name, info in sorted(names.items()):
        if info.get("type") == "directory":
            continue
        evidence = [str(info[field]) for field in _TOKEN_FIELDS if info.get(field)]
        token = digest([*evidence, info.get("size")]) if evidence else ""
        url = prefix + name if prefix else str(filesystem.unstrip_protocol(name))
        found.append(Source(url + chain + rest, url[fixed:] or url, lang, int(info.get("size") or 0), token))
    return found


def _glob_archives(pattern: str, lang: str | None, path: str) -> list[Source]:
    """Members of the archives that the rest of the chain matches, which may be several."""
    chain, written = _chain(pattern), _chain(path)
    fixed = len(fixed_root(written.members))
    several = any(character in written.outer for character in "*?[{")
    matches = _glob_matcher(chain.members)
    found = []
    for archive in _glob(chain.outer, lang, written.outer):
        for member in _ARCHIVES.members(Chain(chain.kind, chain.members, archive.url), matches):
            name = member.name[fixed:] or member.name
            token = digest([*member.evidence, archive.token]) if archive.token else ""
            url = f"{chain.kind}://{member.name}::{archive.url}"
            found.append(Source(url, f"{archive.name}/{name}" if several else name, lang, member.size, token))
    return found


def _chain(url: str) -> Chain:
    parts = split(url)
    assert parts is not None
    return parts


def _glob_matcher(pattern: str) -> Callable[[str], bool]:
    if not any(character in pattern for character in "*?["):
        return pattern.__eq__
    from fsspec.utils import glob_translate

    try:
        compiled = re.compile(glob_translate(pattern))
    except (ValueError, re.error) as error:
        raise MissingSourceError(
            f"source {pattern}: no pattern: {error}. Allowed are `*`, `?`, `[abc]`, and `**` as a folder of its own."
        ) from None
    return lambda name: compiled.match(name) is not None


def _glob_local(pattern: str, lang: str | None, fixed: int) -> list[Source]:
    import glob

    wild = any(c in pattern for c in "*?[") and not Path(pattern).exists()
    names = sorted(glob.glob(pattern, recursive=True)) if wild else [pattern]  # noqa: PTH207 - a `Path` would normalise the name
    found = []
    for name in names:
        try:
            status = Path(name).stat()
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)) and not Path(name).is_symlink():
                continue
            raise MissingSourceError(f"source {name}: cannot be read: {error.strerror}.") from None
        if Path(name).is_dir():
            continue
        found.append(Source(name, name[fixed:], lang, status.st_size, f"{status.st_size}-{status.st_mtime_ns}"))
    return found


def open_source(url: str) -> BinaryIO:
    """Open a source for reading bytes, undecoded.

    Raises:
        MissingSourceError: it cannot be opened.
    """
    chain = split(url)
    if chain is not None:
        return _ARCHIVES.open(chain)
    try:
        if "://" not in url and "::" not in url:
            return Path(url).open("rb")
        import fsspec

        source = fsspec.open(url, "rb")
        opened: BinaryIO = source.open()
        # An archive's file system closes the archive when it is collected: it lives as long as the stream.
        weakref.finalize(opened, lambda kept: None, source)
        return opened
    except Exception as error:  # noqa: BLE001 - each store's library raises errors of its own
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {without_userinfo(str(error))}"
        raise MissingSourceError(f"source {without_userinfo(url)}: cannot be read: {reason}") from None


_ARCHIVES = Archives(lambda url: open_source(url))
"""The archives that this process has open."""
