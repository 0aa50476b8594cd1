"""The work of ingest.

    files -> units: slices of large files, groups of small ones cut by content -> read (map) -> documents, bitext, damage     stages/ingest/reading.py
          -> align (map), pair (reduce): documents of one alignment group -> bitext                                          stages/ingest/aligned.py

Groups of small files never cross a source or a language, and are cut where a file's own digest says, so a new file changes only the group it falls into.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from pipeline.errors import EmptyCorpusError, QuarantineError
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.sources import Source
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import digest
from pipeline.tables import read_table
from pipeline.text.spellings import spelling_table
from pipeline.units import Phase, Unit
from stages.ingest import OUTPUT, Config
from stages.ingest.aligned import pair_aligned
from stages.ingest.listing import missing_languages
from stages.ingest.partners import partners
from stages.ingest.reading import PLACES, code_of
from stages.ingest.records import Slice, SourceFile
from stages.ingest.sources import SOURCES

GROUP_CUT = 16
"""A group of small files ends behind a file whose digest is a multiple of this, so after 16 files on average."""

_PAIRS = ("tsv-pairs", "moses", "tmx")
"""Kinds of source that hold pairs."""


@dataclass(frozen=True)
class _File:
    """A file, its partner where its sides are in two, and the digest of both."""

    source: Source
    sha256: str
    partner: Source | None = None

    @property
    def size(self) -> int:
        return self.source.size + (self.partner.size if self.partner is not None else 0)

    @property
    def names(self) -> list[str | None]:
        """What a key sees of them besides the content."""
        return [self.source.lang, self.source.name, *([self.partner.name] if self.partner is not None else [])]


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Read all sources; see the package."""
    ledger = Ledger("documents")
    counts: dict[str, Any] = {"sources": {}}
    warnings: list[str] = []
    shards: list[Shard] = []
    for number, source in enumerate(config.sources):
        files = _files(config, number, context)
        settings = {"source": source.model_dump(mode="json", exclude=set(PLACES)), "max_shard_bytes": config.unit_bytes}
        units = list(_units(config, number, files, context.languages))
        phase = Phase(
            "read",
            "stages.ingest.reading:read_unit",
            settings,
            "documents",
            given={name: getattr(source, name) for name in PLACES if hasattr(source, name)},
        )
        results = context.map(phase, units)
        shards += [shard for result in results for shard in result.parts("documents") if shard.rows]
        output.add("bitext", [shard for result in results for shard in result.parts("bitext") if shard.rows])
        own = total((result.ledger for result in results), "documents")
        ledger.add(own)
        size = sum(file.size for file in files)
        damaged = sum(result.counts["damaged_bytes"] for result in results)
        if own.quarantined and not own.dropped and not any(shard.rows for r in results for name in OUTPUT for shard in r.parts(name)):
            damaged = size  # nothing of the source could be read, wherever the faults were seen
        counts["sources"][str(number)] = {"files": len(files), "bytes": size, "damaged_bytes": damaged, "quarantined": own.quarantined}
        warnings += _judge(context, source.path, own, size, damaged, [r.files["damage"] for r in results])
    output.add("documents", shards)
    listed = [file for file, _ in context.sources if "~/" not in file.name]
    absent = missing_languages(config, listed, context.languages)
    if absent:
        warnings.append(f"no file for {', '.join(absent)}: nothing can be learnt of them")
    wordless = _wordless(config, listed, ledger)
    unseen = _unseen(config, listed, context.languages, ledger)
    if unseen:
        warnings.append(f"no text of {', '.join(unseen)} in any source: nothing can be learnt of them")
    unnamed = ledger.accounts["und"].kept if "und" in ledger.accounts else 0
    if unnamed:
        warnings.append(
            f"{unnamed} documents say no language and stand under und; give their source `lang`, {{lang}} in its path, or the field that holds it (lang_field, lang_column)"
        )
    if wordless:
        warnings.append(f"no text in the files of {', '.join(wordless)}: nothing can be learnt of them")
    if not shards and not output.shards.get("bitext"):
        reasons = (
            ", ".join(f"{reason} {count}" for reason, count in {**ledger.dropped, **ledger.quarantined}.items()) or "the sources are empty"
        )
        raise EmptyCorpusError(
            f"{context.instance}: no text was read ({reasons}). Check stages.{context.instance}.sources and `languages`."
        )
    ledgers = {"documents": ledger}
    if config.pivot is not None:
        ledgers["pairs"] = pair_aligned(config, shards, output, context)
    return Summary(ledgers=ledgers, counts=counts, warnings=warnings)


def _wordless(config: Config, files: list[Source], ledger: Ledger) -> list[str]:
    """Languages that have files of their own, pairs aside, of which no document was kept; sorted."""
    of_pairs = {str(number) for number, source in enumerate(config.sources) if source.kind in _PAIRS}
    held = {file.lang for file in files if file.lang is not None and file.name.partition("/")[0] not in of_pairs}
    return sorted(lang for lang in held if lang not in ledger.accounts or not ledger.accounts[lang].kept)


