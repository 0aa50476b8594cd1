"""The work of dedup.

    heldout, examples -> contaminants (one sorted file of n-gram hashes)
    documents  -> judge (map):   rules, held out, contaminated; passed documents give (hash, id, line) into P partitions
               -> resolve (reduce, one a partition): who is the first of each set of equals; only what is a duplicate is written
               -> decide (map):  judge's verdicts ⋈ the duplicates -> one row-aligned shard of decisions
    bitext     -> judge_pairs -> resolve -> decide_pairs, the same with pair rules

The first of equals is the smallest document id (then line number), whatever the order in which anything ran.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.artifacts import decisions
from pipeline.errors import EmptyCorpusError
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import digest
from pipeline.tables import open_file, read_table, rows
from pipeline.task import Task, UnitResult
from pipeline.text.hashing import hash128, line_fingerprint, partition, word_ngram_hashes
from pipeline.units import Phase, Unit
from stages.dedup import Config
from stages.dedup.rules import load

WHOLE = -1
"""Line number that stands for the document as a whole."""


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Decide on all documents and pairs; see the package."""
    contaminants = _contaminants(config, inputs, context)
    side = contaminants.files["contaminants"]
    held = contaminants.counts
    ledgers = {}
    ledgers["documents"], dropped_lines = _decide(config, inputs["documents"], output, context, side, held, pairs=False)
    if "bitext" in inputs:
        ledgers["pairs"], _ = _decide(config, inputs["bitext"], output, context, side, held, pairs=True)
    if ledgers["documents"].kept == 0:
        dropped = ", ".join(f"{reason} {count}" for reason, count in ledgers["documents"].dropped.items()) or "no documents came in"
        raise EmptyCorpusError(
            f"{context.instance}: no document is left ({dropped}). Loosen stages.{context.instance}, or check the sources."
        )
    empty = sorted(lang for lang, account in ledgers["documents"].accounts.items() if account.taken and not account.kept)
    warnings = [f"no document is left in {', '.join(empty)}; `show … dedup ledger` gives the reasons"] if empty else []
    counts = {"contaminants": held["hashes"], "heldout_groups": len(held["groups"]), "dropped_lines": dropped_lines}
    return Summary(ledgers=ledgers, counts=counts, warnings=warnings)


# ---------------------------------------------------------------- evaluation text


def _contaminants(config: Config, inputs: Mapping[str, Input], context: Context) -> UnitResult:
    shards = [s for slot in ("heldout", "examples") if slot in inputs for s in inputs[slot].shards]
    argument = {"shards": [s.plain() for s in shards]}
    unit = Unit(digest([s.sha256 for s in shards]), argument, sum(s.bytes for s in shards), "evaluation text")
    settings = {"ngram": config.decontamination.ngram}
    return context.map(Phase("contaminants", "stages.dedup.work:contaminants", settings, "examples"), [unit])[0]


