"""The work of dedup, as the driver sees it.

    heldout, examples -> contaminants: one sorted file of n-gram hashes
    documents -> judge (map): verdicts; hashes of addresses, texts and lines, MinHash bands, each in P partitions         stages/dedup/judge.py
              -> urls, texts (reduce): clusters of equals                                                                 exact.py
              -> candidates (reduce) -> components -> shingles (map) -> verify (reduce): clusters of near-duplicates      near.py
              -> lines (reduce): lines that stand earlier, among what is still there                                      exact.py
              -> decide (map): verdicts and clusters -> one row-aligned shard of decisions                                decide.py
    bitext    -> judge -> texts, sides -> decide, with pair rules                                                         pairs.py

Each kind of duplicate is sought among what the kinds before it left, so that nothing goes in favour of what is gone itself. New data redoes what
compares, never the judging of old shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import EmptyCorpusError
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import digest
from pipeline.tables import rows, utf8
from pipeline.task import Task, UnitResult
from pipeline.text import minhash
from pipeline.units import Phase, Unit
from stages.dedup import Config
from stages.dedup.decide import ORDER


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Decide on all documents and pairs; see the package."""
    contaminants = _contaminants(config, inputs, context)
    side = contaminants.files["contaminants"]
    held = contaminants.counts
    ledgers = {}
    ledgers["documents"], counts = _Corpus(config, context, side, held, pairs=False).decide(inputs["documents"], output)
    if "bitext" in inputs:
        ledgers["pairs"], _ = _Corpus(config, context, side, held, pairs=True).decide(inputs["bitext"], output)
    if ledgers["documents"].kept == 0:
        dropped = ", ".join(f"{reason} {count}" for reason, count in ledgers["documents"].dropped.items()) or "no documents came in"
        raise EmptyCorpusError(
            f"{context.instance}: no document is left ({dropped}). Loosen stages.{context.instance}, or check the sources."
        )
    empty = sorted(lang for lang, account in ledgers["documents"].accounts.items() if account.taken and not account.kept)
    warnings = [f"no document is left in {', '.join(empty)}; `show … dedup ledger` gives the reasons"] if empty else []
    counts |= {"contaminants": held["hashes"], "heldout_groups": len(held["groups"])}
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
    texts: list[str] = []
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
                texts += [text for text in (row["text"], row["text_pair"]) if text is not None]
                task.ledger.keep(row["lang"])
            else:
                task.ledger.drop(row["lang"], "may_be_trained_on")
    found, lengths = minhash.ngram_hashes(*utf8(pa.array(texts, pa.large_string())), task.settings["ngram"])
    with task.table("contaminants", pa.schema([pa.field("hash", pa.uint64(), nullable=False)])) as table:
        table.batch({"hash": pa.array(found, pa.uint64())})
    task.counts.update({"groups": sorted(groups), "documents": sorted(held), "hashes": len(found), "ngram_lengths": lengths})


# ---------------------------------------------------------------- phases


Shards = Sequence[Shard]


