"""The stage contract: what a package under `stages/` declares, and what its `run` is given.

A stage's `__init__.py` declares, and imports nothing heavy:

    Config     a frozen `Section`; fields marked `outside` enter no key
    VERSION    raised when the output changes for the same input
    LIBRARIES  distributions whose version shapes the output's bytes
    GRADE      Grade.EXACT (equal key ⇒ equal bytes) or Grade.TRAINING (keyed by recipe; descendants key on what was produced)
    GLOBALS    which of `languages`, `seed` shape the output
    INPUTS     slot -> Slot(artifact type, default instance, optional)
    OUTPUT     slot -> artifact type
    DEFAULT    whether the stage runs when the file does not name it
    FROZEN     (optional) once drawn, the output stays for this pipeline's name whatever its inputs do
    NAMES      (optional) setting -> (slot, setting): the first is to be a key of the second, a mapping of whatever instance fills the slot
    LEDGERS    (optional) the ledgers and counts of its inputs, and of what those were made of, shape the output: its key sees them
    run(config, inputs, output, context) -> Summary

and, if it reads files that others own, `list_inputs(config, context) -> list[Source]` (cheap, used by `plan` too); if its work has parts worth timing,
`profile(config, inputs, sample_bytes) -> list[Timing]`, which does them in this process on about so many bytes of its inputs, for `show`, and keeps nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.cluster import Cluster
from pipeline.config import PipelineConfig
from pipeline.errors import ConfigError, IntegrityError
from pipeline.ledger import Ledger
from pipeline.manifest import Manifest, Shard, SlotContent
from pipeline.sources import Source
from pipeline.storage import Published, Storage
from pipeline.task import UnitResult
from pipeline.units import Phase, Unit, Workshop, map_units


class Grade(enum.Enum):
    """How far equal keys mean equal bytes."""

    EXACT = "exact"
    TRAINING = "training"


@dataclass(frozen=True)
class Slot:
    """An input: the artifact type it takes, the instance it comes from unless the file says otherwise, whether it may be absent.

    With `many`, every instance that gives the type is taken unless the file names some; they arrive as `<slot>.<instance>`.
    """

    type: Artifact
    default: str = ""
    optional: bool = False
    many: bool = False


class NotFetchedError(Exception):
    """Raised by `list_inputs` when a source must be fetched before it can be listed; `plan` shows the reason, `run` fetches."""


@dataclass(frozen=True)
class ListContext:
    """What `list_inputs` may use. `fetch` is true when the run has begun: only then may anything be downloaded or written."""

    storage: Storage
    base_of: Callable[[tuple[str | int, ...]], Path]
    """Folder that a relative path starts from, by the setting it stands in: that of its file, or of an override, the current one."""
    languages: tuple[str, ...]
    fetch: bool


@dataclass(frozen=True)
class Declaration:
    """A stage as declared by its package."""

    name: str
    module: ModuleType
    version: int
    libraries: tuple[str, ...]
    grade: Grade
    globals: tuple[str, ...]
    inputs: Mapping[str, Slot]
    output: Mapping[str, Artifact]
    default: bool
    frozen: bool
    ledgers: bool
    names: Mapping[str, tuple[str, str]]

    @property
    def config(self) -> type[Any]:
        """Its configuration model."""
        found: type[Any] = self.module.Config
        return found


def declaration(name: str, registry: Mapping[str, str]) -> Declaration:
    """Load a stage's declaration by its registered name.

    Raises:
        ConfigError: the package lacks part of the contract.
    """
    module = import_module(registry[name])
    lacking = [part for part in ("Config", "VERSION", "LIBRARIES", "GRADE", "INPUTS", "OUTPUT", "run") if not hasattr(module, part)]
    if lacking:
        raise ConfigError(f"stage {name} ({registry[name]}) does not declare {', '.join(lacking)}; see pipeline/stage.py for the contract.")
    return Declaration(
        name, module, module.VERSION, tuple(module.LIBRARIES), module.GRADE, tuple(getattr(module, "GLOBALS", ())), module.INPUTS, module.OUTPUT,
        bool(getattr(module, "DEFAULT", True)), bool(getattr(module, "FROZEN", False)),
        bool(getattr(module, "LEDGERS", False)), dict(getattr(module, "NAMES", {})),
    )  # fmt: skip


@dataclass(frozen=True)
class Input:
    """An artifact given to a stage. `lineage` is the manifests of the stages that it came through as the same type, the oldest first, its own last."""

    slot: str
    instance: str
    content: SlotContent
    manifest: Manifest
    storage: Storage
    lineage: tuple[Manifest, ...] = ()

    @property
    def digest(self) -> str:
        """Content digest."""
        return self.content.identity()

    @property
    def shards(self) -> tuple[Shard, ...]:
        """Its shards, in the order of the manifest."""
        return self.content.shards

    def path(self, name: str) -> Path:
        """A local, verified path of a named file.

        Raises:
            IntegrityError: there is no such file, or it is damaged.
        """
        entry = self.content.files.get(name)
        if entry is None:
            raise IntegrityError(f"{self.manifest.path}: has no file {name!r}; it has {', '.join(sorted(self.content.files)) or 'none'}")
        return self.storage.local(entry.path, entry.sha256)

    def names(self, prefix: str = "") -> list[str]:
        """Names of its files that begin with `prefix`, sorted."""
        return sorted(name for name in self.content.files if name.startswith(prefix))

    def shard_path(self, shard: Shard) -> Path:
        """A local, verified path of a shard."""
        return self.storage.local(shard.path, shard.sha256)

    def folder(self, prefix: str) -> Path:
        """A local folder that holds its files below `prefix`, all verified.

        Raises:
            IntegrityError: there are none, or one is damaged.
        """
        names = self.names(f"{prefix}/")
        if not names:
            raise IntegrityError(f"{self.manifest.path}: has no files below {prefix}/")
        paths = [self.path(name) for name in names]
        return Path(str(paths[0])[: -len(names[0]) - 1 + len(prefix) + 1])

    def reference(self) -> list[dict[str, Any]]:
        """Its shards as plain data, to be given to workers."""
        return [shard.plain() for shard in self.shards]


@dataclass
class Output:
    """Where a stage puts what it makes: shards of units, files, and evidence (plots, cards) that no key sees."""

    storage: Storage
    folder: str
    types: Mapping[str, Artifact]
    shards: dict[str, list[Shard]] = field(default_factory=dict)
    files: dict[str, dict[str, Published]] = field(default_factory=dict)
    evidence_files: dict[str, Published] = field(default_factory=dict)

    def add(self, slot: str, shards: Sequence[Shard]) -> None:
        """Append shards to an output slot, in the order in which they shall be read."""
        self._known(slot)
        self.shards.setdefault(slot, []).extend(shards)

    @contextmanager
    def file(self, slot: str, name: str) -> Iterator[Path]:
        """Write a named file of a slot."""
        self._known(slot)
        with self._writing(f"{self.folder}/{slot}/{name}") as (path, done):
            yield path
            self.files.setdefault(slot, {})[name] = done(path)

    def folder_of(self, slot: str, source: Path, prefix: str) -> None:
        """Publish every file below a local folder as `<prefix>/<relative path>`, sorted."""
        for found in sorted(source.rglob("*")):
            if found.is_file():
                with self.file(slot, f"{prefix}/{found.relative_to(source).as_posix()}") as path:
                    path.write_bytes(found.read_bytes())

    def refer(self, slot: str, name: str, published: Published) -> None:
        """Name a file that already lies in storage as part of a slot, without a copy."""
        self._known(slot)
        self.files.setdefault(slot, {})[name] = published

    @contextmanager
    def evidence(self, name: str) -> Iterator[Path]:
        """Write a plot or a card: kept with the artifact and shown in MLflow, outside every key."""
        with self._writing(f"{self.folder}/evidence/{name}") as (path, done):
            yield path
            self.evidence_files[name] = done(path)

    @contextmanager
    def _writing(self, target: str) -> Iterator[tuple[Path, Callable[[Path], Published]]]:
        temporary = self.storage.temporary()
        try:
            yield temporary, lambda path: self.storage.publish(path, target)
        finally:
            temporary.unlink(missing_ok=True)

    def _known(self, slot: str) -> None:
        if slot not in self.types:
            raise KeyError(f"{slot!r} is not an output of this stage; it declares {sorted(self.types)}")

    def contents(self) -> dict[str, SlotContent]:
        """All slots as they enter the manifest."""
        return {
            slot: SlotContent(kind.name, tuple(self.shards.get(slot, ())), self.files.get(slot, {}))
            for slot, kind in sorted(self.types.items())
        }


@dataclass(frozen=True)
class Summary:
    """What `run` returns: its ledgers by name (each is checked), counts for the manifest, warnings for the user, metrics for MLflow."""

    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Timing:
    """What a part of a stage's work took on a sample, on one core; `bytes` are of text as it came in. Looked at, never kept in an artifact."""

    name: str
    documents: int
    bytes: int
    seconds: float
    remark: str = ""


@dataclass(frozen=True)
class Context:
    """The surroundings of a running stage."""

    name: str
    instance: str
    key: str
    settings: PipelineConfig
    languages: tuple[str, ...]
    seed: int
    storage: Storage
    sources: tuple[tuple[Source, str], ...]
    workshop: Workshop
    cluster: Callable[[], Cluster]
    spool: str
    work: str
    fence: Callable[[], None]
    on_poll: Callable[[], None]

    def map(self, phase: Phase, units: Sequence[Unit]) -> list[UnitResult]:
        """Work units on the cluster; see `pipeline.units.map_units`."""
        return map_units(self.workshop, phase, units)
