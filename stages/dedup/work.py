"""The work of dedup, as the driver sees it. Only phases marked * read text; no bound of a rule is in their keys, so that a decision redone reads none.

    heldout, examples -> contaminants*: sorted n-gram hashes, all and by set                                              stages/dedup/overlap.py
    documents -> hash* (map): columns; hashes of addresses, texts, paragraphs, lines, MinHash bands                       hashes.py
              -> overlap* (map): which overlap evaluation text                                                            overlap.py
    columns   -> sketch (map) -> thresholds: bounds derived per language                                                  derive.py
              -> judge (map): verdicts                                                                                    judge.py
    hashes    -> twins, candidates (reduce) -> components -> scatter (reduce), shingles* (map) -> verify (reduce): edges  exact.py, near.py
    verdicts  -> urls, texts (reduce) -> join (reduce) -> paragraphs, lines (reduce)                                      exact.py, near.py
              -> decide (map): one row-aligned shard of decisions                                                         decide.py
    documents ⋈ decisions -> rejects* (map), if they are to be kept                                                       rejects.py
    bitext    -> pair_judge* -> pair_texts, pair_side_a, pair_side_b -> pair_decide, with pair rules                                 pairs.py

Each kind of duplicate is sought among what the kinds before it left, so that nothing goes in favour of what is gone itself. New data redoes what
compares, never the hashing or judging of old shards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.corpus import pair_up
from pipeline.errors import EmptyCorpusError
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import digest
from pipeline.task import UnitResult
from pipeline.units import Phase, Unit
from stages.dedup import Config
from stages.dedup.derive import merged

DOCUMENTS_A_PARTITION, BYTES_A_PARTITION = 1 << 16, 1 << 27
MOST_PARTITIONS = 4096
Shards = Sequence[Shard]


def partitions_for(documents: int, size: int) -> int:
    """Partitions for a corpus: the power of two that leaves at most 65,536 documents and 128 MiB in each, up to 4,096 (a corpus of 512 GiB; beyond, each
    grows). Sorting takes 52 to 147 MB for 14 band hashes a document, and 230 MB for a line in 50 bytes."""
    wanted = max(-(-documents // DOCUMENTS_A_PARTITION), -(-size // BYTES_A_PARTITION), 1)
    return min(1 << (wanted - 1).bit_length(), MOST_PARTITIONS)


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Decide on all documents and pairs; see the package."""
    held = _contaminants(config, inputs, context)
    counts: dict[str, Any] = {}
    ledgers = {"documents": _Documents(config, context, inputs["documents"], held).decide(output, counts)}
    if "bitext" in inputs:
        ledgers["pairs"] = _Pairs(config, context, inputs["bitext"], held).decide(output)
    if config.keep_rejects:
        _rejects(inputs["documents"], output, context)
    if ledgers["documents"].kept == 0:
        dropped = ", ".join(f"{reason} {count}" for reason, count in ledgers["documents"].dropped.items()) or "no documents came in"
        raise EmptyCorpusError(
            f"{context.instance}: no document is left ({dropped}). Loosen stages.{context.instance}, or check the sources."
        )
    empty = sorted(lang for lang, account in ledgers["documents"].accounts.items() if account.taken and not account.kept)
    warnings = [f"no document is left in {', '.join(empty)}; `show … dedup ledger` gives the reasons"] if empty else []
    counts |= {"contaminants": held.counts["hashes"], "formulas": held.counts["formulas"], "heldout_groups": len(held.counts["groups"])}
    return Summary(ledgers=ledgers, counts=counts, warnings=warnings)


def _contaminants(config: Config, inputs: Mapping[str, Input], context: Context) -> UnitResult:
    shards = [s for slot in ("heldout", "examples") if slot in inputs for s in inputs[slot].shards]
    unit = Unit(digest([s.sha256 for s in shards]), {"shards": _plain(shards)}, sum(s.bytes for s in shards), "evaluation text")
    settings = config.decontamination.model_dump(mode="json")
    return context.map(Phase("contaminants", "stages.dedup.overlap:contaminants", settings, "examples"), [unit])[0]


