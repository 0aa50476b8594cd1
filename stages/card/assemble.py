"""Sums and ledgers put together as the rows of a card; nothing here reads a file.

parts of all shards -> Parts; Parts of the text as read and as decided on, and the ledgers' sums -> all, languages
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.manifest import Manifest
from stages.card.books import Whole
from stages.card.samples import Bounds, Sample, choose
from stages.card.tally import CLUSTER_EDGES, CONFIDENCE_EDGES, DUPLICATES, LENGTH_EDGES, NEAR, OTHERS, Tally

SHARE = 10_000
LARGEST_FILES = 50
MOST_OTHERS = 5
MOST_LICENCES = 20
READ = ("bytes_in", "characters_in")
DECIDED = ("characters_cleaned", "words_in", "bytes_kept", "characters_kept", "words_kept", "heldout", "dropped_lines")
SPREADS = {
    "clusters": CLUSTER_EDGES, "lengths": LENGTH_EDGES, "lengths_kept": LENGTH_EDGES, "confidence": CONFIDENCE_EDGES,
    "confidence_other": CONFIDENCE_EDGES,
}  # fmt: skip
NOT_OF_PAIRS = ("words_in", "words_kept", "heldout", "dropped_lines", "confidence", "confidence_other", "unidentified", "identified_as")
Row = dict[str, Any]


class Parts:
    """The parts of all units of one phase, added up."""

    def __init__(self, bounds: Bounds) -> None:
        self.tally = Tally()
        self.licences: dict[str, Counter[str]] = {}
        self.files: dict[str, Counter[str]] = {}
        self.identified: dict[str, Counter[str]] = {}
        self._bounds = bounds
        self._samples: dict[str, list[Sample]] = {}

    def add(self, plain: Mapping[str, Any]) -> None:
        """Add the part of one unit."""
        self.tally.merge(plain["tally"])
        for name, own in (("licences", self.licences), ("files", self.files), ("identified", self.identified)):
            for key, row in plain.get(name, {}).items():
                own.setdefault(key, Counter()).update(row)
        for reason, found in plain.get("samples", {}).items():
            self._samples[reason] = choose([*self._samples.get(reason, ()), *found], self._bounds)

    def samples(self) -> dict[str, list[Sample]]:
        """Samples by reason, without the hashes they were chosen by."""
        bare = {reason: [{k: v for k, v in s.items() if k != "hash"} for s in found] for reason, found in sorted(self._samples.items())}
        return {reason: found for reason, found in bare.items() if found}


def corpus(wholes: Mapping[str, Whole], read: Parts, decided: Parts) -> dict[str, Any]:
    """`all` and `languages` of a card."""
    rows = {lang: _row(lang, whole, read, decided) for lang, whole in wholes.items()}
    return {"all": _sum(list(rows.values())), "languages": rows}


def pairs(wholes: Mapping[str, Whole], read: Parts, decided: Parts) -> dict[str, Any]:
    """The same of bitext, without what is not measured there."""
    made = corpus(wholes, read, decided)
    bare = {lang: {k: v for k, v in row.items() if k not in NOT_OF_PAIRS} for lang, row in made["languages"].items()}
    return {"all": {k: v for k, v in made["all"].items() if k not in NOT_OF_PAIRS}, "languages": bare, "files": files(read)}


def share(part: int, of: int) -> int:
    """A share in 1/10,000, rounded half up; 0 of nothing."""
    return (2 * SHARE * part + of) // (2 * of) if of else 0


def _row(lang: str, whole: Whole, read: Parts, decided: Parts) -> Row:
    first, last = read.tally.sums.get(lang, {}), decided.tally.sums.get(lang, {})
    row: Row = whole.plain()
    row |= {name: first.get(name, 0) for name in READ}
    row |= {name: last.get(name, 0) for name in DECIDED}
    row["decided"] = last.get("decided", 0)
    row["dropped_characters"] = {
        name.partition(" ")[2]: value for name, value in sorted(last.items()) if name.startswith("dropped_characters ") and value
    }
    spread = decided.tally.spreads.get(lang, {})
    row |= {name: spread.get(name, [0] * len(edges)) for name, edges in SPREADS.items()}
    row["unidentified"] = last.get("unidentified", 0)
    row["identified_as"] = _most(decided.identified.get(lang, Counter()), MOST_OTHERS)
    row["licences"] = _most(Counter({name: by_lang[lang] for name, by_lang in read.licences.items() if by_lang[lang]}), MOST_LICENCES)
    return _shares(row)


def _shares(row: Row) -> Row:
    duplicates = sum(row["dropped"].get(reason, 0) for reason in DUPLICATES)
    return row | {
        "duplicate_share": share(duplicates, row["decided"]), "near_duplicate_share": share(row["dropped"].get(NEAR, 0), row["decided"]),
    }  # fmt: skip


def _sum(rows: Sequence[Row]) -> Row:
    whole: Row = {}
    for name in ("in", "kept", "gained", "lost", *READ, *DECIDED, "decided", "unidentified"):
        whole[name] = sum(row[name] for row in rows)
    for name in ("dropped", "quarantined", "dropped_characters"):
        added: Counter[str] = Counter()
        for row in rows:
            added.update(row[name])
        whole[name] = dict(sorted(added.items()))
    for name, edges in SPREADS.items():
        whole[name] = [sum(column) for column in zip(*(row[name] for row in rows), strict=True)] or [0] * len(edges)
    licences: Counter[str] = Counter()
    for row in rows:
        licences.update(row["licences"])
    whole["licences"] = _most(licences, MOST_LICENCES)
    return _shares(whole)


def _most(counts: Counter[str], most: int) -> dict[str, int]:
    """The most frequent names, and all others together."""
    others = counts.pop(OTHERS, 0) if OTHERS in counts else 0
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    others += sum(count for _, count in ordered[most:])
    return dict(sorted(ordered[:most])) | ({OTHERS: others} if others else {})


def sources(manifest: Manifest) -> dict[str, Any]:
    """What the first stage says of its sources, by number."""
    found = manifest.counts.get("sources", {})
    return {number: found[number] for number in sorted(found, key=lambda n: (len(n), n))}


def files(read: Parts) -> dict[str, Any]:
    """The files that gave text: how many, and the largest."""
    ordered = sorted(read.files.items(), key=lambda item: (-item[1]["bytes"], item[0]))
    largest = [{"source": name, "records": own["records"], "bytes": own["bytes"]} for name, own in ordered[:LARGEST_FILES]]
    return {"number": len(ordered), "largest": largest}


def headline(card: Mapping[str, Any]) -> dict[str, Any]:
    """The figures by which a corpus is known."""
    told = {}
    for name, body in (("documents", card), ("pairs", card.get("pairs"))):
        if body is not None and body["languages"]:
            row = body["all"]
            wanted = ("in", "kept", "bytes_in", "characters_in", "words_in", "bytes_kept", "characters_kept", "words_kept")
            told[name] = {key: row[key] for key in wanted if key in row} | {
                "languages": len(body["languages"]),
                "kept_languages": sum(1 for own in body["languages"].values() if own["kept"]),
                "dropped": row["dropped"],
                "quarantined": row["quarantined"],
                "duplicate_share": row["duplicate_share"],
                "near_duplicate_share": row["near_duplicate_share"],
            }
    return told


def metrics(card: Mapping[str, Any]) -> dict[str, float]:
    """The headline as figures for MLflow: shares as parts of one, reasons by name."""
    found: dict[str, float] = {}
    for kind, told in headline(card).items():
        for name, value in told.items():
            if isinstance(value, dict):
                found |= {f"card/{kind}/{name}/{reason}": float(count) for reason, count in value.items()}
            else:
                found[f"card/{kind}/{name}"] = value / SHARE if name.endswith("_share") else float(value)
    return found
