"""The work of ingest.

    files -> units: slices of large files, groups of small ones cut by content -> read (map) -> documents, bitext, damage
          -> pair (map over document shards, the pivot's documents at hand) -> bitext

Groups of small files never cross a source or a language, and are cut where a file's own digest says, so a new file changes only the group it falls into.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from importlib import import_module
from typing import Any

import pyarrow as pa

from pipeline.artifacts import bitext, documents
from pipeline.errors import ConfigError, EmptyCorpusError, QuarantineError
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.storage import Source, digest, open_source
from pipeline.tables import read_table
from pipeline.task import Task
from pipeline.text import languages
from pipeline.text.hashing import document_id
from pipeline.units import Phase, Unit
from stages.ingest import Config
from stages.ingest.listing import missing_languages
from stages.ingest.records import Damaged, Pair, Record, Slice, SourceFile
from stages.ingest.sources import SOURCES

GROUP_CUT = 16
"""A group of small files ends behind a file whose digest is a multiple of this, so after 16 files on average."""
_DAMAGE = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("rest_of_stream", pa.bool_(), nullable=False),
    ]
)


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Read all sources; see the package."""
    ledger = Ledger("documents")
    counts: dict[str, Any] = {"sources": {}}
    warnings: list[str] = []
    shards: list[Shard] = []
    for number, source in enumerate(config.sources):
        files = [(file, sha256) for file, sha256 in context.sources if file.name.startswith(f"{number}/")]
        settings = {"source": source.model_dump(mode="json", exclude={"path"})}
        units = list(_units(config, number, files, context.languages))
        phase = Phase("read", "stages.ingest.work:read_unit", settings, "documents", given={"path": source.path})
        results = context.map(phase, units)
        shards += [result.files["documents"] for result in results if result.files["documents"].rows]
        output.add("bitext", [result.files["bitext"] for result in results if result.files["bitext"].rows])
        own = total((result.ledger for result in results), "documents")
        ledger.add(own)
        size = sum(file.size for file, _ in files)
        damaged = sum(result.counts["damaged_bytes"] for result in results)
        counts["sources"][str(number)] = {"files": len(files), "bytes": size, "damaged_bytes": damaged, "quarantined": own.quarantined}
        warnings += _judge(context, source.path, own, size, damaged, [r.files["damage"] for r in results])
    output.add("documents", shards)
    absent = missing_languages(config, [file for file, _ in context.sources], context.languages)
    if absent:
        warnings.append(f"no file for {', '.join(absent)}: nothing can be learnt of them")
    wordless = _wordless(config, [file for file, _ in context.sources], ledger)
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
        ledgers["pairs"] = _pair(config.pivot, shards, output, context)
    return Summary(ledgers=ledgers, counts=counts, warnings=warnings)


def _wordless(config: Config, files: list[Source], ledger: Ledger) -> list[str]:
    """Languages that have files of their own, pairs aside, of which no document was kept; sorted."""
    held = {file.lang for file in files if file.lang is not None and config.sources[int(file.name.partition("/")[0])].kind != "tsv-pairs"}
    return sorted(lang for lang in held if lang not in ledger.accounts or not ledger.accounts[lang].kept)


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


def _units(config: Config, number: int, files: list[tuple[Source, str]], languages: tuple[str, ...]) -> Iterator[Unit]:
    source = config.sources[number]
    module = import_module(SOURCES[source.kind])
    group: list[tuple[Source, str]] = []
    wanted: list[str] = []
    for file, sha256 in files:
        record = SourceFile(file.url, file.name, file.size, file.lang)
        before, wanted = wanted, _wanted(module.languages_of(record, source), languages)
        parts = module.slices(record, source, config.unit_bytes)
        if len(parts) > 1 or file.size > config.unit_bytes // 4:
            yield from _group_unit(group, before)
            group = []
            for part in parts:
                size = (part.stop or file.size) - part.start if part.unit == "bytes" else file.size // len(parts)
                argument = {"files": [_plain(file, sha256, part)], "languages": wanted}
                yield Unit(digest([sha256, file.lang, file.name, asdict(part), wanted]), argument, size, _label(file, part))
            continue
        if group and group[-1][0].lang != file.lang:
            yield from _group_unit(group, before)
            group = []
        group.append((file, sha256))
        if int(sha256[:8], 16) % GROUP_CUT == 0 or sum(f.size for f, _ in group) > config.unit_bytes:
            yield from _group_unit(group, wanted)
            group = []
    yield from _group_unit(group, wanted)