def _rejects(documents: Input, output: Output, context: Context) -> None:
    pairings = pair_up(documents.shards, tuple(output.shards["decisions"]))
    results = context.map(Phase("rejects", "stages.dedup.rejects:rejects", {}, "documents"), [pairing.unit() for pairing in pairings])
    output.add("rejects", [result.files["rejects"] for result in results if result.files["rejects"].rows])


class _Corpus:
    """What the phases over documents and over pairs have in common."""

    unit, prefix, slot = "documents", "", "decisions"

    def __init__(self, config: Config, context: Context, given: Input, held: UnitResult) -> None:
        self._config, self._context = config, context
        self._shards = [shard for shard in given.shards if shard.rows]
        size = sum(s.bytes for s in self._shards)
        self._partitions = config.partitions or partitions_for(sum(s.rows for s in self._shards), size)
        self._units = [Unit(s.sha256, {"shard": s.plain()}, s.bytes, f"{self.unit} shard {s.key[:12]}") for s in self._shards]
        self._bases = [sum(s.rows for s in self._shards[:n]) for n in range(len(self._shards))]
        self._held = {name: held.counts[name] for name in ("groups", "documents", "pairs", "ngram_lengths", "sets", "hashes")}
        self._held |= {name: held.files[name].plain() for name in ("contaminants", "by_set")}
        names = ("groups", "documents", "pairs", "ngram_lengths")
        self._held_side = (
            *(held.files[name].sha256 for name in ("contaminants", "by_set")),
            digest({name: held.counts[name] for name in names}),
        )

    def _map(
        self, name: str, function: str, units: Sequence[Unit], settings: Mapping[str, Any], side: tuple[str, ...] = (), **given: Any
    ) -> list[UnitResult]:
        phase = Phase(f"{self.prefix}{name}", f"stages.dedup.{function}", settings, self.unit, side, given)
        return self._context.map(phase, units)

    def _reduce(self, name: str, function: str, files: Shards, side: tuple[str, ...] = (), **given: Any) -> list[UnitResult]:
        """One unit a partition over all of `files`; none where they hold no row."""
        if not any(s.rows for s in files):
            return []
        phase = Phase(f"{self.prefix}{name}", f"stages.dedup.{function}", {}, "hashes", side, given)
        return self._context.map(phase, self._parts(name, files, "shards"))

    def _parts(self, name: str, files: Shards, argument: str) -> list[Unit]:
        number, content = self._partitions, digest([s.sha256 for s in files])
        size = sum(s.bytes for s in files) // number
        return [
            Unit(f"{content}:{p}/{number}", {argument: _plain(files), "partition": p, "partitions": number}, size, f"{name} {p}")
            for p in range(number)
        ]

    def _equals(self, name: str, function: str, files: Shards, verdicts: Shards, gone: Sequence[Shards]) -> list[UnitResult]:
        side = (_digest(verdicts), *(_digest(shards) for shards in gone))
        return self._reduce(name, f"exact:{function}", files, side, verdicts=_plain(verdicts), gone=[_plain(shards) for shards in gone])

    def _decide(self, verdicts: Shards, files: Mapping[str, Shards], output: Output) -> tuple[Ledger, int]:
        units = [
            Unit(f"{shard.sha256}@{base}", {"verdicts": shard.plain(), "base": base}, shard.bytes, unit.label)
            for shard, base, unit in zip(verdicts, self._bases, self._units, strict=True)
        ]
        side = (_digest(verdicts), *(_digest(files[name]) for name in sorted(files)))
        given = {name: _plain(held) for name, held in files.items()}
        results = self._map("decide", "decide:decide", units, {}, side, verdicts=_plain(verdicts), **given)
        output.add(self.slot, [result.files["decisions"] for result in results])
        ledger = total((result.ledger for result in results), self.unit)
        ledger.check(f"dedup {self.unit}", sum(s.rows for s in self._shards))
        return ledger, sum(result.counts["dropped_lines"] for result in results)


