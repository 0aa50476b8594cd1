"""The work of heldout, in two passes over documents and pairs: candidates with their hashes, then the rows that were drawn."""

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
"""Of a document, or of each side of a pair."""
UNITS = {"documents": "documents", "bitext": "pairs"}
DOCUMENT = ("lang", "characters")
PAIR = ("lang_a", "lang_b", "characters_a", "characters_b")


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Draw groups, documents and pairs, then publish their rows; see the package."""
    key = digest({"held out": context.name, "seed": context.seed})
    millionths = round(config.share * 1_000_000)
    settings: dict[str, Any] = {"key": key, "millionths": millionths, "max_documents": config.max_documents}
    units = {slot: _units(inputs[slot], unit) for slot, unit in UNITS.items() if slot in inputs}
    groups: set[str] = set()
    alone: dict[str, dict[str, list[tuple[int, str]]]] = {slot: {} for slot in units}
    for slot, own in units.items():
        for result in context.map(Phase(f"candidates-{slot}", f"stages.heldout.work:candidate_{slot}", settings, UNITS[slot]), own):
            groups.update(result.counts["groups"])
            for name, found in result.counts["alone"].items():
                alone[slot][name] = heapq.nsmallest(config.max_documents, [*alone[slot].get(name, []), *((h, i) for h, i in found)])
    ranked = sorted(groups, key=lambda group: (hash64(group, key), group))
    drawn_groups = sorted(ranked[: -(-len(ranked) * millionths // 1_000_000)])
    drawn = {slot: sorted(identifier for found in by_name.values() for _, identifier in found) for slot, by_name in alone.items()}
    if not drawn_groups and not drawn["documents"]:
        raise EmptyCorpusError(
            f"{context.instance}: nothing could be held out of {sum(s.rows for s in inputs['documents'].shards)} documents. Raise "
            f"stages.{context.instance}.share (now {config.share}), or check that the sources are not empty."
        )
    ledgers = {}
    for slot, own in units.items():
        # The rows of a shard depend on the drawn groups and on those of its own rows that were drawn: an empty cut of them is shared.
        given = {"groups": drawn_groups, "alone": drawn[slot]}
        results = context.map(Phase(f"rows-{slot}", f"stages.heldout.work:drawn_{slot}", {}, UNITS[slot], (digest(given),), given), own)
        output.add("heldout", [result.files["heldout"] for result in results if result.files["heldout"].rows])
        ledgers[UNITS[slot]] = total((result.ledger for result in results), UNITS[slot])
        ledgers[UNITS[slot]].check("heldout", sum(shard.rows for shard in inputs[slot].shards))
    return Summary(ledgers=ledgers, counts={"groups": drawn_groups} | {unit: ledger.kept for unit, ledger in ledgers.items()})


def _units(given: Input, unit: str) -> list[Unit]:
    return [Unit(s.sha256, {"shard": s.plain()}, s.bytes, f"{unit} shard {s.key[:12]}") for s in given.shards if s.rows]


def _name(row: Mapping[str, Any]) -> str:
    """The language of a document, the two of a pair."""
    return str(row["lang"]) if "lang" in row else f"{row['lang_a']}-{row['lang_b']}"


def _candidates(task: Task, columns: tuple[str, ...]) -> None:
    shard = Shard(**task.argument["shard"])
    path = task.storage.local(shard.path, shard.sha256)
    key, most = task.settings["key"], task.settings["max_documents"]
    groups: set[str] = set()
    alone: dict[str, list[tuple[int, str]]] = {}
    for row in task.records(rows(path, ("id", "group", *columns)), _name):
        name = _name(row)
        task.ledger.keep(name)
        if not _is_long_enough(row):
            continue
        if row["group"] is not None:
            groups.add(row["group"])
        else:
            value = hash64(row["id"], key)
            if share_below(value, task.settings["millionths"]):
                alone.setdefault(name, []).append((value, row["id"].hex()))
    task.counts["groups"] = sorted(groups)
    task.counts["alone"] = {name: heapq.nsmallest(most, found) for name, found in sorted(alone.items())}


def _is_long_enough(row: Mapping[str, Any]) -> bool:
    return min(row[name] for name in ("characters", "characters_a", "characters_b") if name in row) >= MIN_CHARACTERS


def candidate_documents(task: Task) -> None:
    """Worker: the groups of a shard, and the documents without one that the hash draws."""
    _candidates(task, DOCUMENT)


def candidate_bitext(task: Task) -> None:
    """Worker: the same of pairs."""
    _candidates(task, PAIR)


def _drawn(task: Task, columns: tuple[str, ...], kind: str) -> None:
    shard = Shard(**task.argument["shard"])
    path = task.storage.local(shard.path, shard.sha256)
    groups, alone = set(task.given["groups"]), set(task.given["alone"])
    with task.table("heldout", examples.schema()) as table:
        for row in task.records(rows(path, ("id", "group", *columns)), _name):
            name, lang = row["id"].hex(), _name(row)
            if not _is_long_enough(row) or not (row["group"] in groups or (row["group"] is None and name in alone)):
                task.ledger.drop(lang, "not_drawn")
                continue
            text, text_pair = (row["text"], None) if kind == "masked" else (row["text_a"], row["text_b"])
            table.row(
                {"id": name, "set": "heldout", "split": "test", "task": kind, "lang": lang, "group": row["group"], "text": text, "text_pair": text_pair,
                 "decontaminate": True, "document": row["id"]}
            )  # fmt: skip
            task.ledger.keep(lang)


def drawn_documents(task: Task) -> None:
    """Worker: the drawn documents of a shard as examples of the task `masked`."""
    _drawn(task, (*DOCUMENT, "text"), "masked")


def drawn_bitext(task: Task) -> None:
    """Worker: the drawn pairs of a shard as examples of the task `pair`."""
    _drawn(task, (*PAIR, "text_a", "text_b"), "pair")
