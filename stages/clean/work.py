"""The work of clean: a shard of documents (or pairs) in, the same rows cleaned and measured out, one unit a shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.artifacts import bitext, documents
from pipeline.ledger import Ledger, total
from pipeline.manifest import Shard
from pipeline.stage import Context, Input, Output, Summary
from pipeline.tables import open_file, rows, utf8
from pipeline.task import Task
from pipeline.text import languages
from pipeline.text.identify import NOT_IDENTIFIED, identify
from pipeline.text.languages import Language
from pipeline.text.measures import Measurer
from pipeline.units import Phase, Unit
from stages.clean import Config
from stages.clean.rules import Rule, load, settled

Rows = np.ndarray[Any, np.dtype[np.int64]]


def run(config: Config, inputs: Mapping[str, Input], output: Output, context: Context) -> Summary:
    """Clean all shards; see the package."""
    settings: dict[str, dict[str, Any]] = {
        "documents": {
            "rules": list(config.rules),
            "identify": config.identify,
            "stop_words": {k: list(v) for k, v in config.stop_words.items()},
        },
        "bitext": {"rules": list(config.rules)},
    }
    ledgers: dict[str, Ledger] = {}
    changed: dict[str, int] = {}
    for slot, function in (("documents", "clean_documents"), ("bitext", "clean_pairs")):
        if slot not in inputs:
            continue
        shards = [shard for shard in inputs[slot].shards if shard.rows]
        phase = Phase(slot, f"stages.clean.work:{function}", settings[slot], slot)
        units = [Unit(shard.sha256, {"shard": shard.plain()}, shard.bytes, f"{slot} shard {shard.key[:12]}") for shard in shards]
        results = context.map(phase, units)
        output.add(slot, [result.files[slot] for result in results])
        ledgers[slot] = total((result.ledger for result in results), slot)
        ledgers[slot].check(f"clean {slot}", sum(shard.rows for shard in shards))
        for result in results:
            for name, count in result.counts["changed"].items():
                changed[f"{slot}: {name}"] = changed.get(f"{slot}: {name}", 0) + count
    return Summary(ledgers=ledgers, counts={"changed": dict(sorted(changed.items()))})


def _language(code: str) -> Language | None:
    return None if code == "und" else languages.lookup(code)


def _clean(text: str, language: Language | None, rules: list[tuple[str, Rule]], changed: dict[str, int]) -> str:
    for name, apply in rules:
        cleaned = apply(text, language)
        if cleaned != text:
            changed[name] += 1
            text = cleaned
    return text


def _unsettled(names: tuple[str, ...], texts: pa.Array) -> Rows:
    """Rows of the texts that some rule may change."""
    found = settled(names, *utf8(texts))
    return np.arange(len(texts)) if found is None else np.flatnonzero(~found)


def _replaced(texts: pa.Array, rows: Rows, others: list[str]) -> pa.Array:
    """The texts with others in these rows."""
    mask = np.zeros(len(texts), np.bool_)
    mask[rows] = True
    return pc.replace_with_mask(texts, pa.array(mask), pa.array(others, texts.type))


def clean_documents(task: Task) -> None:
    """Worker: clean and measure one shard of documents."""
    names = tuple(task.settings["rules"])
    rules = load(names)
    changed = {name: 0 for name, _ in rules}
    measurer = Measurer(task.settings["stop_words"])
    shard = Shard(**task.argument["shard"])
    reader = open_file(task.storage.local(shard.path, shard.sha256))
    with task.table("documents", documents.cleaned_schema()) as table:
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            langs = batch.column("lang").to_pylist()
            taken = list(task.records(range(batch.num_rows), langs.__getitem__))
            if len(taken) < batch.num_rows:
                batch, langs = batch.take(pa.array(taken, pa.int64())), [langs[row] for row in taken]
            if not taken:
                continue
            known = {lang: _language(lang) for lang in set(langs)}
            raw = batch.column("text").cast(pa.large_string())
            waiting = _unsettled(names, raw)
            some = [_clean(raw[row].as_py(), known[langs[row]], rules, changed) for row in waiting.tolist()]
            texts = pa.array(some, pa.large_string()) if len(waiting) == len(raw) else _replaced(raw, waiting, some)
            columns: dict[str, Any] = {name: batch.column(name) for name in batch.schema.names}
            columns |= {"text": texts.cast(pa.string()), "raw_characters": pc.utf8_length(raw)}
            columns |= {name: pa.array(values, pa.int32()) for name, values in measurer.measure(*utf8(texts), langs).items()}
            found = [identify(text) for text in texts.to_pylist()] if task.settings["identify"] else [NOT_IDENTIFIED] * len(texts)
            columns["identified"] = pa.array([each.lang for each in found], pa.string())
            columns["identified_score"] = pa.array([each.score for each in found], pa.int32())
            table.batch(columns)
            for lang, count in Counter(langs).items():
                task.ledger.keep(lang, count)
    task.counts["changed"] = changed


def clean_pairs(task: Task) -> None:
    """Worker: clean one shard of pairs, both sides alike."""
    rules = load(tuple(task.settings["rules"]))
    changed = {name: 0 for name, _ in rules}
    shard = Shard(**task.argument["shard"])
    path = task.storage.local(shard.path, shard.sha256)
    with task.table("bitext", bitext.schema()) as table:
        for row in task.records(rows(path), lambda row: f"{row['lang_a']}-{row['lang_b']}"):
            sides = {f"text_{side}": _clean(row[f"text_{side}"], _language(row[f"lang_{side}"]), rules, changed) for side in "ab"}
            table.row({**row, **sides})
            task.ledger.keep(f"{row['lang_a']}-{row['lang_b']}")
    task.counts["changed"] = changed
