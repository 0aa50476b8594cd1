"""Work units: the grain of work, resume and incremental retraining.

A *unit* is a slice of input with a content digest. Its key is sha256(stage, phase, VERSION, settings that shape output, LIBRARIES, digests of side
inputs, content digest of the slice); its files and its record lie at `units/<stage>/<phase>/<key>.*` and are shared by all runs, so resume,
caching and "only new data is worked on" are one look-up:

    units -> keys -> those without a record -> batches of small units -> Ray tasks (`execute`, on a worker) -> files, then the record -> results
                                                                                                                   in the order of the units

A worker that dies, hangs past the deadline or outgrows its memory takes its batch with it: the units are tried again, each alone. After two deaths
alone a unit is split: trial runs over ranges of its records, publishing nothing, find the record that kills; the unit
then reruns with `skip={record}`. Node loss and preemption never count. An error that the code raises on purpose ends the stage.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pipeline.cluster import Cluster, NodeLost, TaskRaised, WorkerDied
from pipeline.errors import PipelineError, QuarantineError, StageError, UnitError
from pipeline.failpoint import failpoint
from pipeline.ledger import Ledger
from pipeline.manifest import Shard
from pipeline.progress import Progress
from pipeline.storage import Published, Storage, digest

log = logging.getLogger(__name__)

BATCH_BYTES = 4 << 20
BATCH_UNITS = 16
DEATHS_ALONE = 2
TRANSIENT_TRIES = 4
NODE_LOSSES = 20

T = TypeVar("T")


@dataclass(frozen=True)
class Unit:
    """A slice of input: its content digest, what a worker needs to know to read it (plain data), its size in bytes and a name for messages."""

    content: str
    argument: Mapping[str, Any]
    size: int
    label: str


@dataclass(frozen=True)
class Phase:
    """One pass over units: the worker function (`module:name`), the settings that shape its output, and the digests of its side inputs.

    `given` is what the function needs besides (paths of side inputs): plain data outside the key.
    """

    name: str
    function: str
    settings: Mapping[str, Any]
    unit: str
    side: tuple[str, ...] = ()
    given: Mapping[str, Any] = field(default_factory=dict)
    memory_bytes: int | None = None
    cpus: float = 1.0


@dataclass(frozen=True)
class UnitResult:
    """What a unit gave: its files by name, its ledger, its counts. `worked` is false where it was found done."""

    key: str
    files: Mapping[str, Shard]
    ledger: Ledger
    counts: Mapping[str, Any]
    poison: tuple[int, ...]
    worked: bool = False


@dataclass(frozen=True)
class Workshop:
    """What `map_units` needs of its surroundings; made by the runner."""

    storage: Storage
    stage: str
    version: int
    libraries: Mapping[str, str]
    cluster: Callable[[], Cluster]
    deadline_s: float
    max_poison: int
    title: str
    fence: Callable[[], None]


def unit_key(workshop: Workshop, phase: Phase, unit: Unit) -> str:
    """The key of a unit (hex, 64 characters)."""
    return digest(
        {
            "stage": workshop.stage,
            "phase": phase.name,
            "version": workshop.version,
            "settings": phase.settings,
            "libraries": dict(workshop.libraries),
            "side": list(phase.side),
            "content": unit.content,
        }
    )


def unit_path(stage: str, phase: str, key: str, name: str) -> str:
    """Where a unit's file or record lies, relative to the storage root."""
    return f"units/{stage}/{phase}/{key[:2]}/{key}.{name}"


def find(storage: Storage, stage: str, phase: str, key: str, unit: str) -> UnitResult | None:
    """A finished unit, or None; a record whose files are gone or have another size counts as none."""
    plain = storage.read_json(unit_path(stage, phase, key, "json"))
    if plain is None:
        return None
    files = {name: Shard(**entry) for name, entry in plain["files"].items()}
    if any(storage.size(shard.path) != shard.bytes for shard in files.values()):
        return None
    return UnitResult(key, files, Ledger.from_plain(plain["ledger"]), plain["counts"], tuple(plain["poison"]))


