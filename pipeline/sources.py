"""Inputs that others own, listed and opened through fsspec; what is ours lies in `storage.py`.

Each is listed with a *token* (size and mtime, or etag), under which its sha256 is cached: a changed token means rehash, never rerun by itself.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from pipeline.archives import Archives, Chain, split
from pipeline.errors import MissingSourceError
from pipeline.storage import digest, missing_library, without_userinfo

_TOKEN_FIELDS = (
    "ETag", "etag", "generation", "mtime", "modified", "created", "LastModified", "Last-Modified", "last_modified", "version_id",
)  # fmt: skip
"""What the listings of object stores and servers call the mark that changes with the bytes."""


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
