"""Work units: the grain of work, resume and incremental retraining.

A *unit* is a slice of input with a content digest. Its key is sha256(stage, phase, VERSION, settings that shape output, LIBRARIES, digests
of side inputs, content digest of the slice); its files and its record lie at `units/<stage>/<phase>/<key>.*` and are shared by all runs, so
resume, caching and "only new data is worked on" are one look-up:

    units -> keys -> those without a record -> batches of small units -> Ray tasks (`pipeline.task`, on a worker) -> files, then the record
          -> results in the order of the units

A worker that dies, hangs past the deadline or outgrows its memory takes its batch with it: the units are tried again, each alone. After two
deaths alone a unit is split: trial runs over ranges of its records, publishing nothing, find the record that kills; the unit then reruns
without it. Where already the reading of a record kills, trial runs that read ever more of them find it, and the rest of its file is left out.
Node loss and preemption never count. An error that the code raises on purpose ends the stage.

A task may wait in Ray's queue for as long as others take, so its deadline counts from the moment at which the driver sees the mark that it
leaves at its start: `tmp/<attempt>/started/<number>`.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.cluster import Cluster, Handle, NodeLost, TaskRaised, WorkerDied
from pipeline.errors import PipelineError, QuarantineError, StageError, UnitError
from pipeline.failpoint import failpoint
from pipeline.progress import Progress
from pipeline.storage import Storage, digest
from pipeline.task import NONE_APART, Apart, Trial, UnitResult, find

log = logging.getLogger(__name__)

BATCH_BYTES = 4 << 20
BATCH_UNITS = 16
DEATHS_ALONE = 2
TRANSIENT_TRIES = 4
NODE_LOSSES = 20
UNEXPLAINED = 3
POLL_S = 0.5
LASTING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM})
"""Errors of a file system that do not go away by trying again."""


@dataclass(frozen=True)
class Unit:
    """A slice of input: its content digest, what a worker needs to know to read it (plain data), its size in bytes, a name for messages."""

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
    used: set[str] = field(default_factory=set)
    """Keys of all units that the stage took, so that they are kept as long as its artifact is."""
    seconds: dict[str, float] = field(default_factory=dict)
    """What each phase took, in the order in which they began."""
    poison: list[str] = field(default_factory=list)
    """Records that were set apart because they kill their worker: phase, unit, number and name."""


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


def map_units(workshop: Workshop, phase: Phase, units: Sequence[Unit]) -> list[UnitResult]:
    """Work all units that are not yet done; the results come in the order of `units`.

    Raises:
        UnitError: a unit failed for a reason that no retry mends.
        QuarantineError: more records kill their worker than `quarantine.max_poison` allows.
        PipelineError: whatever the worker function raised on purpose.
    """
    started_at_s = time.monotonic()
    keys = [unit_key(workshop, phase, unit) for unit in units]
    workshop.used.update(keys)
    results: dict[str, UnitResult] = {}
    todo: dict[str, Unit] = {}
    for key, unit in zip(keys, units, strict=True):
        if key in results or key in todo:
            continue
        found = find(workshop.storage, workshop.stage, phase.name, key)
        if found is None:
            todo[key] = unit
        else:
            results[key] = found
    if todo:
        log.info("%s: %s: %d of %d units to do", workshop.title, phase.name, len(todo), len(set(keys)))
        with Progress(f"{workshop.title} {phase.name}", len(todo), "units") as progress:
            results.update(_Queue(workshop, phase, todo, progress).drain())
    workshop.seconds[phase.name] = workshop.seconds.get(phase.name, 0.0) + time.monotonic() - started_at_s
    labels = dict(zip(reversed(keys), (unit.label for unit in reversed(units)), strict=True))
    named = [f"{label} {each}" for key, label in reversed(labels.items()) for each in _named(results[key])]
    workshop.poison.extend(f"{phase.name}: {each}" for each in named)
    if len(named) > workshop.max_poison:
        raise QuarantineError(
            f"{workshop.title}: {len(named)} record(s) kill their worker: {'; '.join(named[:5])}. "
            f"Remove them from the source, or allow them with quarantine.max_poison={len(named)}."
        )
    return [results[key] for key in keys]


def _named(result: UnitResult) -> list[str]:
    """What was set apart: number and name of each record."""
    names = result.poisoned or ("",) * len(result.poison)
    return [f"record {record}" + (f" ({name})" if name else "") for record, name in zip(result.poison, names, strict=True)]


def batches(todo: Mapping[str, Unit], workers: int) -> list[list[str]]:
    """Keys in batches of small units, so that a task's start costs little; at least four batches a worker where there are units enough.

    The largest come first, so that the last one to be worked, for which other workers wait, is a small one.
    """
    order = sorted(todo, key=lambda key: -todo[key].size)
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
    apart: Apart = NONE_APART
    tries: int = 0


class _Clock:
    """Tells for how long a task has run, from the mark that it leaves at its start; None while it waits in Ray's queue."""

    def __init__(self, storage: Storage, deadline_s: float) -> None:
        self.mark = f"tmp/{storage.attempt}/started/{next(_NUMBERS)}"
        self._storage, self._deadline_s = storage, deadline_s
        self._look_every_s = min(POLL_S, deadline_s / 4) if storage.is_local else max(POLL_S, deadline_s / 20)
        self._looked_at_s = time.monotonic()
        self._started_at_s: float | None = None

    def is_over(self) -> bool:
        now = time.monotonic()
        if self._started_at_s is None and now - self._looked_at_s >= self._look_every_s:
            self._looked_at_s = now
            if self._storage.exists(self.mark):
                self._started_at_s = now
        return self._started_at_s is not None and now - self._started_at_s > self._deadline_s

    def clear(self) -> None:
        self._storage.remove(self.mark)