class _Documents(_Corpus):
    """The phases over documents."""

    def decide(self, output: Output, counts: dict[str, Any]) -> Ledger:
        config = self._config
        hashed = self._hash()
        flags = self._overlap(counts)
        verdicts = self._judge(hashed, flags, output)
        urls = _files(self._equals("urls", "resolve", _files(hashed, "urls"), verdicts, []), "clusters") if config.urls else []
        texts = self._equals("texts", "resolve", _files(hashed, "texts"), verdicts, [urls])
        clusters: dict[str, Shards] = {"duplicate_url": urls, "duplicate": _files(texts, "clusters"), "near_duplicate": []}
        if config.near is not None:
            clusters["near_duplicate"] = self._near(hashed, verdicts, [urls, clusters["duplicate"]], _files(texts, "heads"), counts)
        gone = list(clusters.values())
        repeated = {
            name: _files(self._equals(name, "resolve_lines", _files(hashed, name), verdicts, gone), "repeated")
            if wanted is not None
            else []
            for name, wanted in (("paragraphs", config.paragraphs), ("lines", config.lines))
        }
        ledger, counts["dropped_lines"] = self._decide(verdicts, {**clusters, **repeated}, output)
        counts["partitions"] = self._partitions
        return ledger

    def _hash(self) -> list[UnitResult]:
        config = self._config
        settings = {
            "urls": config.urls,
            "near": config.near is not None,
            "line_characters": config.lines.min_characters if config.lines is not None else None,
            "paragraph_characters": config.paragraphs.min_characters if config.paragraphs is not None else None,
        }
        return self._map("hash", "hashes:hash_documents", self._units, settings)

    def _overlap(self, counts: dict[str, Any]) -> Sequence[Shard | None]:
        if not self._held["hashes"]:
            return [None] * len(self._units)
        found = self._map("overlap", "overlap:overlap", self._units, {}, self._held_side, **self._held)
        by_set: dict[str, dict[str, int]] = {}
        for result in found:
            for name, langs in result.counts["sets"].items():
                for lang, count in langs.items():
                    mine = by_set.setdefault(name, {})
                    mine[lang] = mine.get(lang, 0) + count
        counts["contaminated"] = {
            name: {"all": sum(langs.values()), **dict(sorted(langs.items()))} for name, langs in sorted(by_set.items())
        }
        return _files(found, "flags")

    def _judge(self, hashed: Sequence[UnitResult], flags: Sequence[Shard | None], output: Output) -> Shards:
        config, plain = self._config, self._config.model_dump(mode="json")
        sections = {name: plain[name] for name in config.rules if name in plain}
        made = self._derive(hashed, sections, output)
        sections = {name: merged(section, name, made) for name, section in sections.items()}
        settings = {"rules": plain["rules"], "priority": plain["priority"], **sections}
        units = []
        for result, flag, unit in zip(hashed, flags, self._units, strict=True):
            columns, sources = result.files["columns"], result.files["sources"]
            content = f"{columns.sha256}:{sources.sha256}:{flag.sha256 if flag is not None else ''}"
            argument = {"columns": columns.plain(), "sources": sources.plain(), "flags": None if flag is None else flag.plain()}
            units.append(Unit(content, argument, columns.bytes, unit.label))
        return _files(self._map("judge", "judge:judge_documents", units, settings, self._held_side, **self._held), "verdicts")

    def _derive(self, hashed: Sequence[UnitResult], sections: Mapping[str, Any], output: Output) -> dict[str, Any]:
        """The bounds that the corpus gives, by bound and language, with their evidence."""
        config = self._config.derive
        if config is None:
            return {}
        bounds: dict[str, Any] = {}
        for bound, how in config.bounds.items():
            rule, _, field = bound.partition(".")
            if rule in sections:
                bounds[bound] = {**how.model_dump(mode="json"), "column": how.column or field[4:], "default": sections[rule][field]}
        units = [
            Unit(file.sha256, {"columns": file.plain()}, file.bytes, unit.label)
            for file, unit in zip(_files(hashed, "columns"), self._units, strict=True)
        ]
        wanted = {"columns": sorted({how["column"] for how in bounds.values()})}
        found = _files(self._map("sketch", "derive:sketch", units, wanted), "histograms")
        unit = Unit(_digest(found), {"histograms": _plain(found)}, sum(s.bytes for s in found), "histograms")
        settings = {"min_documents": config.min_documents, "bounds": bounds}
        made = self._map("thresholds", "derive:thresholds", [unit], settings)[0].files["thresholds.json"]
        text = self._context.storage.local(made.path, made.sha256).read_bytes()
        with output.evidence("thresholds.json") as path:
            path.write_bytes(text)
        read: dict[str, Any] = json.loads(text)
        return read

    def _near(
        self, hashed: Sequence[UnitResult], verdicts: Shards, gone: Sequence[Shards], heads: Shards, counts: dict[str, Any]
    ) -> Shards:
        near = self._config.near
        assert near is not None
        counts |= {"near_pairs": 0, "near_verified": 0}
        rows = [s.rows for s in self._shards]
        of_rows = digest(rows)
        twins = _files(self._reduce("twins", "exact:twins", _files(hashed, "texts"), (of_rows,), rows=rows), "twins")
        pairs = _files(
            self._reduce(
                "candidates", "near:candidates", _files(hashed, "bands"), (of_rows, _digest(twins)), rows=rows, twins=_plain(twins)
            ),
            "pairs",
        )
        if not any(s.rows for s in pairs):
            return []
        every = Unit(_digest(pairs), {"pairs": _plain(pairs)}, sum(s.bytes for s in pairs), "candidate pairs")
        parts = self._map("components", "near:components", [every], {"documents": sum(rows), "partitions": self._partitions})[0].files[
            "parts"
        ]
        units = [Unit(s.sha256, {"pairs": s.plain()}, s.bytes, f"pairs {p}") for p, s in enumerate(pairs)]
        parted = _files(self._map("scatter", "near:scatter", units, {}, (parts.sha256,), parts=parts.plain()), "pairs")
        texts = [
            Unit(f"{unit.content}@{base}", {**unit.argument, "base": base}, unit.size, unit.label)
            for unit, base in zip(self._units, self._bases, strict=True)
        ]
        shingled = self._map("shingles", "near:shingles", texts, {}, (parts.sha256,), parts=parts.plain())
        rows_of, values = _files(shingled, "shingled"), _files(shingled, "shingles")
        edges = self._reduce(
            "verify", "near:verify", values, (_digest(parted), _digest(rows_of)), pairs=_plain(parted), shingled=_plain(rows_of)
        )
        settings = near.model_dump(mode="json")
        units = [Unit(s.sha256, {"edges": s.plain()}, s.bytes, f"edges {p}") for p, s in enumerate(_files(edges, "edges"))]
        given = {"verdicts": _plain(verdicts), "gone": [_plain(shards) for shards in gone], "heads": _plain(heads)}
        side = (_digest(verdicts), _digest(heads), *(_digest(shards) for shards in gone))
        results = self._map("join", "near:join", units, settings, side, **given)
        counts |= {"near_pairs": sum(r.counts["pairs"] for r in edges), "near_verified": sum(r.counts["verified"] for r in results)}
        return _files(results, "clusters")


