"""Runs what is missing, in order, and records it.

    plan -> nothing to do: say so, and stop (no lock, no Ray, no MLflow)
         -> lease -> for each instance: content key -> manifest there? reuse : run -> manifest (last) -> state -> MLflow

One lease a pipeline name; each artifact is published under its key, so two pipelines that share work share its bytes. A damaged file met on the way is
named, its unit or artifact forgotten, and the stage that made it is run again, once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline import lease, units
from pipeline import manifest as manifests
from pipeline.cluster import Cluster, ClusterSettings
from pipeline.dag import Graph, Instance, Planned, identity_globals, own_recipe, plan, sources_of
from pipeline.errors import ConfigError, IntegrityError, InterruptedRunError, PipelineError, PreflightError, StageError
from pipeline.failpoint import failpoint
from pipeline.footprint import Footprint
from pipeline.manifest import Manifest, State
from pipeline.observer import Observer, status_of
from pipeline.sources import Source
from pipeline.stage import Context, Grade, Input, NotFetchedError, Output, Summary
from pipeline.storage import ADHOC, Storage, canonical, digest

log = logging.getLogger(__name__)

LINGER_S = 2.0


@dataclass(frozen=True)
class Choice:
    """Which part of a pipeline to run."""

    start: str | None = None
    until: str | None = None
    force: frozenset[str] = frozenset()
    wait_s: float = 0.0


@dataclass
class StageResult:
    """What became of an instance in this run: `done` (nothing to do), `reused` (same bytes came in), `ran`."""

    instance: str
    state: str
    seconds: float = 0.0
    peak_bytes: int = 0
    key: str = ""
    warnings: list[str] = field(default_factory=list)


@dataclass
class RunResult:
    """What a run did."""

    run: str
    stages: list[StageResult]
    seconds: float
    peak_bytes: int

    @property
    def up_to_date(self) -> bool:
        """Whether there was nothing to do."""
        return all(stage.state == "done" for stage in self.stages)


def chosen(graph: Graph, planned: list[Planned], choice: Choice) -> list[Planned]:
    """The instances that a run concerns, in order.

    Raises:
        ConfigError: `--from`, `--until` or `--force` names no instance, or what comes before `--from` was never run.
    """
    for name in (choice.start, choice.until, *choice.force):
        if name is not None:
            graph.instance(name)
    wanted = [p.instance.name for p in planned]
    if choice.until is not None:
        keep = _ancestors(graph, choice.until) | {choice.until}
        wanted = [name for name in wanted if name in keep]
    if choice.start is not None:
        keep = graph.descendants(choice.start) | {choice.start}
        needed = set().union(*(_ancestors(graph, name) for name in wanted if name in keep)) - keep
        before = [p for p in planned if p.instance.name in needed and p.state != "done"]
        if before:
            raise ConfigError(
                f"--from {choice.start}: {before[0].instance.name} comes before it and is not up to date ({before[0].reasons[0]})."
            )
        wanted = [name for name in wanted if name in keep]
        if not wanted:
            raise ConfigError(
                f"--from {choice.start} --until {choice.until}: nothing lies between; {choice.until} comes before {choice.start}."
            )
    return [p for p in planned if p.instance.name in wanted]


def _ancestors(graph: Graph, name: str) -> set[str]:
    found: set[str] = set()
    waiting = [name]
    while waiting:
        for edge in graph.instance(waiting.pop()).edges:
            if edge.instance not in found:
                found.add(edge.instance)
                waiting.append(edge.instance)
    return found


def run(graph: Graph, choice: Choice | None = None, *, tags: Mapping[str, str] | None = None) -> RunResult:
    """Run what is missing.

    Raises:
        PipelineError: with the exit code that fits.
    """
    choice = choice or Choice()
    started_at_s = time.monotonic()
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(3)}"
    with contextlib.suppress(NotFetchedError):
        planned = chosen(graph, plan(graph, forced=choice.force), choice)
        if all(p.state == "done" for p in planned):
            return RunResult(name, [StageResult(p.instance.name, "done") for p in planned], time.monotonic() - started_at_s, 0)
    _refuse_working_dir(graph)
    storage = Storage.at(graph.storage.root, name)
    storage.prepare()
    lease_path = f"pipelines/{graph.settings.name}/lease.json"
    with (
        _signals(),
        lease.hold(storage, lease_path, name, wait_s=choice.wait_s) as held,
        Footprint() as footprint,
        _attempt_folder(storage),
        _Run(graph, storage, held, footprint, name, dict(tags or {})) as session,
    ):
        return session.work(choice, started_at_s)


def _refuse_working_dir(graph: Graph) -> None:
    """Ray may collect an unpacked working_dir at any time: nothing worth keeping goes there."""
    if not (os.environ.get("RAY_JOB_ID") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")) or not graph.storage.is_local:
        return
    here = Path.cwd().resolve()
    if "runtime_resources" in here.parts and Path(graph.storage.root).resolve().is_relative_to(here):
        raise ConfigError(
            f"storage {graph.storage.root} lies in the job's working_dir, which Ray removes. Give a folder or URL that every node sees: storage=/data/xlm"
        )


@contextlib.contextmanager
def _attempt_folder(storage: Storage) -> Iterator[None]:
    """Temporary files of this attempt live in one folder, removed at the end; those of dead attempts are removed at the start."""
    top = Path(storage.root if storage.is_local else storage.cache) / "tmp"
    mine = top / storage.attempt
    for found in sorted(top.iterdir()) if top.is_dir() else []:
        if found.name == ADHOC or (found.name.endswith(".new") and time.time() - found.stat().st_mtime < 60):
            continue
        try:
            owner = json.loads((found / "owner.json").read_text())
        except (OSError, ValueError):
            # An attempt's folder appears with its owner in it: one without was made again by a worker that outlived its driver.
            owner = None
        if owner is None or lease.provably_dead(owner):
            shutil.rmtree(found, ignore_errors=True)
    made = top / f"{storage.attempt}.new"
    try:
        made.mkdir(parents=True, exist_ok=True)
        (made / "owner.json").write_text(json.dumps(lease.identity()))
        made.rename(mine)
    except OSError as error:
        raise PreflightError(
            f"storage {storage.root} cannot be written: {error.strerror}. Free space or give another folder (storage=…)."
        ) from None
    try:
        yield
    except BaseException:
        # Workers die a moment after the driver gave up on them, and one may still begin a file.
        give_up_at_s = time.monotonic() + LINGER_S
        while time.monotonic() < give_up_at_s:
            shutil.rmtree(mine, ignore_errors=True)
            time.sleep(0.1)
        raise
    finally:
        shutil.rmtree(mine, ignore_errors=True)
        if not storage.is_local:
            storage.remove(f"tmp/{storage.attempt}")


_interrupted: list[InterruptedRunError] = []
"""The interruption of this run, kept because a library that is at work when it comes may take it for an error of its own and go on."""


def raise_if_interrupted() -> None:
    """Raise the interruption that somebody has swallowed.

    Raises:
        InterruptedRunError: SIGINT or SIGTERM came.
    """
    if _interrupted:
        raise _interrupted[0]


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGINT end the run by an exception in the main thread, so that everything is put away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _interrupted.clear()

    def handler(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        message = f"interrupted by {signal.Signals(number).name}; the same command goes on from here."
        _interrupted.append(InterruptedRunError(message, exit_code=128 + number))
        raise _interrupted[0]

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


class _Run:
    """One attempt: holds the lease, opens Ray and MLflow when first needed, closes both."""

    def __init__(self, graph: Graph, storage: Storage, held: lease.Lease, footprint: Footprint, name: str, tags: dict[str, str]) -> None:
        self.graph, self.storage, self.held, self.footprint, self.name = graph, storage, held, footprint, name
        self.state = State.load(storage, graph.settings.name)
        self.results: list[StageResult] = []
        self.observer = Observer(graph, storage, name, tags)
        self._cluster: Cluster | None = None
        self._record: dict[str, Any] = {}

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._save_record(status_of(error), error)
            self.observer.close(error)
        finally:
            if self._cluster is not None:
                self._cluster.close()

    def cluster(self) -> Cluster:
        """The cluster, started or joined when first asked for."""
        if self._cluster is None:
            given = self.graph.settings.cluster
            settings = ClusterSettings(
                address=given.address, workers=given.workers, cpus_per_worker=given.cpus_per_worker, gpus_per_worker=given.gpus_per_worker,
                memory_per_worker=given.memory_per_worker, deadline_s=given.deadline_s,
            )  # fmt: skip
            log.info("starting Ray" if given.address is None and not os.environ.get("RAY_ADDRESS") else "connecting to Ray")
            self._cluster = Cluster.open(settings, temp_dir=None)
            raise_if_interrupted()
            token = secrets.token_hex(16)
            path = f"tmp/{self.storage.attempt}/handshake"
            self.storage.write(path, token.encode())
            libraries = {n: v for i in self.graph.instances for n, v in manifests.library_versions(i.declaration.libraries).items()}
            self._cluster.handshake(libraries, "pipeline.runner:read_token", {"root": self.storage.root, "path": path})
        return self._cluster

    def work(self, choice: Choice, started_at_s: float) -> RunResult:
        for instance in self.graph.instances:
            # A source that must be fetched is fetched now, under the lease, so that the plan below sees it.
            sources_of(self.graph, instance, fetch=True)
        planned = chosen(self.graph, plan(self.graph, forced=choice.force), choice)
        done = {p.instance.name: p.manifest for p in plan(self.graph) if p.manifest is not None}
        available: dict[str, Manifest] = {}
        for instance in self.graph.instances:
            found = done.get(instance.name)
            if found is not None:
                available[instance.name] = found
        repaired: set[str] = set()
        index = 0
        while index < len(planned):
            item = planned[index]
            raise_if_interrupted()
            try:
                available[item.instance.name] = self._one(item, available, choice, index + 1, len(planned))
            except IntegrityError as error:
                damaged = str(getattr(error, "path", ""))
                culprit = manifests.forget(self.storage, available, damaged)
                if culprit is None and manifests.forget_unit(self.storage, damaged):
                    culprit = item.instance.name  # a file between two phases of this very stage
                if culprit is None or culprit in repaired:
                    raise
                available.pop(culprit, None)
                repaired.add(culprit)
                log.warning("%s. It is made again by %s.", error, culprit)
                again = [n for n, p in enumerate(planned) if p.instance.name == culprit]
                if not again:
                    raise
                index = again[0]
                planned = [
                    Planned(p.instance, "run", ("damaged file",), p.recipe, p.recipe_key, None) if n == index else p
                    for n, p in enumerate(planned)
                ]
                self.results = [r for r in self.results if r.instance != culprit]
                continue
            index += 1
        return RunResult(self.name, self.results, time.monotonic() - started_at_s, self.footprint.peak_bytes)

    def _one(self, item: Planned, available: dict[str, Manifest], choice: Choice, number: int, of: int) -> Manifest:
        instance = item.instance
        if item.state == "done" and item.manifest is not None and instance.name not in choice.force:
            self._note(StageResult(instance.name, "done", key=item.manifest.key))
            self.observer.skipped(instance, item.manifest)
            return item.manifest
        found = tuple(sources_of(self.graph, instance, fetch=True))
        inputs = {}
        for edge in instance.edges:
            source = available.get(edge.instance)
            if source is None:
                raise StageError(f"{instance.name}: its input {edge.instance} was not run. Leave out --from, or run {edge.instance} first.")
            lineage = tuple(available[name] for name in self.graph.lineage(edge) if name in available)
            inputs[edge.slot] = Input(edge.slot, edge.instance, source.outputs[edge.output], source, self.storage, lineage)
        key = self._content_key(instance, found, inputs)
        path = manifests.manifest_path(instance.declaration.name, key)
        try:
            manifest = manifests.load(self.storage, path)
        except IntegrityError as error:
            log.warning("%s; it is made again", error)
            self.storage.remove(path)
            manifest = None
        if manifest is not None and manifests.missing(self.storage, manifest) is None and instance.name not in choice.force:
            log.info("[%d/%d] %s: reused, same content came in", number, of, instance.name)
            self._note(StageResult(instance.name, "reused", key=key))
            self.observer.skipped(instance, manifest)
        else:
            log.info("[%d/%d] %s: %s", number, of, instance.name, "; ".join(item.reasons[:3]) or "to do")
            manifest = self._run_stage(instance, key, path, found, inputs, choice)
        self._remember(item, manifest)
        return manifest

    def _content_key(self, instance: Instance, found: tuple[tuple[Source, str], ...], inputs: Mapping[str, Input]) -> str:
        recipe = own_recipe(self.graph, instance)
        recipe["sources"] = [[source.name, source.lang, sha256] for source, sha256 in found]
        recipe["inputs"] = {slot: given.digest for slot, given in sorted(inputs.items())}
        if instance.declaration.ledgers:
            told = {slot: [[m.ledgers, m.counts] for m in given.lineage] for slot, given in sorted(inputs.items())}
            recipe["ledgers"] = json.loads(canonical(told))  # as a manifest has them that was read again: names of numbers are text
        return digest(recipe)

    def _run_stage(
        self, instance: Instance, key: str, path: str, found: tuple[tuple[Source, str], ...], inputs: Mapping[str, Input], choice: Choice
    ) -> Manifest:
        declared = instance.declaration
        started_at_s, started = time.monotonic(), time.time()
        self.footprint.mark()
        folder = path.rpartition("/")[0]
        work = f"work/{declared.name}/{key}"
        spool = f"{work}/spool"
        if instance.name in choice.force and declared.grade is Grade.TRAINING:
            self.storage.remove(work)
        output = Output(self.storage, folder, declared.output)
        workshop = units.Workshop(
            self.storage, declared.name, declared.version, manifests.library_versions(declared.libraries), self.cluster,
            self.graph.settings.cluster.unit_deadline_s, self.graph.settings.quarantine.max_poison, instance.name,
        )  # fmt: skip
        child = self.observer.begin(instance, key)
        context = Context(
            self.graph.settings.name, instance.name, key, self.graph.settings, self.graph.languages, self.graph.settings.seed,
            self.storage, found, workshop, self.cluster, spool, work, self.held.check, lambda: self.observer.poll(child, spool),
        )  # fmt: skip
        try:
            summary: Summary = declared.module.run(instance.config, inputs, output, context)
            for name, ledger in summary.ledgers.items():
                ledger.check(f"{instance.name}: {name}")
            self._sources_unchanged(instance, found)
        except BaseException as error:
            self.observer.failed(child, spool, error)
            raise
        poison = [f"set apart because it kills its worker: {each}" for each in workshop.poison]
        summary = replace(summary, warnings=[*summary.warnings, *poison])
        seconds, peak = time.monotonic() - started_at_s, self.footprint.mark()
        manifest = self._publish(instance, key, path, output, summary, seconds, peak, started, workshop)
        self.observer.finished(child, spool, instance, manifest, summary, output)
        for warning in summary.warnings:
            log.warning("%s: %s", instance.name, warning)
        self._note(StageResult(instance.name, "ran", seconds, peak, key, list(summary.warnings)))
        log.info("%s: done in %.1f s, peak %.2f GiB", instance.name, seconds, peak / 2**30)
        return manifest

    def _publish(
        self,
        instance: Instance,
        key: str,
        path: str,
        output: Output,
        summary: Summary,
        seconds: float,
        peak: int,
        started: float,
        workshop: units.Workshop,
    ) -> Manifest:
        self.held.check()
        declared = instance.declaration
        record = {
            "run": self.name,
            "instance": instance.name,
            "started": started,
            "seconds": round(seconds, 3),
            "phases": {name: round(taken, 3) for name, taken in workshop.seconds.items()},
            "peak_bytes": peak,
            "host": socket.gethostname(),
            "python": ".".join(map(str, sys.version_info[:3])),
            "libraries": manifests.library_versions(declared.libraries),
            "globals": identity_globals(self.graph, declared),
            "settings": instance.config.model_dump(mode="json"),
            "units": sorted(workshop.used),
            "poison": list(workshop.poison),
            "warnings": list(summary.warnings),
            "metrics": dict(summary.metrics),
            "evidence": {name: {"path": p.path, "sha256": p.sha256, "bytes": p.bytes} for name, p in sorted(output.evidence_files.items())},
        }
        ledgers = {name: ledger.plain() for name, ledger in sorted(summary.ledgers.items())}
        manifest = Manifest(path, declared.name, key, output.contents(), ledgers, dict(summary.counts), record)
        failpoint("manifest.before")
        self.storage.write_json(path, manifest.plain())
        failpoint("manifest.after")
        return manifest

    def _sources_unchanged(self, instance: Instance, found: tuple[tuple[Source, str], ...]) -> None:
        """An input that changed while it was read would make a lie of its digest (I9)."""
        if not found:
            return
        now = {source.url: sha256 for source, sha256 in sources_of(self.graph, instance, fetch=True)}
        for source, sha256 in found:
            if now.get(source.url) != sha256:
                raise StageError(f"{instance.name}: {source.url} changed while it was read. Run again when it no longer changes.")

    def _remember(self, item: Planned, manifest: Manifest) -> None:
        self.held.check()
        self.state.instances[item.instance.name] = {
            "recipe": dict(item.recipe),
            "recipe_key": item.recipe_key,
            "manifest": manifest.path,
            "key": manifest.key,
            "digests": manifest.digests(),
            "seconds": manifest.record.get("seconds", 0),
            "run": self.name,
        }
        self.state.save(self.storage)
        failpoint("state.after")

    def _note(self, result: StageResult) -> None:
        self.results.append(result)

    def _save_record(self, status: str, error: BaseException | None) -> None:
        stages = {
            r.instance: {"state": r.state, "seconds": round(r.seconds, 3), "peak_bytes": r.peak_bytes, "key": r.key} for r in self.results
        }
        self._record = {
            "run": self.name, "status": status, "stages": stages, "peak_bytes": self.footprint.peak_bytes,
            "error": None if error is None else f"{type(error).__name__}: {error}"[:2000],
        }  # fmt: skip
        try:
            self.storage.write_json(f"pipelines/{self.graph.settings.name}/runs/{self.name}.json", self._record)
        except (OSError, PipelineError) as failure:
            log.warning("the run's record could not be written: %s", failure)


def read_token(argument: dict[str, str]) -> str:
    """Read what the driver wrote to storage; runs on every node before the first unit."""
    return Storage.at(argument["root"]).read(argument["path"]).decode()