def contaminants(task: Task) -> None:
    """Worker: the sorted n-gram hashes of all text that training must not hold, and what was held out."""
    hashes: list[np.ndarray[Any, np.dtype[np.uint64]]] = []
    groups: set[str] = set()
    held: set[str] = set()
    for plain in task.argument["shards"]:
        shard = Shard(**plain)
        for row in task.records(rows(task.storage.local(shard.path, shard.sha256)), lambda row: str(row["lang"])):
            if row["task"] == "masked":
                held.add(row["document"].hex())
                if row["group"] is not None:
                    groups.add(row["group"])
            if row["decontaminate"] and row["split"] != "train":
                for text in (row["text"], row["text_pair"]):
                    if text is not None:
                        hashes.append(word_ngram_hashes(text, task.settings["ngram"]))
                task.ledger.keep(row["lang"])
            else:
                task.ledger.drop(row["lang"], "may_be_trained_on")
    found = np.unique(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    with task.table("contaminants", pa.schema([pa.field("hash", pa.uint64(), nullable=False)])) as table:
        table.batch({"hash": pa.array(found, pa.uint64())})
    task.counts.update({"groups": sorted(groups), "documents": sorted(held), "hashes": len(found)})


# ---------------------------------------------------------------- three phases


def _decide(
    config: Config, given: Input, output: Output, context: Context, side: Shard, held: Mapping[str, Any], *, pairs: bool
) -> tuple[Ledger, int]:
    slot, unit, prefix = ("pair_decisions", "pairs", "pair_") if pairs else ("decisions", "documents", "")
    shards = [shard for shard in given.shards if shard.rows]
    settings = config.model_dump(mode="json")
    judged_by = (
        {"pairs": settings["pairs"]} if pairs else {name: settings[name] for name in ("rules", "length", "repetition", "language", "lines")}
    )
    judged_by |= {"ngram": settings["decontamination"]["ngram"], "partitions": settings["partitions"]}
    if not pairs:
        judged_by |= {name: settings[name] for name in config.rules if name in settings}
    known = {"contaminants": side.plain(), "groups": held["groups"], "documents": held["documents"]}
    held_digest = digest({"groups": held["groups"], "documents": held["documents"]})
    units = [Unit(s.sha256, {"shard": s.plain()}, s.bytes, f"{unit} shard {s.key[:12]}") for s in shards]
    judge = Phase(f"{prefix}judge", f"stages.dedup.work:judge_{unit}", judged_by, unit, (side.sha256, held_digest), known)
    judged = context.map(judge, units)
    hashes = [result.files["hashes"] for result in judged]
    files = [s.plain() for s in hashes]
    content = digest([s.sha256 for s in hashes])
    parts = [
        Unit(f"{content}:{p}", {"partition": p, "shards": files}, sum(s.bytes for s in hashes) // config.partitions, f"partition {p}")
        for p in range(config.partitions)
    ]
    resolved = context.map(Phase(f"{prefix}resolve", "stages.dedup.work:resolve", {}, "hashes"), parts)
    duplicates = [result.files["duplicates"] for result in resolved]
    resolved_digest = digest([s.sha256 for s in duplicates])
    last = [
        Unit(f"{r.files['verdicts'].sha256}", {"verdicts": r.files["verdicts"].plain()}, r.files["verdicts"].bytes, u.label)
        for r, u in zip(judged, units, strict=True)
    ]
    function = Phase(
        f"{prefix}decide", "stages.dedup.work:decide", {}, unit, (resolved_digest,), {"duplicates": [s.plain() for s in duplicates]}
    )
    results = context.map(function, last)
    output.add(slot, [result.files["decisions"] for result in results])
    ledger = total((result.ledger for result in results), unit)
    ledger.check(f"dedup {unit}", sum(s.rows for s in shards))
    return ledger, sum(result.counts["dropped_lines"] for result in results)


_VERDICTS = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("lines", pa.int32(), nullable=False),
    ]
)
_HASHES = pa.schema(
    [
        pa.field("hash", pa.binary(16), nullable=False),
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
    ]
)
_DUPLICATES = pa.schema(
    [
        pa.field("id", pa.binary(16), nullable=False),
        pa.field("line", pa.int32(), nullable=False),
        pa.field("survivor", pa.binary(16), nullable=False),
        pa.field("size", pa.int32(), nullable=False),
        pa.field("first", pa.bool_(), nullable=False),
    ]
)


