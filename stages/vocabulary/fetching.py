"""Vocabularies from outside, by the config: found, copied into the storage, read in this program's layout.

vocabulary.start.path, vocabulary.compare.NAME -> list_vocabulary (their content is in the key) -> fetched -> convert -> vocabulary.model
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline import fetching
from pipeline.artifacts.vocabulary import MODEL_FILE
from pipeline.errors import MissingSourceError
from pipeline.manifest import Shard
from pipeline.sources import Source
from pipeline.stage import Context, ListContext
from pipeline.storage import without_userinfo
from pipeline.task import Task
from pipeline.text.imported import imported
from pipeline.units import Phase, Unit


def list_vocabulary(path: str, place: tuple[str, ...], context: ListContext) -> Source:
    """The one file at `path`, which stands at `place` of the section; its name begins with the place.

    Raises:
        MissingSourceError: it is not there, or the pattern matches several.
    """
    found = fetching.listed(path, place, context)
    if len(found) != 1:
        raise MissingSourceError(
            f"vocabulary.{'.'.join(place)}: {len(found)} files match {without_userinfo(path)}; it must name one. Correct the path."
        )
    return found[0]


def fetched(place: tuple[str, ...], context: Context) -> Shard:
    """The file in the storage, where all workers reach it."""
    (file,) = fetching.fetched(place, context).values()
    return file


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
    for _ in task.records(["vocabulary"], lambda _: fetching.UNDETERMINED):
        model = imported(task.storage.local(shard.path, shard.sha256), task.argument["name"]).model
        with task.file(MODEL_FILE) as path:
            path.write_bytes(model)
        task.ledger.keep(fetching.UNDETERMINED)