class _Corpus:
    """The phases over the documents, or over the pairs."""

    def __init__(self, config: Config, context: Context, side: Shard, held: Mapping[str, Any], *, pairs: bool) -> None:
        self._config, self._context, self._side, self._held, self._pairs = config, context, side, held, pairs
        self._unit, self._prefix = ("pairs", "pair_") if pairs else ("documents", "")

    def decide(self, given: Input, output: Output) -> tuple[Ledger, dict[str, Any]]:
        shards = [shard for shard in given.shards if shard.rows]
        units = [Unit(s.sha256, {"shard": s.plain()}, s.bytes, f"{self._unit} shard {s.key[:12]}") for s in shards]
        judged = self._judge(units)
        clusters: dict[str, Shards] = dict.fromkeys(ORDER, ())
        counts: dict[str, Any] = {}
        lines: Shards = ()
        if not self._pairs:
            clusters["duplicate_url"] = self._reduce("urls", "resolve", _files(judged, "urls"), "clusters", [])
        clusters["duplicate"] = self._reduce("texts", "resolve", _files(judged, "hashes"), "clusters", [clusters["duplicate_url"]])
        if self._pairs and self._config.pairs.unique_sides:
            for common in ("side_a", "side_b"):
                before = [clusters[kind] for kind in ORDER if clusters[kind]]
                clusters[f"duplicate_{common}"] = self._reduce(common, "resolve", _files(judged, common), "clusters", before)
        if not self._pairs:
            if self._config.near is not None:
                clusters["near_duplicate"], found = self._near(judged, units, [clusters["duplicate_url"], clusters["duplicate"]])
                counts |= found
            if self._config.lines is not None:
                lines = self._reduce("lines", "resolve_lines", _files(judged, "lines"), "repeated", [clusters[kind] for kind in ORDER])
        files = {**clusters, "lines": lines}
        side = tuple(digest([s.sha256 for s in files[name]]) for name in sorted(files))
        last = [
            Unit(verdicts.sha256, {"verdicts": verdicts.plain()}, verdicts.bytes, unit.label)
            for verdicts, unit in zip(_files(judged, "verdicts"), units, strict=True)
        ]
        phase = Phase(
            f"{self._prefix}decide",
            "stages.dedup.decide:decide",
            {},
            self._unit,
            side,
            {name: _plain(held) for name, held in files.items()},
        )
        results = self._context.map(phase, last)
        output.add("pair_decisions" if self._pairs else "decisions", [result.files["decisions"] for result in results])
        ledger = total((result.ledger for result in results), self._unit)
        ledger.check(f"dedup {self._unit}", sum(s.rows for s in shards))
        return ledger, {**counts, "dropped_lines": sum(result.counts["dropped_lines"] for result in results)}

    def _judge(self, units: list[Unit]) -> list[UnitResult]:
        plain = self._config.model_dump(mode="json")
        settings = {"ngram": plain["decontamination"]["ngram"], "partitions": plain["partitions"]}
        if self._pairs:
            rules = plain["pairs"]["rules"]
            settings |= {"pairs": {name: plain["pairs"][name] for name in ("rules", "unique_sides", *rules) if name in plain["pairs"]}}
        else:
            settings |= {
                "rules": plain["rules"],
                "lines": plain["lines"],
                "urls": plain["urls"],
                "priority": plain["priority"],
                "near": plain["near"] is not None,
            }
            settings |= {name: plain[name] for name in self._config.rules if name in plain}
        held = self._held
        known = {
            "contaminants": self._side.plain(), "ngram_lengths": held["ngram_lengths"], "groups": held["groups"], "documents": held["documents"],
        }  # fmt: skip
        side = (self._side.sha256, digest({name: held[name] for name in ("groups", "documents", "ngram_lengths")}))
        module = "pairs" if self._pairs else "judge"
        return self._context.map(
            Phase(f"{self._prefix}judge", f"stages.dedup.{module}:judge_{self._unit}", settings, self._unit, side, known), units
        )

    def _reduce(self, name: str, function: str, files: Shards, slot: str, gone: Sequence[Shards]) -> Shards:
        """One unit a partition over all of `files`, without what earlier passes dropped."""
        if not any(s.rows for s in files):
            return ()
        module = "near" if function == "candidates" else "exact"
        side = tuple(digest([s.sha256 for s in shards]) for shards in gone)
        phase = Phase(
            f"{self._prefix}{name}", f"stages.dedup.{module}:{function}", {}, "hashes", side, {"gone": [_plain(shards) for shards in gone]}
        )
        results = self._context.map(phase, self._partitions(files, "partition"))
        return [result.files[slot] for result in results]

    def _partitions(self, files: Shards, name: str, more: Mapping[str, Any] | None = None, content: str = "") -> list[Unit]:
        number = self._config.partitions
        key = digest([s.sha256 for s in files])
        argument = {"shards": _plain(files), **(more or {})}
        size = sum(s.bytes for s in files) // number
        return [Unit(f"{key}{content}:{p}", {name: p, **argument}, size, f"{name} {p}") for p in range(number)]

    def _near(self, judged: list[UnitResult], units: list[Unit], gone: Sequence[Shards]) -> tuple[Shards, dict[str, Any]]:
        assert self._config.near is not None
        found = self._reduce("candidates", "candidates", _files(judged, "bands"), "pairs", gone)
        nothing = {"near_pairs": 0, "near_verified": 0}
        if not any(s.rows for s in found):
            return (), nothing
        parts = {"partitions": self._config.partitions}
        all_pairs = Unit(digest([s.sha256 for s in found]), {"pairs": _plain(found)}, sum(s.bytes for s in found), "candidate pairs")
        joined = self._context.map(Phase("components", "stages.dedup.near:components", parts, "pairs"), [all_pairs])[0]
        members, pairs = joined.files["members"], joined.files["pairs"]
        settings = {**parts, "priority": list(self._config.priority)}
        phase = Phase("shingles", "stages.dedup.near:shingles", settings, "documents", (members.sha256,), {"members": members.plain()})
        files = [result.files["shingles"] for result in self._context.map(phase, units)]
        bound = {"min_similarity": self._config.near.min_similarity}
        work = self._partitions(files, "part", {"pairs": pairs.plain()}, pairs.sha256)
        results = self._context.map(Phase("verify", "stages.dedup.near:verify", bound, "pairs"), work)
        counts = {f"near_{name}": sum(result.counts[name] for result in results) for name in ("pairs", "verified")}
        return [result.files["clusters"] for result in results], counts


def _files(results: Sequence[UnitResult], name: str) -> Shards:
    return [result.files[name] for result in results]


def _plain(shards: Shards) -> list[dict[str, Any]]:
    return [s.plain() for s in shards]
