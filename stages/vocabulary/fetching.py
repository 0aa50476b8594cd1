"""Vocabularies from outside, by the config: found, copied into the storage, read in this program's layout.

vocabulary.start.path, vocabulary.compare.NAME -> list_vocabulary (their content is in the key) -> fetch -> convert -> vocabulary.model
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace

from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.config import resolve_path
from pipeline.errors import MissingSourceError
from pipeline.manifest import Shard
from pipeline.stage import Context, ListContext
from pipeline.storage import Source, list_sources, open_source, without_userinfo
from pipeline.task import Task
from pipeline.text.imported import imported
from pipeline.units import Phase, Unit

_UNDETERMINED = "und"


def list_vocabulary(path: str, place: tuple[str, ...], context: ListContext) -> Source:
    """The one file at `path`, which stands at `place` of the section; its name begins with the place.

    Raises:
        MissingSourceError: it is not there, or the pattern matches several.
    """
    found = list_sources(resolve_path(path, context.base_of(place)), {})
    if len(found) != 1:
        raise MissingSourceError(
            f"vocabulary.{'.'.join(place)}: {len(found)} files match {without_userinfo(path)}; it must name one. Correct the path."
        )
    return replace(found[0], name=f"{_prefix(place)}{found[0].name}")


def _prefix(place: tuple[str, ...]) -> str:
    return f"{'/'.join(place)}/"


def fetched(place: tuple[str, ...], context: Context) -> Shard:
    """The file in the storage, where all workers reach it."""
    prefix = _prefix(place)
    ((source, sha256),) = [pair for pair in context.sources if pair[0].name.startswith(prefix)]
    unit = Unit(sha256, {"url": source.url, "name": source.name.removeprefix(prefix)}, source.size, f"vocabulary {source.name}")
    (result,) = context.map(Phase("fetch", "stages.vocabulary.fetching:fetch", {}, "files"), [unit])
    return result.files["start"]


def fetch(task: Task) -> None:
    """Worker: copy the file."""
    with task.file("start") as path, open_source(task.argument["url"]) as stream, path.open("wb") as sink:
        for _ in task.records(["start"], lambda _: _UNDETERMINED):
            shutil.copyfileobj(stream, sink, 1 << 20)
            task.ledger.keep(_UNDETERMINED)


def converted(compare: Mapping[str, str], context: Context) -> dict[str, Shard]:
    """The model of each vocabulary that is compared with, in this program's layout, by name."""
    found = {}
    for name, path in sorted(compare.items()):
        file = fetched(("compare", name), context)
        unit = Unit(file.sha256, {"file": file.plain(), "name": without_userinfo(path)}, file.bytes, f"vocabulary {name}")
        (result,) = context.map(Phase("convert", "stages.vocabulary.fetching:convert", {}, "files"), [unit])
        found[name] = result.files[MODEL_FILE]
    return found


def convert(task: Task) -> None:
    """Worker: read a vocabulary of another program."""
    shard = Shard(**task.argument["file"])
    for _ in task.records(["vocabulary"], lambda _: _UNDETERMINED):
        model = imported(task.storage.local(shard.path, shard.sha256), task.argument["name"]).model
        with task.file(MODEL_FILE) as path:
            path.write_bytes(model)
        task.ledger.keep(_UNDETERMINED)
