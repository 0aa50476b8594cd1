"""The work of heldout, in two passes over the documents: candidates with their hashes, then the rows that were drawn."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Any

from pipeline.artifacts import examples
from pipeline.errors import EmptyCorpusError
from pipeline.ledger import total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import digest
from pipeline.tables import rows
from pipeline.task import Task
from pipeline.text.hashing import hash64, share_below
from pipeline.units import Phase, Unit
from stages.heldout import Config

MIN_CHARACTERS = 20


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Draw groups and documents, then publish their rows; see the package."""
    key = digest({"held out": context.name, "seed": context.seed})
    millionths = round(config.share * 1_000_000)
    shards = [shard for shard in inputs["documents"].shards if shard.rows]
    settings: dict[str, Any] = {"key": key, "millionths": millionths, "max_documents": config.max_documents}
    units = [Unit(shard.sha256, {"shard": shard.plain()}, shard.bytes, f"documents shard {shard.key[:12]}") for shard in shards]
    candidates = context.map(Phase("candidates", "stages.heldout.work:candidates", settings, "documents"), units)
    groups: set[str] = set()
    alone: dict[str, list[tuple[int, str]]] = {}
    for result in candidates:
        groups.update(result.counts["groups"])
        for lang, pairs in result.counts["documents"].items():
            alone[lang] = heapq.nsmallest(config.max_documents, [*alone.get(lang, []), *((h, i) for h, i in pairs)])
    ranked = sorted(groups, key=lambda group: (hash64(group, key), group))
    drawn_groups = sorted(ranked[: -(-len(ranked) * millionths // 1_000_000)])
    drawn_ids = sorted(identifier for pairs in alone.values() for _, identifier in pairs)
    if not drawn_groups and not drawn_ids:
        raise EmptyCorpusError(
            f"{context.instance}: nothing could be held out of {sum(s.rows for s in shards)} documents. Raise stages.{context.instance}.share "
            f"(now {config.share}), or check that the sources are not empty."
        )
    side = digest({"groups": drawn_groups, "documents": drawn_ids})
    given = {"groups": drawn_groups, "documents": drawn_ids}
    # The rows of a shard depend on the drawn groups and on those of its own documents that were drawn: an empty cut of them is shared.
    phase = Phase("rows", "stages.heldout.work:drawn_rows", {}, "documents", (side,), given)
    results = context.map(phase, units)
    output.add("heldout", [result.files["heldout"] for result in results if result.files["heldout"].rows])
    ledger = total((result.ledger for result in results), "documents")
    ledger.check("heldout", sum(shard.rows for shard in shards))
    return Summary(ledgers={"documents": ledger}, counts={"groups": drawn_groups, "documents": ledger.kept})


def candidates(task: Task) -> None:
    """Worker: the groups of a shard, and the documents without one that the hash draws."""
    shard = Shard(**task.argument["shard"])
    path = task.storage.local(shard.path, shard.sha256)
    key, most = task.settings["key"], task.settings["max_documents"]
    groups: set[str] = set()
    alone: dict[str, list[tuple[int, str]]] = {}
    for row in task.records(rows(path, ("id", "lang", "group", "characters")), lambda row: str(row["lang"])):
        task.ledger.keep(row["lang"])
        if row["characters"] < MIN_CHARACTERS:
            continue
        if row["group"] is not None:
            groups.add(row["group"])
        else:
            value = hash64(row["id"], key)
            if share_below(value, task.settings["millionths"]):
                alone.setdefault(row["lang"], []).append((value, row["id"].hex()))
    task.counts["groups"] = sorted(groups)
    task.counts["documents"] = {lang: heapq.nsmallest(most, pairs) for lang, pairs in sorted(alone.items())}


def drawn_rows(task: Task) -> None:
    """Worker: the drawn documents of a shard as examples of the task `masked`."""
    shard = Shard(**task.argument["shard"])
    path = task.storage.local(shard.path, shard.sha256)
    groups, documents = set(task.given["groups"]), set(task.given["documents"])
    with task.table("heldout", examples.schema()) as table:
        for row in task.records(rows(path, ("id", "lang", "group", "text", "characters")), lambda row: str(row["lang"])):
            name = row["id"].hex()
            if row["characters"] < MIN_CHARACTERS or not (row["group"] in groups or (row["group"] is None and name in documents)):
                task.ledger.drop(row["lang"], "not_drawn")
                continue
            table.row(
                {"id": name, "set": "heldout", "split": "test", "task": "masked", "lang": row["lang"], "group": row["group"], "text": row["text"],
                 "decontaminate": True, "document": row["id"]}
            )  # fmt: skip
            task.ledger.keep(row["lang"])
