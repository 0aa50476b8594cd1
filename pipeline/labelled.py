"""Examples of the artifact as the task library takes them."""

from __future__ import annotations

from typing import Any

from pipeline.errors import EmptyCorpusError
from pipeline.manifest import Shard
from pipeline.storage import Storage
from pipeline.tables import rows
from pipeline.tasks.classification import Example


def read_split(storage: Storage, shards: list[dict[str, Any]], name: str, split: str) -> list[Example]:
    """The examples of one split of one set, in the order of the artifact.

    Raises:
        EmptyCorpusError: there are none.
    """
    found: list[Example] = []
    names: set[str] = set()
    for plain in shards:
        shard = Shard(**plain)
        for row in rows(storage.local(shard.path, shard.sha256)):
            names.add(row["set"])
            if row["set"] == name and row["split"] == split:
                found.append(Example(row["id"], row["lang"], row["text"], row["text_pair"], row["label"]))
    if not found:
        known = ", ".join(sorted(names)) or "none"
        raise EmptyCorpusError(
            f"examples: the set {name!r} has no {split} examples; sets with examples: {known}. See stages.examples.sets."
        )
    return found
