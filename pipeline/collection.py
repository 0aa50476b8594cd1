"""Garbage collection: what no pipeline's last run in a storage refers to, and its removal.

    pipelines/*/*.json -> pinned artifacts -> their manifests -> files and unit keys to keep
    artifacts/ units/ work/ tmp/ - what is kept -> paths, and with `delete` they go, manifests and unit records first

sources/, pipelines/ and mlflow/ are never looked at for removal. Of the rest stays:

- *Pinned artifacts*: those that a JSON file of any pipeline names by path or key (its state, and whatever else is filed beside it,
  as a champion's record; run records pin nothing): the whole folder, and each file that the manifest names, wherever it lies.
- *Units*: all files and the record of a unit, if a pinned manifest lists one of its files, its key as that of a shard, or its key
  under `units` in its record. No manifest need name the maps of a stage of several phases, nor the units of a run that was
  interrupted: any other unit goes only when it is older than `KEEP_UNITS_S`. One too many removed costs time, never bytes.
- *Work* (checkpoints and spools of a training): that of a pinned key, and any in which something was written within
  `KEEP_UNITS_S`, so that an interrupted training is not lost.
- *Temporary files*: those of an attempt whose owner is not provably dead; where the owner is not of this machine, for `KEEP_ORPHANS_S`.

With `delete` the lease of every pipeline is held until all is removed, so no run of theirs can begin meanwhile. A pipeline whose name is
new to this storage could; if it had counted on a unit that goes, its next look finds the file gone and makes it again.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import lease
from pipeline import manifest as manifests
from pipeline.errors import IntegrityError
from pipeline.storage import Storage

KEEP_UNITS_S = 7 * 24 * 3600.0
KEEP_ORPHANS_S = 24 * 3600.0

_ARTIFACT = re.compile(r"artifacts/([^/]+)/([0-9a-f]{8,64})(?:/|\Z)")
_KEY = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Collected:
    """What is collected: paths of files relative to the root, sorted, and their size in bytes."""

    paths: list[str]
    bytes: int


@dataclass
class _Kept:
    """What must stay: folders `artifacts/<stage>/<key>`, files, unit keys, and the keys of pinned artifacts."""

    folders: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


def collect(storage: Storage, delete: bool) -> Collected:
    """Find what nothing refers to; with `delete`, remove it.

    Raises:
        LockedError: `delete`, and a pipeline of this storage is running; the message names it.
        IntegrityError: a pipeline's state or a pinned manifest is damaged, so that what it refers to is not known.
    """
    with contextlib.ExitStack() as held:
        if delete:
            for name in _pipelines(storage):
                held.enter_context(lease.hold(storage, f"pipelines/{name}/lease.json", "gc"))
        kept = _kept(storage)
        paths = sorted({*_artifacts(storage, kept), *_units(storage, kept), *_work(storage, kept), *_temporary(storage)})
        size = sum(storage.size(path) or 0 for path in paths)
        if delete:
            # A manifest or a record goes before the files that it calls complete.
            for path in sorted(paths, key=lambda path: (not path.endswith(".json"), path)):
                storage.remove(path)
            if storage.is_local:
                for top in ("artifacts", "units", "work", "tmp"):
                    _prune(Path(storage.root) / top)
    return Collected(paths, size)


def _pipelines(storage: Storage) -> list[str]:
    return sorted({path.split("/")[1] for path in storage.list("pipelines") if path.count("/") >= 2})


def _kept(storage: Storage) -> _Kept:
    kept = _Kept()
    stages_and_keys: set[tuple[str, str]] = set()
    keys: set[str] = set()
    for path in storage.list("pipelines"):
        parts = path.split("/")
        if len(parts) < 3 or parts[2] == "runs" or not path.endswith(".json") or parts[-1].startswith(("tmp.", "lease.")):
            continue
        for text in _texts(storage.read_json(path)):
            if found := _ARTIFACT.search(text):
                stages_and_keys.add((found[1], found[2]))
            elif _KEY.match(text):
                keys.add(text)
    for path in storage.list("artifacts"):
        parts = path.split("/")
        if len(parts) > 3 and parts[2] in keys:
            stages_and_keys.add((parts[1], parts[2]))
    for stage, key in sorted(stages_and_keys):
        kept.folders.add(f"artifacts/{stage}/{key}")
        kept.keys.add(key)
        made = manifests.load(storage, manifests.manifest_path(stage, key))
        if made is None:
            continue
        kept.files.update(entry.path for entry in made.entries())
        kept.units.update(shard.key for content in made.outputs.values() for shard in content.shards)
        kept.units.update(key for key in made.record.get("units", ()) if isinstance(key, str))
    kept.units.update(named for path in kept.files if (named := _unit_key(path)) is not None)
    return kept


def _texts(value: Any) -> Iterator[str]:
    """Every text in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _unit_key(path: str) -> str | None:
    """The key in `units/<stage>/<phase>/<kk>/<key>.<name>`."""
    parts = path.split("/")
    return parts[4].split(".", 1)[0] if len(parts) == 5 and parts[0] == "units" else None