def map_units(workshop: Workshop, phase: Phase, units: Sequence[Unit]) -> list[UnitResult]:
    """Work all units that are not yet done; the results come in the order of `units`.

    Raises:
        UnitError: a unit failed for a reason that no retry mends.
        QuarantineError: more records kill their worker than `quarantine.max_poison` allows.
        PipelineError: whatever the worker function raised on purpose.
    """
    keys = [unit_key(workshop, phase, unit) for unit in units]
    results: dict[str, UnitResult] = {}
    todo: dict[str, Unit] = {}
    for key, unit in zip(keys, units, strict=True):
        if key in results or key in todo:
            continue
        found = find(workshop.storage, workshop.stage, phase.name, key, phase.unit)
        if found is None:
            todo[key] = unit
        else:
            results[key] = found
    if todo:
        log.info("%s: %s: %d of %d units to do", workshop.title, phase.name, len(todo), len(set(keys)))
        with Progress(f"{workshop.title} {phase.name}", len(todo), "units") as progress:
            results.update(_Queue(workshop, phase, todo, progress).drain())
    poison = sum(len(results[key].poison) for key in set(keys))
    if poison > workshop.max_poison:
        named = [f"{unit.label} record {r}" for key, unit in zip(keys, units, strict=True) for r in results[key].poison]
        raise QuarantineError(
            f"{workshop.title}: {poison} record(s) kill their worker: {'; '.join(named[:5])}. "
            f"Remove them from the source, or allow them with quarantine.max_poison={poison}."
        )
    return [results[key] for key in keys]


