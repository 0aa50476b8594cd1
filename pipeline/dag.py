"""Stage instances, typed edges, their order, and the plan with its reasons.

    Document -> build (every mistake of the file at once) -> Graph: instances in topological order -> plan (recipes against the state) -> Planned

Nothing here runs a stage, starts a library or, when planning, writes a file.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pipeline import manifest as manifests
from pipeline.config import PipelineConfig, Section, identity_of, missing_environment, parse_section, resolve_path
from pipeline.document import Document, Location, Problem, fail, read, with_overrides
from pipeline.errors import ConfigError, IntegrityError
from pipeline.gang_sizes import undivided
from pipeline.manifest import Manifest, State
from pipeline.source_digests import source_digests
from pipeline.sources import Source
from pipeline.stage import Declaration, ListContext, NotFetchedError, declaration
from pipeline.storage import Storage, digest
from pipeline.text import languages as languages_


@dataclass(frozen=True)
class Edge:
    """An input slot and the output it takes."""

    slot: str
    instance: str
    output: str


@dataclass(frozen=True)
class Instance:
    """A stage as it stands in the file."""

    name: str
    declaration: Declaration
    config: Section
    edges: tuple[Edge, ...]


@dataclass(frozen=True)
class Graph:
    """The whole pipeline: its settings, its instances in the order in which they run, and the folder that relative paths start from."""

    settings: PipelineConfig
    languages: tuple[str, ...]
    instances: tuple[Instance, ...]
    document: Document
    storage: Storage

    @property
    def path(self) -> Path:
        """The pipeline file."""
        return self.document.path

    def base_of(self, location: Location) -> Path:
        """The folder that a relative path at `location` starts from: that of the file it stands in, or the current one for an override."""
        place = self.document.place(location)
        return Path(place.source).absolute().parent if place.line else Path.cwd()

    def instance(self, name: str) -> Instance:
        """An instance by name.

        Raises:
            ConfigError: there is none; the message lists those there are.
        """
        for instance in self.instances:
            if instance.name == name:
                return instance
        near = difflib.get_close_matches(name, [i.name for i in self.instances], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise ConfigError(f"there is no stage {name!r} in this pipeline; {hint}It has {', '.join(i.name for i in self.instances)}.")

    def lineage(self, edge: Edge) -> tuple[str, ...]:
        """Names of the instances that an input came through as the same artifact type, the oldest first (`ingest, clean`)."""
        found = [edge.instance]
        kind = self.instance(edge.instance).declaration.output[edge.output].name
        while True:
            before = [e for e in self.instance(found[0]).edges if self.instance(e.instance).declaration.output[e.output].name == kind]
            if not before:
                return tuple(found)
            found.insert(0, before[0].instance)

    def descendants(self, name: str) -> set[str]:
        """Names of all instances that take from `name`, directly or not."""
        found: set[str] = set()
        for instance in self.instances:
            if any(edge.instance == name or edge.instance in found for edge in instance.edges):
                found.add(instance.name)
        return found


def capacity(graph: Graph, stage: str | None, machines: object) -> Iterator[str]:
    """What the stages that train would need, or one of them.

    Raises:
        ConfigError: there is no such stage, or none that says what it needs.
    """
    instances = graph.instances if stage is None else (graph.instance(stage),)
    telling = [each for each in instances if hasattr(each.declaration.module, "capacity")]
    if not telling:
        names = ", ".join(each.name for each in graph.instances if hasattr(each.declaration.module, "capacity")) or "none of this file"
        raise ConfigError(f"plan --capacity: {stage or 'no stage'} says nothing of what it needs; those that do: {names}")
    for instance in telling:
        yield from instance.declaration.module.capacity(graph, instance.name, machines)


def load(path: Path, overrides: Sequence[str], registry: Mapping[str, str]) -> Graph:
    """Read a pipeline file with overrides and build its graph.

    Raises:
        ConfigError: everything wrong with it, each with its place.
    """
    return build(with_overrides(read(path), overrides), registry)


def build(document: Document, registry: Mapping[str, str]) -> Graph:
    """Check a document and build its graph; see `load`."""
    problems = missing_environment(document)
    settings, found = parse_section(PipelineConfig, document, (), dict(document.data))
    problems += found
    languages: tuple[str, ...] = ()
    if settings is not None:
        try:
            wanted = settings.languages if isinstance(settings.languages, str) else list(settings.languages)
            languages = languages_.resolve(wanted)
        except ConfigError as error:
            problems.append(Problem(document.place(("languages",)), ("languages",), str(error)))
    declared = document.data.get("stages")
    parts = _parts(document, declared if isinstance(declared, dict) else {}, registry, problems)
    instances = [made for part in parts.values() if (made := _instance(document, part, parts, problems)) is not None]
    problems += [problem for instance in instances for problem in _unknown_names(document, instance, instances)]
    problems += [] if settings is None else _undivided_batches(document, settings, instances)
    if problems or settings is None:
        raise fail(problems)
    ordered = _order(document, instances)
    graph = Graph(settings, languages, tuple(ordered), document, Storage.at("."))
    return replace(graph, storage=Storage.at(resolve_path(settings.storage, graph.base_of(("storage",)))))


def _undivided_batches(document: Document, settings: PipelineConfig, instances: Sequence[Instance]) -> list[Problem]:
    """Trainings whose global batch no allowed number of ranks divides: they would fail behind all data stages."""
    problems = []
    for instance in instances:
        batch = getattr(instance.config, "global_batch", None)
        refused = None if batch is None else undivided(settings.cluster.workers, batch)
        if refused is not None:
            location = ("cluster", "workers")
            problems.append(Problem(document.place(location), location, f"{instance.name}: {refused}"))
    return problems


@dataclass
class _Part:
    name: str
    declaration: Declaration
    data: dict[str, Any]
    inputs: dict[str, Any] = field(default_factory=dict)


def _parts(document: Document, stages: dict[str, Any], registry: Mapping[str, str], problems: list[Problem]) -> dict[str, _Part]:
    parts: dict[str, _Part] = {}
    off = {name for name, body in stages.items() if body is None}
    for name in registry:
        if name not in stages:
            made = declaration(name, registry)
            if made.default:
                parts[name] = _Part(name, made, {})
    for name, body in stages.items():
        location = ("stages", name)
        if name in off:
            if name not in registry:
                problems.append(_unknown_stage(document, location, name, registry))
            continue
        if not isinstance(body, dict):
            problems.append(
                Problem(document.place(location), location, f"expected settings or null, found {body!r}", "write {} for the defaults")
            )
            continue
        data = dict(body)
        uses = data.pop("uses", name)
        if not isinstance(uses, str) or uses not in registry:
            problems.append(_unknown_stage(document, (*location, "uses") if "uses" in body else location, str(uses), registry))
            continue
        inputs = data.pop("inputs", {})
        if not isinstance(inputs, dict):
            problems.append(Problem(document.place((*location, "inputs")), (*location, "inputs"), "expected {slot: instance}"))
            inputs = {}
        parts[name] = _Part(name, declaration(uses, registry), data, inputs)
    return parts


def _unknown_stage(document: Document, location: tuple[str | int, ...], name: str, registry: Mapping[str, str]) -> Problem:
    near = difflib.get_close_matches(name, list(registry), n=1)
    remark = f'did you mean "{near[0]}"?' if near else f"known: {', '.join(registry)}; another name needs `uses:`"
    return Problem(document.place(location, key=location[-1] == name), location, f"unknown stage {name!r}", remark)


def _instance(document: Document, part: _Part, parts: Mapping[str, _Part], problems: list[Problem]) -> Instance | None:
    location = ("stages", part.name)
    config, found = parse_section(part.declaration.config, document, location, part.data)
    problems += found
    edges: list[Edge] = []
    for slot in part.inputs:
        if slot not in part.declaration.inputs:
            known = ", ".join(part.declaration.inputs) or "none"
            problems.append(
                Problem(
                    document.place((*location, "inputs", slot), key=True), (*location, "inputs", slot), "unknown slot", f"known: {known}"
                )
            )
    for slot, kind in part.declaration.inputs.items():
        here = (*location, "inputs", slot)
        given = part.inputs.get(slot)
        if kind.many:
            names = given if isinstance(given, list) else [given] if given else [n for n, p in parts.items() if _gives(p, kind.type.name)]
        else:
            names = [given or kind.default]
        for name in names:
            if not isinstance(name, str):
                problems.append(Problem(document.place(here), here, f"expected the name of an instance, found {name!r}"))
                continue
            source, _, output = name.partition(".")
            if source not in parts:
                if not (kind.optional and given is None):
                    remark = f"the stage {part.name} takes its {slot} from there; name another with inputs: {{{slot}: …}}"
                    problems.append(Problem(document.place(here), here, f"there is no stage {source!r} in this pipeline", remark))
                continue
            outputs = parts[source].declaration.output
            fitting = [o for o, t in outputs.items() if t.name == kind.type.name and (not output or o == output)]
            if len(fitting) != 1:
                gives = ", ".join(f"{o} ({t.name})" for o, t in outputs.items())
                problems.append(Problem(document.place(here), here, f"{name} gives no {kind.type.name}", f"it gives {gives}"))
                continue
            edges.append(Edge(f"{slot}.{source}" if kind.many else slot, source, fitting[0]))
    return None if config is None else Instance(part.name, part.declaration, config, tuple(edges))


def _unknown_names(document: Document, instance: Instance, instances: Sequence[Instance]) -> Iterator[Problem]:
    """Settings that name an entry of another instance's settings, and there is none (`NAMES` of a stage)."""
    for setting, (slot, mapping) in instance.declaration.names.items():
        sources = {edge.instance for edge in instance.edges if edge.slot == slot}
        wanted, location = str(getattr(instance.config, setting)), ("stages", instance.name, setting)
        for source in instances:
            known = list(getattr(source.config, mapping, {})) if source.name in sources else [wanted]
            if wanted not in known:
                near = difflib.get_close_matches(wanted, known, n=1)
                remark = f'did you mean "{near[0]}"?' if near else f"there: {', '.join(known) or 'nothing'}"
                yield Problem(document.place(location), location, f"there is no {wanted!r} in stages.{source.name}.{mapping}", remark)


