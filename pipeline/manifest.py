"""Keys, manifests and run records: what an artifact is, and what was run when.

    artifacts/<stage>/<key>/manifest.json   written last: its existence means complete
        content   outputs (shards and files with sha256), ledger, counts; sha256(content of a slot) is all that a descendant's key sees
        record    attempt, times, hosts, library versions, world size, evidence: never in a key
    pipelines/<name>/state.json             for each instance the recipe and the artifact of its last completed run
    pipelines/<name>/runs/<run>.json        one record a run

A *recipe* is what `plan` can know without running: stage, version, settings, globals, libraries, sources, recipe keys of the inputs. A
*key* has the inputs' content digests instead, so that an upstream rerun with the same bytes stops there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from pipeline.errors import IntegrityError
from pipeline.storage import Published, Storage, digest

FORMAT = 1


@dataclass(frozen=True)
class Shard:
    """A file of a table artifact: the unit that made it, where it lies, what it holds."""

    key: str
    path: str
    sha256: str
    bytes: int
    rows: int

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {"key": self.key, "path": self.path, "sha256": self.sha256, "bytes": self.bytes, "rows": self.rows}


@dataclass(frozen=True)
class SlotContent:
    """One output slot of a manifest: the shards of a table and the named files."""

    type: str
    shards: tuple[Shard, ...] = ()
    files: Mapping[str, Published] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        files = {name: {"path": p.path, "sha256": p.sha256, "bytes": p.bytes} for name, p in sorted(self.files.items())}
        return {"type": self.type, "shards": [shard.plain() for shard in self.shards], "files": files}

    def identity(self) -> str:
        """Digest of the content: what a descendant's key sees. Where files lie is no part of it."""
        shards = [[shard.sha256, shard.rows] for shard in self.shards]
        files = [[name, p.sha256] for name, p in sorted(self.files.items())]
        return digest({"type": self.type, "shards": shards, "files": files})


@dataclass(frozen=True)
class Manifest:
    """A completed artifact."""

    path: str
    stage: str
    key: str
    outputs: Mapping[str, SlotContent]
    ledgers: Mapping[str, Any]
    counts: Mapping[str, Any]
    record: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """As it is written."""
        content = {
            "format": FORMAT,
            "stage": self.stage,
            "key": self.key,
            "outputs": {slot: content.plain() for slot, content in sorted(self.outputs.items())},
            "ledgers": dict(self.ledgers),
            "counts": dict(self.counts),
        }
        record = dict(self.record)
        return {"content": content, "record": record, "content_sha256": digest(content), "record_sha256": digest(record)}

    def entries(self) -> Iterator[Published]:
        """Every file that the manifest names."""
        for content in self.outputs.values():
            for shard in content.shards:
                yield Published(shard.path, shard.sha256, shard.bytes)
            yield from content.files.values()

    def digests(self) -> dict[str, str]:
        """Content digest of each slot."""
        return {slot: content.identity() for slot, content in sorted(self.outputs.items())}


def manifest_path(stage: str, key: str) -> str:
    """Where the manifest of an artifact lies."""
    return f"artifacts/{stage}/{key}/manifest.json"


def load(storage: Storage, path: str) -> Manifest | None:
    """Read a manifest, or None where there is none.

    Raises:
        IntegrityError: it is damaged.
    """
    plain = storage.read_json(path)
    if plain is None:
        return None
    try:
        content = plain["content"]
        if digest(content) != plain["content_sha256"] or digest(plain["record"]) != plain["record_sha256"]:
            raise IntegrityError(f"{storage.url(path)}: damaged: its content does not match its own digest", path=path)
        outputs = {
            slot: SlotContent(
                body["type"],
                tuple(Shard(**shard) for shard in body["shards"]),
                {name: Published(**entry) for name, entry in body["files"].items()},
            )
            for slot, body in content["outputs"].items()
        }
        return Manifest(path, content["stage"], content["key"], outputs, content["ledgers"], content["counts"], plain["record"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise IntegrityError(f"{storage.url(path)}: damaged: {type(error).__name__}: {error}", path=path) from None


def missing(storage: Storage, manifest: Manifest) -> str | None:
    """The first file that is gone or has another size, or None: the cheap check of a no-op."""
    for entry in manifest.entries():
        if storage.size(entry.path) != entry.bytes:
            return entry.path
    return None


def forget(storage: Storage, made: Mapping[str, Manifest], path: str) -> str | None:
    """Forget a damaged file, so that the next run makes it again: the file, its unit's record, the manifest that names it.

    `made` maps instances to their manifests; `path` is relative to the root, or absolute below it. Returns the instance that makes the file, or None.
    """
    path = _below(storage, path)
    for name, manifest in made.items():
        if any(entry.path == path for entry in manifest.entries()):
            if not forget_unit(storage, path):
                storage.remove(path)
            storage.remove(manifest.path)
            return name
    return None


def forget_unit(storage: Storage, path: str) -> bool:
    """Forget a damaged file of a work unit together with the unit's record; false where `path` is no such file."""
    path = _below(storage, path)
    if not path.startswith("units/"):
        return False
    storage.remove(path)
    folder, _, name = path.rpartition("/")
    storage.remove(f"{folder}/{name.split('.', 1)[0]}.json")
    return True


def _below(storage: Storage, path: str) -> str:
    for base in (storage.root, storage.cache):
        if base:
            path = path.removeprefix(base + "/")
    return path


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Installed versions of distributions, read without importing them.

    Raises:
        PackageNotFoundError: one is not installed.
    """
    return {name: metadata.version(name) for name in sorted(names)}


@dataclass
class State:
    """The last completed run of each instance of a pipeline, by name."""

    path: str
    instances: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def load(cls, storage: Storage, pipeline: str) -> State:
        """Read the state of a pipeline; empty where it never ran."""
        path = f"pipelines/{pipeline}/state.json"
        plain = storage.read_json(path) or {}
        return cls(path, plain.get("instances", {}))

    def save(self, storage: Storage) -> None:
        """Publish the state."""
        storage.write_json(self.path, {"format": FORMAT, "instances": self.instances})


def difference(before: Any, after: Any, prefix: str = "") -> list[str]:
    """What changed between two recipes, one line a field: `settings.size: 16000 → 12000`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        lines = []
        for key in sorted({*before, *after}):
            name = f"{prefix}.{key}" if prefix else str(key)
            if key not in before:
                lines.append(f"{name}: new ({_short(after[key])})")
            elif key not in after:
                lines.append(f"{name}: gone (was {_short(before[key])})")
            else:
                lines.extend(difference(before[key], after[key], name))
        return lines
    if before == after and type(before) is type(after):
        return []
    old, new = _short(before), _short(after)
    return [f"{prefix}: {old} → {new}" if old != new else f"{prefix}: {before!r} → {after!r}"]


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