class _Pairs(_Corpus):
    """The phases over pairs."""

    unit, prefix, slot = "pairs", "pair_", "pair_decisions"

    def decide(self, output: Output) -> Ledger:
        plain = self._config.model_dump(mode="json")["pairs"]
        settings = {"pairs": {name: plain[name] for name in ("rules", "unique_sides", *plain["rules"]) if name in plain}}
        judged = self._map("judge", "pairs:judge_pairs", self._units, settings, self._held_side, **self._held)
        verdicts = _files(judged, "verdicts")
        clusters: dict[str, Shards] = {}
        kinds = (
            {"texts": "duplicate", "side_a": "duplicate_side_a", "side_b": "duplicate_side_b"}
            if plain["unique_sides"]
            else {"texts": "duplicate"}
        )
        for name, kind in kinds.items():
            found = self._equals(name, "resolve", _files(judged, name), verdicts, list(clusters.values()))
            clusters[kind] = _files(found, "clusters")
        ledger, _ = self._decide(verdicts, clusters, output)
        return ledger


def _files(results: Sequence[UnitResult], name: str) -> list[Shard]:
    return [result.files[name] for result in results]


def _plain(shards: Shards) -> list[dict[str, Any]]:
    return [s.plain() for s in shards]


def _digest(shards: Shards) -> str:
    return digest([s.sha256 for s in shards])