def _gives(part: _Part, type_name: str) -> bool:
    return any(kind.name == type_name for kind in part.declaration.output.values())


def _order(document: Document, instances: list[Instance]) -> list[Instance]:
    by_name = {instance.name: instance for instance in instances}
    ordered: dict[str, Instance] = {}
    waiting: list[str] = []

    def visit(name: str) -> None:
        if name in ordered:
            return
        if name in waiting:
            circle = " → ".join([*waiting[waiting.index(name) :], name])
            raise fail([Problem(document.place(("stages", name), key=True), ("stages", name), f"the stages form a circle: {circle}")])
        waiting.append(name)
        for edge in by_name[name].edges:
            visit(edge.instance)
        waiting.pop()
        ordered[name] = by_name[name]

    for name in by_name:
        visit(name)
    return list(ordered.values())


# ---------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Planned:
    """What a run would do with an instance.

    `state` is `done`, `run` (its own recipe changed), or `maybe` (only something before it runs: reused if the bytes turn out equal).
    """

    instance: Instance
    state: str
    reasons: tuple[str, ...]
    recipe: Mapping[str, Any]
    recipe_key: str
    manifest: Manifest | None


def sources_of(graph: Graph, instance: Instance, *, fetch: bool) -> list[tuple[Source, str]]:
    """The files an instance reads that others own, with their sha256; `fetch` allows downloads and remembers digests.

    Raises:
        NotFetchedError: something must be fetched first.
        MissingSourceError: something is not there.
    """
    lister = getattr(instance.declaration.module, "list_inputs", None)
    if lister is None:
        return []
    found: list[Source] = lister(
        instance.config,
        ListContext(graph.storage, lambda location: graph.base_of(("stages", instance.name, *location)), graph.languages, fetch),
    )
    digests = source_digests(graph.storage, found, remember=fetch)
    return [(source, digests[source.url]) for source in found]