class _Sieve:
    """What both kinds of judging share: evaluation text, and hashes cut into partitions."""

    def __init__(self, task: Task) -> None:
        shard = Shard(**task.given["contaminants"])
        self._hashes = read_table(task.storage.local(shard.path, shard.sha256))["hash"].to_numpy()
        self.groups, self.documents = set(task.given["groups"]), set(task.given["documents"])
        self._ngram = task.settings["ngram"]
        self._rows: list[list[tuple[bytes, bytes, int]]] = [[] for _ in range(task.settings["partitions"])]

    def contaminated(self, text: str) -> bool:
        if not len(self._hashes):
            return False
        mine = word_ngram_hashes(text, self._ngram)
        if not len(mine):
            return False
        at = np.searchsorted(self._hashes, mine)
        at[at == len(self._hashes)] = 0
        return bool((self._hashes[at] == mine).any())

    def add(self, value: bytes, identifier: bytes, line: int) -> None:
        self._rows[partition(int.from_bytes(value[:8], "big"), len(self._rows))].append((value, identifier, line))

    def write(self, task: Task) -> None:
        with task.table("hashes", _HASHES) as table:
            for part in self._rows:
                part.sort()
                table.partition({"hash": [r[0] for r in part], "id": [r[1] for r in part], "line": [r[2] for r in part]})


def judge_documents(task: Task) -> None:
    """Worker: a verdict a document, and the hashes of those that pass."""
    rules = load(tuple(task.settings["rules"]))
    sieve = _Sieve(task)
    lines = task.settings["lines"]
    shard = Shard(**task.argument["shard"])
    with task.table("verdicts", _VERDICTS) as table:
        for row in task.records(rows(task.storage.local(shard.path, shard.sha256)), lambda row: str(row["lang"])):
            split, reason = "train", ""
            if row["id"].hex() in sieve.documents:
                split = "heldout"
            else:
                reason = next((found for name, rule in rules if (found := rule(row, task.settings.get(name) or {}))), "")
                if not reason and row["group"] in sieve.groups:
                    reason = "heldout_group"
                if not reason and sieve.contaminated(row["text"]):
                    reason = "contaminated"
            pieces = row["text"].split("\n")
            if not reason and split == "train":
                sieve.add(hash128(row["text"], "document"), row["id"], WHOLE)
                if lines is not None and len(pieces) > 1:
                    for number, line in enumerate(pieces):
                        if len(line) >= lines["min_characters"]:
                            sieve.add(hash128(line_fingerprint(line).to_bytes(8, "big"), "line"), row["id"], number)
            table.row({"id": row["id"], "lang": row["lang"], "reason": reason, "split": split, "lines": len(pieces)})
            task.ledger.keep(row["lang"])
    sieve.write(task)


def judge_pairs(task: Task) -> None:
    """Worker: a verdict a pair, and the hashes of those that pass."""
    sieve = _Sieve(task)
    bounds = task.settings["pairs"]
    ratio = round(bounds["max_length_ratio"] * 10_000)
    shard = Shard(**task.argument["shard"])
    with task.table("verdicts", _VERDICTS) as table:
        for row in task.records(rows(task.storage.local(shard.path, shard.sha256)), lambda row: f"{row['lang_a']}-{row['lang_b']}"):
            a, b = row["text_a"], row["text_b"]
            short, long = sorted((len(a), len(b)))
            if not short:
                reason = "empty_side"
            elif a == b:
                reason = "identical_sides"
            elif long > bounds["max_characters"]:
                reason = "too_long"
            elif long >= 40 and long * 10_000 > short * ratio:
                reason = "length_ratio"
            elif row["group"] in sieve.groups:
                reason = "heldout_group"
            elif sieve.contaminated(a) or sieve.contaminated(b):
                reason = "contaminated"
            else:
                reason = ""
                sieve.add(hash128(f"{row['lang_a']}\0{row['lang_b']}\0{a}\0{b}", "pair"), row["id"], WHOLE)
            name = f"{row['lang_a']}-{row['lang_b']}"
            table.row({"id": row["id"], "lang": name, "reason": reason, "split": "train", "lines": 1})
            task.ledger.keep(name)
    sieve.write(task)


