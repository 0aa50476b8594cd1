"""Files from outside that the config names, other than corpora: found when planning, with their content in the key, and copied into the storage where every worker reaches them.

a.setting: path or URL -> `listed` (names begin with the setting) -> `fetched`: a unit a file -> shards
"""

from __future__ import annotations

import shutil
from dataclasses import replace

from pipeline.config import resolve_path
from pipeline.manifest import Shard
from pipeline.sources import Source, list_sources, open_source
from pipeline.stage import Context, ListContext
from pipeline.task import Task
from pipeline.units import Phase, Unit

UNDETERMINED = "und"
"""Such files are of no language."""


def listed(path: str, place: tuple[str, ...], context: ListContext) -> list[Source]:
    """The files that match `path`, which stands at `place` of the section, in the order of their names.

    Raises:
        MissingSourceError: the place cannot be reached.
    """
    return [
        replace(source, name=f"{_prefix(place)}{source.name}") for source in list_sources(resolve_path(path, context.base_of(place)), {})
    ]


def _prefix(place: tuple[str, ...]) -> str:
    return f"{'/'.join(place)}/"


def fetched(place: tuple[str, ...], context: Context) -> dict[str, Shard]:
    """The files of a setting in the storage, by name without its folder."""
    prefix = _prefix(place)
    found = [(source, sha256) for source, sha256 in context.sources if source.name.startswith(prefix)]
    units = [
        Unit(sha256, {"url": source.url, "name": source.name.removeprefix(prefix)}, source.size, f"{context.instance} {source.name}")
        for source, sha256 in found
    ]
    results = context.map(Phase("fetch", "pipeline.fetching:fetch", {}, "files"), units)
    return {source.name.rpartition("/")[2]: result.files["file"] for (source, _), result in zip(found, results, strict=True)}


def fetch(task: Task) -> None:
    """Worker: copy the file."""
    with task.file("file") as path, open_source(task.argument["url"]) as stream, path.open("wb") as sink:
        for _ in task.records(["file"], lambda _: UNDETERMINED):
            shutil.copyfileobj(stream, sink, 1 << 20)
            task.ledger.keep(UNDETERMINED)