def _artifacts(storage: Storage, kept: _Kept) -> Iterator[str]:
    for path in storage.list("artifacts"):
        if "/".join(path.split("/")[:3]) not in kept.folders and path not in kept.files:
            yield path


def _units(storage: Storage, kept: _Kept) -> Iterator[str]:
    by_key: dict[str, list[str]] = {}
    for path in storage.list("units"):
        key = _unit_key(path)
        if path not in kept.files and key not in kept.units:
            by_key.setdefault(key or path, []).append(path)
    for paths in by_key.values():
        if _age_s(storage, paths) > KEEP_UNITS_S:
            yield from paths


def _work(storage: Storage, kept: _Kept) -> Iterator[str]:
    folders: dict[str, list[str]] = {}
    for path in storage.list("work"):
        folders.setdefault("/".join(path.split("/")[:3]), []).append(path)
    for folder, paths in folders.items():
        if folder.rpartition("/")[2] not in kept.keys and _age_s(storage, paths) > KEEP_UNITS_S:
            yield from paths


def _temporary(storage: Storage) -> Iterator[str]:
    attempts: dict[str, list[str]] = {}
    for path in storage.list("tmp"):
        attempts.setdefault("/".join(path.split("/")[:2]), []).append(path)
    for attempt, paths in attempts.items():
        try:
            owner = storage.read_json(f"{attempt}/owner.json") if f"{attempt}/owner.json" in paths else None
        except IntegrityError:
            owner = None
        if isinstance(owner, dict) and _ours(owner):
            dead = lease.provably_dead(owner)
        else:
            dead = _age_s(storage, paths) > KEEP_ORPHANS_S
        if dead:
            yield from paths


def _ours(owner: dict[str, Any]) -> bool:
    """Whether the owner of an attempt ran here, so that we can tell if it still lives."""
    mine = lease.identity()
    return bool(mine["boot"]) and all(owner.get(name) == mine[name] for name in ("host", "boot", "namespace"))


def _age_s(storage: Storage, paths: list[str]) -> float:
    """Seconds since the newest of the files was written; 0 where that is not known."""
    newest = 0.0
    for path in paths:
        try:
            newest = max(newest, _written(storage, path))
        except FileNotFoundError:
            continue
        except NotImplementedError:  # a file system that keeps no times: nothing in it is ever old
            return 0.0
    return max(0.0, time.time() - newest) if newest else 0.0


def _written(storage: Storage, path: str) -> float:
    """When a file was written, in seconds since the epoch."""
    if storage.is_local:
        return (Path(storage.root) / path).stat().st_mtime
    import fsspec

    filesystem, inner = fsspec.core.url_to_fs(storage.url(path))
    return float(filesystem.modified(inner).timestamp())


def _prune(folder: Path) -> None:
    """Remove the empty folders below `folder`; one that is filled meanwhile stays."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for inner in sorted(folder.iterdir()):
        if inner.is_dir() and not inner.is_symlink():
            _prune(inner)
            with contextlib.suppress(OSError):
                inner.rmdir()