def batches(todo: Mapping[str, Unit], workers: int) -> list[list[str]]:
    """Keys in batches of small units, so that a task's start costs little; at least four batches a worker where there are units enough."""
    order = list(todo)
    wanted = os.environ.get("PIPELINE_UNIT_ORDER", "")
    if wanted.startswith("shuffle:"):
        random.Random(int(wanted.partition(":")[2])).shuffle(order)  # noqa: S311 - a test of order independence, no secret
    most = max(1, min(BATCH_UNITS, len(order) // max(1, 4 * workers)))
    made: list[list[str]] = []
    size = 0
    for key in order:
        if not made or len(made[-1]) >= most or size + todo[key].size > BATCH_BYTES:
            made.append([])
            size = 0
        made[-1].append(key)
        size += todo[key].size
    return made


@dataclass
class _Attempt:
    keys: list[str]
    skip: tuple[int, ...] = ()
    started_at_s: float = 0.0
    tries: int = 0


class _Queue:
    """The driver's side of a phase: bounded tasks in flight, retries, isolation of records that kill."""

    def __init__(self, workshop: Workshop, phase: Phase, todo: Mapping[str, Unit], progress: Progress) -> None:
        self._workshop, self._phase, self._todo, self._progress = workshop, phase, todo, progress
        self._cluster = workshop.cluster()
        self._deaths: dict[str, list[str]] = {}
        self._losses = 0
        self._results: dict[str, UnitResult] = {}

    def drain(self) -> dict[str, UnitResult]:
        pending = deque(_Attempt(keys) for keys in batches(self._todo, self._cluster.workers))
        running: dict[Any, _Attempt] = {}
        try:
            while pending or running:
                while pending and len(running) < 2 * self._cluster.workers:
                    attempt = pending.popleft()
                    attempt.started_at_s = time.monotonic()
                    running[self._submit(attempt)] = attempt
                for handle in self._cluster.wait(list(running), 0.5):
                    pending.extend(self._finish(handle, running.pop(handle)))
                for handle, attempt in list(running.items()):
                    # Twice as many tasks as workers are in flight, so a task may wait for one whole deadline before it starts.
                    if time.monotonic() - attempt.started_at_s > 2 * self._workshop.deadline_s:
                        self._cluster.cancel(handle)
                        running.pop(handle)
                        pending.extend(self._died(attempt, "time"))
                self._progress.update(len(self._results))
        finally:
            for handle in running:
                self._cluster.cancel(handle)
        return self._results

    def _argument(self, keys: Sequence[str], **extra: Any) -> dict[str, Any]:
        return {
            "root": self._workshop.storage.root,
            "attempt": self._workshop.storage.attempt,
            "stage": self._workshop.stage,
            "phase": self._phase.name,
            "function": self._phase.function,
            "settings": dict(self._phase.settings),
            "given": dict(self._phase.given),
            "unit": self._phase.unit,
            "units": [{"key": key, "argument": dict(self._todo[key].argument), "label": self._todo[key].label} for key in keys],
            **extra,
        }

    def _submit(self, attempt: _Attempt, **extra: Any) -> Any:
        argument = self._argument(attempt.keys, skip=list(attempt.skip), **extra)
        label = f"{self._workshop.title} {self._phase.name}"
        return self._cluster.submit(
            "pipeline.units:execute", argument, cpus=self._phase.cpus, memory_bytes=self._phase.memory_bytes, label=label
        )

    def _finish(self, handle: Any, attempt: _Attempt) -> list[_Attempt]:
        try:
            self._cluster.result(handle)
        except WorkerDied as error:
            return self._died(attempt, error.reason)
        except NodeLost as error:
            self._losses += 1
            if self._losses > NODE_LOSSES:
                raise StageError(f"{self._workshop.title}: nodes were lost {self._losses} times: {error}. See the cluster's own log.") from error
            log.warning("%s: %s; its units go to another node", self._workshop.title, error)
            return [_Attempt(attempt.keys, attempt.skip)]
        except TaskRaised as error:
            return self._raised(attempt, error)
        for key in attempt.keys:
            found = find(self._workshop.storage, self._workshop.stage, self._phase.name, key, self._phase.unit)
            if found is None:
                raise UnitError(f"{self._workshop.title}: {self._todo[key].label}: its task ended but left no record; is the storage shared by all nodes?")
            self._results[key] = UnitResult(key, found.files, found.ledger, found.counts, found.poison, True)
        return []

    def _raised(self, attempt: _Attempt, raised: TaskRaised) -> list[_Attempt]:
        error = raised.error
        labels = ", ".join(self._todo[key].label for key in attempt.keys[:3])
        if isinstance(error, PipelineError):
            raise error
        if isinstance(error, OSError) and attempt.tries < TRANSIENT_TRIES and getattr(error, "errno", None) not in (28, 30, 13, 122):
            log.warning("%s: %s: %s; tried again", self._workshop.title, labels, error)
            time.sleep(0.1 * 2**attempt.tries)
            return [_Attempt(attempt.keys, attempt.skip, tries=attempt.tries + 1)]
        if isinstance(error, OSError):
            raise UnitError(f"{self._workshop.title}: {labels}: {error}") from None
        log.error("%s", raised)
        raise UnitError(f"{self._workshop.title}: {labels}: {type(error).__name__}: {error}") from None

    def _died(self, attempt: _Attempt, reason: str) -> list[_Attempt]:
        left = []
        for key in attempt.keys:
            found = find(self._workshop.storage, self._workshop.stage, self._phase.name, key, self._phase.unit)
            if found is None:
                left.append(key)
            else:
                self._results[key] = UnitResult(key, found.files, found.ledger, found.counts, found.poison, True)
        if len(attempt.keys) > 1 or not left:
            log.warning("%s: a worker died (%s); %d units are tried again, each alone", self._workshop.title, reason, len(left))
            return [_Attempt([key]) for key in left]
        key = left[0]
        deaths = self._deaths.setdefault(key, [])
        deaths.append(reason)
        log.warning("%s: %s: worker died (%s), alone, time %d", self._workshop.title, self._todo[key].label, reason, len(deaths))
        if len(deaths) < DEATHS_ALONE:
            return [_Attempt([key], attempt.skip)]
        if len(attempt.skip) >= max(1, self._workshop.max_poison + 1):
            raise QuarantineError(f"{self._workshop.title}: {self._todo[key].label}: records {list(attempt.skip)} kill their worker ({reason}).")
        record = self._isolate(key, attempt.skip)
        self._deaths[key] = []
        return [_Attempt([key], (*attempt.skip, record))]

    def _isolate(self, key: str, skip: tuple[int, ...]) -> int:
        """The number of the record that kills, by halving ranges in trial runs that publish nothing."""
        size = self._trial(key, skip, (0, 0))
        if not size:
            raise UnitError(f"{self._workshop.title}: {self._todo[key].label}: its worker dies ({self._deaths[key][-1]}) before it reads a record.")
        low, high = 0, size
        while high - low > 1:
            middle = (low + high) // 2
            if self._trial(key, skip, (low, middle)) is None:
                high = middle
            elif self._trial(key, skip, (middle, high)) is None:
                low = middle
            else:
                raise UnitError(
                    f"{self._workshop.title}: {self._todo[key].label}: its worker dies ({self._deaths[key][-1]}), but no record alone kills it. "
                    "Give workers more memory (cluster.memory_per_worker) or more time (cluster.unit_deadline_s)."
                )
        log.warning("%s: %s: record %d kills its worker and is set apart", self._workshop.title, self._todo[key].label, low)
        return low

    def _trial(self, key: str, skip: tuple[int, ...], span: tuple[int, int]) -> int | None:
        """Run a range of records; the number of records in the unit, or None where the worker died."""
        handle = self._submit(_Attempt([key], skip), only=list(span))
        deadline = time.monotonic() + self._workshop.deadline_s
        while time.monotonic() < deadline:
            if self._cluster.wait([handle], 0.5):
                try:
                    value = self._cluster.result(handle)
                except WorkerDied:
                    return None
                except NodeLost:
                    return self._trial(key, skip, span)
                except TaskRaised as error:
                    self._raised(_Attempt([key], skip, tries=TRANSIENT_TRIES), error)
                assert isinstance(value, dict)
                return int(value["records"])
        self._cluster.cancel(handle)
        return None


# ---------------------------------------------------------------- on the worker


class Task:
    """A unit on its worker: reads `argument`, `settings` and `given`, writes files, fills `ledger` and `counts`.

    A function that goes through its records with `records` can be split when one of them kills the worker.
    """

    def __init__(
        self, storage: Storage, stage: str, phase: str, key: str, unit: str, argument: dict[str, Any], settings: dict[str, Any],
        given: dict[str, Any], skip: frozenset[int], only: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        self.storage, self.argument, self.settings, self.given = storage, argument, settings, given
        self.ledger = Ledger(unit)
        self.counts: dict[str, Any] = {}
        self.seen = 0
        self._stage, self._phase, self._key = stage, phase, key
        self._skip, self._only = skip, only
        self._files: dict[str, tuple[Path, int, str]] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="unit-")) if only is not None else None

    def records(self, items: Iterable[T], lang: Callable[[T], str]) -> Iterator[T]:
        """Pass the records on, but for those that kill: they are quarantined in the ledger as `poison`."""
        for item in items:
            number = self.seen
            self.seen += 1
            if number in self._skip:
                self.ledger.quarantine(lang(item), "poison")
            elif self._only is None or self._only[0] <= number < self._only[1]:
                yield item

    @contextmanager
    def table(self, name: str, schema: Any, *, compression: str | None = None, one_batch: bool = False) -> Iterator[Any]:
        """Write an Arrow file `<key>.<name>.arrow`; yields a `TableWriter`. With `one_batch` each column is one run of memory when mapped."""
        from pipeline.tables import ROWS_PER_BATCH, write_table

        path = self._place(f"{name}.arrow")
        self._files[name] = (path, 0, f"{name}.arrow")
        rows_per_batch = sys.maxsize if one_batch else ROWS_PER_BATCH
        with write_table(path, schema, compression=compression, rows_per_batch=rows_per_batch) as writer:
            yield writer
        self._files[name] = (path, writer.rows, f"{name}.arrow")

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Write any other file `<key>.<name>`."""
        path = self._place(name)
        self._files[name] = (path, 0, name)
        yield path

    def _place(self, name: str) -> Path:
        return self._scratch / name if self._scratch is not None else self.storage.temporary()

    def publish(self) -> None:
        """Publish the files, then the record; in a trial, nothing."""
        if self._only is not None:
            return
        shards = {}
        for name, (path, rows, suffix) in sorted(self._files.items()):
            published = self.storage.publish(path, unit_path(self._stage, self._phase, self._key, suffix))
            failpoint(f"{self._stage}.{self._phase}.after_file")
            shards[name] = _shard(self._key, published, rows)
        record = {
            "key": self._key,
            "stage": self._stage,
            "phase": self._phase,
            "files": {name: shard.plain() for name, shard in shards.items()},
            "ledger": self.ledger.plain(),
            "counts": self.counts,
            "poison": sorted(self._skip),
        }
        failpoint(f"{self._stage}.{self._phase}.before_record")
        self.storage.write_json(unit_path(self._stage, self._phase, self._key, "json"), record)
        failpoint(f"{self._stage}.{self._phase}.after_record")

    def clear(self) -> None:
        """Remove whatever temporary file is left."""
        for path, _, _ in self._files.values():
            path.unlink(missing_ok=True)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _shard(key: str, published: Published, rows: int) -> Shard:
    return Shard(key, published.path, published.sha256, published.bytes, rows)


def function_of(name: str) -> Callable[[Task], None]:
    """The function named `module:name`, of this project only.

    Raises:
        ValueError: the name is not of a module of `pipeline` or `stages`.
    """
    module, _, attribute = name.partition(":")
    if module.split(".")[0] not in ("pipeline", "stages", "tests"):
        raise ValueError(f"{name}: only functions of this project run on workers")
    found: Callable[[Task], None] = getattr(import_module(module), attribute)
    return found


def execute(argument: dict[str, Any]) -> dict[str, Any]:
    """Work a batch of units; runs on a Ray worker. Returns the number of records read, for trials."""
    storage = Storage.at(argument["root"], argument["attempt"])
    function = function_of(argument["function"])
    only = tuple(argument["only"]) if "only" in argument else None
    records = 0
    for unit in argument["units"]:
        key = unit["key"]
        if only is None and find(storage, argument["stage"], argument["phase"], key, argument["unit"]) is not None:
            continue
        task = Task(
            storage, argument["stage"], argument["phase"], key, argument["unit"], unit["argument"], argument["settings"], argument["given"],
            frozenset(argument["skip"]), only,
        )  # fmt: skip
        failpoint(f"{argument['stage']}.{argument['phase']}.start")
        try:
            function(task)
            if only is None:
                task.ledger.check(f"{argument['stage']} {argument['phase']}: {unit['label']}")
            task.publish()
        except PipelineError:
            raise
        except Exception as error:
            if not isinstance(error, OSError):
                log.debug("%s", traceback.format_exc())
            raise
        finally:
            task.clear()
        records += task.seen
    return {"records": records}