def _unseen(config: Config, files: list[Source], languages: tuple[str, ...], ledger: Ledger) -> list[str]:
    """Languages of the pipeline of which no document was kept, though some source says the language of its records; none where pairs are read, which count elsewhere."""
    if any(source.kind in _PAIRS for source in config.sources) or all("{lang}" in source.path for source in config.sources):
        return []
    held = {file.lang for file in files}
    return [lang for lang in languages if lang not in held and (lang not in ledger.accounts or not ledger.accounts[lang].kept)]


def _judge(context: Context, path: str, ledger: Ledger, size: int, damaged: int, damage: list[Shard]) -> list[str]:
    """Warn of what was quarantined; too large a share fails the run (`quarantine.max_share`)."""
    if not ledger.quarantined:
        return []
    share = damaged / max(1, size)
    reasons = ", ".join(f"{reason} {count}" for reason, count in ledger.quarantined.items())
    first = next(
        (row for shard in damage if shard.rows for row in read_table(context.storage.local(shard.path, shard.sha256)).to_pylist()), None
    )
    where = f"; the first at {first['source']} byte {first['offset']}" if first else ""
    text = f"source {path}: quarantined {reasons} ({100 * share:.2f}% of its bytes){where}"
    allowed = context.settings.quarantine.max_share
    if share > allowed:
        raise QuarantineError(f"{context.instance}: {text}. Allowed is quarantine.max_share={allowed}. Mend the source, or allow more.")
    return [text]


# ---------------------------------------------------------------- units


def _files(config: Config, number: int, context: Context) -> list[_File]:
    """The files of a source, with partners."""
    source = config.sources[number]
    digests = {file.url: sha256 for file, sha256 in context.sources}
    first, second = ([file for file, _ in context.sources if file.name.startswith(f"{number}{mark}/")] for mark in ("", "~"))
    other = getattr(source, "other", None)
    if other is None:
        return [_File(file, digests[file.url]) for file in first]
    joined = partners(source.path, other, first, second, spelling_table(context.languages))
    return [_File(a, hashlib.sha256(bytes.fromhex(digests[a.url] + digests[b.url])).hexdigest(), b) for a, b in joined]


def _units(config: Config, number: int, files: Sequence[_File], languages: tuple[str, ...]) -> Iterator[Unit]:
    source = config.sources[number]
    module = import_module(SOURCES[source.kind])
    group: list[_File] = []
    of_group: list[str] = []  # the languages that the records of its files can have
    for file in files:
        record = SourceFile(file.source.url, file.source.name, file.source.size, file.source.lang)
        wanted = _wanted(module.languages_of(record, source), languages)
        parts = module.slices(record, source, config.unit_bytes)
        if len(parts) > 1 or file.size > config.unit_bytes // 4:
            yield from _group_unit(group, of_group)
            group, of_group = [], []
            for part in parts:
                size = (part.stop or file.source.size) - part.start if part.unit == "bytes" else file.size // len(parts)
                argument = {"files": [_plain(file, part)], "languages": wanted}
                yield Unit(digest([file.sha256, *file.names, asdict(part), wanted]), argument, size, _label(file, part))
            continue
        if group and group[-1].source.lang != file.source.lang:
            yield from _group_unit(group, of_group)
            group, of_group = [], []
        group.append(file)
        of_group = sorted({*of_group, *wanted})
        if int(file.sha256[:8], 16) % GROUP_CUT == 0 or sum(f.size for f in group) > config.unit_bytes:
            yield from _group_unit(group, of_group)
            group, of_group = [], []
    yield from _group_unit(group, of_group)


def _wanted(possible: tuple[str, ...] | None, languages: tuple[str, ...]) -> list[str]:
    """The pipeline's languages that a file's records can have. A unit's key sees no others, so that a language more in the pipeline reads nothing again."""
    if possible is None:
        return sorted(languages)
    return sorted({code for lang in possible if (code := code_of(lang)) is not None and code in languages})


def _group_unit(group: list[_File], wanted: list[str]) -> Iterator[Unit]:
    if group:
        content = digest([[[file.sha256, *file.names] for file in group], wanted])
        label = _label(group[0], Slice()) + (f" and {len(group) - 1} more files" if len(group) > 1 else "")
        argument = {"files": [_plain(file, Slice()) for file in group], "languages": wanted}
        yield Unit(content, argument, sum(f.size for f in group), label)


def _plain(file: _File, part: Slice) -> dict[str, Any]:
    partner = None if file.partner is None else {"url": file.partner.url, "name": file.partner.name, "size": file.partner.size}
    own = {"url": file.source.url, "name": file.source.name, "lang": file.source.lang, "size": file.source.size}
    return {**own, "sha256": file.sha256, "slice": asdict(part), "partner": partner}


def _label(file: _File, part: Slice) -> str:
    return file.source.name.partition("/")[2] + (f" [{part.start}:{part.stop}]" if part.start or part.stop else "")