def identity_globals(graph: Graph, declared: Declaration) -> dict[str, Any]:
    """The top-level settings that shape a stage's output."""
    values = {"languages": list(graph.languages), "seed": graph.settings.seed, "name": graph.settings.name}
    return {name: values[name] for name in declared.globals}


def own_recipe(graph: Graph, instance: Instance) -> dict[str, Any]:
    """The part of a recipe that needs no look at files or inputs."""
    declared = instance.declaration
    return {
        "stage": declared.name,
        "version": declared.version,
        "settings": identity_of(instance.config),
        "globals": identity_globals(graph, declared),
        "libraries": manifests.library_versions(declared.libraries),
    }


def plan(graph: Graph, *, forced: frozenset[str] = frozenset()) -> list[Planned]:
    """What a run would do, instance by instance; reads, never writes.

    Raises:
        MissingSourceError: a source is not there.
    """
    state = State.load(graph.storage, graph.settings.name)
    planned: dict[str, Planned] = {}
    for instance in graph.instances:
        planned[instance.name] = _plan_one(graph, instance, state, planned, instance.name in forced)
    return list(planned.values())


def _plan_one(graph: Graph, instance: Instance, state: State, planned: Mapping[str, Planned], forced: bool) -> Planned:
    entry = state.instances.get(instance.name)
    recipe = own_recipe(graph, instance)
    reasons: list[str] = []
    try:
        found = sources_of(graph, instance, fetch=False)
        recipe["sources"] = {f"{source.lang or ''}:{source.name}": sha256 for source, sha256 in found}
    except NotFetchedError as error:
        recipe["sources"] = {"not fetched": str(error)}
    upstream = {edge.slot: planned[edge.instance] for edge in instance.edges}
    frozen = instance.declaration.frozen and entry is not None and not forced
    recipe["inputs"] = {} if instance.declaration.frozen else {slot: f"{p.instance.name}:{p.recipe_key}" for slot, p in upstream.items()}
    recipe_key = digest(recipe)
    manifest = None
    if entry is None:
        reasons.append("never run")
    else:
        try:
            manifest = manifests.load(graph.storage, entry["manifest"])
        except IntegrityError as error:
            reasons.append(str(error))
        if manifest is None and not reasons:
            reasons.append("its manifest is gone")
        elif manifest is not None:
            gone = manifests.missing(graph.storage, manifest)
            if gone is not None:
                reasons.append(f"a file is gone or cut short: {gone}")
        if entry["recipe_key"] != recipe_key:
            before = {k: v for k, v in entry["recipe"].items() if k != "inputs"}
            now = {k: v for k, v in recipe.items() if k != "inputs"}
            reasons.extend(_brief(manifests.difference(before, now)))
    if forced:
        reasons.append("forced")
    remade = [] if frozen else [f"{slot} from {p.instance.name}, which {_does(p)}" for slot, p in upstream.items() if p.state != "done"]
    if entry is not None and not reasons and not remade and entry["recipe_key"] != recipe_key:
        # An input instance was renamed or rewired: same recipe otherwise.
        remade = [f"inputs: {text}" for text in _brief(manifests.difference(entry["recipe"].get("inputs", {}), recipe["inputs"]))]
    what = "run" if reasons else "maybe" if remade else "done"
    return Planned(instance, what, (*reasons, *remade), recipe, recipe_key, manifest if what == "done" else None)


def _does(planned: Planned) -> str:
    return "runs" if planned.state == "run" else "may change"


def _brief(lines: list[str], most: int = 6) -> list[str]:
    return lines if len(lines) <= most else [*lines[:most], f"and {len(lines) - most} more changes"]