def _wanted(possible: tuple[str, ...] | None, languages: tuple[str, ...]) -> list[str]:
    """The pipeline's languages that a file's records can have. A unit's key sees no others, so that a language more in the pipeline reads nothing again."""
    if possible is None:
        return sorted(languages)
    return sorted({code for lang in possible if (code := _code(lang)) is not None and code in languages})


def _group_unit(group: list[tuple[Source, str]], wanted: list[str]) -> Iterator[Unit]:
    if group:
        content = digest([[[sha256, file.lang, file.name] for file, sha256 in group], wanted])
        label = _label(group[0][0], Slice()) + (f" and {len(group) - 1} more files" if len(group) > 1 else "")
        argument = {"files": [_plain(file, sha256, Slice()) for file, sha256 in group], "languages": wanted}
        yield Unit(content, argument, sum(f.size for f, _ in group), label)


def _plain(file: Source, sha256: str, part: Slice) -> dict[str, Any]:
    return {"url": file.url, "name": file.name, "lang": file.lang, "size": file.size, "sha256": sha256, "slice": asdict(part)}


def _label(file: Source, part: Slice) -> str:
    return file.name.partition("/")[2] + (f" [{part.start}:{part.stop}]" if part.start or part.stop else "")


# ---------------------------------------------------------------- on a worker


def read_unit(task: Task) -> None:
    """Worker: read the files of a unit into documents, bitext and damage."""
    module = import_module(SOURCES[task.settings["source"]["kind"]])
    config = module.Config.model_validate_json(json.dumps({**task.settings["source"], "path": task.given["path"]}))
    wanted = set(task.argument["languages"])
    damaged_bytes = 0
    with (
        task.table("documents", documents.schema()) as texts,
        task.table("bitext", bitext.schema()) as pairs,
        task.table("damage", _DAMAGE) as damage,
    ):
        for plain in task.argument["files"]:
            file = SourceFile(plain["url"], plain["name"], plain["size"], plain["lang"])
            sha256 = bytes.fromhex(plain["sha256"])
            name = plain["name"].partition("/")[2]
            part = Slice(**plain["slice"])
            items = module.read(lambda url=file.url: open_source(url), file, part, config)
            for item in task.records(items, _lang_of):
                if isinstance(item, Damaged):
                    lost = _lost_bytes(item, file, part)
                    damaged_bytes += lost
                    task.ledger.quarantine(file.lang or "und", item.reason)
                    damage.row(
                        {
                            "source": name,
                            "offset": item.offset,
                            "length": item.length,
                            "reason": item.reason,
                            "rest_of_stream": item.rest_of_stream,
                        }
                    )
                elif isinstance(item, Record):
                    _document(task, texts, item, sha256, name, wanted)
                else:
                    _pair_row(task, pairs, texts, item, sha256, name, wanted, getattr(config, "as_text", False))
    task.counts["damaged_bytes"] = damaged_bytes


def _lang_of(item: Record | Pair | Damaged) -> str:
    return (item.lang or "und") if isinstance(item, Record) else "und"