_NUMBERS = itertools.count(1)


class _Queue:
    """The driver's side of a phase: bounded tasks in flight, retries, isolation of records that kill."""

    def __init__(self, workshop: Workshop, phase: Phase, todo: Mapping[str, Unit], progress: Progress) -> None:
        self._workshop, self._phase, self._todo, self._progress = workshop, phase, todo, progress
        self._cluster = workshop.cluster()
        self._poll_s = min(POLL_S, workshop.deadline_s / 4)
        self._deaths: dict[str, list[str]] = {}
        self._unexplained: dict[str, int] = {}
        self._losses = 0
        self._results: dict[str, UnitResult] = {}

    def drain(self) -> dict[str, UnitResult]:
        pending = deque(_Attempt(keys) for keys in batches(self._todo, self._cluster.workers))
        running: dict[Handle, tuple[_Attempt, _Clock]] = {}
        try:
            while pending or running:
                while pending and len(running) < 2 * self._cluster.workers:
                    attempt = pending.popleft()
                    handle, clock = self._submit(attempt)
                    running[handle] = (attempt, clock)
                for handle in self._cluster.wait(list(running), self._poll_s):
                    attempt, clock = running.pop(handle)
                    clock.clear()
                    pending.extend(self._finish(handle, attempt))
                for handle, (attempt, clock) in list(running.items()):
                    if clock.is_over():
                        self._cluster.cancel(handle)
                        del running[handle]
                        clock.clear()
                        pending.extend(self._died(attempt, "time"))
                self._progress.update(len(self._results))
        finally:
            for handle, (_, clock) in running.items():
                self._cluster.cancel(handle)
                clock.clear()
        return self._results

    def _submit(self, attempt: _Attempt, trial: Trial | None = None) -> tuple[Handle, _Clock]:
        workshop, phase, per_worker = self._workshop, self._phase, self._cluster.settings.memory_per_worker
        clock = _Clock(workshop.storage, workshop.deadline_s)
        argument = {
            "root": workshop.storage.root,
            "attempt": workshop.storage.attempt,
            "started": clock.mark,
            "stage": workshop.stage,
            "phase": phase.name,
            "function": phase.function,
            "settings": dict(phase.settings),
            "given": dict(phase.given),
            "unit": phase.unit,
            "units": [{"key": key, "argument": dict(self._todo[key].argument), "label": self._todo[key].label} for key in attempt.keys],
            "skip": list(attempt.apart.skip),
            "cut": list(attempt.apart.cut),
            "trial": None if trial is None else [trial.low, trial.high, trial.until],
            "memory_bytes": None if per_worker is None else max(per_worker, phase.memory_bytes or 0),
        }
        memory_bytes = phase.memory_bytes or per_worker
        label = f"{workshop.title} {phase.name}"
        return self._cluster.submit("pipeline.task:execute", argument, cpus=phase.cpus, memory_bytes=memory_bytes, label=label), clock

    def _found(self, key: str) -> bool:
        """Whether the unit is done; if so its result is kept."""
        found = find(self._workshop.storage, self._workshop.stage, self._phase.name, key)
        if found is not None:
            self._results[key] = replace(found, worked=True)
        return found is not None

    def _named(self, key: str) -> str:
        return f"{self._workshop.title}: {self._todo[key].label}"

    def _finish(self, handle: Handle, attempt: _Attempt) -> list[_Attempt]:
        try:
            self._cluster.result(handle)
        except WorkerDied as error:
            return self._died(attempt, error.reason)
        except NodeLost as error:
            self._lost(error)
            return [_Attempt(attempt.keys, attempt.apart)]
        except TaskRaised as error:
            return self._raised(attempt, error)
        for key in attempt.keys:
            if not self._found(key):
                raise UnitError(f"{self._named(key)}: its task ended but left no record; is the storage shared by all nodes?")
        failpoint(f"{self._workshop.stage}.{self._phase.name}.collected")
        return []

    def _lost(self, error: NodeLost) -> None:
        self._losses += 1
        if self._losses > NODE_LOSSES:
            raise StageError(f"{self._workshop.title}: nodes were lost {self._losses} times: {error}. See the cluster's log.") from error
        log.warning("%s: %s; its units go to another node", self._workshop.title, error)

    def _raised(self, attempt: _Attempt, raised: TaskRaised) -> list[_Attempt]:
        error = raised.error
        if isinstance(error, PipelineError):
            raise error
        if isinstance(error, MemoryError):
            return self._died(attempt, "memory")
        # Units of a batch are worked in turn: the first without a record is the one that failed.
        left = [key for key in attempt.keys if not self._found(key)]
        named = self._named((left or attempt.keys)[0])
        if isinstance(error, OSError):
            if attempt.tries >= TRANSIENT_TRIES or error.errno in LASTING:
                raise UnitError(f"{named}: {error}") from None
            log.warning("%s: %s; tried again", named, error)
            time.sleep(0.1 * 2**attempt.tries)
            return [_Attempt(left, attempt.apart, attempt.tries + 1)] if left else []
        log.error("%s", raised.traceback)
        raise UnitError(f"{named}: {type(error).__name__}: {error}") from None

    def _died(self, attempt: _Attempt, reason: str) -> list[_Attempt]:
        left = [key for key in attempt.keys if not self._found(key)]
        if len(attempt.keys) > 1 or not left:
            log.warning("%s: a worker died (%s); %d units are tried again, each alone", self._workshop.title, reason, len(left))
            return [_Attempt([key]) for key in left]
        key = left[0]
        deaths = self._deaths.setdefault(key, [])
        deaths.append(reason)
        log.warning("%s: worker died (%s), alone, time %d", self._named(key), reason, len(deaths))
        if len(deaths) < DEATHS_ALONE:
            return [_Attempt([key], attempt.apart)]
        if len(attempt.apart) > self._workshop.max_poison:
            raise QuarantineError(
                f"{self._named(key)}: more than {self._workshop.max_poison} record(s) kill their worker ({reason}): "
                f"{', '.join(map(str, sorted((*attempt.apart.skip, *attempt.apart.cut))))} and at least one more. "
                "Remove them from the source, or raise quarantine.max_poison."
            )
        apart = self._isolate(key, attempt.apart)
        self._deaths[key] = []
        return [_Attempt([key], apart)]

    def _isolate(self, key: str, apart: Apart) -> Apart:
        """What is to be set apart, one record more, by halving ranges in trial runs that publish nothing; the same if nothing kills any more."""
        dies = f"{self._named(key)}: its worker dies ({self._deaths[key][-1]})"
        size = self._trial(key, apart, Trial(0, 0))
        if size is None:
            return self._isolate_unreadable(key, apart, dies)
        # A function that goes through no records has done all its work in that trial.
        if size == 0 or self._trial(key, apart, Trial(0, size)) is not None:
            return self._unrepeated(key, apart, dies)
        low, high = 0, size
        while high - low > 1:
            middle = (low + high) // 2
            if self._trial(key, apart, Trial(low, middle)) is None:
                high = middle
            elif self._trial(key, apart, Trial(middle, high)) is None:
                low = middle
            else:
                raise UnitError(
                    f"{dies}, but no record alone kills it. "
                    "Give workers more memory (cluster.memory_per_worker) or more time (cluster.unit_deadline_s)."
                )
        log.warning("%s: record %d kills its worker and is set apart", self._named(key), low)
        return replace(apart, skip=(*apart.skip, low))

    def _isolate_unreadable(self, key: str, apart: Apart, dies: str) -> Apart:
        """The record whose reading kills, by reading twice as many until it does, then by halving."""
        if self._trial(key, apart, Trial(0, 0, 0)) is None:
            raise UnitError(f"{dies} before it reads a record.")
        low, high = 0, 1  # `low` steps do not kill
        while (seen := self._trial(key, apart, Trial(0, 0, high))) is not None:
            if seen < high:
                return self._unrepeated(key, apart, dies)
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            if self._trial(key, apart, Trial(0, 0, middle)) is None:
                high = middle
            else:
                low = middle
        log.warning("%s: reading its record %d kills its worker; what follows in its file is set apart", self._named(key), low)
        return replace(apart, cut=(*apart.cut, low))

    def _unrepeated(self, key: str, apart: Apart, dies: str) -> Apart:
        self._unexplained[key] = self._unexplained.get(key, 0) + 1
        if self._unexplained[key] >= UNEXPLAINED:
            raise UnitError(f"{dies} again and again, but not in a trial run. See the cluster's log: something else kills it.")
        log.warning("%s, but not in a trial run; it is tried again", dies)
        return apart

    def _trial(self, key: str, apart: Apart, trial: Trial) -> int | None:
        """Run some of the records; how many were read (where the steps are bounded, how many were taken), or None where the worker died."""
        attempt = _Attempt([key], apart, TRANSIENT_TRIES)
        while True:
            handle, clock = self._submit(attempt, trial)
            try:
                while not self._cluster.wait([handle], self._poll_s):
                    if clock.is_over():
                        self._cluster.cancel(handle)
                        return None
                value = self._cluster.result(handle)
            except WorkerDied:
                return None
            except NodeLost as error:
                self._lost(error)
                continue
            except TaskRaised as error:
                if isinstance(error.error, MemoryError):
                    return None
                self._raised(attempt, error)
                continue
            except BaseException:
                self._cluster.cancel(handle)
                raise
            finally:
                clock.clear()
            assert isinstance(value, dict)
            return int(value["records" if trial.until is None else "steps"])
