"""The state of each stage, as `status` prints it, and the healing of what is damaged.

    plan + state + lease -> one record a stage; with `verify`, every byte is hashed again

It loads no library but the standard one.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

from pipeline import lease
from pipeline import manifest as manifests
from pipeline.dag import Graph, Planned, plan, sources_of
from pipeline.errors import IntegrityError, MissingSourceError
from pipeline.manifest import State
from pipeline.sources import open_source
from pipeline.stage import NotFetchedError
from pipeline.storage import Published, Storage, digest, without_userinfo

_CHUNK = 1 << 20


def status(graph: Graph, verify: bool) -> dict[str, Any]:
    """The state of each stage: `done`, `stale`, `never run`, `damaged`, or `no source` where an input of others is gone.

    Returns plain data: `stages` (stage, state, path, digest, digests by slot, key, seconds, run, reasons), `holder` (who runs this
    pipeline now, or None) and, with `verify`, `damaged`: full paths of files that are gone or differ from their digest.

    Raises:
        IntegrityError: the pipeline's own state is damaged.
    """
    state = State.load(graph.storage, graph.settings.name)
    planned, sourceless = _planned(graph)
    checked: dict[Published, bool] = {}
    rows = []
    damaged: list[str] = []
    for instance in graph.instances:
        entry = state.instances.get(instance.name)
        item = planned.get(instance.name)
        reasons = list(item.reasons) if item is not None else [sourceless.get(instance.name, "a source of what it needs is gone")]
        found = _damaged_files(graph.storage, entry, checked, verify) if entry is not None else []
        damaged += [graph.storage.url(path) for path in found if graph.storage.url(path) not in damaged]
        if entry is None:
            word = "never run"
        elif found:
            word = "damaged"
        elif item is None:
            word = "no source"
        else:
            word = "done" if item.state == "done" else "stale"
        rows.append(
            {
                "stage": instance.name,
                "state": word,
                "path": without_userinfo(graph.storage.url(entry["manifest"].rpartition("/")[0])) if entry else None,
                "digest": _digest(entry["digests"]) if entry else None,
                "digests": entry["digests"] if entry else {},
                "key": entry["key"] if entry else None,
                "seconds": entry["seconds"] if entry else None,
                "run": entry["run"] if entry else None,
                "reasons": reasons,
            }
        )
    return {"stages": rows, "holder": _holder(graph), "damaged": damaged if verify else []}


def _digest(digests: Mapping[str, str]) -> str:
    """One digest for an artifact: that of its slot, or over all slots."""
    return next(iter(digests.values())) if len(digests) == 1 else digest(dict(digests))


def _planned(graph: Graph) -> tuple[dict[str, Planned], dict[str, str]]:
    """The plan by stage; where a source is gone, without the stages that need it, and why for those that read it themselves."""
    try:
        return {item.instance.name: item for item in plan(graph)}, {}
    except MissingSourceError:
        pass
    gone: dict[str, str] = {}
    for instance in graph.instances:
        try:
            sources_of(graph, instance, fetch=False)
        except MissingSourceError as error:
            gone[instance.name] = str(error)
        except NotFetchedError:
            continue
    without = set(gone).union(*(graph.descendants(name) for name in gone))
    rest = dataclasses.replace(graph, instances=tuple(i for i in graph.instances if i.name not in without))
    return {item.instance.name: item for item in plan(rest)}, gone


def _damaged_files(storage: Storage, entry: Mapping[str, Any], checked: dict[Published, bool], verify: bool) -> list[str]:
    """Paths of an artifact's files that are not as recorded: by size, with `verify` by sha256, each file read once."""
    try:
        made = manifests.load(storage, entry["manifest"])
    except IntegrityError:
        return [entry["manifest"]]
    if made is None:
        return [entry["manifest"]]
    if not verify:
        gone = manifests.missing(storage, made)
        return [] if gone is None else [gone]
    entries = list(made.entries())
    for each in entries:
        if each not in checked:
            checked[each] = storage.size(each.path) == each.bytes and _sha256(storage, each.path) == each.sha256
    return list(dict.fromkeys(each.path for each in entries if not checked[each]))


def _sha256(storage: Storage, path: str) -> str:
    """sha256 of the stored bytes themselves, not of a copy in the cache; '' where they cannot be read."""
    value = hashlib.sha256()
    try:
        with open_source(storage.url(path)) as stream:
            while chunk := stream.read(_CHUNK):
                value.update(chunk)
    except (OSError, MissingSourceError):
        return ""
    return value.hexdigest()


def _holder(graph: Graph) -> str | None:
    """Who holds the pipeline's lease, or None; a holder known to be dead counts as none."""
    try:
        found = graph.storage.read_json(f"pipelines/{graph.settings.name}/lease.json")
    except IntegrityError:
        return None
    if not isinstance(found, dict) or lease.provably_dead(found):
        return None
    return f"run {found.get('run', '?')} (pid {found.get('pid')} on {found.get('host')}, since {found.get('since')})"


def forget_damaged(graph: Graph, damaged: list[str]) -> list[str]:
    """Forget damaged files, so that the next run makes them again; the names of the instances that make them, sorted."""
    state = State.load(graph.storage, graph.settings.name)
    found: set[str] = set()
    for path in damaged:
        made = {name: m for name, entry in state.instances.items() if (m := manifests.load(graph.storage, entry["manifest"])) is not None}
        name = manifests.forget(graph.storage, made, path)
        if name is not None:
            found.add(name)
    return sorted(found)