def _lost_bytes(item: Damaged, file: SourceFile, part: Slice) -> int:
    """Bytes as stored that were lost: exact where they are known, an estimate from below else; at least one, so that it is seen.

    A truncated stream was read to its end, and what is missing cannot be known from the file: it counts a hundredth of the file.
    """
    if item.stored_offset is not None:
        behind = file.size - item.stored_offset
        return max(1, behind if behind > 0 else file.size // 100)
    if item.length is not None and not item.rest_of_stream:
        return max(1, min(item.length, file.size))
    stop = part.stop or file.size
    return max(1, stop - min(stop, max(item.offset, part.start)))


@cache
def _code(lang: str | None) -> str | None:
    """The canonical code, `und` where none is given, None where it is no language we know."""
    if lang is None:
        return "und"
    try:
        return languages.lookup(lang).code
    except ConfigError:
        return None


def _document(task: Task, table: Any, item: Record, sha256: bytes, name: str, wanted: set[str]) -> None:
    lang = _code(item.lang)
    if lang is None:
        task.ledger.drop(item.lang or "und", "unknown_language")
    elif lang != "und" and lang not in wanted:
        task.ledger.drop(lang, "language_not_wanted")
    elif not item.text.strip():
        task.ledger.drop(lang, "empty")
    else:
        task.ledger.keep(lang)
        table.row(
            {"id": document_id(sha256, item.offset, item.ordinal), "lang": lang, "text": item.text, "source": name, "offset": item.offset, "url": item.url,
             "licence": item.licence, "group": item.group}
        )  # fmt: skip


def _pair_row(task: Task, pairs: Any, texts: Any, item: Pair, sha256: bytes, name: str, wanted: set[str], as_text: bool) -> None:
    a, b = _code(item.lang_a), _code(item.lang_b)
    label = f"{item.lang_a}-{item.lang_b}"
    if a is None or b is None:
        task.ledger.drop(label, "unknown_language")
        return
    if a not in wanted or b not in wanted:
        task.ledger.drop(label, "language_not_wanted")
        return
    if not item.text_a.strip() or not item.text_b.strip():
        task.ledger.drop(label, "empty_side")
        return
    task.ledger.keep(label)
    identifier = document_id(sha256, item.offset, item.ordinal)
    pairs.row(
        {"id": identifier, "group": item.group, "lang_a": a, "lang_b": b, "text_a": item.text_a, "text_b": item.text_b, "source": name,
         "offset": item.offset, "licence": item.licence}
    )  # fmt: skip
    if as_text:
        # A group ties the sides together, so that held-out text takes both or neither.
        group = item.group or identifier.hex()
        for number, (lang, text) in enumerate(((a, item.text_a), (b, item.text_b))):
            _document(
                task, texts, Record(item.offset, 2 * item.ordinal + number, text, lang, group, None, item.licence), sha256, name, wanted
            )


# ---------------------------------------------------------------- aligned documents


def _pair(pivot: str, shards: list[Shard], output: Output, context: Context) -> Ledger:
    """Bitext from documents that share an alignment group with one of the pivot language."""
    code = languages.lookup(pivot).code
    if code not in context.languages:
        raise ConfigError(f"stages.{context.instance}.pivot: {pivot} is not among the pipeline's languages")
    index = Phase("pivot", "stages.ingest.work:pivot_documents", {"pivot": code}, "documents")
    units = [Unit(s.sha256, {"shard": s.plain()}, s.bytes, f"documents shard {s.key[:12]}") for s in shards]
    pivots = [result.files["pivot"] for result in context.map(index, units)]
    given = [s.plain() for s in pivots if s.rows]
    phase = Phase(
        "pair",
        "stages.ingest.work:pair_documents",
        {"pivot": code},
        "documents",
        (digest([s["sha256"] for s in given]),),
        {"pivots": given},
    )
    results = context.map(phase, units)
    output.add("bitext", [result.files["bitext"] for result in results if result.files["bitext"].rows])
    ledger = total((result.ledger for result in results), "documents")
    ledger.check("ingest pairs", sum(s.rows for s in shards))
    return ledger


def pivot_documents(task: Task) -> None:
    """Worker: the documents of a shard in the pivot language that have a group."""
    shard = Shard(**task.argument["shard"])
    schema = documents.schema()
    with task.table("pivot", schema) as table:
        for row in task.records(read_table(task.storage.local(shard.path, shard.sha256)).to_pylist(), lambda row: str(row["lang"])):
            if row["lang"] == task.settings["pivot"] and row["group"] is not None:
                table.row(row)
                task.ledger.keep(row["lang"])
            else:
                task.ledger.drop(row["lang"], "not_pivot")


def pair_documents(task: Task) -> None:
    """Worker: pairs of a shard's documents with those of the pivot language in the same group."""
    pivots: dict[str, dict[str, Any]] = {}
    for plain in task.given["pivots"]:
        shard = Shard(**plain)
        for row in read_table(task.storage.local(shard.path, shard.sha256)).to_pylist():
            kept = pivots.get(row["group"])
            if kept is None or row["id"] < kept["id"]:
                pivots[row["group"]] = row
    shard = Shard(**task.argument["shard"])
    with task.table("bitext", bitext.schema()) as table:
        for row in task.records(read_table(task.storage.local(shard.path, shard.sha256)).to_pylist(), lambda row: str(row["lang"])):
            other = pivots.get(row["group"]) if row["group"] is not None else None
            if other is None or row["lang"] == task.settings["pivot"]:
                task.ledger.drop(row["lang"], "no_counterpart" if other is None else "pivot_itself")
                continue
            task.ledger.keep(row["lang"])
            table.row(
                {"id": row["id"], "group": row["group"], "lang_a": row["lang"], "lang_b": other["lang"], "text_a": row["text"], "text_b": other["text"],
                 "source": row["source"], "offset": row["offset"], "licence": row["licence"]}
            )  # fmt: skip