def resolve(task: Task) -> None:
    """Worker: within a partition, who is the first of each set of equals."""
    number = task.argument["partition"]
    found: list[tuple[bytes, bytes, int]] = []
    for plain in task.argument["shards"]:
        shard = Shard(**plain)
        batch = open_file(task.storage.local(shard.path, shard.sha256)).get_batch(number)
        found.extend(zip(*(batch.column(i).to_pylist() for i in range(3)), strict=True))
    # A document and a line never share a hash: their keys differ. Lines are dropped only where a line is equal; documents whole.
    found.sort()
    duplicates: list[tuple[bytes, int, bytes, int, bool]] = []
    start = 0
    while start < len(found):
        end = start
        while end < len(found) and found[end][0] == found[start][0]:
            end += 1
        if end - start > 1:
            survivor = found[start][1]
            size = end - start
            duplicates.extend(
                (identifier, line, survivor, size, at == start) for at, (_, identifier, line) in enumerate(found[start:end], start)
            )
        start = end
    duplicates.sort()
    with task.table("duplicates", _DUPLICATES) as table:
        for identifier, line, survivor, size, first in duplicates:
            table.row({"id": identifier, "line": line, "survivor": survivor, "size": size, "first": first})
    task.counts["duplicates"] = len(duplicates)


def decide(task: Task) -> None:
    """Worker: verdicts ⋈ duplicates -> decisions, row-aligned with the documents."""
    shard = Shard(**task.argument["verdicts"])
    verdicts = read_table(task.storage.local(shard.path, shard.sha256)).to_pylist()
    wanted = {row["id"] for row in verdicts}
    found = _duplicates_of(task, wanted)
    task.counts["dropped_lines"] = 0
    with task.table("decisions", decisions.schema()) as table:
        for row in task.records(verdicts, lambda row: str(row["lang"])):
            identifier, reason, dropped = row["id"], row["reason"], []
            cluster, size = identifier, 1
            for line, survivor, count, first in found.get(identifier, ()):
                if line == WHOLE:
                    cluster, size = survivor, count
                    if survivor != identifier and not reason:
                        reason = "duplicate"
                elif not first:
                    dropped.append(line)
            if not reason and dropped and len(dropped) >= row["lines"]:
                reason = "duplicate_lines_of_others"
            dropped = [] if reason else sorted(dropped)
            table.row(
                {"id": identifier, "keep": not reason, "reason": reason, "split": row["split"], "dropped_lines": dropped, "cluster": cluster,
                 "cluster_size": size}
            )  # fmt: skip
            if reason:
                task.ledger.drop(row["lang"], reason)
            else:
                task.ledger.keep(row["lang"])
            task.counts["dropped_lines"] += len(dropped)


def _duplicates_of(task: Task, wanted: set[bytes]) -> dict[bytes, list[tuple[int, bytes, int, bool]]]:
    """The duplicate entries of some documents: (line, survivor, size of the set, whether this is its first).

    The files are sorted by id, so only the part that a wanted id can lie in is read.
    """
    result: dict[bytes, list[tuple[int, bytes, int, bool]]] = {}
    for plain in task.given["duplicates"]:
        shard = Shard(**plain)
        if not shard.rows:
            continue
        table = read_table(task.storage.local(shard.path, shard.sha256))
        ids = _first_eight(table["id"])
        sought = np.sort(np.frombuffer(b"".join(identifier[:8] for identifier in sorted(wanted)), dtype=">u8").astype(np.uint64))
        low, high = np.searchsorted(ids, sought, "left"), np.searchsorted(ids, sought, "right")
        positions = np.unique(np.concatenate([np.arange(a, b) for a, b in zip(low, high, strict=True) if b > a] or [np.zeros(0, np.int64)]))
        if not len(positions):
            continue
        for row in table.take(pa.array(positions, pa.int64())).to_pylist():
            if row["id"] in wanted:
                result.setdefault(row["id"], []).append((row["line"], row["survivor"], row["size"], row["first"]))
    return result


def _first_eight(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """The first eight bytes of fixed 16-byte values as big-endian numbers, in the order of the bytes."""
    flat = column.combine_chunks()
    raw = np.frombuffer(flat.buffers()[1], dtype=">u8").reshape(-1, 2)[flat.offset : flat.offset + len(flat), 0]
    return raw.astype(np.uint64)
