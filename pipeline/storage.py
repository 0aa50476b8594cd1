"""Files of our own on a disk or behind fsspec: atomic publish, checksums. Those of others are listed and opened by `sources.py`.

A *storage root* is a folder or an fsspec URL; everything below it is named by relative paths with `/`. Publishing a file: write to
`tmp/<attempt>/`, flush and fsync, sha256, rename, fsync of the folder. On an object store the final key is written once, and only the
manifest that names it makes it visible.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pipeline.errors import ConfigError, IntegrityError, PreflightError
from pipeline.failpoint import failpoint

DISTRIBUTION = "xlm-pipeline"
"""What `pip install` knows this program by."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}
"""URL scheme -> the extra that brings its library."""
ADHOC = "adhoc"
"""Attempt of a storage that no run has opened."""
_CHUNK = 1 << 20
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


def missing_library(url: str, error: ImportError) -> str:
    """What to install where fsspec finds no library for a URL's scheme: the extra that brings it, or what fsspec advises."""
    schemes = re.findall(r"([a-z0-9]+)://", url)
    extra = next((_EXTRAS[scheme] for scheme in reversed(schemes) if scheme in _EXTRAS), None)
    return f"its library is missing. Run: pip install '{DISTRIBUTION}[{extra}]'" if extra else str(error)


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
